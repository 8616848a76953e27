"""Files as values: what the reader makes of written series and of real ones."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from npc_rtnode.adapters.dicom.elements import read_elements
from npc_rtnode.adapters.dicom.pixels import FORM_KEYWORDS, decoded, form_of
from npc_rtnode.adapters.dicom.series import DicomSeriesReader, clean_text
from npc_rtnode.domain.geometry import stack_of
from npc_rtnode.domain.pixels import PixelForm
from npc_rtnode.errors import GeometryRefused, PixelsRefused, Unreadable
from tests.builders.headers import real_files
from tests.builders.mr_series import SeriesSpec, make_series, slice_dataset

READER = DicomSeriesReader()


def form_in(path: Path) -> PixelForm:
    """What a file says of its grey values."""
    return form_of(read_elements(path, FORM_KEYWORDS))


def patched(files: list[Path], folder: Path, old: bytes, new: bytes) -> list[Path]:
    """Copies of the files with one byte string replaced by another of the same length."""
    folder.mkdir()
    copies = []
    for path in files:
        data = path.read_bytes()
        assert old in data
        assert len(old) == len(new)
        copies.append(folder / f"{len(copies):03d}.dcm")
        copies[-1].write_bytes(data.replace(old, new))
    return copies


# --- headers ----------------------------------------------------------------------------------------------------------


def test_headers_come_in_the_order_given(tmp_path):
    """One header a file, in the caller's order, each with the digest that its file is named by."""
    files = make_series(tmp_path, slices=9)[::-1]
    headers = READER.headers(files)
    assert [header.sha256 for header in headers] == [path.name for path in files]
    assert [header.position[2] for header in headers] == pytest.approx([57.125 - 3 * k for k in range(9)])


def test_header_says_what_the_file_says(tmp_path):
    """Spacing is (between rows, between columns); UIDs and matrix are the file's."""
    ds = slice_dataset(SeriesSpec(slices=8, spacing_mm=(0.75, 0.5), attributes={"ImagesInAcquisition": 8}), 0)
    files = make_series(tmp_path, slices=8, spacing_mm=(0.75, 0.5), attributes={"ImagesInAcquisition": 8})
    header = READER.headers(files[:1])[0]
    assert (header.sop_uid, header.study_uid) == (ds.SOPInstanceUID, ds.StudyInstanceUID)
    assert (header.rows, header.columns, header.spacing_mm) == (48, 56, (0.75, 0.5))
    assert (header.frames, header.images_in_acquisition) == (1, 8)
    assert header.frame_of_reference_uid == ds.FrameOfReferenceUID


def test_digest_is_computed_where_the_name_is_none(tmp_path):
    """Outside the spool a file's digest is that of its bytes."""
    path = make_series(tmp_path, slices=1)[0]
    renamed = path.rename(tmp_path / "a.dcm")
    assert READER.headers([renamed])[0].sha256 == hashlib.sha256(renamed.read_bytes()).hexdigest()


def test_patient_key_tells_patients_apart_and_names_none(tmp_path):
    """Another name or ID is another key; padding is not; the header holds no identity."""
    one, same, name, number = (
        READER.headers(make_series(tmp_path / str(k), slices=1, **wishes))[0]
        for k, wishes in enumerate(
            [{}, {"patient_id": "PHANTOM-1 "}, {"patient_name_bytes": b"TEST^OTHER"}, {"patient_id": "PHANTOM-2"}]
        )
    )
    assert one.patient_key == same.patient_key
    assert len({one.patient_key, name.patient_key, number.patient_key}) == 3
    assert "PHANTOM" not in repr(one)


ABSENT = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"]


@pytest.mark.parametrize(
    ("keyword", "field"),
    list(zip(ABSENT, ["position", "orientation", "spacing_mm", "frame_of_reference_uid"], strict=True)),
)
def test_a_missing_element_is_none(tmp_path, keyword, field):
    """What the data set does not say is None, not a guess."""
    files = make_series(tmp_path, slices=1, attributes={keyword: None})
    assert getattr(READER.headers(files)[0], field) is None


