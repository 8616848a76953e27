"""The study page says what it was given, shows what was written, and needs nothing else."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from npc_rtnode.domain.contouring import polygons_of
from npc_rtnode.drawing.views import Scene, View, cut, planes, strip
from npc_rtnode.web.study_page import (
    PICTURE_BYTES,
    PICTURE_WIDTH,
    StudyPage,
    dashes,
    palette,
    picture,
    render,
    spelt,
)

SHAPE = (12, 48, 40)
SPACING_MM = (5.0, 2.0, 2.5)
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"


def block(slices: slice, rows: slice, columns: slice) -> NDArray[np.bool_]:
    """A mask with one box in it."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[slices, rows, columns] = True
    return mask


TUMOUR = block(slice(5, 8), slice(20, 30), slice(12, 18)) | block(slice(6, 7), slice(18, 32), slice(12, 18))


def rings_of(mask: NDArray[np.bool_]) -> tuple[tuple[int, NDArray[np.float64]], ...]:
    """What the RTSTRUCT of this mask holds."""
    return tuple((k, ring) for k in range(len(mask)) for ring in polygons_of(mask[k]))


def make_page(**changes: object) -> StudyPage:
    """A delivered study with a small bright tumour in slices 6 to 8 of 12, the 7th the largest."""
    noise = np.random.default_rng(3).normal(300, 20, SHAPE)
    page = StudyPage(
        reference="R7Q-4KD",
        facts=("MR, T1 Gd axial", "12 slices"),
        state="DELIVERED",
        timeline=(("Received", "09:41:02", "12 images"), ("Delivered", "09:41:55", "0x0000")),
        voxels=(noise + 400 * TUMOUR).astype(np.float32),
        spacing_mm=SPACING_MM,
        axes=("H", "P", "L"),
        rings=rings_of(TUMOUR),
        probability=None,
        stage_probabilities=(0.04, 0.11, 0.68, 0.17),
        uncertain_below=0.6,
        measurements=(("Volume", "12.3 cm³"),),
        checks=(("pass", "One piece"), ("warn", "Volume above the training range"), ("hold", "Read back differs")),
        deliveries=(("TPS", "RTSTRUCT", "proven", "0x0000"),),
        notices=("AI draft, not approved", "SYNTHETIC PHANTOM WEIGHTS - NOT FOR CLINICAL USE"),
    )
    return replace(page, **changes)


@cache
def drawn(outlined: bool) -> bytes:
    """The picture of the usual page, or of the same without a ring."""
    return picture(make_page() if outlined else make_page(rings=()))


def red_pixels(png: bytes) -> int:
    """In the planes alone: below the notices, left of the words."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)[160:, :920]
    return int(np.count_nonzero(pixels[..., 0] - pixels[..., 1] > 90))


class Reader(HTMLParser):
    """What a browser would find: tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_every_word_of_the_page_is_said() -> None:
    """Notices, facts, times, numbers, checks and deliveries all appear as text."""
    said = Reader(render(make_page())).text
    page = make_page()
    rows = (*page.timeline, *page.measurements, *page.checks, *page.deliveries, page.facts, page.notices)
    assert [word for row in rows for word in row if word not in said] == []
    assert "R7Q-4KD" in said


def test_hostile_text_stays_text() -> None:
    """Markup in any field neither becomes a tag nor is evaluated by the template."""
    page = make_page(
        reference=HOSTILE,
        facts=(HOSTILE,),
        state=HOSTILE,
        timeline=((HOSTILE,) * 3,),
        measurements=((HOSTILE,) * 2,),
        checks=((HOSTILE, HOSTILE), ("hold", HOSTILE)),
        deliveries=((HOSTILE,) * 4,),
        notices=(HOSTILE,),
        axes=(HOSTILE, "P", HOSTILE),
    )
    reader = Reader(render(page))
    assert not {"script", "img"} & {tag for tag, _ in reader.tags}
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]
    assert "{{ 7 * 7 }}" in reader.text
    picture(page)


def test_nothing_is_fetched() -> None:
    """Every reference is a data URI or a place on the page, the style imports nothing and a policy forbids the rest."""
    html = render(make_page())
    reader = Reader(html)
    links = [tag[name] for _, tag in reader.tags for name in ("src", "href", "xlink:href", "action") if name in tag]
    assert links
    assert [link for link in links if not str(link).startswith(("data:image/jpeg;base64,", "#"))] == []
    assert not re.search(r"https?://|@import|url\(", html)
    assert "default-src 'none'" in html


