import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from hvsa_cvat.annotation.clicks import AnnotationRules, mimic_annotation
from hvsa_cvat.annotation.correcting import Answered, cheapest_answer, correct, wrong_beyond
from hvsa_cvat.types import IGNORE, AnswerKind, Clicks, LabelMap, SegmentMap

EXACT = AnnotationRules(epsilon=0)


def drawn(picture: str) -> LabelMap:
    """Label map from a drawing: a digit is a class, a dot is void."""
    rows = picture.split()
    return np.array([[IGNORE if c == "." else int(c) for c in row] for row in rows], np.uint8)


def answered(
    truth: str | LabelMap, shown: str | LabelMap, *, tolerance: float = 1, free: bool = False
) -> Answered:
    true = drawn(truth) if isinstance(truth, str) else truth
    seen = drawn(shown) if isinstance(shown, str) else shown
    whole = np.zeros(true.shape, np.int32)
    return cheapest_answer(true, seen, whole, [0], EXACT, free, tolerance)


SQUARE = """
00000000
00111100
00111100
00111100
00111100
00000000
"""
TWO_SQUARES = """
000000000000
022200111100
022200111100
022200111100
000000111100
000000000000
"""


def test_masks_that_are_right_take_one_click() -> None:
    found = answered(SQUARE, SQUARE)
    assert found.clicks == {0: Clicks(0, 1)}
    assert found.kinds == {0: AnswerKind.CONFIRMED}
    assert np.array_equal(found.label_map, drawn(SQUARE))


def test_a_band_as_thin_as_the_tolerance_is_left() -> None:
    shown = drawn(SQUARE)
    shown[1, 2:6] = 0  # a row of the square is missing
    found = answered(SQUARE, shown)
    assert found.kinds[0] is AnswerKind.CONFIRMED
    assert np.array_equal(found.label_map, shown)
    exact = answered(SQUARE, shown, tolerance=0)
    assert exact.kinds[0] is AnswerKind.CORRECTED
    assert exact.clicks[0] == Clicks(4, 2)  # the corners of the row; its class, and the whole
    assert np.array_equal(exact.label_map, drawn(SQUARE))


def test_a_part_of_the_wrong_class_is_relabelled_by_one_click() -> None:
    shown = TWO_SQUARES.replace("2", "3")
    found = answered(TWO_SQUARES, shown)
    assert found.clicks[0] == Clicks(0, 2)
    assert found.kinds[0] is AnswerKind.CORRECTED
    assert np.array_equal(found.label_map, drawn(TWO_SQUARES))


def test_a_missing_object_is_drawn_by_its_corners() -> None:
    found = answered(TWO_SQUARES, TWO_SQUARES.replace("2", "0"))
    assert found.clicks[0] == Clicks(4, 2)
    assert np.array_equal(found.label_map, drawn(TWO_SQUARES))


def test_a_part_that_is_half_right_is_relabelled_and_mended() -> None:
    truth = drawn("11111111\n" * 4)
    truth[:, 5:] = 2
    shown = np.full_like(truth, 3)  # relabel to 1, then draw the rest: 1 + 4 + 1, and the whole
    assert answered(truth, shown).clicks[0] == Clicks(4, 3)


def test_what_a_polygon_surrounds_is_drawn_again() -> None:
    truth = np.zeros((12, 12), np.uint8)
    truth[1:11, 1:11] = 1
    truth[4:8, 4:8] = 2
    shown = np.zeros_like(truth)
    shown[4:8, 4:8] = 2  # the ring is missing, what lies in it is right
    label_map, clicks = correct(truth, shown, np.zeros(truth.shape, np.int32), [0], EXACT, False, 1)
    assert np.array_equal(label_map, truth)
    assert clicks[0] == Clicks(8, 3)


