"""What a pixel's number means: how the file states its grey values, or the reasons why they cannot be used.

A stored value is `stored` bits of a word, unsigned or two's complement (PS3.3 C.7.6.3.1, PS3.5 8.1.1); a voxel is
stored value times slope plus intercept (C.11.1.1.2), exact in float32. Only then does more signal make a larger number
in every slice, which is all that the model relies on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from npc_rtnode.domain.records import Finding
from npc_rtnode.errors import PixelsRefused

WORD_BITS: Final = (8, 16)
"""BitsAllocated that are read: MR says 16 (PS3.3 C.8.3.1.1.4), converters say 8; float32 is exact to 24 bits."""

LARGEST: Final = float(np.finfo(np.float32).max)
"""Voxels are float32."""

_KNOWN_PHOTOMETRIC: Final = frozenset(
    (
        "MONOCHROME1",
        "MONOCHROME2",
        "PALETTE COLOR",
        "RGB",
        "YBR_FULL",
        "YBR_FULL_422",
        "YBR_ICT",
        "YBR_RCT",
        "YBR_PARTIAL_420",
    )
)


@dataclass(frozen=True)
class PixelForm:
    """How one image states its grey values (PS3.3 C.7.6.3); None where the data set does not say.

    `slope` and `intercept` are 1 and 0 where nothing is stated, NaN where what is stated is no number. `padding` is the
    range of stored values, ends included, that stand for no measurement (C.7.5.1.1.2). `lossy_ratio` is 0 for an image
    that was never compressed with loss, and NaN where the ratio is not told.
    """

    photometric: str | None = "MONOCHROME2"
    samples: int | None = 1
    allocated: int | None = 16
    stored: int | None = 16
    high_bit: int | None = 15
    representation: int | None = 0
    slope: float = 1.0
    intercept: float = 0.0
    lookup_table: bool = False
    padding: tuple[int, int] | None = None
    lossy_ratio: float = 0.0

    @property
    def range(self) -> tuple[int, int]:
        """The least and the greatest stored value that these bits can hold."""
        bits = self.stored or 0
        return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if self.representation and bits else (0, (1 << bits) - 1)


def judge_pixels(forms: Sequence[PixelForm]) -> tuple[Finding, ...]:
    """Why these images' grey values cannot be used: one finding a code, with the first number that decided it."""
    by_code: dict[str, list[Finding]] = {}
    for form in forms:
        for finding in _findings(form):
            by_code.setdefault(finding.code, []).append(finding)
    return tuple(
        replace(same[0], message=f"{same[0].message} ({len(same)} of {len(forms)} images)") for same in by_code.values()
    )


def refuse_unusable(forms: Sequence[PixelForm]) -> None:
    """Raises PixelsRefused with all findings where there are any."""
    if findings := judge_pixels(forms):
        raise PixelsRefused("; ".join(map(str, findings)))


# --- the single questions ---------------------------------------------------------------------------------------------


def _findings(form: PixelForm) -> Iterator[Finding]:
    yield from _colour(form)
    word = list(_word(form))
    yield from word
    yield from _history(form)
    if form.lookup_table:
        yield Finding("MODALITY_LUT", "a ModalityLUTSequence stands where MR has RescaleSlope and RescaleIntercept", 1)
    if not (isfinite(form.slope) and isfinite(form.intercept)) or form.slope == 0:
        text = f"RescaleSlope {form.slope:g}, RescaleIntercept {form.intercept:g}: two numbers needed, the slope not 0"
        yield Finding("RESCALE", text, form.slope, 0)
    elif not word:
        yield from _precision(form)


