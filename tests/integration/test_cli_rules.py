"""`rules test` on folders of whole studies, without network and ledger: the table, the document, the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.cli import offline, rules
from npc_rtnode.errors import NothingEligible, Unreadable
from npc_rtnode.settings import Settings
from tests.builders.mr_series import make_series
from tests.integration.test_cli_offline import Drawing

BEFORE = {"SeriesDescription": "AX T1", "SeriesNumber": 3, "ContrastBolusAgent": None, "ScanOptions": "SP"}
PLAIN = {"SeriesDescription": "AX T1 +C", "SeriesNumber": 5, "ScanOptions": "SP"}
SUPPRESSED = {"SeriesDescription": "AX T1 FS +C", "SeriesNumber": 6}


def write(folder: Path, study: str = "study-1", **series: dict[str, Any]) -> None:
    """One series of eight slices for each keyword, in folders of their names."""
    for name, attributes in series.items():
        make_series(folder / study / name, slices=8, seed=study + name, study_seed=study, attributes=attributes)


def told(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[int, dict[str, Any]]:
    """The document's series by SeriesNumber."""
    rules.test(folder, as_json=True)
    document = json.loads(capsys.readouterr().out)
    return {int(one["series_number"]): one for one in document["series"]}


def test_every_series_of_a_study_has_its_choice_rank_and_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is chosen, one outranked with the preference, one set aside with the clause; no clause is left out."""
    write(tmp_path, a=BEFORE, b=PLAIN, c=SUPPRESSED)
    series = told(tmp_path, capsys)
    assert {n: (one["choice"], one["rank"]) for n, one in series.items()} == {
        3: ("set_aside", None),
        5: ("outranked", 2),
        6: ("chosen", 1),
    }
    assert series[5]["reasons"][0].startswith("OUTRANKED: series 3 of this study is preferred; fat-suppressed: ")
    assert series[3]["reasons"][0].startswith("contrast: ContrastBolusAgent is missing")
    clauses = [verdict["rule"] for verdict in series[3]["verdicts"]]
    assert clauses == [clause.name for clause in rules_in_force()] + ["indication"]
    assert [verdict["rule"] for verdict in series[6]["verdicts"]][-1] == "rank"


def rules_in_force() -> Any:
    """The clauses of the default rule set."""
    from npc_rtnode.adapters.rules import load_rule_file

    return load_rule_file(Settings().select.rules).clauses


def test_people_see_a_table_a_study_and_every_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two studies are two tables; each series is followed by its verdicts."""
    write(tmp_path, "one", a=BEFORE, c=SUPPRESSED)
    write(tmp_path, "two", c=SUPPRESSED)
    rules.test(tmp_path)
    text = capsys.readouterr().out
    assert text.count("study 1 by npc_ce_t1") == text.count("study 2 by npc_ce_t1") == 1
    assert "chosen (1)" in text
    assert "FALSE   contrast: ContrastBolusAgent is missing" in text
    assert text.count("TRUE    stack: ") == 3


def test_studies_are_not_compared_with_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The best series of every study is chosen."""
    write(tmp_path, "one", b=PLAIN)
    write(tmp_path, "two", c=SUPPRESSED)
    assert {one["choice"] for one in told(tmp_path, capsys).values()} == {"chosen"}


def test_a_tie_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 3: something is eligible, and a person must choose; both are named."""
    write(tmp_path, a=SUPPRESSED, b={**SUPPRESSED, "SeriesNumber": 7})
    with pytest.raises(typer.Exit) as ended:
        rules.test(tmp_path, as_json=True)
    assert ended.value.exit_code == 3
    series = json.loads(capsys.readouterr().out)["series"]
    assert {one["choice"] for one in series} == {"tied"}
    assert all("series 1, 2 of this study are equal" in one["reasons"][0] for one in series)


def test_nothing_eligible_is_told_after_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 21, and still every series has its reasons."""
    write(tmp_path, a=BEFORE)
    with pytest.raises(NothingEligible):
        rules.test(tmp_path)
    assert "SET_ASIDE" in capsys.readouterr().out


def test_a_torn_series_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files cut off in their headers are told as no stack; the rest of the study is judged."""
    write(tmp_path, a=SUPPRESSED, b=PLAIN)
    for path in sorted((tmp_path / "study-1" / "b").iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[: whole.index(b"\x28\x00\x10\x00") + 10])
    series = told(tmp_path, capsys)
    assert (series[6]["choice"], series[5]["choice"]) == ("chosen", "set_aside")
    assert series[5]["reasons"][0].startswith("stack: ")


def test_a_series_that_cannot_be_read_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the reader refuses is told with its code."""
    write(tmp_path, a=SUPPRESSED, b=PLAIN)
    read = DicomSeriesReader.attributes

    def refusing(self: DicomSeriesReader, files: Any, keywords: Any) -> Any:
        if "b" in files[0].parts:
            raise Unreadable("instance with digest 012345: struct.error")
        return read(self, files, keywords)

    monkeypatch.setattr(DicomSeriesReader, "attributes", refusing)
    rules.test(tmp_path, as_json=True)
    series = json.loads(capsys.readouterr().out)["series"]
    assert [one["choice"] for one in series] == ["chosen", "set_aside"]
    assert series[1]["reasons"][0].startswith("instances can be read: UNREADABLE: ")


def test_run_does_the_chosen_series_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the rules outrank or refuse is not inferred by `run` either."""
    monkeypatch.setattr(offline, "BundlePredictor", Drawing)
    write(tmp_path / "in", a=BEFORE, b=PLAIN, c=SUPPRESSED)
    views = offline.process(tmp_path / "in", tmp_path / "out", Settings(), None)
    assert len(views) == 1