def test_a_number_that_is_none_is_missing(tmp_path):
    """PixelSpacing with a letter in it is no spacing, and its text reaches no warning and no error."""
    files = patched(make_series(tmp_path / "a", slices=8), tmp_path / "b", b"0.9375\\0.9375", b"0.93x5\\0.9375")
    assert READER.headers(files)[0].spacing_mm is None
    with pytest.raises(GeometryRefused, match="8 of 8 instances lack a usable PixelSpacing"):
        READER.volume(files)


@pytest.mark.parametrize("data", [b"", b"not DICOM at all" * 20, b"\0" * 128 + b"DICM"])
def test_what_is_no_data_set_is_unreadable_without_its_name(tmp_path, data):
    """A file that is not DICOM is Unreadable; the message names a digest, not the file or its content."""
    path = tmp_path / "Doe^Jane.dcm"
    path.write_bytes(data)
    if data.endswith(b"DICM"):
        assert READER.headers([path])[0].sop_uid == ""
        return
    with pytest.raises(Unreadable) as fault:
        READER.headers([path])
    assert hashlib.sha256(data).hexdigest()[:12] in str(fault.value)
    assert "Doe" not in str(fault.value)


def test_a_file_that_went_away_is_unreadable(tmp_path):
    """No OSError with a path leaves the reader."""
    with pytest.raises(Unreadable, match="FileNotFoundError"):
        READER.headers([tmp_path / "gone"])


# --- volume -----------------------------------------------------------------------------------------------------------


def ramp(slices: int = 20) -> np.ndarray:
    """The builder's pixel values, `[slice, row, column]`."""
    k, row, column = np.mgrid[:slices, :48, :56]
    return (row * 7 + column * 5 + k * 11) % 1000


@pytest.mark.parametrize("orientation", ["axial", "oblique", "feet_first", "sagittal", "coronal"])
@pytest.mark.parametrize("implicit", [True, False])
def test_voxels_lie_where_their_slices_lie(tmp_path, orientation, implicit):
    """Shuffled files of any orientation: every slice's pixels are at the index whose affine gives its position."""
    files = make_series(tmp_path, orientation=orientation, implicit=implicit, descending=True)
    volume = READER.volume([*files[1::2], *files[::2]])
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels, ramp())
    for k, header in enumerate(volume.stack.slices):
        np.testing.assert_allclose((volume.stack.grid.affine @ [k, 0, 0, 1])[:3], header.position, atol=1e-5)


@pytest.mark.parametrize(("slope", "intercept"), [("2.5", "-10"), ("0.5", "0"), ("3", "7")])
def test_rescale_is_applied(tmp_path, slope, intercept):
    """Voxels are pixel values times RescaleSlope plus RescaleIntercept."""
    files = make_series(tmp_path, slices=8, attributes={"RescaleSlope": slope, "RescaleIntercept": intercept})
    np.testing.assert_allclose(READER.volume(files).voxels, ramp(8) * float(slope) + float(intercept))


def test_signed_pixels_stay_signed(tmp_path):
    """PixelRepresentation 1 with negative values comes out negative."""
    voxels = (ramp(8) - 500).astype(np.int16)
    signed = {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15}
    files = make_series(tmp_path, slices=8, voxels=voxels, attributes=signed)
    np.testing.assert_array_equal(READER.volume(files).voxels, voxels)


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0.0008, 1, 0), (0.9995, 0, 0, 0, 1.0005, 0.0009)])
def test_cosines_within_tolerance_agree_with_simpleitk(tmp_path, orientation):
    """Slightly crooked cosines are made orthonormal the way ITK does it: what judging accepts, reading accepts."""
    files = make_series(tmp_path, slices=8, rows=400, columns=300, orientation=orientation)
    assert READER.volume(files).voxels.shape == (8, 400, 300)


def test_a_corner_elsewhere_is_refused(tmp_path):
    """Where SimpleITK and the header disagree by more than 0.01 mm about a corner, nobody is believed."""
    path = make_series(tmp_path, slices=1)[0]
    header = READER.headers([path])[0]
    x, y, z = header.position
    form = form_in(path)
    decoded(path, header, form)
    with pytest.raises(GeometryRefused, match=r"a corner 0\.020 mm away"):
        decoded(path, replace(header, position=(x, y + 0.02, z)), form)
    with pytest.raises(GeometryRefused, match="does not decode to 47 rows"):
        decoded(path, replace(header, rows=47), form)