def test_links_within_the_page_lead_somewhere_and_names_are_unique() -> None:
    """Each `#` has its place, and no place is there twice."""
    tags = Reader(render(make_page())).tags
    places = [tag["id"] for _, tag in tags if "id" in tag]
    links = {str(tag["href"])[1:] for _, tag in tags if str(tag.get("href", "")).startswith("#")}
    assert links <= set(places)
    assert len(places) == len(set(places))


def test_every_slice_with_gtv_and_two_beyond_each_end() -> None:
    """Slices 6-8 have outlines: 4 to 10 are shown, each once, in order."""
    shown = re.findall(r'<li id="slice-(\d+)"', render(make_page()))
    assert shown == ["4", "5", "6", "7", "8", "9", "10"]


def test_the_strip_ends_where_the_volume_ends_and_leaves_no_gap_out() -> None:
    """Outlines on the first and the fifth slice: the slices between are shown, none before the first."""
    rings = rings_of(block(slice(0, 1), slice(20, 30), slice(12, 18)) | block(slice(4, 5), slice(5, 9), slice(5, 9)))
    assert [view.slice_index for view in strip(Scene(make_page(rings=rings)))] == [0, 1, 2, 3, 4, 5, 6]


def test_outlines_are_the_rings_themselves() -> None:
    """The path on each slice has the very points of the ring that was read back."""
    page = make_page()
    for view in strip(Scene(page)):
        rings = [ring for index, ring in page.rings if index == view.slice_index]
        paths = [path for line in view.lines for path in line.path.split("Z") if path]
        drawn = [np.array(re.findall(r"[-\d.]+", path), dtype=float).reshape(-1, 2) for path in paths]
        assert len(drawn) == len(rings)
        assert all(np.allclose(one, other, atol=0.005) for one, other in zip(drawn, rings, strict=True))


def test_the_path_is_on_the_page() -> None:
    """What a view says is what the SVG says, under one transform with the image."""
    page = make_page()
    html, view = render(page), planes(Scene(page))[0]
    assert f'<path class="gtv" d="{view.lines[0].path}"/>' in html
    assert f'<g transform="{view.matrix}">' in html
    assert view.matrix == "matrix(2.5 0 0 2 0 0)"


def test_the_planes_lie_through_the_largest_slice_and_the_centroid() -> None:
    """Axial first, at the largest area; sagittal and coronal follow, with their letters."""
    axial, sagittal, coronal = planes(Scene(make_page()))
    assert [view.name for view in (axial, sagittal, coronal)] == ["Axial", "Sagittal", "Coronal"]
    assert axial.slice_index == 6
    assert axial.area_cm2 == pytest.approx(14 * 6 * 2.0 * 2.5 / 100, rel=0.02)
    assert [view.ends for view in (axial, sagittal, coronal)] == [
        ("R", "A", "L", "P"),
        ("A", "H", "P", "F"),
        ("R", "H", "L", "F"),
    ]
    assert all(view.outlined for view in (axial, sagittal, coronal))


def test_aspect_ratio_is_true() -> None:
    """A sagittal view is as high as the slices reach, in millimetres, whatever the pixels are."""
    sagittal = planes(Scene(make_page()))[1]
    assert sagittal.size_mm[1] == 12 * 5.0
    assert sagittal.step_mm == (2.0, -5.0)
    image = sagittal.image(2.0)
    assert image.width / image.height == pytest.approx(sagittal.size_mm[0] / sagittal.size_mm[1], rel=0.01)


@pytest.mark.parametrize(
    ("axes", "names", "ends"),
    [
        (("H", "A", "R"), ["Axial", "Sagittal", "Coronal"], ("R", "A", "L", "P")),
        (("F", "L", "P"), ["Axial", "Coronal", "Sagittal"], ("R", "A", "L", "P")),
        (("A", "F", "L"), ["Coronal", "Sagittal", "Axial"], ("R", "H", "L", "F")),
        (("R", "F", "P"), ["Sagittal", "Coronal", "Axial"], ("A", "H", "P", "F")),
        (("HA", "PH", "L"), ["Axial, oblique", "Sagittal", "Coronal, oblique"], ("R", "AF", "L", "PH")),
    ],
)
def test_any_orientation_is_shown_as_radiologists_look_at_it(
    axes: tuple[str, str, str], names: list[str], ends: tuple[str, ...]
) -> None:
    """Feet or back below, the patient's left or back at the right, and the letters say so."""
    views = planes(Scene(make_page(axes=axes)))
    assert [view.name for view in views] == names
    assert views[0].ends == ends