def test_masks_that_are_mostly_wrong_are_drawn_anew() -> None:
    truth = drawn(SQUARE)
    rows, columns = np.indices(truth.shape)
    shown = (3 + (rows // 2 + columns // 2) % 2).astype(np.uint8)
    found = answered(truth, shown)
    assert found.kinds[0] is AnswerKind.DRAWN
    whole = np.zeros(truth.shape, np.int32)
    assert found.clicks == mimic_annotation(truth, whole, [0], EXACT, False)[1]


def test_a_square_of_one_class_is_confirmed_or_drawn_by_one_click() -> None:
    right = answered("11\n11", "11\n11", free=True)
    assert (right.kinds[0], right.clicks[0]) == (AnswerKind.CONFIRMED, Clicks(0, 1))
    wrong = answered("11\n11", "22\n22", free=True)
    assert (wrong.kinds[0], wrong.clicks[0]) == (AnswerKind.DRAWN, Clicks(0, 1))


def test_pixels_without_a_label_are_not_answered() -> None:
    found = answered("11..\n11..\n11..", "1111\n1111\n1111")
    assert np.array_equal(found.label_map, drawn("11..\n11..\n11.."))


def test_segments_are_answered_apart_and_the_rest_is_left_out() -> None:
    truth = drawn("11112222\n" * 4)
    segments: SegmentMap = np.broadcast_to(np.arange(8) // 2, (4, 8)).astype(np.int32)
    shown = drawn("11332222\n" * 4)
    found = cheapest_answer(truth, shown, segments, [0, 1], EXACT, True, 1)
    assert np.array_equal(found.label_map, drawn("1111....\n" * 4))
    assert found.kinds == {0: AnswerKind.CONFIRMED, 1: AnswerKind.DRAWN}


def test_maps_of_different_sizes_are_refused() -> None:
    whole = np.zeros((2, 2), np.int32)
    with pytest.raises(ValueError, match="differ"):
        correct(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), whole, [0], EXACT, False, 1)


@pytest.mark.parametrize(
    ("tolerance", "rows"), [(0, 4), (0.5, 4), (1, 3), (1.5, 3), (2, 3), (3, 0)]
)
def test_thickness_is_that_of_the_thinner_direction(tolerance: float, rows: int) -> None:
    """Bands of 1 and of 3 pixels, one above the other, over the whole width."""
    wrong = np.zeros((10, 20), np.bool_)
    wrong[1] = True
    wrong[4:7] = True
    wrong[9] = True  # goes on outside, for all that can be seen
    kept = wrong_beyond(wrong, tolerance)
    assert int(kept[:9].sum()) == 20 * rows
    assert not (kept & ~wrong).any()


def blobs(seed: int, sigma: float) -> LabelMap:
    rng = np.random.default_rng(seed)
    noise = [gaussian_filter(rng.standard_normal((40, 56)), sigma) for _ in range(4)]
    found = np.argmax(noise, axis=0).astype(np.uint8)
    found[:3, :5] = IGNORE if seed % 2 else 0
    return found


@given(
    seed=st.integers(0, 10_000),
    sigma=st.sampled_from([2.0, 5.0]),
    shift=st.integers(0, 4),
    side=st.sampled_from([8, 20, 100]),
    tolerance=st.sampled_from([0, 1, 2]),
    epsilon=st.sampled_from([0.0, 1.0]),
)
def test_any_answer_is_right_up_to_the_tolerance_and_costs_no_more_than_drawing(
    seed: int, sigma: float, shift: int, side: int, tolerance: int, epsilon: float
) -> None:
    truth = blobs(seed, sigma)
    shown = np.roll(blobs(seed, sigma), shift, axis=1)
    shown[shown == IGNORE] = 0
    rows, columns = np.indices(truth.shape) // side
    segments = (rows * (columns.max() + 1) + columns).astype(np.int32)
    wanted = list(range(0, int(segments.max()) + 1, 2))
    rules, free = AnnotationRules(epsilon), side < 100
    found = cheapest_answer(truth, shown, segments, wanted, rules, free, tolerance)
    drawing, clicks = mimic_annotation(truth, segments, wanted, rules, free)
    inside = np.isin(segments, wanted) & (truth != IGNORE)
    assert (found.label_map[~inside] == IGNORE).all()
    assert all(found.clicks[one].total <= clicks[one].total for one in wanted)
    for segment in wanted:
        if found.kinds[segment] is AnswerKind.DRAWN:
            here = inside & (segments == segment)
            assert np.array_equal(found.label_map[here], drawing[here])
    if epsilon == 0:
        assert not wrong_beyond(inside & (found.label_map != truth), tolerance).any()
