"""What is said, before DICOM."""

from __future__ import annotations

from dataclasses import replace

import pytest

from npc_rtnode.domain import vocabulary
from npc_rtnode.domain.records import Finding
from npc_rtnode.domain.report import NOT_CHECKED, SYNTHETIC_NOTICE, ReportContent, plain, report_of
from npc_rtnode.domain.vocabulary import Code
from tests.builders.outputs import ball, bundle_statement, plan_of, prediction_of, stack_for


def said(**wishes: object) -> ReportContent:
    """The report of a ball; keywords go to the plan."""
    stack = stack_for()
    mask = ball(stack.grid.shape)
    return report_of(mask, stack.grid, prediction_of(mask, dropped_cc=0.25), plan_of(**wishes))


def test_the_stage_line_has_everything_on_one_line() -> None:
    """Top stage with its probability, the others, the volume, and that nobody verified it."""
    content = replace(said(), volume_cc=24.04)
    assert content.stage_line == "AI cT3 p=.69; T1 .02 T2 .11 T4 .18; 24.0 cc; UNVERIFIED"


def test_a_doubtful_stage_line_names_no_winner() -> None:
    """In doubt all four probabilities stand alike."""
    stack = stack_for()
    mask = ball(stack.grid.shape)
    content = report_of(mask, stack.grid, prediction_of(mask, (0.02, 0.45, 0.43, 0.10)), plan_of())
    line = replace(content, volume_cc=24.04).stage_line
    assert line == "AI uncertain: cT2 or cT3; T1 .02 T2 .45 T3 .43 T4 .10; 24.0 cc; UNVERIFIED"


def test_volume_is_voxels_times_voxel_volume() -> None:
    """3 mm by 0.9375 mm by 0.9375 mm is 0.00263671875 cc a voxel."""
    stack = stack_for()
    voxels = int(ball(stack.grid.shape).sum())
    assert said().volume_text == f"{voxels * 0.00263671875:.3f}"


def test_a_synthetic_bundle_says_so_wherever_a_reader_looks() -> None:
    """Label, title and description carry the notice; a clinical bundle's do not."""
    synthetic, clinical = said(), said(bundle=bundle_statement(data="clinical"), phantom=False)
    assert synthetic.title == SYNTHETIC_NOTICE
    assert synthetic.description.startswith(SYNTHETIC_NOTICE)
    assert synthetic.label == "NOT FOR CLINIC"
    assert clinical.notices == ()
    assert clinical.label == "AI DRAFT GTVp"
    assert SYNTHETIC_NOTICE not in clinical.description + clinical.title


def test_what_was_not_checked_is_named() -> None:
    """Histology, prior radiotherapy and metastasis stand in the report and in the description."""
    content = said()
    text = " ".join(content.sentences)
    assert all(item in text and item in content.description for item in NOT_CHECKED)
    assert "Imaging only" in text
    assert "0.250 cc" in text


def test_findings_are_said_once() -> None:
    """A finding of both the plan and the prediction appears once, code first."""
    finding = Finding("SPACING_LIMIT", "slice spacing 9 mm is outside 3-7 mm", 9.0, 7.0)
    sentences = said(findings=(finding, finding)).sentences
    assert [s for s in sentences if "SPACING_LIMIT" in s] == ["Warning: SPACING_LIMIT: " + finding.message]


@pytest.mark.parametrize("synthetic", [True, False])
def test_labels_fit_their_value_representations(synthetic: bool) -> None:
    """SH 16, LO 64 and ST 1024 characters (PS3.5 6.2), all ASCII, however long a site's or bundle's name is."""
    data = "synthetic" if synthetic else "clinical"
    content = said(bundle=bundle_statement(data=data, name="n" * 200, version="v" * 200, statement="鼻咽癌" * 900))
    assert len(content.label) <= 16
    assert max(map(len, (content.title, content.algorithm_name, content.algorithm_version))) <= 64
    assert max(map(len, (content.description, *content.sentences))) <= 1024
    assert "".join((content.description, *content.sentences)).isascii()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("鼻咽 found", "U+9F3B U+54BD found"), ("a\\b\x00c", "a/b c"), ("too long", "too lo"), ("", "")],
)
def test_plain_text_reads_alike_in_every_character_set(text: str, wanted: str) -> None:
    """Other letters are spelled, backslashes and controls go, length is cut."""
    assert plain(text, 6 if text == "too long" else 64) == wanted


@pytest.mark.parametrize(
    ("offset", "wanted"), [("+0800", "20260102 110405"), ("-0330", "20260101 233405"), ("+0000", "20260102 030405")]
)
def test_times_are_the_sites(offset: str, wanted: str) -> None:
    """created_at in UTC is written in the site's offset, also over midnight."""
    assert plan_of(utc_offset=offset).local_time.strftime("%Y%m%d %H%M%S") == wanted


def test_every_code_fits_dicom() -> None:
    """CodeValue and scheme at most 16 characters, meaning at most 64 (PS3.3 8.8)."""
    codes = [value for value in vars(vocabulary).values() if isinstance(value, Code)]
    codes += vocabulary.CT_CATEGORIES.values()
    assert len(codes) > 20
    assert all(len(c.value) <= 16 and len(c.scheme) <= 16 and len(c.meaning) <= 64 for c in codes)