@pytest.mark.parametrize(
    "attributes",
    [{"PhotometricInterpretation": "MONOCHROME1"}, {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}],
)
def test_inverted_and_coloured_pixels_are_refused_by_name(tmp_path, attributes):
    """MONOCHROME1 and colour are refused with their name, not silently read."""
    files = make_series(tmp_path, slices=8, attributes=attributes)
    with pytest.raises(PixelsRefused, match=f"PhotometricInterpretation {attributes['PhotometricInterpretation']}"):
        READER.volume(files)


@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_pixels_cut_short_are_unreadable(tmp_path, syntax):
    """Half of the pixels missing, plain or compressed: Unreadable, naming the SOP Instance."""
    files = make_series(tmp_path, slices=8, syntax=syntax)
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(files[3].read_bytes()[:-3000])
    uid = READER.headers([cut])[0].sop_uid
    with pytest.raises(Unreadable, match=uid):
        READER.volume([*files[:3], cut, *files[4:]])


def test_well_formed_pixels_that_are_too_few_are_unreadable(tmp_path):
    """A whole file whose PixelData lacks one row: GDCM would make the row up."""
    files = make_series(tmp_path, slices=8)
    ds = dcmread(files[3])
    ds.PixelData = ds.PixelData[: -56 * 2]
    ds.save_as(files[3])
    with pytest.raises(Unreadable, match=ds.SOPInstanceUID):
        READER.volume(files)


def test_a_gap_is_refused_before_decoding(tmp_path):
    """A series with a missing slice has no volume."""
    with pytest.raises(GeometryRefused, match="GAP"):
        READER.volume(make_series(tmp_path, gap_at=7))


# --- attributes -------------------------------------------------------------------------------------------------------


def test_attributes_have_one_entry_a_slice(tmp_path):
    """Text, numbers and multiple values come as plain tuples; a missing or empty element is None."""
    files = make_series(tmp_path, slices=8, attributes={"ContrastBolusAgent": None, "ProtocolName": ""})
    asked = ["ImageType", "EchoTime", "EchoTrainLength", "ContrastBolusAgent", "ProtocolName"]
    values = READER.attributes(files, asked).values
    assert values["ImageType"] == (("ORIGINAL", "PRIMARY", "OTHER"),) * 8
    assert values["EchoTime"] == ((11.0,),) * 8
    assert values["EchoTrainLength"] == ((3,),) * 8
    assert values["ContrastBolusAgent"] == values["ProtocolName"] == (None,) * 8
    assert {type(part) for entry in values["EchoTime"] for part in entry} == {float}


def test_derived_facts(tmp_path):
    """Plane, stack, spacing and count are judged from all slices."""
    facts = READER.attributes(make_series(tmp_path, orientation="oblique"), ["@plane"]).derived
    assert facts["@plane"] == "axial"
    assert facts["@plane_angle_deg"] == pytest.approx(13.0, abs=0.1)
    assert (facts["@stack"], facts["@slices"], facts["@mosaic"], facts["@phantom"]) == ("even", 20, "no", "no")
    assert facts["@spacing_mm"] == pytest.approx(3.0)
    assert facts["@sop_class"] == "MR Image Storage"


def test_the_grey_values_are_a_fact(tmp_path):
    """Usable ones are plain; others are told with code, number and count, in the words in which `volume` refuses."""
    assert READER.attributes(make_series(tmp_path / "plain", slices=8), []).derived["@pixels"] == "plain"
    odd = [{}] * 6 + [{"PhotometricInterpretation": "MONOCHROME1"}] * 2
    files = make_series(tmp_path / "odd", slices=8, slice_attributes=odd, attributes={"BitsStored": 12, "HighBit": 15})
    told = READER.attributes(files, []).derived["@pixels"]
    assert "HIGH_BIT: HighBit 15, 11 needed (one less than BitsStored) (8 of 8 images)" in told
    assert "INVERTED_GREY: PhotometricInterpretation MONOCHROME1" in told
    assert "(2 of 8 images)" in told
    with pytest.raises(PixelsRefused) as refused:
        READER.volume(files)
    assert told in str(refused.value)


