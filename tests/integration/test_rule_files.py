"""The shipped rule sets, on built series and on real ones; `pytest -s` prints each real outcome with its reasons."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.rules import load_rule_file, shipped_rule_sets, vr_of
from npc_rtnode.domain.completeness import Kind, judge
from npc_rtnode.domain.records import Truth
from npc_rtnode.domain.selection import Candidate, Outcome, decide, stand
from npc_rtnode.errors import RulesFault
from npc_rtnode.settings import SelectSettings
from tests.builders.headers import real_files
from tests.builders.mr_series import make_series

READER = DicomSeriesReader()


def decision(rules_name: str, files: list[Path]):
    """What a rule set says of the files, with its verdicts by name."""
    rules = load_rule_file(rules_name)
    verdicts = rules.evaluate(READER.attributes(files, rules.keywords()))
    return decide(verdicts), {verdict.rule: verdict for verdict in verdicts}


def built(tmp_path: Path, rules_name: str = "npc_ce_t1", orientation: str = "axial", **attributes):
    """The decision on a built series of eight slices whose elements are changed."""
    files = make_series(tmp_path, slices=8, orientation=orientation, attributes=attributes)
    return decision(rules_name, files)[0]


# --- loading ----------------------------------------------------------------------------------------------------------


def test_shipped_rule_sets_load_and_take_the_role():
    """Both shipped files are faultless, distinct, and speak for the bundle's role; the default is one of them."""
    assert shipped_rule_sets() == ["any_axial_t1", "npc_ce_t1"]
    loaded = [load_rule_file(name) for name in shipped_rule_sets()]
    assert {rules.role for rules in loaded} == {"t1c"}
    assert [rules.name for rules in loaded] == shipped_rule_sets()
    assert len({rules.hash for rules in loaded}) == 2
    assert SelectSettings().rules in shipped_rule_sets()


def test_any_axial_t1_asks_nothing_that_npc_ce_t1_does_not():
    """The commissioning rules are the clinical ones less acquisition, Dixon and contrast."""
    clinical, commissioning = (
        {clause.name: clause for clause in load_rule_file(name).clauses} for name in ("npc_ce_t1", "any_axial_t1")
    )
    assert commissioning.items() <= clinical.items()
    left_out = {
        "acquired",
        "not fat, in-phase or opposed-phase",
        "not dynamic",
        "not another part of the body",
        "contrast",
        "not before contrast",
    }
    assert clinical.keys() - commissioning.keys() == left_out


def test_a_rule_file_by_path(tmp_path):
    """A hospital's own file is loaded by its path."""
    path = tmp_path / "own.toml"
    path.write_text('name = "own"\nrole = "t1c"\n[[clauses]]\nname = "m"\ntag = "Modality"\nop = "present"\n')
    assert load_rule_file(path).name == "own"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory; shipped rule sets: any_axial_t1, npc_ce_t1"),
        (b"name = ", "own.toml: "),
        (b"name = '\xff'", "own.toml: "),
        (b'name = "x"\n[[clauses]]\nname = "a"\ntag = "EchoTme"\nop = "present"\n', "did you mean EchoTime?"),
    ],
)
def test_a_bad_rule_file_is_a_rules_fault(tmp_path, content, said):
    """Absent, malformed, undecodable or wrong: RulesFault names the file and what is wrong."""
    path = tmp_path / "own.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RulesFault) as fault:
        load_rule_file(path)
    assert said in str(fault.value)


def test_vr_of_keywords():
    """The VR comes from the dictionary; an open one is told as such; an unknown keyword is None."""
    found = [vr_of(word) for word in ("EchoTime", "SmallestImagePixelValue", "PatientName", "EchTime")]
    assert found == ["DS", "US or SS", "PN", None]


# --- built series -----------------------------------------------------------------------------------------------------

