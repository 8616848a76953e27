"""Frames of Enhanced MR as slices: what a frame says in its functional groups, under the keywords of a classic slice.

A multi-frame instance states what all frames share once, the rest frame by frame (PS3.3 C.7.6.16); a frame is asked
first, then what is shared, then the instance. Whoever asks (geometry, rules) need not know. Nothing is believed about
the order of the frames: where a frame lies says its position, as for a slice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from npc_rtnode.adapters.dicom.elements import finite_of, uid_of, value_of, whole_of
from npc_rtnode.domain.records import FrameTraits

ENHANCED_MR: Final = "1.2.840.10008.5.1.4.1.1.4.1"

_SHARED: Final = "SharedFunctionalGroupsSequence"
_PER_FRAME: Final = "PerFrameFunctionalGroupsSequence"
_USAGE: Final = "ContrastBolusUsageSequence"  # one item an agent, so it is kept as it is

_GROUPS: Final = (  # functional groups (PS3.3 C.7.6.16.2, C.8.13.5) of which the first item's elements are asked for
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "FrameContentSequence",
    "PixelValueTransformationSequence",
    "FrameAnatomySequence",
    "MRImageFrameTypeSequence",
    "MRTimingAndRelatedParametersSequence",
    "MREchoSequence",
    "MRModifierSequence",
    "MRImagingModifierSequence",
    "MRFOVGeometrySequence",
    "MRAveragesSequence",
    "MRDiffusionSequence",
)
_PULSE_SEQUENCE: Final = (  # of the whole instance, PS3.3 C.8.13.4
    "PulseSequenceName",
    "EchoPulseSequence",
    "EchoPlanarPulseSequence",
    "SegmentedKSpaceTraversal",
    "SteadyStatePulseSequence",
    "Spoiling",
    "OversamplingPhase",
    "SpectrallySelectedSuppression",
    "RectilinearPhaseEncodeReordering",
)
_CONCATENATION: Final = ("ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber")

FRAME_KEYWORDS: Final = (
    "SOPClassUID",
    "NumberOfFrames",
    "ImageType",
    "AcquisitionContrast",
    "ComplexImageComponent",
    "VolumeBasedCalculationTechnique",
    "ContrastBolusAgentSequence",
    _SHARED,
    _PER_FRAME,
    *_PULSE_SEQUENCE,
    *_CONCATENATION,
)
"""What must be read of a file for its frames to answer."""

_CODE: Final = re.compile(r"[A-Z0-9 _]{0,16}")  # CS, PS3.5 6.2; anything else is not quoted
_NOT_GIVEN: Final = "NONE"


class Slice(NamedTuple):
    """One slice: its elements, and its frame number where it is a frame (from 1; None: the instance is the slice)."""

    elements: Dataset
    frame: int | None = None


def slices_in(ds: Dataset, room: int) -> list[Slice]:
    """The slices of an instance: itself, or each frame of an Enhanced MR that has at most `room` of them.

    Where the functional groups are not as many as the frames, nothing tells which are whose: all frames go without.
    """
    count = max(whole_of(ds, "NumberOfFrames") or 1, 1)
    if uid_of(ds, "SOPClassUID") != ENHANCED_MR or count > room:
        return [Slice(ds)]
    groups = _items(ds, _PER_FRAME)
    own = groups if len(groups) == count else [Dataset()] * count
    common = _common(ds)
    return [Slice(_frame(common, item), number) for number, item in enumerate(own, start=1)]


def traits_of(slice_: Slice) -> FrameTraits:
    """What a frame says beside its place; of a single-frame instance nothing."""
    ds = slice_.elements
    if slice_.frame is None:
        return FrameTraits()
    stack = value_of(ds, "StackID")
    return FrameTraits("" if stack is None else str(stack), tuple(_contrast(ds)), _part(ds))


def classic_value(frame: Dataset, keyword: str) -> Any:
    """What a classic instance would say under this keyword, from a frame's elements; None where it says nothing."""
    return _CLASSIC[keyword](frame) if keyword in _CLASSIC else value_of(frame, keyword)


# --- taking apart -----------------------------------------------------------------------------------------------------


