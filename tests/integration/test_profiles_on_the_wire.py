"""What each profile's destination receives: a real SCP takes the objects, and their bytes are read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from npc_rtnode.adapters.dicom.identity import IDENTITY, raw_bytes
from npc_rtnode.adapters.dicom.kinds import KINDS, kind_of
from npc_rtnode.adapters.dicom.objects import DicomObjects
from npc_rtnode.adapters.dicom.sender import DicomSender
from npc_rtnode.adapters.dicom.simulator import StoredObject, StoringSCP
from npc_rtnode.adapters.dicom.verify import decimal_values
from npc_rtnode.domain.profiles import PROFILES, ProfileName, orders_for, orders_of
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from npc_rtnode.settings import Destination
from tests.builders.mr_series import make_series
from tests.builders.outputs import ball, plan_of, prediction_on, stack_for
from tests.integration.test_rtstruct import CHARSETS
from tests.integration.test_verify import holding

SITE_NAME = "GTVp^AI"
EVERY_KIND = tuple(KINDS)
Start = Callable[..., tuple[StoringSCP, Destination]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a destination as the settings would describe it, and stops it in the end."""
    with contextlib.ExitStack() as stack:

        def one(name: str, **wishes: Any) -> tuple[StoringSCP, Destination]:
            scp = StoringSCP("PEER", tmp_path / name)
            stack.callback(scp.stop)
            address = {"ae_title": "PEER", "host": "127.0.0.1", "port": scp.start()}
            return scp, Destination(name=name, **address, **wishes)

        yield one


class Result:
    """One result, written for all who want it and judged."""

    def __init__(self, folder: Path, destinations: tuple[Destination, ...], **series: Any) -> None:
        self.files = make_series(folder, **series)
        stack, plan = stack_for(), plan_of(orders=orders_for(destinations, SITE_NAME))
        prediction = prediction_on(self.files, ball(stack.grid.shape))
        self.objects = DicomObjects().write(stack, self.files, prediction, plan)
        assert not holding(DicomObjects().judge(stack, self.files, prediction, plan, self.objects))

    def owed(self, destination: Destination) -> list[WrittenObject]:
        """What goes to this one."""
        wanted = {(order.kind, order.variant) for order in orders_of(destination, SITE_NAME)}
        return [item for item in self.objects if (item.kind, item.variant) in wanted]

    def send(self, destination: Destination) -> None:
        """Everything that is owed, each accepted."""
        for item in self.owed(destination):
            assert DicomSender().send(item, destination).status == 0


def roi_of(stored: StoredObject) -> Dataset:
    """The one ROI."""
    (roi,) = dcmread(stored.path).StructureSetROISequence
    return roi


@pytest.mark.parametrize("profile", get_args(ProfileName))
def test_a_profiles_destination_gets_what_its_row_says(tmp_path: Path, start: Start, profile: ProfileName) -> None:
    """Name within its limit, coordinates with its decimals, DS of at most 16, its VR encoding, RTSTRUCT alone."""
    row = PROFILES[profile]
    scp, destination = start("tps", profile=profile)
    Result(tmp_path / "mr", (destination,)).send(destination)
    (stored,) = scp.received
    assert kind_of(stored.sop_class_uid) is ObjectKind.RTSTRUCT
    syntax = ImplicitVRLittleEndian if row.encoding == "implicit" else ExplicitVRLittleEndian
    assert stored.transfer_syntax_uid == syntax
    ds = dcmread(stored.path)
    assert roi_of(stored).ROIName == SITE_NAME
    assert len(ds.StructureSetLabel) <= 16
    assert max(map(len, decimal_values(ds))) <= 16
    points = raw_bytes(dcmread(stored.path).ROIContourSequence[0].ContourSequence[0], Tag("ContourData"))
    assert {len(value.strip().split(b".")[1]) for value in points.split(b"\\")} == {row.decimals}


def test_another_roi_name_reaches_its_destination_alone(tmp_path: Path, start: Start) -> None:
    """Three destinations, two objects: the one that cannot take ^ gets its own, with its own UIDs."""
    (first, plain), (second, same) = start("plain"), start("same", profile="eclipse")
    third, named = start("named", profile="eclipse", roi_name="GTVp_AI")
    result = Result(tmp_path / "mr", (plain, same, named))
    for destination in (plain, same, named):
        result.send(destination)
    names = [roi_of(scp.received[0]).ROIName for scp in (first, second, third)]
    assert names == [SITE_NAME, SITE_NAME, "GTVp_AI"]
    assert first.received[0].encoded == second.received[0].encoded
    assert first.received[0].sop_uid != third.received[0].sop_uid
    assert len(result.objects) == 2


def test_a_report_names_the_structure_set_that_its_destination_has(tmp_path: Path, start: Start) -> None:
    """Two archives with different names for the ROI: each report measures the structure set beside it."""
    both = ("RTSTRUCT", "SR")
    (first, plain), (second, named) = start("a", objects=both), start("b", objects=both, roi_name="GTVp_AI")
    result = Result(tmp_path / "mr", (plain, named))
    for scp, destination in ((first, plain), (second, named)):
        result.send(destination)
        structure, report = (dcmread(item.path) for item in scp.received)
        (study,) = report.CurrentRequestedProcedureEvidenceSequence
        evidence = {i.ReferencedSOPInstanceUID for s in study.ReferencedSeriesSequence for i in s.ReferencedSOPSequence}
        assert structure.SOPInstanceUID in evidence


@pytest.mark.parametrize("syntax", ["implicit", "explicit"])
def test_every_kind_arrives_in_either_encoding_with_its_values(tmp_path: Path, start: Start, syntax: str) -> None:
    """What was judged in the stored encoding says the same in the other one."""
    scp, archive = start("archive", objects=EVERY_KIND, transfer_syntax=syntax)
    result = Result(tmp_path / "mr", (archive,))
    result.send(archive)
    wanted = ImplicitVRLittleEndian if syntax == "implicit" else ExplicitVRLittleEndian
    assert {item.transfer_syntax_uid for item in scp.received} == {wanted}
    assert [kind_of(item.sop_class_uid) for item in scp.received] == list(EVERY_KIND)
    for written, stored in zip(result.owed(archive), scp.received, strict=True):
        sent, arrived = dcmread(BytesIO(written.encoded)), dcmread(stored.path)
        assert [(e.tag, e.value) for e in sent] == [(e.tag, e.value) for e in arrived]


@pytest.mark.slow
@pytest.mark.parametrize("charset", CHARSETS)
def test_names_arrive_as_the_images_bytes(tmp_path: Path, start: Start, charset: str) -> None:
    """Six character sets, every kind, both encodings: nothing on the way decodes the patient's text."""
    declared, name = CHARSETS[charset]
    (first, plain), (second, other) = (
        start(syntax, objects=EVERY_KIND, transfer_syntax=syntax) for syntax in ("implicit", "explicit")
    )
    result = Result(tmp_path / "mr", (plain, other), charset=declared, patient_name_bytes=name)
    mr = dcmread(result.files[0])
    wanted = {keyword: raw_bytes(mr, Tag(keyword)) for keyword in IDENTITY}
    for scp, destination in ((first, plain), (second, other)):
        result.send(destination)
        assert len(scp.received) == len(EVERY_KIND)
        for stored in scp.received:
            ds = dcmread(stored.path)
            assert {keyword: raw_bytes(ds, Tag(keyword)) for keyword in IDENTITY} == wanted
