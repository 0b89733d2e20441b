"""How good the masks of a round must be, told by the session's own data, and whether to go on.

Answers of a round are truth that the masks of the round before had not seen. They tell how often
a class is right, and what is true where it is not, at each certainty that the masks had of
themselves. With that the masks of any round, over the whole video, have an expected confusion
matrix, and so an expected mIoU. Nothing is held back from training for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from hvsa_cvat.types import IGNORE, LabelMap

LEVELS = 8
"""Steps of certainty, each an eighth of 0..1."""

_SIDE = 4
"""An answered frame is cut in so many rows and columns of blocks, so that the interval has
something to be drawn from where only few frames have answers."""

_PRIOR_PIXELS = 200.0
"""A class at a certainty counts as if so many more pixels had been like all classes there."""

_RESAMPLINGS = 200
_LOW, _HIGH = 5, 95
"""Per cent of the resamplings that lie below the interval's ends."""

_PAYING_GAIN = 0.005
"""mIoU that another 1 % of clicks must bring to be worth it."""

_STEEPEST = 2.0
"""Exponent of the error's fall with clicks; two estimates close together may say anything."""

_UNSURE_SHARE = 0.2
"""Errors that lie in so small a share of the pixels are reached by samples smaller than frames."""


class Advice(StrEnum):
    """What to do after a round."""

    STOP = "stop"
    GO_ON = "go on"
    SMALLER = "go on with smaller samples"


class Outlook(BaseModel):
    """Of the masks of a round. All fractions; kept in `rounds/K/outlook.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    expected_miou: float
    low: float
    """From here to `high` lie 9 of 10 resamplings of the answers."""
    high: float
    expected_pixel_accuracy: float
    gain: float | None
    """mIoU that another 1 % of the clicks of annotating every frame should bring; None where only
    one round has an estimate."""
    advice: Advice | None
    """None where the gain is not known."""


def certainty_levels(certainty: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Level 0..LEVELS-1 of each certainty in 0..1."""
    levels: NDArray[np.uint8] = np.minimum(certainty * LEVELS, LEVELS - 1).astype(np.uint8)
    return levels


