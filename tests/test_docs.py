"""The documents are true: generated ones are fresh, every verb, option, error and link exists."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from npc_rtnode import errors
from npc_rtnode.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "deploy" / "example.toml"
PAGES = sorted(path for pattern in ("*.md", "docs/**/*.md", "deploy/*.md", "model/*.md") for path in ROOT.glob(pattern))
SHARED_OPTIONS = {"--config", "--json", "--dry-run", "--reason", "--help"}
NOT_HERE = re.compile(r"/(work|root|home/\w+)/|pypi\.org|pythonhosted|--(extra-)?index-url")
"""Traces of the machine that a text was written on."""


def headings(page: Path, level: int) -> list[str]:
    """The headings of one level."""
    return re.findall(rf"^{'#' * level} (.+)$", page.read_text("utf-8"), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What a link can point at, spelled as GitHub does."""
    said = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in said}


# --- generated --------------------------------------------------------------------------------------------------------


def test_generated_documents_are_fresh() -> None:
    check = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_freshness_check_notices_a_changed_page(tmp_path: Path) -> None:
    for folder in ("docs", "deploy"):
        (tmp_path / folder).mkdir()
    pages = ("docs/errors.md", "docs/gates.md", "docs/lifecycle.md", "deploy/example.toml")
    for name in ("docs/generate.py", *pages):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    for package in ("npc_rtnode", "model"):
        (tmp_path / package).symlink_to(ROOT / package)
    with (tmp_path / "docs" / "lifecycle.md").open("a") as page:
        page.write("another word\n")
    check = [sys.executable, str(tmp_path / "docs" / "generate.py"), "--check"]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == "stale, run `make docs`: docs/lifecycle.md\n"


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_example_is_valid_settings() -> None:
    settings = load_settings(EXAMPLE, environ={})
    assert [(d.name, d.test, [str(kind) for kind in d.objects]) for d in settings.destinations] == [
        ("tps", False, ["RTSTRUCT"]),
        ("pacs", False, ["SEG", "RTSTRUCT", "SR"]),
    ]
    assert {called.ae_title: called.indication for called in settings.listener.called} == {
        "NPC_RTNODE": "unknown",
        "NPC_MR": "npc",
    }


def test_the_examples_comments_show_every_default() -> None:
    commented = re.sub(r"^# (?=\w+ = )", "", EXAMPLE.read_text("utf-8"), flags=re.MULTILINE)
    everything = tomllib.loads(commented)
    assert everything["infer"].pop("bundle")  # the one setting whose default cannot be written
    assert Settings.model_validate(everything) == load_settings(EXAMPLE, environ={})
    for section, field in Settings.model_fields.items():
        known = getattr(field.annotation, "model_fields", None)
        if known is not None:
            assert {*everything[section], "bundle"} >= set(known), section


# --- errors and verbs -------------------------------------------------------------------------------------------------


def error_codes() -> list[str]:
    """Every code in npc_rtnode/errors.py."""
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    return [value.code for value in classes if issubclass(value, errors.NodeError)]


def test_every_error_has_its_heading_and_no_other_does() -> None:
    assert sorted(headings(ROOT / "docs" / "errors.md", 2)) == sorted(error_codes())


def test_every_error_says_what_is_kept_and_what_to_do() -> None:
    sections = (ROOT / "docs" / "errors.md").read_text("utf-8").split("\n## ")[1:]
    assert [s.split("\n")[0] for s in sections if "- **Kept:**" not in s or "- **Do:**" not in s] == []


def test_every_exit_code_is_explained() -> None:
    table = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "cli.md").read_text("utf-8"), re.MULTILINE)
    used = {
        value.exit_code for value in vars(errors).values() if isinstance(value, type) and hasattr(value, "exit_code")
    }
    assert used <= {int(code) for code in table}


def verbs() -> dict[str, set[str]]:
    """Every verb of the command line with its options."""
    import typer  # here, so that the other tests do not wait for the whole command line

    from npc_rtnode import cli

    program = next(value for value in vars(cli).values() if isinstance(value, typer.Typer))
    return dict(_walk(typer.main.get_command(program), ""))


def _walk(command: Any, name: str) -> Iterator[tuple[str, set[str]]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, {option for parameter in command.params for option in parameter.opts}
        return
    for key, value in inner.items():
        if not value.hidden:
            yield from _walk(value, f"{name} {key}".strip())


def test_every_verb_has_its_heading_and_no_other_does() -> None:
    assert sorted(headings(ROOT / "docs" / "cli.md", 3)) == sorted(verbs())


def test_every_option_that_a_verbs_section_names_exists() -> None:
    sections = (ROOT / "docs" / "cli.md").read_text("utf-8").split("\n### ")[1:]
    known = verbs()
    for section in sections:
        verb = section.split("\n")[0]
        named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", section))
        assert named <= known[verb] | {"--help"}, verb


def command_lines() -> list[tuple[str, str]]:
    """Every `npc-rtnode …` that any page shows, with the page."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        blocks = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        shown = [*re.findall(r"`npc-rtnode ([^`]+)`", text), *re.findall(r"^(?:\S*/)?npc-rtnode (.+)$", blocks, re.M)]
        found += [(page.name, line.split(">")[0].split(";")[0]) for line in shown]
    return found


def test_every_command_line_in_the_pages_names_a_verb_and_its_options() -> None:
    known = verbs()
    for page, line in command_lines():
        words = re.sub(r"\s+#.*", "", line).split()
        if words[0] == "VERB":
            continue
        verb = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in known), None)
        assert verb, f"{page}: npc-rtnode {line}"
        options = {word for word in words if word.startswith("-")}
        assert options <= known[verb] | {"--help"}, f"{page}: npc-rtnode {line}"


# --- links ------------------------------------------------------------------------------------------------------------


def links(page: Path) -> list[str]:
    """The relative links of a page."""
    found = re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", page.read_text("utf-8"))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "adr"
    numbered = sorted(path.name for path in folder.glob("0*.md"))
    assert [link for link in links(folder / "README.md") if link.startswith("0")] == numbered
    assert all(int(b[:4]) == int(a[:4]) + 1 for a, b in pairwise(numbered))


def test_no_page_shows_the_machine_it_was_written_on() -> None:
    texts = [*PAGES, *(path for path in (ROOT / "deploy").iterdir() if path.is_file()), ROOT / "constraints.txt"]
    assert [str(path.relative_to(ROOT)) for path in texts if NOT_HERE.search(path.read_text("utf-8"))] == []
