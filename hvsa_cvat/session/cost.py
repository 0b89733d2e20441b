"""What samples and whole videos are expected to cost, in clicks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.annotation.clicks import click_cost
from hvsa_cvat.ports import SegmentMaps
from hvsa_cvat.session.context import RunContext
from hvsa_cvat.session.outlook import LEVELS
from hvsa_cvat.session.records import CostBasis
from hvsa_cvat.session.rounds import Round, Session
from hvsa_cvat.types import Mask, Sample

_COST_FRAMES = 32
"""The full cost is estimated from at most this many frames."""

_LARGEST_CHANGE = 2.0
"""The estimate of the full cost grows or shrinks at most by this factor from round to round: masks
of an untrained network are noise, those after a training smooth, and a budget must not follow."""

_LEAST_SHARE = 0.25
"""A round may spend at least this part of what it was promised, so that each round asks something,
also where the rounds before it have cost more than they should."""


_FIRST_CORRECTION = 0.75
"""What correcting the masks of round 1 is expected to cost, of drawing: 42 to 51 % were measured in
rooms, 73 % on a driving clip."""


@dataclass(frozen=True)
class CostModel:
    """What the samples of one round are expected to cost, and the whole video."""

    full_clicks: float
    """Clicks of annotating every frame of the video."""
    basis: CostBasis
    limited: bool
    """Whether `full_clicks` was kept near the estimate of the round before."""
    factor: float
    """By which the estimates of samples are multiplied."""
    scale: float
    """By which estimated outlines are multiplied, before `factor`."""
    doubt_clicks: float | None = None
    """Clicks of correcting a pixel that is expected to be wrong; None where people draw, and before
    they have corrected masks that had learnt from them."""

    def drawing_clicks(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """What drawing samples is expected to cost; `raw` if the masks were the truth."""
        # the first click of a sample chooses a class; only outlines are smoother or rougher
        return self.factor * np.where(raw > 0, 1 + self.scale * (raw - 1), 0)


def cost_model(session: Session, context: RunContext) -> CostModel:
    """The costs as they are known before the current round selects its samples."""
    number = session.current.number
    small = context.segments_of(number).border_is_free
    estimated = estimated_full_clicks(number - 1, context)
    factor = correction_of(session, context, small=small)
    if context.full_clicks is not None:
        full = float(context.full_clicks)
        # predicted outlines are smoother than a person's, propagated ones rougher
        scale = full / estimated
        if context.config.correcting_tolerance is None:
            return CostModel(full, CostBasis.GIVEN, False, factor, scale)
        # what correcting has cost tells nothing of drawing
        factor = _FIRST_CORRECTION if number == 2 else 1.0
        doubt_clicks = clicks_per_doubt(session, context)
        return CostModel(full, CostBasis.GIVEN, False, factor, scale, doubt_clicks)
    frame_clicks = answered_frame_clicks(session, context)
    if frame_clicks is None:
        full, limited = _near_the_estimate_before(factor * estimated, number, context)
        return CostModel(full, CostBasis.MASKS, limited, factor, 1.0)
    found = frame_clicks * len(context.source)
    full, limited = _near_the_estimate_before(found, number, context)
    if small:
        return CostModel(full, CostBasis.FRAMES, limited, factor, 1.0)
    return CostModel(full, CostBasis.FRAMES, limited, 1.0, found / estimated)


def answered_frame_clicks(session: Session, context: RunContext) -> float | None:
    """Mean clicks of a frame, over the frames that people have answered as a whole; None before
    the first."""
    whole = [
        one
        for one in session.rounds
        if one.clicks and one.queried and not context.segments_of(one.number).border_is_free
    ]
    frames = sum(len(one.queried) for one in whole)
    return sum(one.clicks or 0 for one in whole) / frames if frames else None


def _near_the_estimate_before(found: float, number: int, context: RunContext) -> tuple[float, bool]:
    """The new estimate of the full cost, and whether it had to be kept near the one before."""
    before = context.files(number - 1).selection()
    if before is None:
        return found, False
    least, most = before.full_clicks / _LARGEST_CHANGE, before.full_clicks * _LARGEST_CHANGE
    kept = min(max(found, least), most)
    return kept, kept != found


def round_budget(session: Session, context: RunContext, costs: CostModel) -> float:
    """Clicks that the current round may spend; 0 or less if it may spend none.

    Where the full cost is an estimate, no round is left without samples: when too much has been
    spent, the rounds that follow share what is left.
    """
    number, budgets = session.current.number, context.config.budgets
    on_plan = budgets[number - 1] * costs.full_clicks - session.clicks
    if costs.basis is CostBasis.GIVEN:
        return on_plan
    before = budgets[number - 2] if number > 1 else 0.0
    promised = budgets[number - 1] - before
    left = budgets[-1] * costs.full_clicks - session.clicks
    shared = left * promised / (budgets[-1] - before)
    return max(on_plan, shared, _LEAST_SHARE * promised * costs.full_clicks)


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


def answer_clicks(
    samples: Sequence[Sample], costs: CostModel, session: Session, context: RunContext
) -> NDArray[np.float64]:
    """float64 (len(samples),): what samples of the current round are expected to cost."""
    number = session.current.number
    raw = estimated_clicks(samples, context.segments_of(number), number - 1, context)
    drawing = costs.drawing_clicks(raw)
    if costs.doubt_clicks is None:
        return drawing
    correcting = 1 + costs.doubt_clicks * doubted_pixels(samples, number, session, context)
    return np.minimum(drawing, correcting)


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
    for frame, wanted in _by_frame(samples).items():
        costs[wanted] = click_cost(
            context.files(round_number).label_map(context.source.names[frame]),
            segments[frame],
            [samples[place].segment for place in wanted],
            context.inputs.rules,
            segments.border_is_free,
        )
    return costs


def clicks_per_doubt(session: Session, context: RunContext) -> float | None:
    """Clicks, beyond the first of a sample, for each pixel that was expected to be wrong, in the
    last round whose samples showed masks that had learnt from answers; None before there is one.

    The last round alone: masks that become better are surer of themselves, but not as fast. Those
    of round 0 are sure or unsure of themselves in another way, so round 1 tells nothing.
    """
    for done in reversed(session.rounds[2:]):
        if done.clicks is not None and done.queried:
            doubt = doubted_pixels(done.queried, done.number, session, context).sum()
            return max(done.clicks - len(done.queried), 0) / max(float(doubt), 1.0)
    return None


def doubted_pixels(
    samples: Sequence[Sample], number: int, session: Session, context: RunContext
) -> NDArray[np.float64]:
    """float64 (len(samples),): pixels of samples of round `number` that are expected to be wrong in
    the masks that people see, by the certainty that the masks have of themselves. Pixels that
    people were asked about before are right."""
    before, segments = context.files(number - 1), context.segments_of(number)
    asked = dict(asked_pixels(session.rounds[:number], context))
    wrong = np.zeros(len(samples))
    for frame, places in _by_frame(samples).items():
        levels = before.certainty_levels(context.source.names[frame])
        doubt = 1 - (levels + 0.5) / LEVELS
        if frame in asked:
            doubt[asked[frame]] = 0
        by_segment = np.bincount(
            segments[frame].ravel(), weights=doubt.ravel(), minlength=segments.count(frame)
        )
        wrong[places] = by_segment[[samples[place].segment for place in places]]
    return wrong


def _by_frame(samples: Sequence[Sample]) -> dict[int, list[int]]:
    """The places of the samples of each frame."""
    places: dict[int, list[int]] = {}
    for place, sample in enumerate(samples):
        places.setdefault(sample.frame, []).append(place)
    return places


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