def count_levels(label_map: LabelMap, levels: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """int64 (C, LEVELS): pixels of one frame by what they show and how certain that is."""
    known = label_map != IGNORE
    key = label_map[known].astype(np.int64) * LEVELS + levels[known]
    counts = np.bincount(key, minlength=classes * LEVELS).reshape(classes, LEVELS)
    return counts.astype(np.int64)


def count_held_out(
    label_map: LabelMap, levels: NDArray[np.uint8], answer: LabelMap, classes: int
) -> NDArray[np.int64]:
    """How one frame's masks compare with an answer that they had not seen.

    int64 (R, 5), a row for each combination that occurs: block of the frame, class shown, level of
    certainty, class answered, pixels.
    """
    height, width = label_map.shape
    rows, columns = np.arange(height) * _SIDE // height, np.arange(width) * _SIDE // width
    block = rows[:, np.newaxis] * _SIDE + columns
    known = (answer != IGNORE) & (label_map != IGNORE)
    shape = (_SIDE * _SIDE, classes, LEVELS, classes)
    key = np.ravel_multi_index(
        (block[known], label_map[known], levels[known], answer[known]), shape
    )
    found, pixels = np.unique(key, return_counts=True)
    return np.stack([*np.unravel_index(found, shape), pixels], axis=1).astype(np.int64)


class HeldOut:
    """Answers beside the masks that had not seen them, gathered over frames and rounds."""

    def __init__(self, tables: Sequence[NDArray[np.int64]], classes: int) -> None:
        """`tables` as `count_held_out` makes them, one an answered frame."""
        self.classes = classes
        tables = [table for table in tables if len(table)]
        rows = np.concatenate([np.empty((0, 5), np.int64), *tables])
        self._pixels = rows[:, 4]
        self._key = np.ravel_multi_index(tuple(rows[:, 1:4].T), (classes, LEVELS, classes))
        frame = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        blocks, self._unit = np.unique(frame * _SIDE * _SIDE + rows[:, 0], return_inverse=True)
        self._units_of = np.split(
            np.arange(len(blocks)), np.flatnonzero(np.diff(blocks // (_SIDE * _SIDE))) + 1
        )

    def __len__(self) -> int:
        """Pixels with an answer."""
        return int(self._pixels.sum())

    def resampled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """How often each block counts when frames, and in each of them blocks, are drawn anew with
        replacement."""
        weights = np.zeros(int(self._unit.max(initial=-1)) + 1, np.int64)
        for k in rng.integers(len(self._units_of), size=len(self._units_of)):
            units = self._units_of[k]
            np.add.at(weights, units[rng.integers(len(units), size=len(units))], 1)
        return weights

    def counts(self, weights: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """float64 (C, LEVELS, C): pixels by class shown, level and class answered; `weights` says
        how often each block counts."""
        pixels = self._pixels if weights is None else self._pixels * weights[self._unit]
        shape = (self.classes, LEVELS, self.classes)
        counts = np.bincount(self._key, weights=pixels, minlength=int(np.prod(shape)))
        return np.asarray(counts.reshape(shape), np.float64)


def truth_given(counts: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64 (C, LEVELS, C): probability of each true class where a class is shown at a level.

    `counts` as `HeldOut.counts`; classes that are not `present`, bool (C,), are never true unless
    shown. What was seldom seen leans on what holds for all classes at that level, and that on the
    level's own middle, so that nothing is taken for perfect without evidence.
    """
    shown = np.arange(len(counts))
    right = counts[shown, :, shown].sum(axis=0)
    middle = (np.arange(LEVELS) + 0.5) / LEVELS
    accuracy = (right + _PRIOR_PIXELS * middle) / (counts.sum(axis=(0, 2)) + _PRIOR_PIXELS)
    confused = counts.sum(axis=1)
    confused[shown, shown] = 0
    otherwise = np.tile((confused.sum(axis=0) + 1) * present, (len(counts), 1))
    otherwise[shown, shown] = 0
    others = otherwise.sum(axis=1, keepdims=True)
    otherwise = np.divide(otherwise, others, out=np.zeros_like(otherwise), where=others > 0)
    prior = otherwise[:, np.newaxis] * (1 - accuracy)[:, np.newaxis]
    prior[shown, :, shown] = np.where(others > 0, accuracy, 1.0)
    pixels = counts.sum(axis=2, keepdims=True)
    return np.asarray((counts + _PRIOR_PIXELS * prior) / (pixels + _PRIOR_PIXELS), np.float64)


def expected_miou(
    levels: NDArray[np.int64], given: NDArray[np.float64], present: NDArray[np.bool_]
) -> float:
    """Of masks that `count_levels` counted, where `truth_given` is the truth; over the classes that
    are `present`."""
    matrix = np.einsum("pl,plt->tp", levels, given)
    both = np.diagonal(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - both
    return float((both[present] / np.maximum(union[present], 1e-9)).mean())


def outlook(
    held_out: HeldOut,
    rounds: Sequence[tuple[float, NDArray[np.int64]]],
    full_clicks: float,
    whole_frames: bool,
    rng: np.random.Generator,
) -> Outlook | None:
    """Of the last of `rounds`: (clicks spent so far, pixels by `count_levels` over the video), in
    order. None without held-out answers, or without masks."""
    if not len(held_out) or not rounds:
        return None
    spent, levels = rounds[-1]
    if not levels.any():
        return None
    counts = held_out.counts()
    present = (counts.sum(axis=(0, 1)) > 0) | (levels.sum(axis=1) > 0)
    given = truth_given(counts, present)
    expected = expected_miou(levels, given, present)
    drawn = [
        expected_miou(
            levels, truth_given(held_out.counts(held_out.resampled(rng)), present), present
        )
        for _ in range(_RESAMPLINGS)
    ]
    # about the estimate: what is drawn anew is less varied than what it was drawn from, and worse
    low, high = expected - np.median(drawn) + np.percentile(drawn, (_LOW, _HIGH))
    gain = None
    if len(rounds) > 1:
        clicks, shown_before = rounds[-2]
        before = expected_miou(shown_before, given, present)
        gain = further_gain((clicks, before), (spent, expected), full_clicks / 100)
    shown = np.arange(len(levels))
    right = given[shown, :, shown]
    return Outlook(
        expected_miou=expected,
        low=max(float(low), 0.0),
        high=min(float(high), 1.0),
        expected_pixel_accuracy=float((levels * right).sum() / levels.sum()),
        gain=gain,
        advice=None if gain is None else _advise(gain, levels, right, whole_frames),
    )


def further_gain(
    before: tuple[float, float], now: tuple[float, float], more_clicks: float
) -> float:
    """mIoU that `more_clicks` should bring, from two (clicks, mIoU): what is missing falls as a
    power of the clicks. 0 where the last clicks brought nothing."""
    (x0, y0), (x1, y1) = before, now
    if not 0 < x0 < x1 or y1 <= y0 or y1 >= 1:
        return 0.0
    steepness = min(np.log((1 - y0) / (1 - y1)) / np.log(x1 / x0), _STEEPEST)
    return float((1 - y1) * (1 - (x1 / (x1 + more_clicks)) ** steepness))


def _advise(
    gain: float, levels: NDArray[np.int64], right: NDArray[np.float64], whole_frames: bool
) -> Advice:
    """`right`, (C, LEVELS), is the probability that a class is right where it is shown."""
    if gain < _PAYING_GAIN:
        return Advice.STOP
    errors = (levels * (1 - right)).sum(axis=0)
    pixels = levels.sum(axis=0)
    unsure = np.cumsum(pixels) <= _UNSURE_SHARE * pixels.sum()
    concentrated = errors[unsure].sum() > errors.sum() / 2
    return Advice.SMALLER if whole_frames and concentrated else Advice.GO_ON