CONTRAST_SAID = [
    "AX T1 FS +C", "Ax T1 C+ NPC phantom", "T1 + C", "t1_tse_tra_fs_Gd", "T1W_TSE_GAD", "T1 GADOVIST", "CE-T1", "T1CE",
    "T1 CE FS", "t1_vibe_fs_tra_post", "T1 POST CONTRAST", "T1WI+C", "T1C", "eTHRIVE_Gd", "T1 postGd", "T1轴位增强",
    "t1_fl2d_tra_KM", "LAVA-Flex+C", "T1_fs_enhanced", "3D T1 MPRAGE Gd-DTPA", "T1 FLAIR +C",
]  # fmt: skip
CONTRAST_NOT_SAID = [
    "AX T1", "T1 posterior fossa", "t1_tse_tra", "T1 CERVICAL", "anat-T1w", "T1 COR", "T1 AX FS", "T1 spacer", "T1 pc",
]  # fmt: skip
BEFORE_CONTRAST = [
    "T1 PRE GAD", "AX T1 C-", "T1 -C", "T1 non-contrast", "T1 w/o C", "T1轴位平扫", "T1 native", "t1_pre",
    "T1 without Gd",
]  # fmt: skip


@pytest.mark.parametrize("description", CONTRAST_SAID)
def test_contrast_said_by_the_description(tmp_path, description):
    """Without a ContrastBolusAgent the description's synonym is enough, in English, German and Chinese."""
    came_to = built(tmp_path, SeriesDescription=description, ContrastBolusAgent=None, SpecificCharacterSet="ISO_IR 192")
    assert came_to.eligible, came_to.reasons


@pytest.mark.parametrize("description", CONTRAST_NOT_SAID)
def test_contrast_not_said(tmp_path, description):
    """No agent and no word for contrast: set aside for that reason alone."""
    came_to = built(tmp_path, SeriesDescription=description, ContrastBolusAgent=None)
    assert came_to.set_aside
    assert [reason.split(":")[0] for reason in came_to.reasons] == ["contrast"]


@pytest.mark.parametrize("description", BEFORE_CONTRAST)
def test_before_contrast_is_set_aside_in_spite_of_an_agent(tmp_path, description):
    """A series that calls itself native is native, even where the scanner copied the agent into it."""
    came_to = built(tmp_path, SeriesDescription=description, SpecificCharacterSet="ISO_IR 192")
    assert came_to.set_aside
    assert came_to.reasons[0].startswith("not before contrast: ")


@pytest.mark.parametrize("agent", ["NONE", "no", "0", "无"])
def test_an_agent_that_says_none_is_none(tmp_path, agent):
    """Some sites fill ContrastBolusAgent with a word for nothing."""
    came_to = built(tmp_path, SeriesDescription="AX T1", ContrastBolusAgent=agent, SpecificCharacterSet="ISO_IR 192")
    assert came_to.set_aside


def test_neither_agent_nor_description_is_held(tmp_path):
    """Where nothing says either way, a person is asked."""
    came_to = built(tmp_path, SeriesDescription=None, ContrastBolusAgent=None)
    assert came_to.held
    assert [reason.split(":")[0] for reason in came_to.reasons] == ["contrast"]


NO_T1 = [
    ({"SeriesDescription": "AX T2 FS +C"}, "no other weighting"),
    ({"SeriesDescription": "DWI +C", "EchoTime": "70"}, "short echo"),
    ({"SeriesDescription": "AX FLAIR +C"}, "no other weighting"),
    ({"SeriesDescription": "TOF_3D post", "ScanningSequence": "GR"}, "no other weighting"),
    ({"SeriesDescription": "AX +C", "RepetitionTime": "4000", "EchoTime": "20"}, "T1 weighting"),
    ({"SeriesDescription": "T1 map post"}, "no other weighting"),
    ({"SeriesDescription": "T1 +C SUB"}, "acquired"),
    ({"SeriesDescription": "T1 +C MIP"}, "acquired"),
    ({"SeriesDescription": "T1减影 +C", "SpecificCharacterSet": "ISO_IR 192"}, "acquired"),
    ({"ImageType": ["DERIVED", "PRIMARY", "MPR"]}, "acquired"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "SUBTRACTION"]}, "acquired"),
    ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"]}, "acquired"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "not a localizer"),
    ({"SeriesDescription": "LOC T1 +C"}, "not a localizer"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "not a mosaic"),
    ({"ImageType": ["DERIVED", "PRIMARY", "DIXON", "FAT"]}, "not fat, in-phase or opposed-phase"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "DIXON", "IN_PHASE"]}, "not fat, in-phase or opposed-phase"),
    ({"Modality": "CT"}, "modality"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "object"),
]