@pytest.mark.parametrize("axes", [("H", "P", "L"), ("H", "A", "R"), ("F", "L", "P"), ("A", "F", "L")])
def test_the_outline_lies_round_the_tumour_on_every_plane(axes: tuple[str, str, str]) -> None:
    """However axes are turned, the bright block is inside the line's bounds and nothing bright is outside."""
    page = make_page(axes=axes, voxels=TUMOUR.astype(np.float32))
    for view in planes(Scene(page)):
        down, across = np.nonzero(view.pixels > 127)
        bright = np.array([[across.min(), down.min()], [across.max(), down.max()]]) + view.first
        points = np.vstack([stroke for line in view.lines for stroke in line.strokes])
        assert np.allclose(points.min(axis=0), bright[0] - 0.5, atol=0.26)  # thinned by a quarter of a pixel
        assert np.allclose(points.max(axis=0), bright[1] + 0.5, atol=0.26)


def test_a_cut_is_the_border_of_what_each_slice_covers() -> None:
    """Two neighbouring slices of different width: sides of both, ends of both, nothing where both cover."""
    narrow, wide = (np.array([[a, 0.0], [b, 0.0], [b, 10.0], [a, 10.0]], dtype=np.float64) for a, b in ((3, 6), (2, 8)))
    found = {tuple(map(tuple, stroke.tolist())) for stroke in cut({4: [narrow], 5: [wide]}, normal=1, at=5)}
    sides = {((x, k - 0.5), (x, k + 0.5)) for x, k in ((3.0, 4), (6.0, 4), (2.0, 5), (8.0, 5))}
    steps = {((3.0, 3.5), (6.0, 3.5)), ((2.0, 4.5), (3.0, 4.5)), ((6.0, 4.5), (8.0, 4.5)), ((2.0, 5.5), (8.0, 5.5))}
    assert found == sides | steps


def test_a_cut_beside_the_outline_is_empty() -> None:
    """A plane that misses every ring shows no line."""
    square = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
    assert cut({0: [square]}, normal=2, at=9) == []


@pytest.mark.parametrize(
    ("probabilities", "said"),
    [((0.04, 0.11, 0.68, 0.17), "cT3"), ((0.1, 0.38, 0.42, 0.1), "uncertain: cT2 or cT3")],
)
def test_the_category_is_said_or_called_uncertain(probabilities: tuple[float, float, float, float], said: str) -> None:
    """Below the limit the word uncertain stands with the likely ones; a diagnosis is never claimed."""
    html = render(make_page(stage_probabilities=probabilities))
    answer = re.search(r'<p class="answer[^>]*>([^<]*)</p>', html)
    assert answer is not None
    assert answer[1] == said
    assert "diagnos" not in html.lower()


def test_at_the_limit_it_is_not_uncertain() -> None:
    """The limit itself is enough, as in the report."""
    assert not make_page(stage_probabilities=(0.1, 0.2, 0.6, 0.1)).uncertain


@pytest.mark.parametrize("probability", [None, np.zeros(SHAPE, np.float32)])
def test_without_outline_the_page_says_so(probability: NDArray[np.float32] | None) -> None:
    """No ring: three planes all the same, the words, no strip and no line."""
    html = render(make_page(rings=(), probability=probability))
    assert "No outline was written" in html
    assert "No outline on any slice" in html
    assert 'class="gtv"' not in html
    assert html.count("<svg ") == 3


def test_without_anything_the_page_still_stands() -> None:
    """A black volume of one voxel and no word beyond the reference."""
    page = make_page(
        facts=(), timeline=(), measurements=(), checks=(), deliveries=(), notices=(), rings=(), axes=("", "", ""),
        voxels=np.zeros((1, 1, 1), np.float32), stage_probabilities=(0.0, 0.0, 0.0, 0.0),
    )  # fmt: skip
    assert "Nothing was sent" in render(page)
    assert picture(page)


def test_the_doubtful_band_is_drawn_under_the_outline() -> None:
    """Both levels appear, dashed by their class, the GTV last and so on top."""
    probability = np.where(TUMOUR, 0.9, 0.1).astype(np.float32)
    probability[5:8, 18:32, 10:20] = np.maximum(probability[5:8, 18:32, 10:20], 0.4)
    for view in planes(Scene(make_page(probability=probability))):
        assert [line.kind for line in view.lines] == ["low", "high", "gtv"]


def test_without_outline_one_looks_where_the_gtv_is_most_probable() -> None:
    """The planes pass through the peak."""
    probability = np.zeros(SHAPE, np.float32)
    probability[3, 30, 11] = 0.25
    scene = Scene(make_page(rings=(), probability=probability))
    assert scene.focus == (3, 30, 11)
    assert "most probable" in scene.focus_words


def test_each_image_is_described_and_headed() -> None:
    """Every SVG has an alternative text with its sides, and each part of the page its heading."""
    reader = Reader(render(make_page()))
    labels = [tag["aria-label"] for name, tag in reader.tags if name == "svg"]
    assert len(labels) == 3 + 7
    assert all(label and "left R" in label for label in labels if label and label.startswith("Axial"))
    assert [name for name, _ in reader.tags if re.fullmatch("h[1-6]", name)] == ["h1", *["h2"] * 7]