def _items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence, none where it is absent or no sequence."""
    value = value_of(ds, keyword)
    return value if isinstance(value, Sequence) and all(isinstance(item, Dataset) for item in value) else ()


def _common(ds: Dataset) -> Dataset:
    """The instance's own elements and its shared groups', without the sequences; the latter are decoded once."""
    common = _like(ds, ds)
    for keyword in (_SHARED, _PER_FRAME):
        common.pop(Tag(keyword), None)
    own = set(common.keys())
    for item in _items(ds, _SHARED)[:1]:
        _lift(item, common)
    for tag in set(common.keys()) - own:
        value_of(common, keyword_for_tag(tag))
    return common


def _frame(common: Dataset, item: Dataset) -> Dataset:
    frame = _like(common, common)
    _lift(item, frame)
    return frame


def _like(ds: Dataset, elements: Dataset) -> Dataset:
    """A data set of these elements, undecoded, in the character set of another."""
    new = Dataset()
    new.set_original_encoding(ds.is_implicit_VR, ds.is_little_endian, ds.original_character_set)
    new.update(elements)
    return new


def _lift(item: Dataset, into: Dataset) -> None:
    """The elements of each group's first item, on top of what is there already."""
    for keyword in _GROUPS:
        for group in _items(item, keyword)[:1]:
            into.update(group)
    if value_of(item, _USAGE) is not None:
        into[Tag(_USAGE)] = item[Tag(_USAGE)]


# --- traits -----------------------------------------------------------------------------------------------------------


def _contrast(ds: Dataset) -> Iterator[tuple[str, str]]:
    """What tells two pictures of one place apart, by keyword."""
    for keyword in ("FrameType", "ComplexImageComponent", "AcquisitionContrast"):
        yield keyword, _codes(value_of(ds, keyword))
    for keyword in ("EffectiveEchoTime", "DiffusionBValue"):
        number = finite_of(ds, keyword)
        yield keyword, "" if number is None else f"{number:.2f}"
    yield "TemporalPositionIndex", str(whole_of(ds, "TemporalPositionIndex") or "")
    for keyword in ("ContrastBolusAgentAdministered", "ContrastBolusAgentPhase"):
        yield keyword, " and ".join(_codes(value_of(item, keyword)) for item in _items(ds, _USAGE))


def _codes(value: Any) -> str:
    """Coded values as one text; what is no code is not repeated."""
    words = [str(word) for word in (value if isinstance(value, MultiValue) else [value or ""])]
    return "\\".join(word if _CODE.fullmatch(word) else "(no code)" for word in words)


def _part(ds: Dataset) -> tuple[str, int, int] | None:
    uid, number = uid_of(ds, "ConcatenationUID"), whole_of(ds, "InConcatenationNumber")
    return (uid, number, whole_of(ds, "InConcatenationTotalNumber") or 0) if uid and number else None


# --- classic keywords -------------------------------------------------------------------------------------------------


def _called(*keywords: str) -> Callable[[Dataset], Any]:
    """The first of these that is there."""
    return lambda frame: next((value for word in keywords if (value := value_of(frame, word)) is not None), None)


def _image_type(frame: Dataset) -> list[str]:
    """The frame's own type, then what the instance adds; then component and projection in classic words."""
    said = [*_words(frame, "FrameType"), *_words(frame, "ImageType"), *_words(frame, "ComplexImageComponent")]
    said += [_TECHNIQUES.get(word, word) for word in _words(frame, "VolumeBasedCalculationTechnique")]
    return list(dict.fromkeys(word for word in said if word not in {"MAGNITUDE", "NONE"}))


_TECHNIQUES: Final = {"MAX_IP": "MIP", "MIN_IP": "MINIP", "CURVED_MPR": "MPR"}


def _words(frame: Dataset, keyword: str) -> list[str]:
    value = value_of(frame, keyword)
    return [str(word) for word in (value if isinstance(value, MultiValue) else [] if value is None else [value])]


def _scanning_sequence(frame: Dataset) -> list[str] | None:
    """PS3.3 C.8.3.1 from C.8.13.4; not stated without EchoPulseSequence."""
    echo = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}.get(str(value_of(frame, "EchoPulseSequence")))
    return [*echo, *_held(frame, _SCANNING)] if echo else None


def _sequence_variant(frame: Dataset) -> list[str] | None:
    return _or_none(frame, _VARIANTS)


def _scan_options(frame: Dataset) -> list[str] | None:
    """None rather than "NONE": a classic instance without options has an empty element."""
    return _held(frame, _OPTIONS) or None


def _or_none(frame: Dataset, table: Sequence[tuple[str, str, frozenset[str]]]) -> list[str] | None:
    """The words that hold, "NONE" where none does, nothing where the frame states none of what is asked."""
    if all(value_of(frame, keyword) is None for _, keyword, _ in table):
        return None
    return _held(frame, table) or ["NONE"]


