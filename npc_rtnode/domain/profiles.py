"""What a destination wants of an object's form, as data: one row for each kind of planning system, one form an object.

A form that changes the bytes makes another object with a UID of its own; destinations that want the same form share one
object (ADR 0013). Where no source names a vendor's limit, its row says what DICOM and TG-263 say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal, Protocol

from npc_rtnode.domain.identifiers import digest_of
from npc_rtnode.domain.records import ObjectKind

ProfileName = Literal["generic", "eclipse", "raystation", "monaco"]
Encoding = Literal["implicit", "explicit"]
CharacterSets = Literal["as in the images"]


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of planning system.

    Limits are in characters; decimals are those of a contour's coordinate in mm; `takes` are the kinds that it is known
    to import, None where everything may be sent. In every profile the patient's text stays the images' bytes.
    """

    takes: frozenset[ObjectKind] | None
    roi_name_most: int
    decimals: int
    encoding: Encoding
    character_sets: CharacterSets = "as in the images"


_STRUCTURES_ALONE: Final = frozenset({ObjectKind.RTSTRUCT})

PROFILES: Final[Mapping[ProfileName, Profile]] = MappingProxyType(
    {
        # Implicit VR everywhere: the encoding that nobody may refuse (PS3.5 10.1); transfer_syntax asks for the other.
        # PS3.5 6.2: ROIName is LO. A coordinate to 0.001 mm has at most 12 of the 16 characters of a DS.
        "generic": Profile(None, roi_name_most=64, decimals=3, encoding="implicit"),
        # A structure's ID has 16 characters, and a DS above 16 is refused (outputs.md 2).
        "eclipse": Profile(_STRUCTURES_ALONE, roi_name_most=16, decimals=3, encoding="implicit"),
        # Its statement (v6) lists RT Structure Set Storage and no SR; no limit of names was found, so TG-263's 16.
        "raystation": Profile(_STRUCTURES_ALONE, roi_name_most=16, decimals=3, encoding="implicit"),
        # No limits were found; TG-263's 16. Coordinates to 0.01 mm, which is exact too: short strings, small objects.
        "monaco": Profile(_STRUCTURES_ALONE, roi_name_most=16, decimals=2, encoding="implicit"),
    }
)


@dataclass(frozen=True, slots=True)
class Form:
    """What shapes an object's bytes beside the result; an empty roi_name is the site's own (settings.ContentSettings).

    segmentation: whether a report names the SEG; roi_name and decimals: of the structure set, and of the one that a
    report measures.
    """

    roi_name: str = ""
    decimals: int = 3
    segmentation: bool = False

    @property
    def of_structure(self) -> Form:
        """The form of the structure set that goes with it."""
        return replace(self, segmentation=False)


PLAIN: Final = Form()


@dataclass(frozen=True, slots=True)
class ObjectOrder:
    """One object to be written."""

    kind: ObjectKind
    form: Form = PLAIN

    @property
    def variant(self) -> str:
        """Empty for the plain form, else 12 characters that every other form has other ones of."""
        form = self.form
        return "" if form == PLAIN else digest_of([form.roi_name, form.decimals, form.segmentation])[:12]

    @property
    def name(self) -> str:
        """What its UIDs are derived from: `RTSTRUCT`, or `RTSTRUCT/0123456789ab`."""
        return f"{self.kind}/{self.variant}" if self.variant else str(self.kind)

    @property
    def needs(self) -> tuple[ObjectOrder, ...]:
        """The orders of what must be there with it: first the structure set that it names, then the segmentation, and
        for a picture of the page the document, whose words can be read back and judged."""
        if self.kind not in NAMES_A_STRUCTURE:
            return ()
        segmentation = (ObjectOrder(ObjectKind.SEG),) if self.form.segmentation else ()
        document = (ObjectOrder(ObjectKind.PDF, self.form),) if self.kind is ObjectKind.PREVIEW else ()
        return (ObjectOrder(ObjectKind.RTSTRUCT, self.form.of_structure), *segmentation, *document)


NAMES_A_STRUCTURE: Final = frozenset(set(ObjectKind) - {ObjectKind.SEG, ObjectKind.RTSTRUCT})
"""Kinds that name the structure set, and so are others where it is another."""


class Receiver(Protocol):
    """What a destination asks for (settings.Destination)."""

    @property
    def objects(self) -> tuple[ObjectKind, ...]:
        """The kinds that are owed to it."""

    @property
    def profile(self) -> ProfileName:
        """Which kind of system it is."""

    @property
    def roi_name(self) -> str:
        """Its own name for the ROI; empty for the site's."""


def orders_of(receiver: Receiver, site_roi_name: str) -> tuple[ObjectOrder, ...]:
    """What is owed to one destination: each of its kinds, in the form that it wants."""
    structure, segmentation = _structure_form(receiver, site_roi_name), ObjectKind.SEG in receiver.objects
    forms = {
        ObjectKind.RTSTRUCT: structure,
        ObjectKind.SR: replace(structure, segmentation=segmentation),
        ObjectKind.SR_ENHANCED: structure,
        ObjectKind.SR_TEXT: structure,
        ObjectKind.PREVIEW: structure,
        ObjectKind.PDF: structure,
    }
    return tuple(ObjectOrder(kind, forms.get(kind, PLAIN)) for kind in dict.fromkeys(receiver.objects))


def orders_for(receivers: Iterable[Receiver], site_roi_name: str) -> tuple[ObjectOrder, ...]:
    """What one result is written as: all that anybody wants and what that names, each once; at least an RTSTRUCT."""
    wanted = [order for receiver in receivers for order in orders_of(receiver, site_roi_name)]
    named = [needed for order in wanted for needed in order.needs]
    found = {*wanted, *named}
    if not any(order.kind is ObjectKind.RTSTRUCT for order in found):
        found.add(ObjectOrder(ObjectKind.RTSTRUCT))
    kinds = list(ObjectKind)
    return tuple(sorted(found, key=lambda order: (kinds.index(order.kind), order.variant)))


def segmented(orders: Iterable[ObjectOrder]) -> bool:
    """Whether a SEG is among them: then every structure set names it as where the ROI comes from."""
    return any(order.kind is ObjectKind.SEG for order in orders)


def _structure_form(receiver: Receiver, site_roi_name: str) -> Form:
    """A destination without structure sets gets reports on the plain one."""
    if ObjectKind.RTSTRUCT not in receiver.objects:
        return PLAIN
    own = receiver.roi_name if receiver.roi_name != site_roi_name else ""
    return Form(own, PROFILES[receiver.profile].decimals)
