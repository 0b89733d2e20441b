"""Cards: where a sample lies on its picture, what is painted, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from hvsa_cvat.cvat.cards import enlarge, region_card, shrink, whole_card
from hvsa_cvat.cvat.request.paint import paint_card
from hvsa_cvat.cvat.request.parts import CardContent, cut_parts, part_shapes
from hvsa_cvat.cvat.shapes import fill_shape
from hvsa_cvat.cvat.state import UNMASKED, Part
from hvsa_cvat.types import IGNORE, LabelMap, Mask, Sample


def rectangle(size: tuple[int, int], top: int, left: int, height: int, width: int) -> Mask:
    region = np.zeros(size, np.bool_)
    region[top : top + height, left : left + width] = True
    return region


def test_a_region_has_a_margin_and_is_enlarged() -> None:
    card = region_card(Sample(3, 7), rectangle((240, 320), 80, 120, 40, 40), suggests=True)
    assert (card.top, card.left, card.height, card.width) == (56, 96, 88, 88)
    assert card.factor == 8
    assert card.size == (704, 704)


def test_at_the_edges_the_margin_ends_with_the_frame() -> None:
    card = region_card(Sample(0, 0), rectangle((24, 32), 16, 24, 8, 8), suggests=True)
    assert (card.top, card.left, card.height, card.width) == (8, 16, 16, 16)
    assert whole_card(Sample(0, 0), (24, 32), suggests=False).size == (24, 32)


@given(st.integers(20, 400), st.integers(20, 400), st.data())
def test_the_way_back_is_the_same_pixels(height: int, width: int, data: st.DataObject) -> None:
    """At every size, place and factor."""
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    tall = data.draw(st.integers(1, min(60, height - top)))
    wide = data.draw(st.integers(1, min(60, width - left)))
    region = rectangle((height, width), top, left, tall, wide)
    card = region_card(Sample(0, 0), region, suggests=True)
    assert region[card.window].sum() == region.sum(), "all of the region is on its card"
    assert max(card.size) <= max(1.5 * 700, height, width)
    truth = np.arange(card.height * card.width, dtype=np.int64).reshape(card.height, card.width)
    label_map = (truth % 5).astype(np.uint8)
    label_map[label_map == 4] = IGNORE
    assert_array_equal(shrink(enlarge(label_map, card.factor), card.factor), label_map)


def test_most_of_a_square_decides_and_no_class_comes_last() -> None:
    square = np.array([[0, 0, 7, 7], [0, 7, IGNORE, IGNORE]], np.uint8)
    assert shrink(square, 2).tolist() == [[0, 7]]


# -- parts


def cut(rows: str, wanted: str | None = None, speck: float = 0.0) -> tuple[list[str], CardContent]:
    """Digits are classes, a dot has none."""
    label_map = np.array(
        [[IGNORE if one == "." else int(one) for one in row] for row in rows.split()], np.uint8
    )
    asked = np.ones(label_map.shape, np.bool_)
    if wanted is not None:
        asked = np.array([[one == "#" for one in row] for row in wanted.split()])
    content = cut_parts(label_map, asked, 1, speck)
    signs = {0: " ", UNMASKED: "."}
    return (
        ["".join(signs.get(one, str(one)) for one in row) for row in content.pixels.tolist()],
        content,
    )


def test_each_connected_part_is_a_mask() -> None:
    rows, content = cut("00110 00110 .0011")
    assert rows == ["11223", "11223", ".1122"]
    assert content.labels == {1: 0, 2: 1, 3: 0}


def test_specks_of_one_class_are_one_mask() -> None:
    rows, content = cut("00100 00000 10201 00000", speck=0.1)
    assert rows == ["11211", "11111", "21312", "11111"]
    assert content.labels == {1: 0, 2: 1, 3: 2}


def test_what_was_not_asked_for_has_no_part() -> None:
    rows, content = cut("0011 0.11", "##.# ##.#")
    assert rows == ["11 2", "1. 2"]
    assert content.labels == {1: 0, 2: 1}


label_maps = st.integers(1, 9).flatmap(
    lambda width: st.lists(
        st.lists(st.sampled_from([0, 1, 2, IGNORE]), min_size=width, max_size=width),
        min_size=1,
        max_size=9,
    ).map(lambda rows: np.array(rows, np.uint8))
)


@given(label_maps, st.sampled_from([0.0, 0.1, 0.5]), st.integers(1, 4))
def test_the_masks_of_a_card_show_its_label_map(
    label_map: LabelMap, speck: float, factor: int
) -> None:
    wanted = np.ones(label_map.shape, np.bool_)
    content = cut_parts(label_map, wanted, 5, speck)
    card = whole_card(Sample(0, 0), (label_map.shape[0], label_map.shape[1]), suggests=True)
    card = type(card)(**{**vars(card), "factor": factor})
    parts = {number: Part(number, 0, label) for number, label in content.labels.items()}
    shown = np.full(card.size, IGNORE, np.uint8)
    for shape in part_shapes(card, content.pixels, parts, {0: 50, 1: 51, 2: 52}):
        filled = fill_shape(shape, card.size)
        assert filled is not None
        inside = shown[filled[0]]
        assert (inside[filled[1]] == IGNORE).all(), "no pixel is in two masks"
        inside[filled[1]] = shape["label_id"] - 50
        assert shape["label_id"] - 50 == content.labels[shape["group"]]
    assert_array_equal(shown, enlarge(label_map, factor))


# -- painting


def painted(image: int, *, masked: bool) -> np.ndarray:
    region = rectangle((40, 40), 16, 16, 8, 8)
    card = region_card(Sample(0, 0), region, suggests=True)
    frame = np.full((40, 40, 3), (image, image // 2, 0), np.uint8)
    return paint_card(frame, card, region[card.window], masked=masked)


def test_a_region_stands_in_a_white_frame_between_its_dimmed_surroundings() -> None:
    picture = painted(200, masked=False)
    side = picture.shape[0]
    factor = side // 24
    assert picture[0, 0].tolist() == [100, 50, 0]
    assert picture[side // 2, side // 2].tolist() == [200, 100, 0]
    edge = 8 * factor
    assert (picture[edge - 2 : edge, edge : 2 * edge] == 255).all(), "outside the region"
    assert (picture[edge, edge + 3] != 255).any()


def test_under_masks_a_region_is_pale() -> None:
    picture = painted(200, masked=True)
    middle = picture[picture.shape[0] // 2, picture.shape[1] // 2]
    assert int(middle.max()) - int(middle.min()) == pytest.approx(0.15 * 200, abs=2)


def test_a_dark_region_is_brightened() -> None:
    picture = painted(80, masked=False)
    middle = picture[picture.shape[0] // 2, picture.shape[1] // 2]
    shades = [round(255 * (one / 255) ** 0.45) for one in (80, 40, 0)]
    assert middle.tolist() == pytest.approx(shades, abs=3), "the mean of 40 would become 110"
    assert picture[0, 0].tolist() == pytest.approx([one / 2 for one in shades], abs=3)
    assert painted(2, masked=False).max() == 255, "the line"
    black = painted(0, masked=True)
    assert black[black.shape[0] // 2, black.shape[1] // 2].tolist() == [0, 0, 0]
