"""Rule files: TOML on disk or shipped with the package, checked by the domain against pydicom's dictionary (PS3.6)."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword

from npc_rtnode.domain.rule_loading import load_rules
from npc_rtnode.domain.rules import RuleSet
from npc_rtnode.errors import RulesFault

_SHIPPED = resources.files("npc_rtnode") / "rules"


def vr_of(keyword: str) -> str | None:
    """The Value Representation of a DICOM keyword ("US or SS" where the dictionary leaves it open); None if unknown."""
    tag = tag_for_keyword(keyword)
    return None if tag is None else dictionary_VR(tag)


def shipped_rule_sets() -> list[str]:
    """The names of the rule sets that come with the node."""
    return sorted(entry.name.removesuffix(".toml") for entry in _SHIPPED.iterdir() if entry.name.endswith(".toml"))


def load_rule_file(path_or_shipped_name: str | Path) -> RuleSet:
    """A shipped rule set by its name, else the TOML file at that path; RulesFault lists every mistake in it."""
    name = str(path_or_shipped_name)
    try:
        raw = tomllib.loads(_text(name))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RulesFault(f"{name}: {error}") from None
    try:
        return load_rules(raw, vr_of, keyword_dict)
    except RulesFault as fault:
        raise RulesFault(f"{name}:\n{fault.detail}") from None


def _text(name: str) -> str:
    if name in shipped_rule_sets():
        return (_SHIPPED / f"{name}.toml").read_text("utf-8")
    try:
        return Path(name).read_text("utf-8")
    except OSError as error:
        known = ", ".join(shipped_rule_sets())
        raise RulesFault(f"{name}: {error.strerror or error}; shipped rule sets: {known}") from None
