"""Same in, same out: series, bundle and settings decide every byte and UID, and nothing else does."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from model.phantom import make_case, small_profile, write_dicom_series
from npc_rtnode.domain.identifiers import derived_uid
from tests.builders.mr_series import make_series
from tests.builders.work import ORDERED_AT, Circumstances, real_answer, written


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A series as a scanner sent it."""
    return make_series(tmp_path_factory.mktemp("mr"))


@pytest.fixture(scope="module")
def first(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Its objects, the first time."""
    return written(files, Circumstances(tmp_path_factory.mktemp("first")))


@pytest.mark.parametrize(
    "change",
    [
        {"order": 7},
        {"worker": "another"},
        {"now": ORDERED_AT + timedelta(days=40, hours=5)},
        {"order": 3, "worker": "third", "now": ORDERED_AT + timedelta(seconds=1)},
    ],
    ids=["another order of arrival", "another worker", "another day", "all at once"],
)
def test_what_must_not_matter_does_not(
    files: list[Path], first: dict[str, bytes], tmp_path: Path, change: dict[str, Any]
) -> None:
    """Every time on a spool in another place: byte for byte the same objects, so the same UIDs."""
    again = written(files, replace(Circumstances(tmp_path / "elsewhere"), **change))
    assert again == first


def test_two_processes_write_the_same(files: list[Path], first: dict[str, bytes], tmp_path: Path) -> None:
    """Fresh interpreters, with hash seeds of their own, one after the other."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        others = [pool.submit(written, files, Circumstances(tmp_path / str(k), order=k)).result() for k in (1, 2)]
    assert others == [first, first]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_bundles_child_says_the_same(tmp_path: Path) -> None:
    """Two children of the shipped bundle, files in another order: the stored answer is the same to the last byte."""
    series = write_dicom_series(make_case("same", 0, profile=small_profile()), tmp_path / "mr")
    answers = [real_answer(series, tmp_path / str(order), order) for order in (0, 5)]
    assert answers[0] == answers[1]


def test_another_bundle_makes_other_objects(files: list[Path], first: dict[str, bytes], tmp_path: Path) -> None:
    """Another bundle is another work key: no UID of the first result comes again."""
    other = written(files, Circumstances(tmp_path, bundle="cd" * 32))
    assert not uids(first) & uids(other)


def test_late_slices_make_other_objects(files: list[Path], first: dict[str, bytes], tmp_path: Path) -> None:
    """A series that grew has another input digest, and so other UIDs throughout."""
    assert not uids(first) & uids(written(files[:-1], Circumstances(tmp_path)))


def test_a_later_result_names_the_one_it_replaces(files: list[Path], first: dict[str, bytes], tmp_path: Path) -> None:
    """The structure set in words, the report as its predecessor document (PS3.3 C.17.2); a first result names none."""
    later = written(files, Circumstances(tmp_path, bundle="cd" * 32, supersedes="9" * 64))
    structure, report = (dcmread(BytesIO(later[kind])) for kind in ("RTSTRUCT", "SR"))
    replaced = derived_uid("9" * 64, "RTSTRUCT")
    assert f"Supersedes structure set {replaced}" in structure.StructureSetDescription
    (study,) = report.PredecessorDocumentsSequence
    assert study.StudyInstanceUID == report.StudyInstanceUID
    (series,) = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == derived_uid("9" * 64, "series-SR")
    (document,) = series.ReferencedSOPSequence
    assert document.ReferencedSOPInstanceUID == derived_uid("9" * 64, "SR")
    assert document.ReferencedSOPClassUID == report.SOPClassUID
    assert "PredecessorDocumentsSequence" not in dcmread(BytesIO(first["SR"]))
    assert "Supersedes" not in dcmread(BytesIO(first["RTSTRUCT"])).StructureSetDescription


def uids(objects: dict[str, bytes]) -> set[str]:
    """Of objects and their series."""
    read = [dcmread(BytesIO(encoded)) for encoded in objects.values()]
    return {str(ds.SOPInstanceUID) for ds in read} | {str(ds.SeriesInstanceUID) for ds in read}
