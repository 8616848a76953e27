"""The preview as dicom3tools, DCMTK, pypdf and a reader's eye see it: the page as an image, and as a document."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pypdf
import pytest
from PIL import Image
from pydicom.tag import Tag

from npc_rtnode.adapters.dicom.identity import IDENTITY, raw_bytes
from npc_rtnode.adapters.dicom.objects import DicomObjects
from npc_rtnode.adapters.dicom.sender import DicomSender
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.dicom.simulator import StoringSCP
from npc_rtnode.domain.geometry import stack_of
from npc_rtnode.domain.profiles import orders_for, orders_of
from npc_rtnode.domain.records import Finding, ObjectKind
from npc_rtnode.domain.report import PHANTOM_NOTICE, SYNTHETIC_NOTICE
from npc_rtnode.drawing import preview as drawing
from npc_rtnode.drawing.pixels import picture_of, text_of
from npc_rtnode.settings import Destination
from tests.builders.outputs import GEOMETRIES, Mask, ball, bundle_statement, plan_of, prediction_on, tube, two_parts
from tests.builders.previews import ORDERS, UNSURE, Previewed, drawn, preview
from tests.integration.test_enhanced_objects import source
from tests.integration.test_rtstruct import CHARSETS
from tests.proving import complaints

SHOWN = {
    "none": "YAMADA TARO",
    "latin1": "Müller Jörg",
    "utf8": "张 三丰",
    "gb18030": "张 三丰",
    "gbk": "张 三丰",
    "gbk_as_latin1": "ÕÅ Èý·á",  # what the declaration makes of those bytes, here as in every viewer
    "iso_2022_ir_58": "Zhang San / 张 三丰",
}
MARKUP = "<script>alert(1)</script> **bold** {{ 7 * 7 }} &amp;"


def pages(previewed: Previewed) -> tuple[str, ...]:
    """The text of every page, with one space between words."""
    return text_of(previewed.pdf)


def one_voxel(shape: tuple[int, int, int]) -> Mask:
    """The smallest tumour there is."""
    mask = np.zeros(shape, dtype=bool)
    mask[shape[0] // 2, shape[1] // 2, shape[2] // 2] = True
    return mask


# --- other makers' programs -------------------------------------------------------------------------------------------


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_dciodvfy_finds_nothing(tmp_path: Path, peer: Callable[[str], str], geometry: str) -> None:
    """No error and no warning on image and document, in any geometry; and every gate lets them pass."""
    made = preview(tmp_path / "mr", **GEOMETRIES[geometry])
    for item in (made.image, made.document):
        (tmp_path / item.kind).write_bytes(item.encoded)
        assert complaints(peer("dciodvfy"), tmp_path / item.kind) == []
    assert made.holding() == set()


@pytest.mark.peer("dcentvfy")
def test_images_structure_set_and_previews_are_one_patient_and_study(
    tmp_path: Path, peer: Callable[[str], str]
) -> None:
    """dcentvfy finds no disagreement but the one that the standard makes: RT Referenced Study is no instance."""
    made = preview(tmp_path / "mr")
    for item in made.objects:
        (tmp_path / "mr" / item.kind).write_bytes(item.encoded)
    done = subprocess.run([peer("dcentvfy"), *sorted((tmp_path / "mr").iterdir())], capture_output=True, check=False)
    errors = [line for line in (done.stdout + done.stderr).decode().splitlines() if line.startswith("Error")]
    study = made.stack.slices[0].study_uid
    assert [line for line in errors if f"Missing SOPInstanceUID that was referenced - {study} " not in line] == []


@pytest.mark.peer("dcm2pdf")
def test_dcm2pdf_gives_the_document_back(tmp_path: Path, peer: Callable[[str], str]) -> None:
    """DCMTK takes the PDF out again, byte for byte, and pypdf opens it in its strict mode."""
    made = preview(tmp_path / "mr")
    (tmp_path / "object").write_bytes(made.document.encoded)
    subprocess.run([peer("dcm2pdf"), tmp_path / "object", tmp_path / "page.pdf"], check=True, capture_output=True)
    assert (tmp_path / "page.pdf").read_bytes().rstrip(b"\0") == made.pdf.rstrip(b"\0")
    assert len(pypdf.PdfReader(tmp_path / "page.pdf", strict=True).pages) == 1


@pytest.mark.peer("pdftotext")
def test_poppler_reads_the_words(tmp_path: Path, peer: Callable[[str], str]) -> None:
    """A third maker's reader finds notice, Chinese name, statement and volume in the document."""
    made = preview(tmp_path / "mr", charset="ISO_IR 192", patient_name_bytes="张^三丰".encode(), stages=UNSURE)
    (tmp_path / "page.pdf").write_bytes(made.pdf)
    command = [peer("pdftotext"), "-raw", "-enc", "UTF-8", tmp_path / "page.pdf", "-"]
    text = " ".join(subprocess.run(command, check=True, capture_output=True).stdout.decode().split())
    for said in (SYNTHETIC_NOTICE, "张 三丰", "uncertain: cT2 or cT3", "Volume 18.0 cm3", "AI DRAFT - UNVERIFIED"):
        assert said in text


