"""Faults planted in finished previews, one at a time: the second reader holds every one of them, by the named gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from npc_rtnode.domain.profiles import ObjectOrder
from npc_rtnode.domain.records import Finding, ObjectKind, WrittenObject
from npc_rtnode.drawing.pixels import picture_of
from tests.builders.previews import Previewed, preview
from tests.integration.test_verify import altered

Fault = Callable[[Dataset], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Previewed:
    """One result, unharmed."""
    return preview(tmp_path_factory.mktemp("mr"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Previewed:
    """Another patient's result."""
    return preview(tmp_path_factory.mktemp("other"), patient_name_bytes=b"OTHER^ONE", patient_id="PHANTOM-2")


def pixels_as(ds: Dataset, change: Callable[[np.ndarray], np.ndarray]) -> None:  # type: ignore[type-arg]  # of bytes
    """The image's samples through a function."""
    page = np.frombuffer(ds.PixelData, dtype=np.uint8).reshape(ds.Rows, ds.Columns, 3)
    ds.PixelData = np.ascontiguousarray(change(page)).tobytes()


def other_patient(ds: Dataset) -> None:
    """The number of somebody else."""
    ds.PatientID = "PHANTOM-2"


def other_study(ds: Dataset) -> None:
    """A UID that is not the images' study."""
    ds.StudyInstanceUID = "2.25.99"


def other_weight(ds: Dataset) -> None:
    """What may be left out must not be said differently."""
    ds.PatientWeight = "61"


def other_modality(ds: Dataset) -> None:
    """An image that passes for one of the scanner's."""
    ds.Modality = "MR"


def other_series(ds: Dataset) -> None:
    """A preview in the series of something else."""
    ds.SeriesInstanceUID = "2.25.98"


def not_burned_in(ds: Dataset) -> None:
    """The word that lets somebody publish it."""
    ds.BurnedInAnnotation = "NO"


def image_missing(ds: Dataset) -> None:
    """One source image less."""
    sources = ds.SourceImageSequence if "SourceImageSequence" in ds else ds.SourceInstanceSequence
    del sources[0]


def image_twice(ds: Dataset) -> None:
    """One source image named again in place of its neighbour."""
    sources = ds.SourceImageSequence if "SourceImageSequence" in ds else ds.SourceInstanceSequence
    sources[0].ReferencedSOPInstanceUID = sources[1].ReferencedSOPInstanceUID


def other_structure_set(ds: Dataset) -> None:
    """The outlines of another result."""
    ds.SourceInstanceSequence[-1].ReferencedSOPInstanceUID = "2.25.97"


EITHER: dict[str, tuple[Fault, str]] = {
    "patient": (other_patient, "IDENTITY"),
    "study": (other_study, "IDENTITY"),
    "weight": (other_weight, "OPTIONAL"),
    "modality": (other_modality, "INSTANCE"),
    "series": (other_series, "INSTANCE"),
    "burned in": (not_burned_in, "BURNED_IN"),
    "image missing": (image_missing, "REFERENCES"),
    "image twice": (image_twice, "REFERENCES"),
    "structure set": (other_structure_set, "REFERENCES"),
}

IMAGE: dict[str, tuple[Fault, str]] = {
    "blank": (lambda ds: pixels_as(ds, lambda page: np.full_like(page, 255)), "NOT_BLANK"),
    "black": (lambda ds: pixels_as(ds, np.zeros_like), "NOT_BLACK"),
    "mirrored": (lambda ds: pixels_as(ds, lambda page: page[:, ::-1]), "SAME_PAGE"),
    "one pixel": (lambda ds: pixels_as(ds, lambda page: np.roll(page, 1, axis=1)), "SAME_PAGE"),
    "colours swapped": (lambda ds: pixels_as(ds, lambda page: page[..., ::-1]), "SAME_PAGE"),
    "grey": (lambda ds: setattr(ds, "PhotometricInterpretation", "YBR_FULL"), "FORM"),
    "frames": (lambda ds: setattr(ds, "NumberOfFrames", 2), "FORM"),
    "no notice": (lambda ds: setattr(ds, "ImageComments", ds.ImageComments.replace("SYNTHETIC", "")), "NOTICE"),
    "verified": (lambda ds: setattr(ds, "ImageComments", ds.ImageComments.replace("UNVERIFIED", "")), "UNVERIFIED"),
    "stage": (lambda ds: setattr(ds, "ImageComments", ds.ImageComments.replace("cT3", "cT1")), "STATEMENT"),
    "volume": (lambda ds: setattr(ds, "ImageComments", ds.ImageComments.replace("18.0", "8.0")), "STATEMENT"),
}


@pytest.mark.parametrize("fault", EITHER)
def test_a_fault_in_either_is_held(made: Previewed, fault: str) -> None:
    """Image and document: the gate that is there for it holds, and only what is beside it."""
    plant, gate = EITHER[fault]
    image, document = altered(made.image, plant), altered(made.document, plant)
    assert f"{gate}_PREVIEW" in made.holding(made.rtstruct, image, made.document)
    assert f"{gate}_PDF" in made.holding(made.rtstruct, made.image, document)


