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
from pydicom.dataset import Dataset

from model.phantom import make_case, small_profile, write_dicom_series
from npc_rtnode.domain import gates
from npc_rtnode.domain.identifiers import derived_uid
from npc_rtnode.domain.records import ObjectKind, SentBefore
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


def test_the_machines_zone_language_and_threads_do_not_matter(
    files: list[Path], first: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine on the other side of the world, with another language, another decimal mark and more threads."""
    for name, value in {"TZ": "Pacific/Apia", "LC_ALL": "de_DE.UTF-8", "OMP_NUM_THREADS": "3"}.items():
        monkeypatch.setenv(name, value)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(written, files, Circumstances(tmp_path)).result() == first


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


def sent_before(*objects: tuple[str, str, str]) -> tuple[SentBefore, ...]:
    """Objects (kind, variant, work key) of earlier results, under the UIDs that those gave them."""
    found = []
    for kind, variant, key in objects:
        name = f"{kind}/{variant}" if variant else kind
        found.append(SentBefore(ObjectKind(kind), variant, key, derived_uid(key, name)))
    return tuple(found)


def named(report: Dataset) -> list[tuple[str, str]]:
    """Series and instance of each predecessor document (PS3.3 C.17.2)."""
    return [
        (str(series.SeriesInstanceUID), str(document.ReferencedSOPInstanceUID))
        for study in report.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for document in series.ReferencedSOPSequence
    ]


def test_a_later_result_names_the_one_it_replaces(files: list[Path], first: dict[str, bytes], tmp_path: Path) -> None:
    """The structure set as predecessor and in words, the report as predecessor document; a first result names none."""
    before = sent_before(("RTSTRUCT", "", "9" * 64), ("SR", "", "9" * 64))
    later = written(files, Circumstances(tmp_path, bundle="cd" * 32, supersedes=before))
    structure, report = (dcmread(BytesIO(later[kind])) for kind in ("RTSTRUCT", "SR"))
    assert f"Supersedes structure set {derived_uid('9' * 64, 'RTSTRUCT')}" in structure.StructureSetDescription
    assert named(report) == [(derived_uid("9" * 64, "series-SR"), derived_uid("9" * 64, "SR"))]
    assert report.PredecessorDocumentsSequence[0].StudyInstanceUID == report.StudyInstanceUID
    assert named(dcmread(BytesIO(first["SR"]))) == []
    assert "Supersedes" not in dcmread(BytesIO(first["RTSTRUCT"])).StructureSetDescription


def test_nothing_is_named_that_nobody_was_sent(files: list[Path], tmp_path: Path) -> None:
    """Only a structure set in another form was sent, and by an older result a plain one; of reports none: the older
    plain one is what the plain one replaces, and no report is named."""
    before = sent_before(("RTSTRUCT", "0123456789ab", "9" * 64), ("RTSTRUCT", "", "8" * 64))
    later = written(files, Circumstances(tmp_path / "own", bundle="cd" * 32, supersedes=before))
    structure, report = (dcmread(BytesIO(later[kind])) for kind in ("RTSTRUCT", "SR"))
    (item,) = structure.PredecessorStructureSetSequence
    assert item.ReferencedSOPInstanceUID == derived_uid("8" * 64, "RTSTRUCT")
    assert named(report) == []
    said = report.to_json()
    assert f"Supersedes structure set {derived_uid('8' * 64, 'RTSTRUCT')}" in said
    assert derived_uid("9" * 64, "RTSTRUCT") not in said
    later = written(files, Circumstances(tmp_path / "other", bundle="cd" * 32, supersedes=before[:1]))
    (item,) = dcmread(BytesIO(later["RTSTRUCT"])).PredecessorStructureSetSequence
    assert item.ReferencedSOPInstanceUID == derived_uid("9" * 64, "RTSTRUCT/0123456789ab")


def test_a_warning_that_only_the_finished_objects_show_is_said(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The polygons' volume is known when the structure set is there: it and the report are written once more and say
    so, under the same UIDs; the gates hold objects that are silent about a warning."""
    monkeypatch.setattr(gates, "POLYGON_MOST", -1.0)
    warned = written(files, Circumstances(tmp_path))
    structure = dcmread(BytesIO(warned["RTSTRUCT"]))
    assert "WARNINGS: POLYGON_VOLUME" in structure.StructureSetDescription
    assert "POLYGON_VOLUME" in dcmread(BytesIO(warned["SR"])).to_json()


def uids(objects: dict[str, bytes]) -> set[str]:
    """Of objects and their series."""
    read = [dcmread(BytesIO(encoded)) for encoded in objects.values()]
    return {str(ds.SOPInstanceUID) for ds in read} | {str(ds.SeriesInstanceUID) for ds in read}
