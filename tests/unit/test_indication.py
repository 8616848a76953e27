"""The indication: said by people in few places, never inferred."""

from __future__ import annotations

import pytest

from npc_rtnode.domain.indication import INDICATION_KEYWORDS, NOT_CHECKED, judge_indication, texts_of
from npc_rtnode.domain.records import SeriesAttributes, Truth
from npc_rtnode.settings import SelectSettings

PATTERNS = SelectSettings().indication_text


def judge(texts=None, called=False, word=None):
    """The verdict with the shipped patterns."""
    return judge_indication(called, texts or {}, PATTERNS, word)


def test_a_called_ae_states_it():
    """A title that the hospital reserves for NPC is enough."""
    verdict = judge(called=True)
    assert (verdict.truth, verdict.because) == (Truth.TRUE, "the called AE title is meant for NPC")


def test_an_operator_states_it():
    """An operator's word is enough, and is quoted."""
    verdict = judge(word=" biopsy proven, tumour board ")
    assert (verdict.truth, verdict.because) == (Truth.TRUE, 'an operator said so: "biopsy proven, tumour board"')


@pytest.mark.parametrize(
    "text",
    [
        "MR NPC primary",
        "NPC_T1",
        "MR^NPC",
        "npc staging",
        "MRI NASOPHARYNGEAL CARCINOMA",
        "nasopharynx cancer staging",
        "Nasopharyngeal-neoplasm",
        "鼻咽癌增强",
        "鼻咽NPC平扫",
        "Nasopharyngeal ca",
    ],
)
def test_a_text_states_it(text):
    """The shipped patterns find the ways in which an order or description says NPC."""
    verdict = judge({"StudyDescription": text})
    assert verdict.truth is Truth.TRUE
    assert verdict.because.startswith("StudyDescription ")


@pytest.mark.parametrize(
    "text",
    [
        "MR brain",
        "NPCs",
        "CNPC station",
        "oropharynx",
        "",
        "MRI NASOPHARYNX",
        "Nasopharynx with contrast",
        "nasopharyngeal case conference",
        "鼻咽部增强",
        "oropharyngeal carcinoma",
    ],
)
def test_other_texts_do_not(text):
    """Letters inside a longer word, or a body part, state nothing; silence is UNKNOWN, never FALSE."""
    assert judge({"StudyDescription": text}).truth is Truth.UNKNOWN


def test_unknown_says_where_it_looked():
    """The reason to hold names the texts that were there, or that there were none."""
    assert "looked at StudyDescription, ProtocolName" in judge({"StudyDescription": "a", "ProtocolName": "b"}).because
    assert "no such text is present" in judge().because
    assert judge(word="  ").truth is Truth.UNKNOWN


def test_texts_of_a_series():
    """The distinct texts of the indication keywords, in the order of the keywords, empty ones left out."""
    values = {
        "SeriesDescription": (("T1",), ("T1",), ("T1 b",)),
        "StudyDescription": (("NPC",), None, ("NPC",)),
        "ProtocolName": (None, None, None),
        "Modality": (("MR",),) * 3,
    }
    assert texts_of(SeriesAttributes(3, values)) == {"StudyDescription": "NPC", "SeriesDescription": "T1 | T1 b"}


def test_what_is_never_checked_is_said():
    """Histology, metastasis and earlier radiotherapy stand in a constant that reports quote."""
    assert [word in " ".join(NOT_CHECKED) for word in ("histological", "metastasis", "radiotherapy")] == [True] * 3
    assert "RequestAttributesSequence" in INDICATION_KEYWORDS