@pytest.mark.parametrize(("attributes", "rule"), NO_T1, ids=[f"{rule}-{k}" for k, (_, rule) in enumerate(NO_T1)])
def test_what_is_no_acquired_t1_is_set_aside(tmp_path, attributes, rule):
    """Each kind of other image is set aside by the clause that is there for it."""
    came_to = built(tmp_path, **attributes)
    assert came_to.set_aside
    assert rule in [reason.split(":")[0] for reason in came_to.reasons]


T1_BY_TIMES = [
    {"ScanningSequence": "SE", "RepetitionTime": "620", "EchoTime": "11"},
    {"ScanningSequence": "GR", "SequenceVariant": ["SS", "SP", "SK"], "RepetitionTime": "6.5", "EchoTime": "2.9"},
    {"ScanningSequence": ["GR", "IR"], "InversionTime": "900", "RepetitionTime": "1900", "EchoTime": "2.97"},
    {"ScanningSequence": ["SE", "IR"], "InversionTime": "750", "RepetitionTime": "2000", "EchoTime": "9"},
]


@pytest.mark.parametrize("times", T1_BY_TIMES)
def test_t1_by_sequence_times(tmp_path, times):
    """Spin echo, spoiled gradient echo and inversion-prepared sequences are known by their times."""
    came_to = built(tmp_path, SeriesDescription="tra fs +C", **times)
    assert came_to.eligible, came_to.reasons


WATER = [
    ["DERIVED", "PRIMARY", "DIXON", "WATER"],
    ["ORIGINAL", "PRIMARY", "W", "W", "DERIVED"],
    ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"],
    ["ORIGINAL", "PRIMARY", "M", "ND", "NORM", "FM"],
    ["ORIGINAL", "PRIMARY", "MPR"],
]


@pytest.mark.parametrize("image_type", WATER, ids=["-".join(words) for words in WATER])
def test_acquired_and_water_images_are_taken(tmp_path, image_type):
    """ImageType as Siemens, Philips and GE write it on acquired slices and on Dixon water."""
    came_to = built(tmp_path, ImageType=image_type)
    assert came_to.eligible, came_to.reasons


@pytest.mark.parametrize(("orientation", "eligible"), [("oblique", True), ("feet_first", True), ("sagittal", False)])
def test_the_plane_is_axial(tmp_path, orientation, eligible):
    """A tilted or feet-first axial stack is axial; a sagittal one is set aside by its plane."""
    assert built(tmp_path, orientation=orientation).eligible is eligible


def test_a_wrong_plane_is_told_with_its_angle(tmp_path):
    """The number that decided is in the reason, and what would have been right."""
    came_to, _ = decision("npc_ce_t1", make_series(tmp_path, slices=8, orientation="sagittal"))
    text = 'plane: @plane is "sagittal" (0 degrees off the nearest axis) (wanted axial, within 30 degrees)'
    assert came_to.reasons == (text,)


UNUSABLE = [
    ({"PhotometricInterpretation": "MONOCHROME1"}, "INVERTED_GREY: .*MONOCHROME1, 1 samples a pixel; .*with 1 needed"),
    ({"BitsStored": 12, "HighBit": 15}, "HIGH_BIT: HighBit 15, 11 needed"),
    ({"LossyImageCompression": "01", "LossyImageCompressionRatio": "12"}, "LOSSY: .*ratio 12"),
    ({"RescaleSlope": "0", "RescaleIntercept": "0"}, "RESCALE: RescaleSlope 0"),
]