def _colour(form: PixelForm) -> Iterator[Finding]:
    """PS3.3 C.7.6.3.1.2. MR scanners write MONOCHROME2; MONOCHROME1 comes from film or converters, and no element
    tells whether they inverted the values too or the label alone: guessed wrong, bright tumour is dark."""
    samples = 1 if form.samples is None else form.samples
    if form.photometric == "MONOCHROME2" and samples == 1:
        return
    code = "INVERTED_GREY" if form.photometric == "MONOCHROME1" and samples == 1 else "NOT_GREY"
    said = form.photometric if form.photometric in _KNOWN_PHOTOMETRIC else "unknown"
    text = f"PhotometricInterpretation {said}, {samples} samples a pixel; MONOCHROME2 with 1 needed"
    yield Finding(code, text, samples, 1)


def _word(form: PixelForm) -> Iterator[Finding]:
    """Where in the word the value lies; whatever lies above it (overlays, stray bits) is not read."""
    if form.allocated not in WORD_BITS:
        yield Finding("PIXEL_BITS", f"BitsAllocated {form.allocated}, 8 or 16 needed", form.allocated, max(WORD_BITS))
    elif form.stored is None or not 1 <= form.stored <= form.allocated:
        text = f"BitsStored {form.stored}, 1 to {form.allocated} needed (BitsAllocated)"
        yield Finding("PIXEL_BITS", text, form.stored, form.allocated)
    elif form.high_bit != form.stored - 1:
        text = f"HighBit {form.high_bit}, {form.stored - 1} needed (one less than BitsStored)"
        yield Finding("HIGH_BIT", text, form.high_bit, form.stored - 1)
    if form.representation not in (0, 1):
        yield Finding("PIXEL_SIGN", f"PixelRepresentation {form.representation}, 0 or 1 needed", form.representation, 1)


def _history(form: PixelForm) -> Iterator[Finding]:
    """Contours for treatment are not drawn on what a compressor left: the door takes no lossy syntax either."""
    if form.lossy_ratio != 0:
        ratio = f"{form.lossy_ratio:g}" if isfinite(form.lossy_ratio) else "not told"
        yield Finding("LOSSY", f"the image was compressed with loss once (ratio {ratio})", form.lossy_ratio, 0)


def _precision(form: PixelForm) -> Iterator[Finding]:
    """Values beyond float32, or an intercept so large that float32 merges neighbouring grey values."""
    top = max(abs(end * form.slope + form.intercept) for end in form.range)
    if top > LARGEST:
        yield Finding("RESCALE", f"rescaled values reach {top:.3g}, float32 ends at {LARGEST:.3g}", top, LARGEST)
    elif (apart := float(np.spacing(np.float32(top)))) > abs(form.slope):
        text = f"at {top:.6g} float32 steps by {apart:.3g}, RescaleSlope is {form.slope:g}: grey values would merge"
        yield Finding("RESCALE", text, apart, abs(form.slope))


# --- from stored values to voxels -------------------------------------------------------------------------------------


def stored_bits(words: NDArray[Any], form: PixelForm) -> NDArray[Any]:
    """The stored values in words of BitsAllocated: what lies above BitsStored is dropped, the sign extended."""
    spare = (form.allocated or 0) - (form.stored or 0)
    kind = np.dtype(f"{'i' if form.representation else 'u'}{words.dtype.itemsize}")
    return np.asarray(words.view(kind) << spare >> spare)


def voxels_of(stored: NDArray[Any], form: PixelForm) -> NDArray[np.float32]:
    """Stored values of one image, rescaled in float64 and rounded once to float32; NaN where they are padding."""
    voxels = (stored * np.float64(form.slope) + form.intercept).astype(np.float32)
    if form.padding is not None:
        voxels[(stored >= form.padding[0]) & (stored <= form.padding[1])] = np.nan
    return voxels


def fill_padding(voxels: NDArray[np.float32]) -> None:
    """Give padding, in place, the lowest value that was measured: it is air to the model and shapes no statistics.

    Raises PixelsRefused where nothing but padding is there.
    """
    padded = np.isnan(voxels)
    if padded.all():
        text = f"all {voxels.size} pixels are padding (PixelPaddingValue)"
        raise PixelsRefused(str(Finding("ALL_PADDING", text, voxels.size, voxels.size - 1)))
    if padded.any():
        voxels[padded] = voxels[~padded].min()
