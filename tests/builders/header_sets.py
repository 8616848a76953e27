"""Header sets (tests/data/headers) as studies of series attributes, each series with what the rules must make of it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npc_rtnode.domain.records import AttributeValues, SeriesAttributes

FOLDER = Path(__file__).parents[1] / "data" / "headers"
SLICES = 2
_USUAL: Mapping[str, Any] = {
    "Modality": "MR",
    "plane": "axial",
    "stack": "even",
    "mosaic": "no",
    "sop_class": "MR Image Storage",
    "spacing_mm": 5.0,
    "row_spacing_mm": 0.5,
}
_NOT_ATTRIBUTES = {"kind", "like", "expect", "parts", "folder"}


@dataclass(frozen=True)
class HeaderSeries:
    """One series of a study, and what it must come to."""

    attributes: SeriesAttributes
    expect: str
    folder: str = ""  # where the real series lies that it was distilled from


@dataclass(frozen=True)
class HeaderStudy:
    """One study: its series by number, from 1."""

    name: str
    series: Mapping[int, HeaderSeries]


def header_studies(*names: str) -> list[HeaderStudy]:
    """The studies of these files (without the suffix); of all files where none is named."""
    files = [FOLDER / f"{name}.toml" for name in names] if names else sorted(FOLDER.glob("*.toml"))
    return [study for path in files for study in _studies(path)]


def _studies(path: Path) -> list[HeaderStudy]:
    raw = tomllib.loads(path.read_text("utf-8"))
    kinds = raw.get("kinds", {})
    return [_study(path.stem, study, kinds) for study in raw["study"]]


def _study(file: str, raw: Mapping[str, Any], kinds: Mapping[str, Any]) -> HeaderStudy:
    series = [_series({**_kind(one.get("kind"), kinds), **raw.get("all", {}), **one}) for one in raw["series"]]
    return HeaderStudy(f"{file}: {raw['name']}", dict(enumerate(series, 1)))


def _kind(name: str | None, kinds: Mapping[str, Any]) -> dict[str, Any]:
    if name is None:
        return {}
    return {**_kind(kinds[name].get("like"), kinds), **kinds[name]}


def _series(raw: Mapping[str, Any]) -> HeaderSeries:
    """`parts` are the ImageTypes of the slices where they differ; an empty text or list stands for an empty element."""
    stated = {key: value for key, value in {**_USUAL, **raw}.items() if key not in _NOT_ATTRIBUTES}
    values = {key: (_entry(value),) * SLICES for key, value in stated.items() if key[0].isupper()}
    if "parts" in raw:
        values["ImageType"] = tuple(map(_entry, raw["parts"]))
    facts = {f"@{key}": value for key, value in stated.items() if key[0].islower() and value != ""}
    return HeaderSeries(SeriesAttributes(SLICES, values, facts), raw["expect"], raw.get("folder", ""))


def _entry(value: Any) -> AttributeValues | None:
    if value in ("", []):
        return None
    return tuple(value) if isinstance(value, list) else (value,)