def test_what_has_no_rows_has_no_grey_values(tmp_path):
    """An object that is no image is not asked how it states them."""
    files = make_series(tmp_path, slices=2, attributes={"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"})
    for path in files:
        ds = dcmread(path)
        del ds.Rows, ds.Columns, ds.PixelData
        ds.save_as(path)
    assert "@pixels" not in READER.attributes(files, []).derived


def test_derived_facts_of_a_broken_stack(tmp_path):
    """A gap is named; there is no spacing to speak of; the plane is still known."""
    facts = READER.attributes(make_series(tmp_path, gap_at=7), []).derived
    assert facts["@stack"] == "GAP"
    assert "@spacing_mm" not in facts
    assert facts["@plane"] == "axial"


@pytest.mark.parametrize(
    ("charset", "encoded"),
    [
        ("GB18030", "鼻咽增强".encode("gb18030")),
        ("ISO_IR 192", "鼻咽增强".encode()),
        (["", "ISO 2022 IR 58"], b"\x1b$)A" + "鼻咽增强".encode("gb2312")),
    ],
)
def test_chinese_descriptions_are_read(tmp_path, charset, encoded):
    """GB18030, UTF-8 and ISO 2022 IR 58 come to the same text, without escape sequences."""
    text = b"XXXXXXXXXXXXXXXX"[: len(encoded) + len(encoded) % 2]
    files = make_series(
        tmp_path / "a", slices=1, charset=charset, attributes={"SeriesDescription": text.decode()}, implicit=True
    )
    files = patched(files, tmp_path / "b", text, encoded.ljust(len(text)))
    assert READER.attributes(files, ["SeriesDescription"]).values["SeriesDescription"] == (("鼻咽增强",),)


def test_escape_debris_is_removed():
    """ISO 2022 designations that a decoder left in a text are taken out."""
    assert clean_text("\x1b$)A鼻咽\x1b(B MR \0") == "鼻咽 MR"


def request() -> Dataset:
    """An order with a reason, a code and people's names."""
    code, order = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "C11.9", "I10", "Malignant neoplasm of nasopharynx"
    order.RequestedProcedureDescription = "MR NPC staging"
    order.ReasonForRequestedProcedureCodeSequence = Sequence([code])
    order.RequestingPhysician = "SECRET^DOCTOR"
    order.RequestedProcedureID = "SECRET-7"
    return order


def test_the_orders_texts_are_flattened(tmp_path):
    """A request sequence comes as its descriptions and code meanings; names and identifiers stay behind."""
    files = make_series(tmp_path, slices=2, attributes={"RequestAttributesSequence": Sequence([request()])})
    values = READER.attributes(files, ["RequestAttributesSequence", "RequestedProcedureDescription"]).values
    assert sorted(values["RequestAttributesSequence"][0]) == ["MR NPC staging", "Malignant neoplasm of nasopharynx"]
    assert values["RequestedProcedureDescription"] == (("MR NPC staging",),) * 2


@pytest.mark.parametrize(
    ("attributes", "phantom"),
    [
        ({"QualityControlSubject": "YES"}, True),
        ({"QualityControlImage": "YES"}, True),
        ({"QualityControlSubject": "NO"}, False),
        ({}, False),
    ],
)
def test_phantom_marks(tmp_path, attributes, phantom):
    """Either quality control element with YES on every instance marks a phantom; one patient's slice among them not."""
    files = make_series(tmp_path / "a", slices=3, attributes=attributes)
    other = make_series(tmp_path / "b", slices=1)
    assert READER.is_phantom(files) is phantom
    assert not READER.is_phantom([*files, *other])
    assert not READER.is_phantom([])
    assert READER.attributes(files, []).derived["@phantom"] == ("yes" if phantom else "no")


# --- real data --------------------------------------------------------------------------------------------------------


