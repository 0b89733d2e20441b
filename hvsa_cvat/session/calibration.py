"""How often masks are right at each level of their certainty.

A certainty ranks pixels; what it is worth in a video is learnt from people's answers. Where
answers are missing, a table of other videos stands in, and what is surer is never taken to be less
often right (isotonic regression, Zadrozny and Elkan 2002).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hvsa_cvat.session.context import AskContext
from hvsa_cvat.session.outlook import LEVELS, MIDDLES, HeldOut, Table
from hvsa_cvat.session.rounds import Session

CARRIED: Table = np.array([0.68, 0.83, 0.88, 0.91, 0.93, 0.96, 0.97, 0.99])
"""Of carried labels alone, whose certainty is the fourth root of their confidence: after the first
round of frames, and of rectangles, in one rendered room (docs/results.md)."""

_START_PIXELS = 200.0
"""The table before answers counts as so many answered pixels at each level."""


def right_by_level(rounds: Iterable[HeldOut], start: Table) -> Table:
    """By the answers of all rounds together; `start` holds where there are none.

    Masks become better from round to round, but at the same level they stay about as often right.
    """
    from scipy.optimize import isotonic_regression

    right, pixels = _START_PIXELS * start, np.full(LEVELS, _START_PIXELS)
    for one in rounds:
        counts = one.counts()
        shown = np.arange(len(counts))
        right = right + counts[shown, :, shown].sum(axis=0)
        pixels = pixels + counts.sum(axis=(0, 2))
    return np.asarray(isotonic_regression(right / pixels, weights=pixels).x, np.float64)


def right_so_far(session: Session, context: AskContext) -> Table:
    """By all answers of a session up to now."""
    start = CARRIED if context.config.method == "label-propagation" else MIDDLES
    # round 1 answers the masks of round 0, which are sure or unsure of themselves in another way
    answered = [one for one in session.rounds[2:] if one.clicks is not None]
    classes = len(context.labels)
    return right_by_level((context.files(one.number).held_out(classes) for one in answered), start)