@pytest.mark.peer("dcmj2pnm")
def test_dcmtk_renders_the_image(tmp_path: Path, peer: Callable[[str], str]) -> None:
    """What DCMTK draws of the Secondary Capture is the PDF's first page, pixel by pixel."""
    made = preview(tmp_path / "mr")
    (tmp_path / "object").write_bytes(made.image.encoded)
    subprocess.run([peer("dcmj2pnm"), "+on", tmp_path / "object", tmp_path / "page.png"], check=True)
    with Image.open(tmp_path / "page.png") as seen:
        assert np.array_equal(np.asarray(seen.convert("RGB")), picture_of(made.pdf))


# --- what they say they are -------------------------------------------------------------------------------------------


def test_both_say_that_the_name_can_be_read_and_nobody_has_checked(tmp_path: Path) -> None:
    """BurnedInAnnotation, UNVERIFIED, the notice in every list of series, own series, and where they come from."""
    made = preview(tmp_path)
    image, document = (pydicom.dcmread(BytesIO(item.encoded)) for item in (made.image, made.document))
    assert image.BurnedInAnnotation == document.BurnedInAnnotation == "YES"
    assert document.VerificationFlag == "UNVERIFIED"
    assert "UNVERIFIED" in image.ImageComments
    assert image.ImageComments.startswith(SYNTHETIC_NOTICE)
    assert image.SeriesDescription == document.SeriesDescription == document.DocumentTitle == SYNTHETIC_NOTICE
    assert len({image.SeriesInstanceUID, document.SeriesInstanceUID, *(ds.SeriesInstanceUID for ds in read(made))}) == 3
    assert (image.SOPInstanceUID, document.SOPInstanceUID) == (made.plan.uid("PREVIEW"), made.plan.uid("PDF"))
    named = {str(item.ReferencedSOPInstanceUID) for item in (*image.SourceImageSequence, *image.SourceInstanceSequence)}
    assert named == {header.sop_uid for header in made.stack.slices} | {made.rtstruct.sop_uid}
    assert {str(item.ReferencedSOPInstanceUID) for item in document.SourceInstanceSequence} == named


def read(made: Previewed) -> list[pydicom.Dataset]:
    """The images' headers."""
    return [pydicom.dcmread(file, stop_before_pixels=True) for file in made.files]


@pytest.mark.parametrize("charset", CHARSETS)
def test_the_name_is_its_own_bytes_and_can_be_read(tmp_path: Path, charset: str) -> None:
    """Every identity element equals the image's bytes in six character sets, and the page shows the name."""
    declared, name = CHARSETS[charset]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = preview(tmp_path, charset=declared, patient_name_bytes=name)
    mr = pydicom.dcmread(made.files[0])
    for item in (made.image, made.document):
        ds = pydicom.dcmread(BytesIO(item.encoded))
        assert {k: raw_bytes(ds, Tag(k)) for k in IDENTITY} == {k: raw_bytes(mr, Tag(k)) for k in IDENTITY}
    assert SHOWN[charset] in pages(made)[0]
    assert "[...]" not in pages(made)[0]
    assert made.holding() == set()


