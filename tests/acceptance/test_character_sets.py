"""Six ways of writing a patient's name, over the wire and back: the bytes that storescu sent are those that arrive."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.tag import Tag

from tests.acceptance.dcmtk import Storescu
from tests.acceptance.hospital import Destination, Study, make_study
from tests.acceptance.node import Node
from tests.acceptance.test_main_job import raw
from tests.integration.test_rtstruct import CHARSETS

pytestmark = [pytest.mark.acceptance, pytest.mark.peer("storescu"), pytest.mark.timeout(900)]


def spoken(folder: Path, name: str, declared: str | Sequence[str] | None, patient: bytes) -> Study:
    """A phantom study whose patient is called by these bytes, in name and number, under this declaration."""
    study = make_study(folder / "sent", name)
    for path in study.files:
        read, ds = dcmread(path), Dataset()  # a data set of its own, or pydicom would encode the bytes anew
        ds.update(read)
        ds.file_meta = read.file_meta
        ds.SpecificCharacterSet = declared if declared is None or isinstance(declared, str) else list(declared)
        if declared is None:
            del ds.SpecificCharacterSet
        for keyword, vr in (("PatientName", "PN"), ("PatientID", "LO")):
            value = patient + b" " * (len(patient) % 2)
            ds[Tag(keyword)] = RawDataElement(Tag(keyword), vr, len(value), value, 0, False, True)
        dcmwrite(path, ds, enforce_file_format=True)
    return study


@pytest.fixture(scope="module")
def studies(node: Node, folder: Path) -> dict[str, Study]:
    """One study a character set, all sent, all delivered."""
    made = {name: spoken(folder, name, declared, patient) for name, (declared, patient) in CHARSETS.items()}
    for study in made.values():
        Storescu(node.port, folder / "storescu").send_all(study.files)
    for study in made.values():
        node.delivered(study.uid, 600)
    return made


def readings(patient: bytes) -> set[str]:
    """What the parts of a name come to, however a log or a database might have decoded them."""
    texts = [patient.decode(codec, "ignore") for codec in ("ascii", "latin-1", "utf-8", "gb18030")]
    return {part for text in texts for part in re.split(r"[\^=\x1b]+|\$\)A", text) if len(part) > 1}


def test_no_name_is_told_anywhere(node: Node, studies: dict[str, Study]) -> None:
    """Neither the log nor any row of the ledger has a part of any of the names, in any reading."""
    told = node.log_text() + repr(node.tables())
    names = {part for _, patient in CHARSETS.values() for part in readings(patient)}
    assert {"YAMADA", "Müller", "三丰", "Zhang"} <= names
    assert [name for name in sorted(names) if name in told] == []


@pytest.mark.parametrize("charset", CHARSETS)
def test_name_and_number_arrive_as_the_bytes_that_were_sent(
    studies: dict[str, Study], tps: Destination, archive: Destination, charset: str
) -> None:
    """RTSTRUCT at both places and SR at the archive: declaration, name and number are the source's very bytes."""
    study, (_, patient) = studies[charset], CHARSETS[charset]
    source = raw(study.files[0])
    assert source["PatientName"].rstrip() == source["PatientID"].rstrip() == patient
    arrived = [*tps.of_study(study.uid), *archive.of_study(study.uid)]
    assert len(arrived) == 3
    for item in arrived:
        assert raw(item.path) == source
