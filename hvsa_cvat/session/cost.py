"""What samples and whole videos are expected to cost, in clicks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.annotation.clicks import click_cost
from hvsa_cvat.ports import SegmentMaps
from hvsa_cvat.session.asked import by_frame
from hvsa_cvat.session.context import RunContext
from hvsa_cvat.session.correcting import CorrectingCost, correcting_cost
from hvsa_cvat.session.records import CostBasis
from hvsa_cvat.session.rounds import Round, Session
from hvsa_cvat.types import AnswerKind, Sample

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
    correcting: CorrectingCost | None = None
    """None where people draw, and before they have corrected masks that had learnt from them."""

    def drawing_clicks(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """What drawing samples is expected to cost; `raw` if the masks were the truth."""
        # the first click of a sample chooses a class; only outlines are smoother or rougher
        return self.factor * np.where(raw > 0, 1 + self.scale * (raw - 1), 0)


def cost_model(session: Session, context: RunContext) -> CostModel:
    """The costs as they are known before the current round selects its samples."""
    number, corrects = session.current.number, context.config.correcting_tolerance is not None
    small = context.segments_of(number).border_is_free
    estimated = estimated_full_clicks(number - 1, context)
    correction = correction_of(session, context, small=small)
    first = _FIRST_CORRECTION if corrects and number == 2 else 1.0
    correcting = correcting_cost(session, context) if corrects else None
    if context.full_clicks is not None:
        full = float(context.full_clicks)
        # predicted outlines are smoother than a person's, propagated ones rougher
        scale = full / estimated
        # what correcting has cost tells nothing of drawing
        factor = first if corrects else correction
        return CostModel(full, CostBasis.GIVEN, False, factor, scale, correcting)
    factor = correction * first
    frame_clicks = answered_frame_clicks(session, context)
    if frame_clicks is None:
        full, limited = _near_the_estimate_before(correction * estimated, number, context)
        return CostModel(full, CostBasis.MASKS, limited, factor, 1.0, correcting)
    found = frame_clicks * len(context.source)
    full, limited = _near_the_estimate_before(found, number, context)
    if small:
        return CostModel(full, CostBasis.FRAMES, limited, factor, 1.0, correcting)
    return CostModel(full, CostBasis.FRAMES, limited, first, found / estimated, correcting)


def answered_frame_clicks(session: Session, context: RunContext) -> float | None:
    """Mean clicks of a frame, over the frames that people have drawn as a whole; None before the
    first."""
    whole = [
        drawn_in(one, context)
        for one in session.rounds
        if one.clicks and one.queried and not context.segments_of(one.number).border_is_free
    ]
    frames = sum(one.samples for one in whole)
    return sum(one.clicks for one in whole) / frames if frames else None


@dataclass(frozen=True)
class DrawnSamples:
    """The samples of one round that people drew from nothing."""

    samples: int
    clicks: float
    expected_clicks: float


def drawn_in(done: Round, context: RunContext) -> DrawnSamples:
    """What people drew in an answered round; what correcting costs tells nothing of drawing."""
    if context.config.correcting_tolerance is None:
        return DrawnSamples(len(done.queried), done.clicks or 0, done.expected_clicks or 0.0)
    selection = context.files(done.number).selection()
    if selection is None:
        return DrawnSamples(0, 0.0, 0.0)
    answers = context.files(done.number).answers()
    drawn = {one for one in answers.clicks if answers.kind(one) is AnswerKind.DRAWN}
    pairs = zip(selection.samples, selection.expected_clicks, strict=True)
    return DrawnSamples(
        len(drawn),
        sum(answers.clicks[one].total for one in drawn),
        sum(expected for sample, expected in pairs if sample in drawn),
    )


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


def cost_correction(rounds: Iterable[DrawnSamples]) -> float:
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
        drawn_in(one, context)
        for one in session.rounds
        if one.clicks and (not known or context.segments_of(one.number).border_is_free == small)
    )


def estimated_clicks(
    samples: Sequence[Sample], segments: SegmentMaps, round_number: int, context: RunContext
) -> NDArray[np.float64]:
    """float64 (len(samples),): what the samples would cost if the label maps of a round were the
    truth."""
    costs = np.zeros(len(samples))
    for frame, wanted in by_frame(samples).items():
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