def test_without_the_font_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node without Chinese letters writes both objects, draws no boxes, and says what is missing and what to do."""
    monkeypatch.setattr(drawing, "font_file", lambda: None)
    made = preview(tmp_path, charset="ISO_IR 192", patient_name_bytes="Zhang^San=张^三丰".encode())
    (text,) = pages(made)
    assert "Zhang San / [...] [...] ID" in text
    assert "no font of this node" in text
    assert "npc-rtnode[cjk]" in text
    assert made.holding() == set()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The PN component length:UserWarning")  # pydicom's word while the builder writes it
@pytest.mark.parametrize("name", [b"", b"^^^^", b"W" * 64, ("W" * 20 + "^" + "张" * 14).encode(), MARKUP.encode()])
def test_any_name_leaves_a_whole_page(tmp_path: Path, name: bytes) -> None:
    """None, one of empty parts, very long ones and markup: shown as it stands, number and statement beside it."""
    made = preview(tmp_path, charset="ISO_IR 192", patient_name_bytes=name, patient_id="ID-" + "9" * 61)
    (text,) = pages(made)
    assert "ID-" + "9" * 61 in text
    assert "cT3" in text
    assert MARKUP.encode() != name or MARKUP in text
    assert name.strip(b"^") or "no name" in text
    assert made.holding() == set()


def test_direction_marks_cannot_turn_the_page_round(tmp_path: Path) -> None:
    """Unicode's control letters, with which a name could run backwards, are not drawn."""
    made = preview(tmp_path, charset="ISO_IR 192", patient_name_bytes="Li\u202eNA\u200b^X".encode())
    assert "LiNA X" in pages(made)[0]


# --- what the page says -----------------------------------------------------------------------------------------------


def test_the_page_says_what_the_report_says(tmp_path: Path) -> None:
    """Category, four probabilities, volume, extents, centroid, edition, model, time with zone, warnings, notices."""
    finding = Finding("SPACING_LIMIT", "9 mm is outside 3-7 mm", 9.0, 7.0)
    made = preview(tmp_path, plan=plan_of(findings=(finding,)))
    (text,) = pages(made)
    volume_cc = int(made.prediction.mask.sum()) * made.stack.grid.voxel_cc
    for said in (
        *(SYNTHETIC_NOTICE, PHANTOM_NOTICE, "AI DRAFT - UNVERIFIED", "cT3", "2.00% T2 11.00% T3 69.00% T4 18.00%"),
        *(f"Volume {volume_cc:.1f} cm3", "Extent R-L x A-P x H-F 31 x 26 x 36 mm", "Centroid slice 11 of 20"),
        *("SPACING_LIMIT: 9 mm is outside 3-7 mm", "NOT checked: histology", "UICC/AJCC 8th edition"),
        *("unit-test bundle 1.2.3", "abababababababab", "2026-01-02 11:04:05 +0800", "Test site", "PHANTOM-1"),
    ):
        assert said in text
    assert text.count(SYNTHETIC_NOTICE) == 2


def test_in_doubt_the_page_says_the_set_in_words(tmp_path: Path) -> None:
    """A weak top class is "uncertain", and no category stands alone."""
    (text,) = pages(preview(tmp_path, stages=UNSURE))
    assert "uncertain: cT2 or cT3" in text
    assert text.count("cT2") == text.count("cT3") == 1


def test_four_that_are_alike_still_fit(tmp_path: Path) -> None:
    """The longest statement there is comes whole, and the gates find it."""
    made = preview(tmp_path, stages=(0.25, 0.25, 0.25, 0.25), plan=plan_of())
    assert "uncertain: cT1 or cT2 or cT3" in pages(made)[0]
    assert made.holding() == set()


def test_a_clinical_result_is_a_draft_without_the_synthetic_notice(tmp_path: Path) -> None:
    """The red band is a statement about the weights; the amber one stays."""
    made = preview(tmp_path, plan=plan_of(bundle=bundle_statement(data="clinical"), phantom=False))
    (text,) = pages(made)
    assert "SYNTHETIC" not in text
    assert text.count("AI DRAFT - UNVERIFIED") == 2
    assert made.holding() == set()