def test_real_axial_head_is_a_volume():
    """The oblique 384x274 head with non-square pixels: every slice is where its own header says."""
    volume = READER.volume(real_files("mr_t1_axial_head_datalad"))
    assert volume.stack.grid.shape == (50, 384, 274)
    assert volume.stack.grid.spacing_mm == pytest.approx((2 / 3, 2 / 3, 0.7), abs=1e-4)
    for k, header in enumerate(volume.stack.slices):
        np.testing.assert_allclose((volume.stack.grid.affine @ [k, 0, 0, 1])[:3], header.position, atol=1e-5)


def test_real_pixels_are_pydicoms_pixels():
    """SimpleITK and pydicom decode the same numbers of a real slice."""
    files = real_files("mr_t1_axial_head_datalad")
    volume = READER.volume(files)
    by_uid = {header.sop_uid: k for k, header in enumerate(volume.stack.slices)}
    for path in files[::17]:
        ds = dcmread(path)
        np.testing.assert_array_equal(volume.voxels[by_uid[ds.SOPInstanceUID]], ds.pixel_array)


def test_real_ge_jitter_passes_and_its_spacing_is_measured():
    """Steps of 6.96 to 7.07 mm make one stack of 7.0 mm; the header's SpacingBetweenSlices of 2 is not believed."""
    stack = stack_of(READER.headers(real_files("mr_ge_signa_pd_axial_head")))
    assert stack.grid.spacing_mm[0] == pytest.approx(7.0, abs=0.01)
    away = [
        np.linalg.norm((stack.grid.affine @ [k, 0, 0, 1])[:3] - np.array(header.position))
        for k, header in enumerate(stack.slices)
    ]
    assert max(away) < 0.12


def test_nine_transfer_syntaxes_decode_to_one_image():
    """RLE, JPEG Lossless, JPEG-LS, JPEG 2000, big endian and the rest: identical pixels."""
    files = real_files("ts_same_image_9_syntaxes")
    images = [decoded(path, header, form_in(path)) for path, header in zip(files, READER.headers(files), strict=True)]
    assert len(images) == 9
    for image in images[1:]:
        np.testing.assert_array_equal(image, images[0])


def test_fragmented_jpeg2000_decodes():
    """Frames split over many fragments decode to what pydicom decodes."""
    files = real_files("ts_siemens_j2k_fragmented")
    for path, header in zip(files, READER.headers(files), strict=True):
        np.testing.assert_array_equal(decoded(path, header, form_in(path)), dcmread(path).pixel_array)


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("mr_ge_premier_3plane_localizer", "MIXED_ORIENTATION"),
        ("mr_philips_achieva_epi_2vol", "DUPLICATE_POSITION"),
        ("mr_siemens_ce_t1_hn_vsseg", "TOO_FEW_SLICES"),
        ("mr_study_nema_enhanced_tumour", "SEVERAL_CONTRASTS"),
        ("mr_hitachi_echelon_jp_charset", "NO_FRAME_OF_REFERENCE"),
        ("nasty_dicom2nifti_failing/gantrytilting", "SHEARED"),
        ("nasty_dicom2nifti_failing/sliceorientation", "MIXED_SPACING"),
    ],
)
def test_real_series_that_are_no_volume_are_refused_by_name(folder, code):
    """Each awkward real series is refused for the reason it was collected for."""
    with pytest.raises(GeometryRefused, match=code):
        READER.volume(real_files(folder))


def test_invalid_dates_are_values_not_warnings():
    """UIH writes *** as dates: the reader hands the text on, and no warning escapes."""
    values = READER.attributes(real_files("mr_uih_t1_sag_slab"), ["SeriesDate", "SeriesDescription"]).values
    assert values["SeriesDescription"][0] == ("t1_gre_fsp_3d_sag",)
    assert len(values["SeriesDate"]) == 4


def test_nasty_files_are_read_or_unreadable():
    """Whatever pydicom's collection of broken files holds, the reader answers or raises Unreadable."""
    outcomes = {"read": 0, "unreadable": 0}
    for path in real_files("nasty_pydicom"):
        try:
            READER.headers([path])
            READER.attributes([path], ["SeriesDescription", "RequestAttributesSequence", "EchoTime"])
            outcomes["read"] += 1
        except Unreadable:
            outcomes["unreadable"] += 1
    assert outcomes["read"] > 10