def test_checks_are_told_apart_in_words() -> None:
    """Colour is not the only sign of an outcome."""
    said = Reader(render(make_page())).text
    assert "pass One piece" in said
    assert "warn Volume above" in said
    assert "hold Read back differs" in said


def test_a_ring_outside_the_volume_is_refused() -> None:
    """It must not be left out in silence."""
    stray = ((12, np.zeros((3, 2))),)
    with pytest.raises(ValueError, match=r"slices \[12\] of 12"):
        make_page(rings=stray)


def test_shapes_must_agree() -> None:
    """Neither a flat image nor another grid's probability is taken."""
    with pytest.raises(ValueError, match="voxels must be"):
        make_page(voxels=np.zeros((4, 4), np.float32))
    with pytest.raises(ValueError, match="probability has shape"):
        make_page(probability=np.zeros((1, 2, 3), np.float32))


def test_a_ring_smaller_than_a_pixel_is_still_found() -> None:
    """A ring that covers no pixel centre gives a focus and a view with an outline."""
    ring = np.array([[10.1, 20.1], [10.4, 20.1], [10.4, 20.4]])
    scene = Scene(make_page(rings=((5, ring),)))
    assert scene.focus == (5, 20, 10)
    assert planes(scene)[0].outlined


def test_noisy_air_round_the_body_is_left_out() -> None:
    """The planes show the body with a small margin (3 rows, 2 columns) and blocks of four pixels."""
    voxels = np.random.default_rng(5).normal(40, 20, SHAPE).astype(np.float32)
    voxels[:, 12:36, 8:32] += 500
    assert Scene(make_page(voxels=voxels)).body == (slice(0, 12), slice(9, 39), slice(5, 34))


def test_voxels_that_are_no_numbers_do_no_harm() -> None:
    """NaN and infinity are black."""
    voxels = make_page().voxels.copy()
    voxels[0], voxels[1] = np.nan, np.inf
    assert Scene(make_page(voxels=voxels)).grey[:2].max() < 128


def test_the_picture_is_a_png_of_the_size() -> None:
    """As wide as README wants, and light enough."""
    made = drawn(outlined=True)
    image = Image.open(io.BytesIO(made))
    assert image.format == "PNG"
    assert image.width == PICTURE_WIDTH
    assert 600 <= image.height <= 1600
    assert len(made) < PICTURE_BYTES


def test_the_picture_shows_the_outline_in_its_colour() -> None:
    """Red that is in no grey image and no word is there with outlines, and gone without."""
    assert red_pixels(drawn(outlined=True)) > 300
    assert red_pixels(drawn(outlined=False)) == 0


def test_a_noisy_fine_series_stays_light() -> None:
    """The worst case for PNG, noise in every pixel of 256 x 256, is still below the limit."""
    voxels = np.random.default_rng(1).normal(size=(14, 256, 256)).astype(np.float32)
    ring = np.array([[100.0, 100.0], [160.0, 100.0], [160.0, 160.0], [100.0, 160.0]])
    rings = tuple((k, ring) for k in range(2, 12))
    page = make_page(voxels=voxels, rings=rings, spacing_mm=(5.0, 1.0, 1.0))
    assert len(picture(page)) < PICTURE_BYTES


def test_dashes_cover_half_of_a_line() -> None:
    """From the start, as long as their gaps."""
    (first, second, third) = dashes(np.array([[0.0, 0.0], [10.0, 0.0]]), 2.0)
    assert [part.tolist() for part in (first, second, third)] == [
        [[0, 0], [2, 0]],
        [[4, 0], [6, 0]],
        [[8, 0], [10, 0]],
    ]


def test_the_palette_fits_a_png() -> None:
    """256 colours at most, three bytes each."""
    assert len(palette(64)) % 3 == 0
    assert len(palette(64)) <= 768


@pytest.mark.parametrize(
    ("said", "plain"),
    [("12.3 cm³", "12.3 cm3"), ("0.9 × 0.9", "0.9 x 0.9"), ("é—ü", "e-u"), ("鼻", "?"), ("a\nb", "ab")],
)
def test_the_picture_spells_in_ascii(said: str, plain: str) -> None:
    """Pillow's own font has no more."""
    assert spelt(said) == plain


def test_one_centimetre_is_one_centimetre() -> None:
    """The scale is ten millimetres of the view's width."""
    view: View = planes(Scene(make_page()))[0]
    assert view.scale_percent / 100 * view.size_mm[0] == pytest.approx(10.0)