def test_many_warnings_are_all_named(tmp_path: Path) -> None:
    """What finds no room as a sentence is there by its code."""
    long = "a sentence that goes on and on, so that three lines of the card are needed for nothing but this one warning"
    findings = tuple(Finding(f"LIMIT_{n}", long, float(n), 1.0) for n in range(8))
    (text,) = pages(preview(tmp_path, plan=plan_of(findings=findings)))
    assert [n for n in range(8) if f"LIMIT_{n}" not in text] == []


# --- what the page shows ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_outline_is_drawn_in_the_colour_of_the_roi(tmp_path: Path, geometry: str) -> None:
    """In each geometry there is as much of that colour on the views as rings are long, and none outside them."""
    made = preview(tmp_path, shape=ball, plan=plan_of(), **GEOMETRIES[geometry])
    green = {"content": plan_of().content.model_copy(update={"roi_color": (0, 255, 0)})}
    other = preview(tmp_path / "green", shape=ball, plan=plan_of(**green), **GEOMETRIES[geometry])
    assert drawn(made.pixels, (0, 255, 0)).sum() == 0
    lines = drawn(other.pixels, (0, 255, 0))
    assert lines.sum() > 1000
    changed = (made.pixels != other.pixels).any(axis=-1)
    assert (lines & ~changed).sum() == 0


def test_the_outline_stands_where_the_tumour_is(tmp_path: Path) -> None:
    """A bright ball on black: the outline runs round what is bright, in every view of the page, and nowhere else."""
    shape = (20, 48, 56)
    voxels = np.where(ball(shape), 900, 10)
    green = {"content": plan_of().content.model_copy(update={"roi_color": (0, 255, 0)})}
    made = preview(tmp_path, shape=ball, plan=plan_of(**green), voxels=voxels, step_mm=0.9375)
    pixels = made.pixels[250:1140, 60:768]  # the three planes
    lines, bright = drawn(pixels, (0, 255, 0), 90), drawn(pixels, (255, 255, 255), 60)
    assert lines.sum() > 300
    near = np.zeros_like(bright)
    for down in range(-12, 13):
        for across in range(-12, 13):
            near |= np.roll(bright, (down, across), (0, 1))
    assert (lines & ~near).sum() == 0


def test_the_smallest_tumour_is_framed(tmp_path: Path) -> None:
    """One voxel would be overlooked: a frame stands round it, and the volume has three decimals."""
    made = preview(tmp_path, shape=one_voxel, rows=200, columns=200, spacing_mm=(0.5, 0.5))
    assert "0.001 cm3" in pages(made)[0]
    amber = drawn(made.pixels[250:700, 60:768], (255, 224, 130), 20)
    assert amber.sum(axis=0).max() > 15
    assert made.holding() == set()


@pytest.mark.slow
def test_a_long_tumour_goes_on_on_further_sheets(tmp_path: Path) -> None:
    """Over thirty slices: the first sheet says how many it shows, the next ones have every one, patient and notices."""
    made = preview(tmp_path, slices=70, step_mm=0.8, shape=two_parts)
    first, *others = pages(made)
    assert "slices, all on the next sheets" in first
    assert len(others) >= 1
    for text in others:
        assert "TEST PHANTOM" in text
        assert "PHANTOM-1" in text
        assert text.count(SYNTHETIC_NOTICE) == 2
    outlined = np.flatnonzero(made.prediction.mask.any(axis=(1, 2)))
    places = " ".join(others)
    height = [33.125 + 0.8 * k for k in (outlined[0], outlined[-1])]
    assert all(f"{outlined[end] + 1} H {height[end]:.1f}" in places for end in (0, -1))
    assert made.holding() == set()


