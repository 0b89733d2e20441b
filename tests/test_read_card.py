"""What people say about a card: every action that the page knows, and any mixture of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from hvsa_cvat.annotation.run_lengths import encode_masks
from hvsa_cvat.cvat.answers.read_card import AskedCard, CardAnswer, read_card
from hvsa_cvat.cvat.cards import enlarge
from hvsa_cvat.cvat.request.parts import cut_parts, part_shapes
from hvsa_cvat.cvat.shapes import fill_shape
from hvsa_cvat.cvat.state import Card, Part
from hvsa_cvat.types import IGNORE, AnswerKind, Clicks, LabelMap, Mask, Sample

FACTOR = 3
SHOWN: LabelMap = np.array([[0] * 4 + [1] * 4] * 5 + [[2] * 8] * 3, np.uint8)
"""Class 0 on the left, 1 on the right, 2 below; parts 1, 2 and 3."""


def rows(text: str) -> LabelMap:
    return np.array([[IGNORE if c == "." else int(c) for c in row] for row in text.split()])


class Page:
    """One card in the page, and what somebody does to it."""

    def __init__(self, *, suggests: bool = True) -> None:
        wanted = np.ones(SHOWN.shape, np.bool_)
        wanted[7, :] = False
        content = cut_parts(SHOWN, wanted, 1, 0)
        self.wanted = wanted
        self.card = Card(Sample(4, 2), 10, 20, 8, 8, FACTOR, suggests)
        parts = {n: Part(n, 6, label, 100 + n) for n, label in content.labels.items()}
        self.asked = AskedCard(6, self.card, content.pixels, tuple(parts.values()))
        ids = {label: label for label in range(4)}
        made = part_shapes(self.card, content.pixels, parts, ids)
        self.shapes = {100 + s["group"]: {**s, "id": 100 + s["group"]} for s in made}
        self.tagged = True
        self.new_id = 200

    def read(self) -> CardAnswer:
        shapes = [(shape["label_id"], shape) for shape in self.shapes.values()]
        self.remarks: list[Any] = []
        return read_card(self.asked, shapes, checked=not self.tagged, remark=self.remarks.append)

    def expect(self, text: str) -> CardAnswer:
        answer = self.read()
        assert_array_equal(answer.label_map, rows(text))
        return answer

    def check(self) -> None:
        self.tagged = False

    def relabel(self, shape: int, label: int, source: str = "auto") -> None:
        self.shapes[shape] |= {"label_id": label, "source": source}

    def put(self, shape: int, inside: Mask, source: str = "auto") -> None:
        """Gives a mask other pixels, those of the frame."""
        self.shapes[shape] |= {"points": points_of(inside), "source": source}

    def paint(self, label: int, inside: Mask, **fields: Any) -> int:
        self.new_id += 1
        shape = {"type": "mask", "frame": 6, "group": 0, "source": "manual", "z_order": 0}
        shape |= {"id": self.new_id, "label_id": label, "points": points_of(inside), **fields}
        self.shapes[self.new_id] = shape
        return self.new_id

    def carve(self, inside: Mask) -> None:
        """ "Remove underlying pixels": what was painted last is cut out of all masks before it."""
        for number in list(self.shapes)[:-1]:
            left = pixels_of(self.shapes[number]) & ~inside
            if left.any():
                self.put(number, left)
            else:
                del self.shapes[number]


def points_of(inside: Mask) -> list[int]:
    (points,) = encode_masks(
        np.where(enlarge(inside, FACTOR), np.uint8(0), np.uint8(IGNORE))
    ).values()
    return points


def pixels_of(shape: dict[str, Any]) -> Mask:
    filled = fill_shape(shape, (8 * FACTOR, 8 * FACTOR))
    assert filled is not None
    inside = np.zeros((8 * FACTOR, 8 * FACTOR), np.bool_)
    inside[filled[0]] = filled[1]
    return inside[::FACTOR, ::FACTOR]


def box(top: int, left: int, bottom: int, right: int) -> Mask:
    inside = np.zeros((8, 8), np.bool_)
    inside[top:bottom, left:right] = True
    return inside


AS_SHOWN = "00001111 " * 5 + "22222222 22222222 ........"
NOTHING = "........ " * 8


def test_the_tag_gone_and_nothing_changed_is_a_confirmation() -> None:
    page = Page()
    page.check()
    answer = page.expect(AS_SHOWN)
    assert (answer.kind, answer.clicks) == (AnswerKind.CONFIRMED, Clicks(classes=1))
    assert answer.said
    assert answer.gap is None


def test_the_tag_there_and_nothing_changed_is_no_answer() -> None:
    answer = Page().expect(NOTHING)
    assert not answer.said
    assert answer.uncovered == 1
    assert answer.gap == (0, 0, 8 * FACTOR, 7 * FACTOR)
    assert answer.lost == ()


@pytest.mark.parametrize("source", ["auto", "semi-auto"])
def test_a_part_of_another_class_was_relabelled(source: str) -> None:
    """Versions of the server differ in the source."""
    page = Page()
    page.relabel(102, 3, source)
    page.check()
    answer = page.expect("00003333 " * 5 + "22222222 22222222 ........")
    assert (answer.kind, answer.clicks) == (AnswerKind.CORRECTED, Clicks(classes=2))
    page.tagged = True
    answer = page.expect("....3333 " * 5 + "........ ........ ........")
    assert answer.said, "what was changed counts, what was not looked at does not"


def test_an_edited_mask_has_its_class_where_pixels_were_added() -> None:
    page = Page()
    page.put(101, box(0, 0, 5, 6), "semi-auto")
    page.check()
    answer = page.expect("00000011 " * 5 + "22222222 22222222 ........")
    assert answer.kind is AnswerKind.CORRECTED
    assert answer.clicks == Clicks(boundary=4, classes=2), "a box around what was added"
    page.tagged = True
    page.expect("....00.. " * 5 + NOTHING[: 3 * 9])


def test_erased_pixels_have_no_class() -> None:
    page = Page()
    page.put(101, box(0, 0, 5, 2), "semi-auto")
    page.check()
    answer = page.expect("00..1111 " * 5 + "22222222 22222222 ........")
    assert answer.kind is AnswerKind.CORRECTED
    assert answer.gap == (2 * FACTOR, 0, 4 * FACTOR, 5 * FACTOR)


@pytest.mark.parametrize("carved", [False, True])
@pytest.mark.parametrize("z_order", [-5, 0, 5])
def test_a_drawing_lies_over_our_masks(carved: bool, z_order: int) -> None:
    """Whether or not the page cut it out of them, and on whatever layer it is."""
    page = Page()
    page.paint(3, box(2, 2, 6, 6), z_order=z_order)
    if carved:
        page.carve(box(2, 2, 6, 6))
    page.check()
    answer = page.expect("""
        00001111 00001111 00333311 00333311 00333311 22333322 22222222 ........
    """)
    assert answer.clicks == Clicks(boundary=4, classes=2)


def test_a_newer_drawing_lies_over_an_older_one_and_over_what_was_relabelled() -> None:
    page = Page()
    page.paint(3, box(0, 0, 4, 4))
    page.paint(1, box(0, 0, 2, 2))
    page.relabel(101, 2)
    page.check()
    answer = page.expect("""
        11331111 11331111 33331111 33331111 22221111 22222222 22222222 ........
    """)
    assert answer.kind is AnswerKind.CORRECTED


def test_a_deletion_that_was_undone_is_the_same_mask() -> None:
    page = Page()
    page.shapes[150] = {**page.shapes.pop(102), "id": 150}
    page.check()
    assert page.expect(AS_SHOWN).kind is AnswerKind.CONFIRMED


def test_a_deleted_mask_leaves_its_pixels_without_a_class() -> None:
    page = Page()
    del page.shapes[102]
    page.check()
    answer = page.expect("0000.... " * 5 + "22222222 22222222 ........")
    assert answer.kind is AnswerKind.CORRECTED
    assert [part.number for part in answer.lost] == [2]
    page.paint(0, box(0, 4, 1, 8))
    assert page.read().lost == (), "something replaces it"


def test_a_copy_is_a_drawing() -> None:
    page = Page()
    copy = {**page.shapes[101], "id": 150, "source": "manual", "label_id": 3}
    page.shapes[150] = copy
    answer = page.expect("3333.... " * 5 + NOTHING[: 3 * 9])
    assert answer.said
    assert not answer.checked


def test_what_lies_outside_the_sample_does_not_count() -> None:
    page = Page()
    shape = page.paint(3, box(7, 0, 8, 8))
    answer = page.expect(NOTHING)
    assert not answer.said
    assert page.remarks[0].what == f"mask {shape} on frame 6"
    page.put(103, box(5, 0, 8, 8), "semi-auto")
    assert not page.read().said, "painted across the white line only"


def test_a_damaged_mask_takes_no_others_along() -> None:
    page = Page()
    page.shapes[101]["points"] = [1, 2, 3]
    page.check()
    page.expect("....1111 " * 5 + "22222222 22222222 ........")
    assert "cannot be read" in page.remarks[0]


def test_where_nothing_was_suggested_the_first_class_is_one_click() -> None:
    """Cards begin with one mask of one class; choosing that class is what drawing costs."""
    page = Page(suggests=False)
    page.relabel(101, 3)
    page.check()
    answer = page.read()
    assert (answer.kind, answer.clicks) == (AnswerKind.DRAWN, Clicks(classes=1))
    page.paint(3, box(0, 0, 2, 2))
    assert page.read().clicks == Clicks(boundary=4, classes=2)


def _relabel(page: Page, wanted: LabelMap, number: int, label: int) -> None:
    if 100 + number in page.shapes:
        page.relabel(100 + number, label)
        wanted[pixels_of(page.shapes[100 + number])] = label


def _paint(page: Page, wanted: LabelMap, label: int, area: tuple[int, ...], carve: bool) -> None:
    top, left, height, width = area
    inside = box(top, left, top + height, left + width)
    page.paint(label, inside)
    if carve:
        page.carve(inside)
    wanted[inside] = label


corner, side = st.integers(0, 6), st.integers(1, 4)
actions = st.one_of(
    st.tuples(
        st.just(_paint), st.integers(0, 3), st.tuples(corner, corner, side, side), st.booleans()
    ),
    st.tuples(st.just(_relabel), st.integers(1, 3), st.integers(0, 3)),
)


@given(st.lists(actions, max_size=6), st.booleans())
def test_people_get_what_they_see(story: list[Any], checked: bool) -> None:
    """Relabelling happens before painting: a mask below a drawing cannot be pointed at."""
    page = Page()
    seen = np.where(page.wanted, SHOWN, np.uint8(IGNORE))
    order = [one for one in story if one[0] is _relabel] + [
        one for one in story if one[0] is _paint
    ]
    for action, *values in order:
        action(page, seen, *values)
    if checked:
        page.check()
    answer = page.read()
    seen[~page.wanted] = IGNORE
    if checked:
        assert_array_equal(answer.label_map, seen)
    else:
        known = answer.label_map != IGNORE
        assert_array_equal(answer.label_map[known], seen[known])
        differs = page.wanted & (seen != SHOWN)
        assert known[differs].all(), "what people changed is never lost"
