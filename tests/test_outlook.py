"""What a session says of its masks without truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvsa_cvat.session.outlook import (
    LEVELS,
    Advice,
    Audited,
    HeldOut,
    Outlook,
    after_clicks,
    certainty_levels,
    count_held_out,
    count_levels,
    expected_miou,
    outlook,
    truth_given,
)
from hvsa_cvat.session.records import Audit, Interval
from hvsa_cvat.types import IGNORE

CLASSES = 3


def maps(rng: np.random.Generator, shape=(80, 80)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth in stripes, masks that are wrong where they are unsure, and how sure they are."""
    truth = np.tile(np.arange(shape[1]) * CLASSES // shape[1], (shape[0], 1)).astype(np.uint8)
    certainty = rng.random(shape).astype(np.float32) ** 0.2
    wrong = rng.random(shape) > certainty
    shown = np.where(wrong, (truth + rng.integers(1, CLASSES, shape)) % CLASSES, truth)
    return truth, shown.astype(np.uint8), certainty_levels(certainty)


def true_miou(truth: np.ndarray, shown: np.ndarray) -> float:
    pairs = [(truth == k, shown == k) for k in range(CLASSES)]
    return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]))


def test_levels_are_eighths() -> None:
    assert certainty_levels(np.array([0.0, 0.124, 0.125, 0.99, 1.0])).tolist() == [0, 0, 1, 7, 7]


def test_pixels_are_counted_by_hand() -> None:
    shown = np.array([[0, 0, 1, IGNORE]], np.uint8)
    levels = np.array([[7, 2, 2, 5]], np.uint8)
    counts = count_levels(shown, levels, 2)
    assert counts.sum() == 3
    assert (counts[0, 7], counts[0, 2], counts[1, 2]) == (1, 1, 1)
    answer = np.array([[0, 1, IGNORE, 1]], np.uint8)
    # one row, four columns: each pixel in a block of its own
    assert count_held_out(shown, levels, answer, 2).tolist() == [[0, 0, 7, 0, 1], [1, 0, 2, 1, 1]]


def test_what_was_seen_often_is_believed_and_the_rest_leans_on_the_level() -> None:
    table = np.array([[0, 0, 7, 0, 9000], [0, 0, 7, 1, 1000]])
    held_out = HeldOut([table], 2)
    assert len(held_out) == 10_000
    given = truth_given(held_out.counts(), np.ones(2, np.bool_))
    assert given[0, 7, 0] == pytest.approx(0.9, abs=0.001)
    assert given[1, 7, 1] == pytest.approx(0.9, abs=0.001)
    assert given[1, 3, 1] == pytest.approx(3.5 / 8)
    assert given.sum(axis=2) == pytest.approx(np.ones((2, LEVELS)))


