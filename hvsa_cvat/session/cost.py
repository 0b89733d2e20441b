"""What samples and whole videos are expected to cost, in clicks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.annotation.clicks import click_cost
from hvsa_cvat.ports import SegmentMaps
from hvsa_cvat.session.context import RunContext
from hvsa_cvat.session.rounds import Round, Session
from hvsa_cvat.types import Mask, Sample

_COST_FRAMES = 32
"""The full cost is estimated from at most this many frames."""


def cost_correction(rounds: Iterable[Round]) -> float:
    """Actual over estimated clicks of these rounds, by which the next estimates are multiplied."""
    actual = estimated = 0.0
    factor = 1.0
    for done in rounds:
        if done.clicks and done.expected_clicks:
            actual += done.clicks
            estimated += done.expected_clicks / factor
            factor = actual / estimated
    return factor


def correction_of(session: Session, context: RunContext, *, small: bool) -> float:
    """The correction by the rounds that asked for small samples, or by those for whole frames.

    Small ones are asked for where the masks are uncertain, torn there into more pieces than the
    answers have: what they cost tells nothing of whole frames. Where nobody knows the clicks of the
    whole video, their estimate leans on all answers, and so do those of the samples.
    """
    known = context.full_clicks is not None
    return cost_correction(
        one
        for one in session.rounds
        if not known or context.segments_of(one.number).border_is_free == small
    )


def estimated_clicks(
    samples: Sequence[Sample], segments: SegmentMaps, round_number: int, context: RunContext
) -> NDArray[np.float64]:
    """float64 (len(samples),): what the samples would cost if the label maps of a round were the
    truth."""
    costs = np.zeros(len(samples))
    places: dict[int, list[int]] = {}
    for place, sample in enumerate(samples):
        places.setdefault(sample.frame, []).append(place)
    for frame, wanted in places.items():
        costs[wanted] = click_cost(
            context.files(round_number).label_map(context.source.names[frame]),
            segments[frame],
            [samples[place].segment for place in wanted],
            context.inputs.rules,
            segments.border_is_free,
        )
    return costs


def estimated_full_clicks(round_number: int, context: RunContext) -> float:
    """What annotating all frames would cost if the label maps of a round were the truth."""
    length = len(context.source)
    frames = np.unique(np.linspace(0, length - 1, min(length, _COST_FRAMES)).astype(int))
    whole = np.zeros(context.source.size, np.int32)
    estimated = [
        click_cost(
            context.files(round_number).label_map(context.source.names[frame]),
            whole,
            [0],
            context.inputs.rules,
            border_is_free=False,
        )[0]
        for frame in frames
    ]
    return max(float(np.mean(estimated)) * length, 1.0)


def asked_pixels(rounds: Sequence[Round], context: RunContext) -> Iterator[tuple[int, Mask]]:
    """(frame, pixels that people were asked about in these rounds), for each frame with such."""
    asked: dict[int, dict[int, list[int]]] = {}
    for one in rounds:
        for sample in one.queried:
            asked.setdefault(sample.frame, {}).setdefault(one.number, []).append(sample.segment)
    for frame, by_round in sorted(asked.items()):
        pixels = np.zeros(context.source.size, np.bool_)
        for number, segments in by_round.items():
            pixels |= np.isin(context.segments_of(number)[frame], segments)
        yield frame, pixels