@pytest.mark.parametrize("rules_name", ["npc_ce_t1", "any_axial_t1"])
@pytest.mark.parametrize(("attributes", "said"), UNUSABLE, ids=[said.split(":")[0] for _, said in UNUSABLE])
def test_grey_values_that_cannot_be_used_are_set_aside(tmp_path, rules_name, attributes, said):
    """The question that would fail the job is asked at selection, with the code and the number that decided it."""
    came_to = built(tmp_path, rules_name, **attributes)
    assert came_to.set_aside
    assert [reason.split(":")[0] for reason in came_to.reasons] == ["grey values"]
    assert re.search(rf'@pixels is "{said}.* \(8 of 8 images\)"', came_to.reasons[0])


def test_an_unusable_series_does_not_outrank_a_usable_one(tmp_path):
    """Of two that differ in this alone, and of which the inverted one would be preferred, the usable one goes on."""
    rules = load_rule_file("npc_ce_t1")
    inverted = {"PhotometricInterpretation": "MONOCHROME1", "SeriesDescription": "AX T1 FS +C NPC"}
    wishes = {1: inverted, 2: {"SeriesDescription": "AX T1 FS +C"}}
    files = {n: make_series(tmp_path / str(n), slices=8, attributes=wish) for n, wish in wishes.items()}
    seen = {n: READER.attributes(paths, rules.keywords()) for n, paths in files.items()}
    passing = [Candidate(n, one) for n, one in seen.items() if decide(rules.evaluate(one)).eligible]
    assert {n: standing.outcome for n, standing in stand(passing, rules.preferences).items()} == {2: Outcome.ELIGIBLE}
    READER.volume(files[2])


@pytest.mark.parametrize(
    ("folder", "pattern"),
    [
        ("mr_t1_axial_head_datalad", "*"),
        ("mr_siemens_ce_t1_hn_vsseg", "*"),
        ("mr_ge_signa_pd_axial_head", "*"),
        ("mr_canon_galan_dti_1vol", "*"),
        ("mr_philips_achieva_epi_2vol", "*"),
        ("mr_uih_t1_sag_slab", "*"),
        ("ts_siemens_j2k_fragmented", "*"),
        ("rt_sts001_mr_t2fs/images", "*"),
        ("mr_hitachi_echelon_jp_charset", "*"),
        ("mr_enhanced_siemens_xa30_t1", "*791.dcm"),
        ("mr_study_nema_enhanced_tumour", "*005"),
        ("mr_study_nema_enhanced_tumour", "*008"),
    ],
)
def test_real_grey_values_are_plain(folder, pattern):
    """What scanners of every make write, frames of Enhanced MR included, is usable and said to be."""
    files = [path for path in real_files(folder) if path.match(pattern)]
    assert READER.attributes(files, []).derived["@pixels"] == "plain"


def test_a_gap_is_set_aside_by_the_rules_too(tmp_path):
    """Even if assembling let it through, selection would not."""
    came_to, verdicts = decision("npc_ce_t1", make_series(tmp_path, gap_at=7))
    assert came_to.set_aside
    assert verdicts["stack"].because == '@stack is "GAP" (wanted one even stack of slices)'


def test_no_reason_tells_who_the_patient_is(tmp_path):
    """Neither name nor ID nor birth date nor accession number is in any verdict, whatever it came to."""
    files = make_series(tmp_path, slices=8, attributes={"ContrastBolusAgent": None, "SeriesDescription": "x"})
    for name in shipped_rule_sets():
        text = " ".join(verdict.because for verdict in decision(name, files)[1].values())
        assert not [secret for secret in ("TEST^", "PHANTOM-1", "19600229", "ACC-1") if secret in text]


# --- real series ------------------------------------------------------------------------------------------------------