def test_an_absent_class_is_never_true() -> None:
    held_out = HeldOut([np.array([[0, 0, 7, 1, 10]])], 3)
    present = np.array([True, True, False])
    given = truth_given(held_out.counts(), present)
    assert (given[:2, :, 2] == 0).all()
    levels = np.zeros((3, LEVELS), np.int64)
    levels[:2, 7] = 100
    assert expected_miou(levels, given, present) > 0


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_probabilities_add_up(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (rng.integers(1, 9), rng.integers(1, 9))
    shown, answer = rng.integers(0, classes, (2, *shape), np.uint8)
    answer[rng.random(shape) < 0.5] = IGNORE
    levels = rng.integers(0, LEVELS, shape).astype(np.uint8)
    held_out = HeldOut([count_held_out(shown, levels, answer, classes)], classes)
    assert len(held_out) == (answer != IGNORE).sum()
    present = np.isin(np.arange(classes), np.concatenate([shown.ravel(), answer.ravel()]))
    given = truth_given(held_out.counts(), present)
    assert (given >= 0).all()
    assert given.sum(axis=2) == pytest.approx(np.ones((classes, LEVELS)))
    assert 0 <= expected_miou(count_levels(shown, levels, classes), given, present) <= 1


def test_the_score_before_is_the_true_one_of_frames_that_nobody_answered() -> None:
    rng = np.random.default_rng(0)
    answered, unseen = [maps(rng) for _ in range(6)], [maps(rng) for _ in range(6)]
    tables = [count_held_out(shown, levels, truth, CLASSES) for truth, shown, levels in answered]
    counts = sum(count_levels(shown, levels, CLASSES) for _, shown, levels in unseen)
    found = outlook(HeldOut(tables, CLASSES), counts, (100, 100), 1e4, True, False, rng)
    truths, showns, _ = (np.stack(part) for part in zip(*unseen, strict=True))
    right = true_miou(truths, showns)
    assert found is not None
    assert found.miou_before == found.expected_miou == pytest.approx(right, abs=0.01)
    assert found.low <= right <= found.high
    assert found.high - found.low < 0.05


def test_more_clicks_widen_the_interval_upwards_only() -> None:
    rng = np.random.default_rng(0)
    truth, shown, levels = maps(rng)
    held_out = HeldOut([count_held_out(shown, levels, truth, CLASSES)], CLASSES)
    counts = count_levels(shown, levels, CLASSES)
    same = outlook(held_out, counts, (100, 100), 1000, True, False, np.random.default_rng(1))
    more = outlook(held_out, counts, (100, 200), 1000, True, False, np.random.default_rng(1))
    assert same is not None
    assert more is not None
    assert more.low == same.low < more.expected_miou < more.high
    # twice the clicks leave a quarter of what is missing, at best
    assert 1 - more.high == pytest.approx((1 - same.high) / 4)


def test_few_answers_give_a_wider_interval() -> None:
    def width(frames: int) -> float:
        rng = np.random.default_rng(1)
        drawn = [maps(rng, (16, 16)) for _ in range(frames)]
        tables = [count_held_out(shown, levels, truth, CLASSES) for truth, shown, levels in drawn]
        counts = count_levels(drawn[0][1], drawn[0][2], CLASSES)
        found = outlook(HeldOut(tables, CLASSES), counts, (1, 1), 100, True, False, rng)
        assert found is not None
        return found.high - found.low

    assert width(2) > width(40)


def test_without_answers_masks_or_clicks_there_is_nothing_to_say() -> None:
    rng = np.random.default_rng(0)
    none = np.zeros((CLASSES, LEVELS), np.int64)
    some = HeldOut([np.array([[0, 0, 7, 0, 5]])], CLASSES)
    assert outlook(some, none + 1, (1, 2), 10, True, False, rng) is not None
    assert outlook(HeldOut([], CLASSES), none + 1, (1, 2), 10, True, False, rng) is None
    assert outlook(some, none, (1, 2), 10, True, False, rng) is None
    assert outlook(some, none + 1, (0, 2), 10, True, False, rng) is None


def test_an_earlier_audit_holds_over_answers_where_the_masks_are_worst() -> None:
    rng = np.random.default_rng(0)
    truth, shown, levels = maps(rng)
    held_out = HeldOut([count_held_out(shown, levels, truth, CLASSES)], CLASSES)
    counts = count_levels(shown, levels, CLASSES)
    said = Audit(frames=3, miou=Interval(estimate=0.8, low=0.7, high=0.9), classes=())

    def told(of_clicks: float) -> Outlook:
        audited = Audited(said, of_clicks)
        found = outlook(held_out, counts, (100, 200), 1000, True, False, rng, audited)
        assert found is not None
        return found

    now = told(100)  # this round is the audit
    assert (now.miou_before, now.audit) == (0.8, said)
    before = told(50)  # the masks that it measured had half of the clicks
    assert before.audit is None
    assert before.miou_before == pytest.approx(after_clicks(0.8, 50, 100))
    assert before.expected_miou == pytest.approx(after_clicks(0.8, 50, 200))
    assert before.low == 0.7
    assert before.high == pytest.approx(after_clicks(0.9, 50, 200, fall=2))


def test_what_is_missing_falls_as_a_power_of_the_clicks() -> None:
    assert after_clicks(0.6, 100, 200, fall=1) == pytest.approx(0.8)
    assert after_clicks(0.6, 100, 200, fall=2) == pytest.approx(0.9)
    assert after_clicks(0.6, 100, 100) == pytest.approx(0.6)
    assert after_clicks(1.0, 100, 200) == 1.0


def advised(full_clicks: float, unsure: int, whole_frames: bool, carried: bool = False) -> Advice:
    """Of masks with `unsure` of 10,000 pixels at the lowest level, where 6 of 10 are wrong; at the
    highest 1 of 100 is."""
    table = [[0, 0, 0, 0, 4000], [0, 0, 0, 1, 6000], [0, 0, 7, 0, 99_000], [0, 0, 7, 1, 1000]]
    levels = np.zeros((2, LEVELS), np.int64)
    levels[0, 0], levels[0, 7] = unsure, 10_000 - unsure
    held_out, rng = HeldOut([np.array(table)], 2), np.random.default_rng(0)
    found = outlook(held_out, levels, (100, 200), full_clicks, whole_frames, carried, rng)
    assert found is not None
    return found.advice


def test_the_advice() -> None:
    # 1 % more is a tenth of a click, or 50 clicks
    assert advised(10, 1000, True) is Advice.STOP
    assert advised(5000, 1000, True) is Advice.SMALLER
    assert advised(5000, 1000, False) is Advice.GO_ON
    assert advised(5000, 5000, True) is Advice.GO_ON
    assert advised(10, 1000, False, carried=True) is Advice.STOP
    assert advised(5000, 1000, True, carried=True) is Advice.GO_ON
    # 200 of 5,001 clicks are less than 4 %
    assert advised(5001, 1000, False, carried=True) is Advice.GO_ON
    assert advised(5000, 1000, False, carried=True) is Advice.WHOLE
