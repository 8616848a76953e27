"""Write the documents that are drawn from the code; `--check` only says which ones are stale.

    python docs/generate.py [--check]

docs/lifecycle.md comes from npc_rtnode/domain/lifecycle.py, the table in docs/errors.md from npc_rtnode/errors.py, that
in docs/gates.md from npc_rtnode/domain/plausibility.py, deploy/example.toml from npc_rtnode/settings.py.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from model.manifest import DEFAULT_BANDS  # noqa: E402  the path comes first
from npc_rtnode import errors  # noqa: E402
from npc_rtnode.cli.example import render_example  # noqa: E402
from npc_rtnode.domain import lifecycle, plausibility  # noqa: E402

BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"


def documents() -> dict[Path, str]:
    """Every generated file and what it should say."""
    errors_page, gates_page = ROOT / "docs" / "errors.md", ROOT / "docs" / "gates.md"
    return {
        ROOT / "docs" / "lifecycle.md": lifecycle_page(),
        errors_page: between_marks(errors_page.read_text("utf-8"), error_table()),
        gates_page: between_marks(gates_page.read_text("utf-8"), gauge_table()),
        ROOT / "deploy" / "example.toml": render_example(),
    }


def stale() -> dict[Path, str]:
    """Generated files that do not say what the code says, and what they should say."""
    texts = documents().items()
    return {path: text for path, text in texts if not path.exists() or path.read_text("utf-8") != text}


# --- lifecycle --------------------------------------------------------------------------------------------------------


def lifecycle_page() -> str:
    """The three lives as diagrams and tables."""
    said = "\n\n".join(life_section(subject) for subject in lifecycle.LIVES)
    return f"""\
# The lives of a series, a job and a delivery

Generated from `npc_rtnode/domain/lifecycle.py` by `make docs`; do not edit.

What a table does not list is refused. A crash is an ordinary event, `INTERRUPTED`: every state in which a worker holds
something has a row for it. Every transition is a row in the ledger's event chain
([ADR 0007](adr/0007-sqlite-wal-full-and-one-event-chain.md)).

{said}

## Events

{table(("Event", "Meaning"), ((f"`{event}`", remark(event)) for event in lifecycle.Event))}
"""


def life_section(subject: str) -> str:
    """One life: who is in it, the diagram, the table."""
    life, birth, working = lifecycle.LIVES[subject], lifecycle.BIRTH[subject], lifecycle.WORKING[subject]
    states = table(("State", "Meaning"), ((f"`{state}`", state_note(state, state in working)) for state in life))
    rows = ((f"`{a}`", f"`{event}`", f"`{b}`") for a, row in life.items() for event, b in row.items())
    return "\n\n".join(
        [f"## {subject.capitalize()}", states, diagram(subject, birth), table(("From", "Event", "To"), rows)]
    )


def diagram(subject: str, birth: StrEnum) -> str:
    """A Mermaid state diagram; events between the same two states share an arrow."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for state, row in lifecycle.LIVES[subject].items():
        for event, then in row.items():
            arrows.setdefault((state, then), []).append(event)
    lines = [f"    {a} --> {b}: {' / '.join(events)}" for (a, b), events in arrows.items()]
    ends = [f"    {state} --> [*]" for state, row in lifecycle.LIVES[subject].items() if not row]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {birth}", *lines, *ends, "```"])


def state_note(state: StrEnum, working: bool) -> str:
    """What the source says of the state, and whether the node itself has something to do in it."""
    return " ".join(part for part in (remark(state), "*The node is at work here.*" if working else "") if part)


def remark(member: StrEnum) -> str:
    """The comment that stands beside an enum member in the source."""
    for line in inspect.getsource(type(member)).splitlines():
        name, _, comment = line.partition("#")
        if name.split("=")[0].strip() == member.name:
            return comment.strip()
    return ""


# --- errors -----------------------------------------------------------------------------------------------------------


def error_table() -> str:
    """Every error with its message, the exit code of a command that ends in it, and whether the node tries again."""
    rows = (
        (f"[`{e.code}`](#{e.code.lower()})", doc(e), str(e.exit_code), "yes" if e.transient else "no")
        for e in error_classes()
    )
    return table(("Code", "Message", "Exit code", "Tried again by itself"), rows)


def error_classes() -> Iterator[type[errors.NodeError]]:
    """All of them, in the order of the source."""
    source = ast.parse(inspect.getsource(errors))
    for node in source.body:
        found = getattr(errors, node.name, None) if isinstance(node, ast.ClassDef) else None
        if isinstance(found, type) and issubclass(found, errors.NodeError):
            yield found


def doc(cls: type) -> str:
    """The first line of its docstring."""
    return (cls.__doc__ or "").strip().split("\n")[0]


# --- gates ------------------------------------------------------------------------------------------------------------


def gauge_table() -> str:
    """Every gauge with the band of a bundle that was never calibrated."""
    gauges = (*plausibility.GAUGES, plausibility.REFERENCE, plausibility.DISTANCE)
    rows = ((f"`{g.code}`{released(g.code)}", g.said, *ends(g.code)) for g in gauges)
    return table(("Gate", "What it looks at", "Warns", "Holds"), rows)


def released(code: str) -> str:
    """The mark of what a person may release."""
    return " *R*" if code in plausibility.RELEASABLE else ""


def ends(code: str) -> tuple[str, str]:
    """Where a band warns and where it holds."""
    band = DEFAULT_BANDS.get(code)
    if band is None:
        return "", "below the bundle's threshold"
    return beyond(band.warn_low, band.warn_high, band.unit), beyond(band.hold_low, band.hold_high, band.unit)


def beyond(low: float | None, high: float | None, unit: str) -> str:
    """One end or both in words."""
    said = [f"{word} {end:g}" for word, end in (("below", low), ("above", high)) if end is not None]
    return f"{' or '.join(said)} {unit}".strip() if said else ""


# --- markdown ---------------------------------------------------------------------------------------------------------


def between_marks(page: str, text: str) -> str:
    """The page with what stands between its two marks replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, behind = rest.partition(END)
    return f"{before}{BEGIN}\n{text}\n{END}{behind}"


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main(arguments: list[str]) -> int:
    """Write what is stale, or only name it."""
    only_check = "--check" in arguments
    found = stale()
    for path, text in found.items():
        if not only_check:
            path.write_text(text, "utf-8")
        print(f"{'stale, run `make docs`' if only_check else 'written'}: {path.relative_to(ROOT)}")
    return 1 if found and only_check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
