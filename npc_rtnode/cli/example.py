"""deploy/example.toml, written from the settings' own schema: every setting, its meaning, its limits, its default."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from npc_rtnode.settings import Settings

_HEADER = """\
# Settings of npc-rtnode: the reference of all of them, and an example that runs on one machine.
#
# Generated from the schema (`npc-rtnode config example`). A line that is commented out shows the default; what stands
# plainly is the example's own. NPC_RTNODE_<SECTION>__<KEY> in the environment overrides one value, for instance
# NPC_RTNODE_LISTENER__PORT=104. An unknown key is an error.
"""

Table = Mapping[str, Any]

# The tables that a site writes itself; the loopback addresses stand where its own systems go.
_TABLES: Mapping[str, tuple[Table, ...]] = {
    "listener.called": (
        {"ae_title": "NPC_RTNODE", "indication": "unknown"},
        {"ae_title": "NPC_MR", "indication": "npc"},
    ),
    "listener.peers": ({"ae_title": "PACS", "networks": ["127.0.0.1/32"]},),
    "archives": ({"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 11114},),
    "destinations": (
        {
            "name": "tps",
            "ae_title": "TPS",
            "host": "127.0.0.1",
            "port": 11113,
            "objects": ["RTSTRUCT"],
            "test": False,
        },
        {
            "name": "pacs",
            "ae_title": "PACS",
            "host": "127.0.0.1",
            "port": 11114,
            "objects": ["SEG", "RTSTRUCT", "SR"],
            "test": False,
        },
    ),
}
_INSTEAD_OF_NONE: Mapping[str, str] = {"infer.bundle": "/srv/npc-rtnode/bundle"}


def render_example() -> str:
    """The whole file; uncommenting every line of it changes nothing but `infer.bundle`."""
    lines = [_HEADER]
    for name, field in Settings.model_fields.items():
        lines += _tables(name, field) if _item_model(field) else _section(name, field)
    return "\n".join(lines).rstrip() + "\n"


def _section(name: str, field: FieldInfo) -> Iterator[str]:
    model = cast(type[BaseModel], field.annotation)
    yield f"# {_sentence(model)}"
    yield f"[{name}]"
    lists = {key: inner for key, inner in model.model_fields.items() if _item_model(inner)}
    for key, inner in model.model_fields.items():
        if key not in lists:
            yield from _comment(inner)
            default = inner.get_default(call_default_factory=True)
            yield f"# {key} = {_toml(_INSTEAD_OF_NONE[f'{name}.{key}'] if default is None else default)}"
    yield ""
    for key, inner in lists.items():
        yield from _tables(f"{name}.{key}", inner)


def _tables(path: str, field: FieldInfo) -> Iterator[str]:
    model = cast(type[BaseModel], _item_model(field))
    yield f"# {_sentence(model)}"
    yield from _comment(field)
    for number, table in enumerate(_TABLES[path]):
        yield f"[[{path}]]"
        for key, inner in model.model_fields.items():
            if number == 0:
                yield from _comment(inner)
            if key in table:
                yield f"{key} = {_toml(table[key])}"
            elif number == 0:
                yield f"# {key} = {_toml(inner.get_default(call_default_factory=True))}"
        yield ""


def _comment(field: FieldInfo) -> Iterator[str]:
    said = " ".join(part for part in (field.description or "", _choices(field), _limits(field)) if part)
    yield from (f"# {line}" for line in textwrap.wrap(said, 118))


def _choices(field: FieldInfo) -> str:
    annotation = field.annotation
    return f"One of: {', '.join(map(str, get_args(annotation)))}." if get_origin(annotation) is Literal else ""


def _limits(field: FieldInfo) -> str:
    bounds = {key: getattr(rule, key) for rule in field.metadata for key in ("ge", "le") if hasattr(rule, key)}
    said = [f"{word} {bounds[key]}" for key, word in (("ge", "from"), ("le", "to")) if key in bounds]
    return f"({' '.join(said)})" if said else ""


def _item_model(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a list of tables is made of; None for everything else."""
    first = next(iter(get_args(field.annotation)), None)
    return first if isinstance(first, type) and issubclass(first, BaseModel) else None


def _sentence(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n")[0]


def _toml(value: object) -> str:
    """A TOML value; JSON spells strings, numbers, booleans and arrays of them the same way."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False, default=str)
