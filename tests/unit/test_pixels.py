"""What a pixel's number means: usable, or refused with the number that decided it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from npc_rtnode.domain.pixels import PixelForm, fill_padding, judge_pixels, refuse_unusable, voxels_of
from npc_rtnode.errors import PixelsRefused

NAN = math.nan
MILLION = 1e6

USABLE = {
    "what MR scanners write": {},
    "12 bits": {"stored": 12, "high_bit": 11},
    "odd bits": {"stored": 13, "high_bit": 12, "representation": 1},
    "8 bits": {"allocated": 8, "stored": 8, "high_bit": 7},
    "a slope and an intercept": {"slope": 2.5, "intercept": -1024.0},
    "a falling slope": {"slope": -1.0},
    "Philips' small slopes": {"slope": 0.000244200244200},
    "padding": {"padding": (0, 0)},
    "samples not told": {"samples": None},
}

REFUSED = {
    "inverted": ("INVERTED_GREY", {"photometric": "MONOCHROME1"}, 1, 1),
    "colour": ("NOT_GREY", {"photometric": "RGB", "samples": 3}, 3, 1),
    "palette": ("NOT_GREY", {"photometric": "PALETTE COLOR"}, 1, 1),
    "photometric unknown": ("NOT_GREY", {"photometric": None}, 1, 1),
    "32 bits": ("PIXEL_BITS", {"allocated": 32, "stored": 32, "high_bit": 31}, 32, 16),
    "12 bits packed": ("PIXEL_BITS", {"allocated": 12, "stored": 12, "high_bit": 11}, 12, 16),
    "one bit": ("PIXEL_BITS", {"allocated": 1, "stored": 1, "high_bit": 0}, 1, 16),
    "more stored than allocated": ("PIXEL_BITS", {"stored": 17, "high_bit": 16}, 17, 16),
    "nothing stored": ("PIXEL_BITS", {"stored": 0, "high_bit": -1}, 0, 16),
    "bits not told": ("PIXEL_BITS", {"allocated": None}, None, 16),
    "stored bits not told": ("PIXEL_BITS", {"stored": None}, None, 16),
    "value at the top of the word": ("HIGH_BIT", {"stored": 12, "high_bit": 15}, 15, 11),
    "high bit not told": ("HIGH_BIT", {"high_bit": None}, None, 15),
    "sign unknown": ("PIXEL_SIGN", {"representation": 7}, 7, 1),
    "slope 0": ("RESCALE", {"slope": 0.0}, 0.0, 0),
    "slope infinite": ("RESCALE", {"slope": math.inf}, math.inf, 0),
    "slope no number": ("RESCALE", {"slope": NAN}, NAN, 0),
    "intercept no number": ("RESCALE", {"intercept": NAN}, 1.0, 0),
    "beyond float32": ("RESCALE", {"slope": 1e38}, 65535e38, float(np.finfo(np.float32).max)),
    "grey values merge": ("RESCALE", {"slope": 0.01, "intercept": MILLION}, 0.0625, 0.01),
    "look-up table": ("MODALITY_LUT", {"lookup_table": True}, 1, None),
    "lossy, 10 to 1": ("LOSSY", {"lossy_ratio": 10.0}, 10.0, 0),
    "lossy, ratio not told": ("LOSSY", {"lossy_ratio": NAN}, NAN, 0),
}


@pytest.mark.parametrize("fields", USABLE.values(), ids=USABLE)
def test_usable(fields):
    """Forms that mean one grey value each are accepted."""
    assert judge_pixels([PixelForm(**fields)]) == ()


@pytest.mark.parametrize(("code", "fields", "value", "limit"), REFUSED.values(), ids=REFUSED)
def test_refused_with_its_number(code, fields, value, limit):
    """Each form that is not certain comes to one finding with its code, the number that decided it and the limit."""
    (finding,) = judge_pixels([PixelForm(**fields)])
    assert finding.code == code
    assert finding.value == pytest.approx(value, nan_ok=True)
    assert finding.limit == pytest.approx(limit)


def test_every_code_is_said_once_and_counted():
    """One finding a code, over how many images; an unnamed photometric text does not reach the message."""
    odd = PixelForm(photometric="SECRET^NAME", slope=0.0)
    findings = judge_pixels([PixelForm(), odd, odd])
    assert [finding.code for finding in findings] == ["NOT_GREY", "RESCALE"]
    assert all(str(finding).endswith("(2 of 3 images)") for finding in findings)
    with pytest.raises(PixelsRefused, match=r"NOT_GREY: PhotometricInterpretation unknown.*; RESCALE: "):
        refuse_unusable([odd])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"stored": 12}, (0, 4095)),
        ({"stored": 12, "representation": 1}, (-2048, 2047)),
        ({"representation": 1}, (-32768, 32767)),
    ],
)
def test_range_of_stored_values(fields, expected):
    """Two's complement reaches one further down than up."""
    assert PixelForm(**fields).range == expected


def test_padding_is_found_in_stored_values_and_takes_the_lowest_measured():
    """Padding of -32768 to -32000 under slope 0.1: those voxels alone take the lowest voxel that was measured."""
    stored = np.array([[-32768, -32000, -31999], [5, 0, 9]], dtype=np.int16)
    form = PixelForm(representation=1, slope=0.1, intercept=7.0, padding=(-32768, -32000))
    voxels = voxels_of(stored, form)
    assert np.isnan(voxels).tolist() == [[True, True, False], [False, False, False]]
    fill_padding(voxels)
    assert voxels[0].tolist() == [np.float32(-31999 * 0.1 + 7.0)] * 3


def test_nothing_but_padding_is_refused():
    """An image without one measured pixel is no image."""
    with pytest.raises(PixelsRefused, match="ALL_PADDING: all 6 pixels"):
        fill_padding(np.full((1, 2, 3), np.nan, dtype=np.float32))
