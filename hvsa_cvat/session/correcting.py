"""What correcting the masks of samples is expected to cost, learnt from the rounds before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.session.asked import asked_pixels, by_frame
from hvsa_cvat.session.context import AskContext
from hvsa_cvat.session.outlook import MIDDLES, Table
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.types import Sample


@dataclass(frozen=True)
class Doubt:
    """How unsure masks are of themselves in some samples."""

    pixels: NDArray[np.int64]
    """int64 (N,): pixels of each sample that nobody was asked about before."""
    wrong: NDArray[np.float64]
    """float64 (N,): how many of them are wrong, by the certainty of the masks."""


@dataclass(frozen=True)
class CorrectingCost:
    """What correcting took in a round that people have answered."""

    pixel_clicks: float
    """Clicks for each pixel, beyond the first click of a sample."""
    wrong_share: float
    """How much of the pixels was wrong, by the certainty of the masks."""

    def sample_clicks(self, doubt: Doubt) -> NDArray[np.float64]:
        """float64 (N,): what correcting samples is expected to cost.

        Masks that become better are surer of themselves, but the clicks do not fall as fast: on
        a driving clip hardly, in rooms nearly. The root lies between.
        """
        share = doubt.wrong / np.maximum(doubt.pixels, 1)
        change = np.sqrt(share / max(self.wrong_share, 1e-9))
        return np.asarray(1 + self.pixel_clicks * doubt.pixels * change, np.float64)


def correcting_cost(session: Session, context: AskContext) -> CorrectingCost | None:
    """By the last round whose samples showed masks that had learnt from answers; None before there
    is one. Masks of round 0 are sure or unsure of themselves in another way. Audits, which are
    corrected to the pixel and so take more, tell it only where nothing else does."""
    answered = [one for one in session.rounds[2:] if one.clicks is not None and one.queried]
    if not answered:
        return None
    done = max(answered, key=lambda one: (context.audit_of(one.number) is None, one.number))
    doubt = doubt_of(done.queried, done.number, session, context)
    pixels = max(int(doubt.pixels.sum()), 1)
    beyond = max((done.clicks or 0) - len(done.queried), 0)
    return CorrectingCost(beyond / pixels, float(doubt.wrong.sum()) / pixels)


def doubt_of(
    samples: Sequence[Sample],
    number: int,
    session: Session,
    context: AskContext,
    right: Table = MIDDLES,
) -> Doubt:
    """How unsure the masks are that people see who answer these samples of round `number`.

    `right` is how often masks are right at each level of certainty; without it, as often as the
    certainty says, which ranks samples, but may be far from the truth.
    """
    before, segments = context.files(number - 1), context.segments_of(number)
    asked = dict(asked_pixels(session.rounds[:number], context))
    pixels, wrong = np.zeros(len(samples), np.int64), np.zeros(len(samples))
    for frame, places in by_frame(samples).items():
        levels = before.certainty_levels(context.source.names[frame])
        fresh = ~asked[frame] if frame in asked else np.ones(levels.shape, np.bool_)
        ids, count = segments[frame][fresh], segments.count(frame)
        uncertain = 1 - right[levels[fresh]]
        wanted = [samples[place].segment for place in places]
        pixels[places] = np.bincount(ids, minlength=count)[wanted]
        wrong[places] = np.bincount(ids, weights=uncertain, minlength=count)[wanted]
    return Doubt(pixels, wrong)