@pytest.mark.parametrize("name", ["parts", "post_gad"])
def test_frames_of_enhanced_mr_have_a_preview_too(tmp_path: Path, name: str) -> None:
    """A concatenation of three, and a real series: each instance is named once, and every gate lets both pass."""
    files = source(tmp_path, name)
    stack = stack_of(DicomSeriesReader().headers(files))
    by_uid = {header.sop_uid: path for path in files for header in DicomSeriesReader().headers([path])}
    sources = [by_uid[header.sop_uid] for header in stack.slices]
    prediction, plan = prediction_on(sources, tube(stack.grid.shape)), replace(plan_of(), orders=ORDERS)
    made = Previewed(stack, sources, prediction, plan, DicomObjects().write(stack, sources, prediction, plan))
    named = pydicom.dcmread(BytesIO(made.image.encoded)).SourceImageSequence
    assert sorted(item.ReferencedSOPInstanceUID for item in named) == sorted({h.sop_uid for h in stack.slices})
    assert made.holding() == set()


# --- same in, same out ------------------------------------------------------------------------------------------------


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two runs of one work are one image and one document; another work key gives other UIDs on the same page."""
    first, again = preview(tmp_path), preview(tmp_path)
    assert first.objects == again.objects
    other = preview(tmp_path, plan=plan_of(work_key="e" * 64))
    assert {item.sop_uid for item in other.objects}.isdisjoint(item.sop_uid for item in first.objects)
    assert other.pdf == first.pdf


@pytest.mark.slow
def test_another_process_another_day_gives_the_same_bytes(tmp_path: Path) -> None:
    """Neither hash seed, working folder, time zone nor clock is in the document."""
    made = preview(tmp_path / "mr")
    code = (
        "import sys, pathlib, tests.builders.previews as p\n"
        "sys.stdout.buffer.write(p.preview(pathlib.Path(sys.argv[1])).document.encoded)"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Shanghai", "PYTHONPATH": str(root)}
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "again")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert done.stdout == made.document.encoded


# --- on the wire ------------------------------------------------------------------------------------------------------


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("encoding", ["implicit", "explicit"])
def test_a_destination_gets_them_in_the_encoding_that_it_wants(
    tmp_path: Path, peer: Callable[[str], str], encoding: str
) -> None:
    """Both over a real association to an archive that asks for them: same pixels, same document, no complaint."""
    made, archive = preview(tmp_path / "mr"), StoringSCP("ARCHIVE", tmp_path / "archive")
    kinds = [ObjectKind.PREVIEW, ObjectKind.PDF]
    wanted = Destination(
        name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=archive.start(), objects=kinds, transfer_syntax=encoding
    )
    try:
        for item in (made.image, made.document):
            assert DicomSender().send(item, wanted).status == 0
    finally:
        archive.stop()
    image, document = (pydicom.dcmread(stored.path) for stored in archive.received)
    assert image.file_meta.TransferSyntaxUID.is_implicit_VR == (encoding == "implicit")
    assert np.array_equal(image.pixel_array, made.pixels)
    assert bytes(document.EncapsulatedDocument).startswith(made.pdf)
    assert [complaints(peer("dciodvfy"), stored.path) for stored in archive.received] == [[], []]


def test_each_destination_says_whether_it_wants_them() -> None:
    """`destinations.objects` switches them on and off, one by one; a planning system's profile takes neither. With an
    image the document is written, which its words are judged in, and owed to nobody who did not ask for it."""
    usual = {"name": "pacs", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 104}
    for kinds in (("PREVIEW",), ("PDF",), ("RTSTRUCT", "PDF", "PREVIEW"), ("RTSTRUCT",)):
        wanted, written = set(map(ObjectKind, kinds)), orders_for([Destination(**usual, objects=kinds)], "GTVp^AI")
        judged = {ObjectKind.PDF} if ObjectKind.PREVIEW in wanted else set()
        assert {order.kind for order in written} == {ObjectKind.RTSTRUCT, *wanted, *judged}
        assert {o.kind for o in orders_of(Destination(**usual, objects=kinds), "GTVp^AI")} == wanted
    with pytest.raises(ValueError, match="not known to take PREVIEW"):
        Destination(**usual, objects=("RTSTRUCT", "PREVIEW"), profile="eclipse")
