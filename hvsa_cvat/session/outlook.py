"""How good the masks of a round must be, told by the session's own data, and whether to go on.

Answers of a round are truth that the masks of the round before had not seen. They tell how often
a class is right, and what is true where it is not, at each certainty that those masks had of
themselves. With that they have an expected confusion matrix over the whole video, and so an
expected mIoU. What the newest masks have learnt since is extrapolated from the clicks. Nothing is
held back from training for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from hvsa_cvat.config import WHOLE_FROM
from hvsa_cvat.session.records import Audit
from hvsa_cvat.types import IGNORE, LabelMap

LEVELS = 8
"""Steps of certainty, each an eighth of 0..1."""

Table = NDArray[np.float64]
"""float64 (LEVELS,): the share of the pixels at each level of certainty that are right."""

MIDDLES: Table = (np.arange(LEVELS) + 0.5) / LEVELS
"""Of a certainty that is the probability itself, as that of a network alone."""

_SIDE = 4
"""Rows and columns of blocks into which an answered frame is cut, so that the interval has
something to be drawn from where only few frames have answers."""

_PRIOR_PIXELS = 200.0
"""Pixels that each class at a certainty counts in addition, spread as over all classes there."""

_RESAMPLINGS = 200
_LOW, _HIGH = 5, 95
"""Per cent of the resamplings that lie below the interval's ends."""

_PAYING_GAIN = 0.005
"""mIoU that another 1 % of clicks must bring to be worth it."""

_USUAL_FALL = 0.6
STEEPEST_FALL = 2.0
"""Exponents with which what is missing to mIoU 1 falls as the clicks grow: as it mostly does, and
about the fastest seen, when answers show classes for the first time."""

_UNSURE_SHARE = 0.2
"""Errors that lie in so small a share of the pixels are reached by samples smaller than frames."""


class Advice(StrEnum):
    """What to do after a round."""

    STOP = "stop"
    GO_ON = "go on"
    SMALLER = "go on with smaller samples"
    WHOLE = "go on with whole frames"


@dataclass(frozen=True)
class Audited:
    """What an audit says of some masks."""

    audit: Audit
    clicks: float
    """Spent before these masks were made, all together."""


class Outlook(BaseModel):
    """How good the masks of a round should be. mIoU as fractions over the whole video; kept in
    `rounds/K/outlook.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    miou_before: float
    """The masks of the round before, judged by this round's answers."""
    expected_miou: float
    """The masks of this round."""
    low: float
    high: float
    """The interval: from the lower end of `miou_before`, as if the newest answers had taught
    nothing, to its upper end with as much learnt as is known to happen."""
    gain: float
    """mIoU that another 1 % of the clicks of annotating every frame should bring."""
    advice: Advice
    audit: Audit | None = None
    """Where the round was an audit: what it says of the masks of the round before. `miou_before` is
    its estimate then."""


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

    @property
    def frames(self) -> int:
        """Frames with an answer."""
        return len(self._units_of) if len(self._pixels) else 0

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
    level's own middle, so that nothing is taken for perfect without evidence. (With the table of
    `session.calibration` in its place rare classes are taken for better than they are.)
    """
    shown = np.arange(len(counts))
    right = counts[shown, :, shown].sum(axis=0)
    accuracy = (right + _PRIOR_PIXELS * MIDDLES) / (counts.sum(axis=(0, 2)) + _PRIOR_PIXELS)
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
    """mIoU of masks that `count_levels` counted, where `truth_given` is the truth; over the classes
    that are `present`."""
    matrix = np.einsum("pl,plt->tp", levels, given)
    both = np.diagonal(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - both
    return float((both[present] / np.maximum(union[present], 1e-9)).mean())


def outlook(
    held_out: HeldOut,
    levels: NDArray[np.int64],
    clicks: tuple[float, float],
    full_clicks: float,
    whole_frames: bool,
    carried: bool,
    rng: np.random.Generator,
    audited: Audited | None = None,
) -> Outlook | None:
    """The outlook of a round whose answers are `held_out` from the masks before it, which
    `count_levels` counted over the video. `clicks`: spent up to the round before, and now.
    `carried`: whether answers are carried along the flow, which serves whole frames best in the
    end. `audited`: the newest audit, of this round or of an earlier one. Where there is one, all
    rests on it, because other answers lie where the masks are worst.

    None without answers, masks, or clicks before.
    """
    spent, now = clicks
    if not len(held_out) or not levels.any() or not 0 < spent <= now:
        return None
    counts = held_out.counts()
    present = (counts.sum(axis=(0, 1)) > 0) | (levels.sum(axis=1) > 0)
    given = truth_given(counts, present)
    before = expected_miou(levels, given, present)
    drawn = [
        expected_miou(
            levels, truth_given(held_out.counts(held_out.resampled(rng)), present), present
        )
        for _ in range(_RESAMPLINGS)
    ]
    # about the estimate: what is drawn anew is less varied than what it was drawn from, and worse
    low, high = before - np.median(drawn) + np.percentile(drawn, (_LOW, _HIGH))
    known_at = spent
    if audited is not None:
        found, known_at = audited.audit.miou, audited.clicks
        before, low, high = after_clicks(found.estimate, known_at, spent), found.low, found.high
    expected = after_clicks(before, spent, now)
    gain = after_clicks(expected, now, now + full_clicks / 100) - expected
    shown = np.arange(len(levels))
    return Outlook(
        miou_before=before,
        expected_miou=expected,
        low=max(float(low), 0.0),
        high=after_clicks(min(float(high), 1.0), known_at, now, STEEPEST_FALL),
        gain=gain,
        advice=_advise(
            gain,
            levels,
            given[shown, :, shown],
            whole_frames,
            carried,
            now >= WHOLE_FROM * full_clicks,
        ),
        audit=audited.audit if audited is not None and audited.clicks == spent else None,
    )


def after_clicks(miou: float, spent: float, now: float, fall: float = _USUAL_FALL) -> float:
    """mIoU of `now` clicks by that of `spent` ones: what is missing falls as a power of clicks."""
    return float(1 - (1 - miou) * (spent / now) ** fall)


def factor_for(miou: float, wanted: float, fall: float = _USUAL_FALL) -> float:
    """By which factor clicks must grow until masks of `miou` are expected to be of `wanted`."""
    return float(max((1 - miou) / (1 - wanted), 1.0) ** (1 / fall))


def _advise(
    gain: float,
    levels: NDArray[np.int64],
    right: NDArray[np.float64],
    whole_frames: bool,
    carried: bool,
    late: bool,
) -> Advice:
    """`right`, (C, LEVELS), is the probability that a class is right where it is shown."""
    if gain < _PAYING_GAIN:
        return Advice.STOP
    if carried:
        return Advice.WHOLE if late and not whole_frames else Advice.GO_ON
    errors = (levels * (1 - right)).sum(axis=0)
    pixels = levels.sum(axis=0)
    unsure = np.cumsum(pixels) <= _UNSURE_SHARE * pixels.sum()
    concentrated = errors[unsure].sum() > errors.sum() / 2
    return Advice.SMALLER if whole_frames and concentrated else Advice.GO_ON