@pytest.mark.parametrize("fault", IMAGE)
def test_a_fault_in_the_image_is_held(made: Previewed, fault: str) -> None:
    """Pixels and words of the Secondary Capture."""
    plant, gate = IMAGE[fault]
    assert f"{gate}_PREVIEW" in made.holding(made.rtstruct, altered(made.image, plant), made.document)


def test_anothers_page_is_held(made: Previewed, stranger: Previewed) -> None:
    """The page of another patient in this one's image, and in this one's document: they are not the same page."""
    page = picture_of(stranger.pdf)
    image = altered(made.image, lambda ds: pixels_as(ds, lambda _: page))
    assert made.holding(made.rtstruct, image, made.document) == {"SAME_PAGE_PREVIEW"}
    document = with_pdf(made, stranger.pdf)
    assert made.holding(made.rtstruct, made.image, document) == {"SAME_PAGE_PREVIEW", "PATIENT_PDF"}
    assert made.holding(made.rtstruct, image, document) == {"PATIENT_PDF"}


def test_an_image_whose_words_nobody_could_read_is_held(made: Previewed, stranger: Previewed) -> None:
    """Words burned into pixels are judged in the document: it is written with every image, and without it none goes."""
    assert ObjectOrder(ObjectKind.PDF) in ObjectOrder(ObjectKind.PREVIEW).needs
    page = picture_of(stranger.pdf)
    image = altered(made.image, lambda ds: pixels_as(ds, lambda _: page))
    alone = replace(made, plan=replace(made.plan, orders=made.plan.orders[:2]))
    assert alone.holding(made.rtstruct, image) == {"SAME_PAGE_PREVIEW"}


def test_a_page_without_a_warning_or_with_other_shares_is_held(made: Previewed, tmp_path: Path) -> None:
    """What a gate warned of stands on the page and in the image's comments, and so does each probability."""
    finding = Finding("DOUBT", "doubtful voxels: 0.6", 0.6, 0.5)
    warned = replace(made, plan=replace(made.plan, findings=(finding,)))
    assert {"WARNINGS_PDF", "WARNINGS_PREVIEW"} <= warned.holding()
    other = preview(tmp_path, stages=(0.02, 0.10, 0.69, 0.19))
    assert made.holding(made.rtstruct, made.image, with_pdf(made, other.pdf)) == {"SHARES_PDF", "SAME_PAGE_PREVIEW"}


def test_a_page_that_says_something_else_is_held(made: Previewed, tmp_path: Path) -> None:
    """The document of a result with another category, and of one without the notice."""
    certain = preview(tmp_path / "a", stages=(0.9, 0.05, 0.03, 0.02))
    assert "STATEMENT_PDF" in made.holding(made.rtstruct, made.image, with_pdf(made, certain.pdf))
    clinical = replace(made.plan, bundle=replace(made.plan.bundle, data="clinical"))
    silent = preview(tmp_path / "b", plan=clinical)
    assert "NOTICE_PDF" in made.holding(made.rtstruct, made.image, with_pdf(made, silent.pdf))


def with_pdf(made: Previewed, pdf: bytes) -> WrittenObject:
    """The document with another PDF in it."""

    def swap(ds: Dataset) -> None:
        ds.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
        ds.EncapsulatedDocumentLength = len(pdf)

    return altered(made.document, swap)


@pytest.mark.parametrize("broken", [b"", b"%PDF-1.6\n%%EOF", b"no document at all"])
def test_bytes_that_are_no_pdf_cannot_be_judged_and_hold(made: Previewed, broken: bytes) -> None:
    """A gate that comes to no answer holds, and its message has no word of the patient."""
    judged = made.judged(made.rtstruct, made.image, with_pdf(made, broken))
    assert "GATE_ERROR" in made.holding(made.rtstruct, made.image, with_pdf(made, broken))
    assert "PHANTOM" not in judged["GATE_ERROR"].message


def test_a_missing_or_doubled_preview_is_held(made: Previewed) -> None:
    """What was ordered is there, once."""
    assert made.holding(made.rtstruct, made.image) == {"OBJECTS", "SAME_PAGE_PREVIEW"}
    assert "OBJECTS" in made.holding(made.rtstruct, made.image, made.document, made.document)


def test_every_gate_is_asked(made: Previewed) -> None:
    """Unharmed objects pass every gate on them, the two previews the same ones but for the page that they share."""
    judged = made.judged()
    assert made.holding() == set()
    of_image, of_document = (
        {name.removesuffix(end) for name in judged if name.endswith(end)} for end in ("_PREVIEW", "_PDF")
    )
    assert of_image - of_document == {"SAME_PAGE"}
    assert of_document - of_image == {"PATIENT", "SHARES"}
    assert {gate for _, gate in (*EITHER.values(), *IMAGE.values())} - {"SAME_PAGE"} <= of_document
    assert len(of_document) == 15