REAL = [
    # folder, pattern, completeness, clauses FALSE under npc_ce_t1, the same under any_axial_t1
    ("mr_t1_axial_head_datalad", "*", Kind.WHOLE, {"acquired", "contrast"}, set()),
    ("rt_ibsi_sts002_philips_t1/images", "*", Kind.WHOLE, {"acquired", "contrast"}, set()),
    ("rt_sts001_mr_t2fs/images", "*", Kind.WHOLE, {"no other weighting", "contrast"}, {"no other weighting"}),
    ("mr_ge_signa_pd_axial_head", "*", Kind.WHOLE, {"T1 weighting", "contrast"}, {"T1 weighting"}),
    ("mr_canon_galan_dti_1vol", "*", Kind.WHOLE, {"T1 weighting", "short echo"}, {"no other weighting"}),
    ("mr_ge_premier_3plane_localizer", "*", Kind.NOT_A_STACK, {"stack", "not a localizer"}, {"not a localizer"}),
    ("mr_siemens_mosaic_epi", "*", Kind.NOT_A_STACK, {"stack", "not a mosaic"}, {"not a mosaic"}),
    ("mr_uih_dti_vframe_mosaic", "*", Kind.NOT_A_STACK, {"stack", "not a mosaic"}, {"not a mosaic"}),
    ("ts_same_image_9_syntaxes", "*", Kind.NOT_A_STACK, {"stack", "not a mosaic"}, {"not a mosaic"}),
    ("mr_uih_t1_sag_slab", "*", Kind.NOT_A_STACK, {"plane", "stack"}, {"plane", "stack"}),
    ("mr_philips_achieva_epi_2vol", "*", Kind.NOT_A_STACK, {"stack", "T1 weighting"}, {"stack"}),
    ("mr_siemens_ce_t1_hn_vsseg", "*", Kind.NOT_A_STACK, {"stack", "contrast"}, {"stack"}),
    ("mr_hitachi_echelon_jp_charset", "*", Kind.NOT_A_STACK, {"stack", "plane"}, {"stack", "plane"}),
    ("nasty_dicom2nifti_failing/sliceorientation", "*", Kind.NOT_A_STACK, {"stack"}, {"stack", "short echo"}),
    ("mr_enhanced_siemens_xa30_t1", "*354.dcm", Kind.NOT_A_STACK, set(), {"object", "stack"}),
    ("mr_enhanced_siemens_xa30_t1", "*791.dcm", Kind.WHOLE, {"plane", "contrast"}, {"plane"}),
    ("mr_study_nema_enhanced_tumour", "*", Kind.NOT_A_STACK, {"stack"}, {"stack"}),
    ("mr_study_nema_enhanced_tumour", "*005", Kind.WHOLE, {"not before contrast"}, set()),
    ("mr_study_nema_enhanced_tumour", "*008", Kind.WHOLE, set(), set()),
    ("ts_siemens_j2k_fragmented", "*", Kind.NOT_A_STACK, {"plane", "stack"}, {"plane", "stack"}),
]


@pytest.mark.parametrize(
    ("folder", "pattern", "kind", "clinical", "commissioning"), REAL, ids=[f"{row[0]}{row[1]}" for row in REAL]
)
def test_real_series_come_to_what_they_are(folder, pattern, kind, clinical, commissioning):
    """Each real series is judged whole or not, and set aside by the clauses that name what it is."""
    files = [path for path in real_files(folder) if path.match(pattern)]
    assert files
    assert judge(READER.headers(files), image_series=True).kind is kind
    for name, expected in (("npc_ce_t1", clinical), ("any_axial_t1", commissioning)):
        came_to, verdicts = decision(name, files)
        print(f"\n{folder} {name}: {came_to.outcome}", *came_to.reasons, sep="\n    ")
        false = {rule for rule, verdict in verdicts.items() if verdict.truth is Truth.FALSE}
        assert expected <= false
        assert came_to.set_aside is bool(false)
        assert came_to.eligible or came_to.reasons


def test_real_axial_head_is_eligible_for_commissioning_only():
    """The datalad head goes through any_axial_t1; npc_ce_t1 sets it aside and names the missing contrast."""
    files = real_files("mr_t1_axial_head_datalad")
    assert decision("any_axial_t1", files)[0].eligible
    came_to, verdicts = decision("npc_ce_t1", files)
    assert came_to.set_aside
    assert verdicts["contrast"].because.startswith("ContrastBolusAgent is missing, ")
    assert 'SeriesDescription is "anat-T1w"' in verdicts["contrast"].because