def _held(frame: Dataset, table: Sequence[tuple[str, str, frozenset[str]]]) -> list[str]:
    return [word for word, keyword, values in table if str(value_of(frame, keyword)) in values]


# classic word (PS3.3 C.8.3.1) · attribute of Enhanced MR (C.8.13.4, C.8.13.5) · its values that mean that word
_YES: Final = frozenset({"YES"})
_SCANNING: Final = (("IR", "InversionRecovery", _YES), ("EP", "EchoPlanarPulseSequence", _YES))
_VARIANTS: Final = (
    ("SK", "SegmentedKSpaceTraversal", frozenset({"PARTIAL", "FULL"})),
    ("MTC", "MagnetizationTransfer", frozenset({"ON_RESONANCE", "OFF_RESONANCE"})),
    ("SS", "SteadyStatePulseSequence", frozenset({"FREE_PRECESSION", "TRANSVERSE", "LONGITUDINAL"})),
    ("TRSS", "SteadyStatePulseSequence", frozenset({"TIME_REVERSED"})),
    ("SP", "Spoiling", frozenset({"RF", "GRADIENT", "RF_AND_GRADIENT"})),
    ("MP", "T2Preparation", _YES),
    ("OSP", "OversamplingPhase", frozenset({"2D", "3D", "2D_3D"})),
)
_OPTIONS: Final = (
    (
        "PER",
        "RectilinearPhaseEncodeReordering",
        frozenset({"CENTRIC", "SEGMENTED", "REVERSE_LINEAR", "REVERSE_CENTRIC"}),
    ),
    ("PFF", "PartialFourierDirection", frozenset({"FREQUENCY", "COMBINATION"})),
    ("PFP", "PartialFourierDirection", frozenset({"PHASE", "COMBINATION"})),
    ("SP", "SpatialPresaturation", frozenset({"SLAB", "BAND", "PLANE", "GRADIENT"})),
    ("FS", "SpectrallySelectedSuppression", frozenset({"FAT", "FAT_AND_WATER", "SILICON_FAT"})),
    ("FC", "FlowCompensation", frozenset({"ACCELERATION", "VELOCITY", "OTHER"})),
)


def _contrast_agent(frame: Dataset) -> list[str] | None:
    """The agents that were given when this frame was acquired, by their code meanings; "NONE" where it says none was.

    Usage is what tells before from after (PS3.3 C.7.6.16.2.12): the agents of the instance are those of the whole
    examination. An instance that names agents and says nothing of their use is taken at its word, as a classic one is.
    """
    usage = {whole_of(item, "ContrastBolusAgentNumber"): item for item in _items(frame, _USAGE)}
    if usage and not any(map(_given, usage.values())):
        return [_NOT_GIVEN]
    agents = _items(frame, "ContrastBolusAgentSequence")
    used = [agent for agent in agents if _is_used(agent, usage)]
    named = [str(value_of(agent, "CodeMeaning") or "unnamed agent") for agent in used]
    return named or ([str(value_of(frame, "ContrastBolusAgent"))] if value_of(frame, "ContrastBolusAgent") else None)


def _given(item: Dataset) -> bool:
    administered, phase = value_of(item, "ContrastBolusAgentAdministered"), value_of(item, "ContrastBolusAgentPhase")
    return bool(administered != "NO" and phase != "PRE_CONTRAST")


def _is_used(agent: Dataset, usage: Mapping[int | None, Dataset]) -> bool:
    """Whether an agent was given for this frame; an agent that no usage speaks of counts as given."""
    item = usage.get(whole_of(agent, "ContrastBolusAgentNumber"))
    return item is None or _given(item)


_CLASSIC: Final[Mapping[str, Callable[[Dataset], Any]]] = {
    "EchoTime": _called("EffectiveEchoTime", "EchoTime"),
    "InversionTime": _called("InversionTimes", "InversionTime"),
    "EchoTrainLength": _called("EchoTrainLength", "RFEchoTrainLength"),
    "SequenceName": _called("PulseSequenceName"),
    "ImageType": _image_type,
    "ScanningSequence": _scanning_sequence,
    "SequenceVariant": _sequence_variant,
    "ScanOptions": _scan_options,
    "ContrastBolusAgent": _contrast_agent,
}
"""Keywords that a classic instance has and Enhanced MR says otherwise; all others have the same name in both."""
