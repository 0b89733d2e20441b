"""Audits: a few frames, spaced evenly from a random offset, tell how good all masks are.

Answers elsewhere lie where the masks are worst, so they say little of the other pixels. The frames
of an audit are chosen without looking at the masks. What people change there, before the network
learns from it, measures the masks of the round before; so no audit is the first round.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.session.outlook import LEVELS, HeldOut, truth_given
from hvsa_cvat.session.records import Audit, Interval

_RESAMPLINGS = 200
_SPREAD = 1.64
"""Half the width of the interval in standard deviations of the resamplings: 90 % of a normal
distribution. It held the truth in 88 % of 182 audits of 3 frames (docs/results.md)."""


def audit_frames(candidates: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    """`count` of the `candidates` (all of them if they are fewer), evenly spaced from a random
    offset, so that each is as likely as any other."""
    count = min(count, len(candidates))
    places = (rng.random() + np.arange(count)) * len(candidates) / max(count, 1)
    return [candidates[int(place)] for place in places]


def audit(
    found: HeldOut,
    levels: NDArray[np.int64],
    answered: NDArray[np.int64],
    rng: np.random.Generator,
) -> Audit | None:
    """The IoU of the masks that `count_levels` counted, from the audited frames.

    Args:
        found: what people say of the audited frames, beside the masks before.
        levels: int64 (C, LEVELS), pixels of all frames by class shown and level of certainty.
        answered: int64 (C,), those of them that show what people had answered before, by class.
        rng: for the interval.

    Returns:
        None where nothing was audited.
    """
    if not len(found):
        return None
    open_levels = _without(levels, answered)
    shown = levels.sum(axis=1) > 0

    def ious(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        return _ious(_matrix(counts, open_levels, answered), shown | (counts.sum(axis=(0, 1)) > 0))

    best = ious(found.counts())
    drawn = np.stack([ious(found.counts(found.resampled(rng))) for _ in range(_RESAMPLINGS)])
    return Audit(
        frames=found.frames,
        miou=_interval(float(np.nanmean(best)), _mean(drawn)),
        classes=tuple(
            None if np.isnan(one) else _interval(float(one), drawn[:, k])
            for k, one in enumerate(best)
        ),
    )


def _without(levels: NDArray[np.int64], answered: NDArray[np.int64]) -> NDArray[np.int64]:
    """What is answered has the highest levels, so it is taken away from there."""
    left, taken = levels.copy(), answered.copy()
    for level in reversed(range(LEVELS)):
        here = np.minimum(left[:, level], taken)
        left[:, level] -= here
        taken -= here
    return left


def _matrix(
    counts: NDArray[np.float64], levels: NDArray[np.int64], answered: NDArray[np.int64]
) -> NDArray[np.float64]:
    """float64 (C, C): pixels of the video by class shown and true class.

    The mean of two estimates. The first multiplies what the audit has counted by the number of
    pixels (ratio estimator); it is unbiased and varies much. The second takes from the audit only
    how often a class is right at a level of certainty, and the levels from all frames; it varies
    less, and is biased where the levels mean something else in other frames.
    """
    ratio = counts.sum(axis=1) * (levels.sum() / max(counts.sum(), 1.0))
    present = (counts.sum(axis=(0, 1)) > 0) | (levels.sum(axis=1) > 0)
    table = np.einsum("pl,plt->pt", levels, truth_given(counts, present))
    return np.asarray((ratio + table) / 2 + np.diag(answered), np.float64)


def _ious(matrix: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64 (C,); NaN for classes that are not `present`."""
    both = np.diagonal(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - both
    return np.where(present, both / np.maximum(union, 1e-9), np.nan)


def _mean(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the classes of each resampling."""
    known = ~np.isnan(drawn)
    return np.asarray(np.where(known, drawn, 0).sum(axis=1) / known.sum(axis=1), np.float64)


def _interval(estimate: float, drawn: NDArray[np.float64]) -> Interval:
    half = _SPREAD * float(np.nanstd(drawn))
    return Interval(
        estimate=estimate, low=max(estimate - half, 0.0), high=min(estimate + half, 1.0)
    )
