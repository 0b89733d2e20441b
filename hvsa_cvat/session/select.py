"""SELECT: which samples people are asked for, within what may be spent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.config import Strategy
from hvsa_cvat.selection.pool import Pool
from hvsa_cvat.selection.strategy import Query, select
from hvsa_cvat.session.asked import asked_pixels
from hvsa_cvat.session.audit import audit_frames
from hvsa_cvat.session.context import RunContext
from hvsa_cvat.session.cost import cost_model
from hvsa_cvat.session.prices import Expected, budget_of_round, expected_answers, prices_of
from hvsa_cvat.session.records import Selection, Skipped
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.target import newest_audit, reaches
from hvsa_cvat.types import Sample


def select_samples(session: Session, context: RunContext) -> Selection:
    """Choose the samples of the current round, and keep what was found."""
    number = session.current.number
    costs, prices = cost_model(session, context), prices_of(session, context)

    def expected(samples: Sequence[Sample]) -> Expected:
        return expected_answers(samples, costs, prices, session, context)

    def expected_cost(samples: Sequence[Sample]) -> NDArray[np.float64]:
        return expected(samples).in_unit(context.config.budget_unit)

    def budget() -> float:
        return budget_of_round(session, context, costs, prices)

    chosen, skipped = _choose(session, context, budget, expected_cost)
    found = expected(chosen)
    selection = Selection(
        tuple(chosen),
        tuple(found.clicks.tolist()),
        costs.full_clicks,
        costs.basis,
        costs.limited,
        skipped,
        tuple(found.seconds.tolist()),
    )
    context.files(number).save_selection(selection)
    return selection


def _choose(
    session: Session,
    context: RunContext,
    budget: Callable[[], float],
    expected_cost: Callable[[Sequence[Sample]], NDArray[np.float64]],
) -> tuple[list[Sample], Skipped | None]:
    """The samples of the current round; without any, why there are none. An audit has no budget."""
    number = session.current.number
    if reaches(newest_audit(context.files(number - 1)), context.config.target):
        return [], Skipped.TARGET
    audited = context.audit_of(number)
    if audited is not None:
        chosen = _audited(session, context, audited)
    elif (left := budget()) > 0:
        chosen = _chosen(session, context, left, expected_cost)
    else:
        return [], Skipped.SPENT
    return chosen, None if chosen else Skipped.ASKED


def _audited(session: Session, context: RunContext, count: int) -> list[Sample]:
    number = session.current.number
    pool, _, _ = unasked(context.files(number - 1).scores(), session, context)
    frames = sorted(set(pool.frames.tolist()))
    # another offset in each session, so that errors of many sessions have no common direction
    digest = int.from_bytes(hashlib.sha256(session.id.encode()).digest()[:4])
    rng = np.random.default_rng([context.config.seed, number, digest])
    return [Sample(frame, 0) for frame in audit_frames(frames, count, rng)]


def _chosen(
    session: Session,
    context: RunContext,
    budget: float,
    expected_cost: Callable[[Sequence[Sample]], NDArray[np.float64]],
) -> list[Sample]:
    number = session.current.number
    small = context.segments_of(number).border_is_free
    pool, asked, whole = unasked(context.files(number - 1).scores(), session, context)
    strategy = context.config.strategy
    if strategy is Strategy.UNIFORM and small:
        strategy = Strategy.ACTIVE  # frames are spaced evenly, smaller samples are not
    query = Query(
        budget=budget,
        expected_cost=expected_cost,
        strategy=strategy,
        diversity_only=number == 1,
        labeled_frames=whole,
        length=len(context.source),
        known=asked.features if context.config.farthest and small else None,
    )
    return select(pool, query, context.rng(number), context.inputs.device)


def unasked(
    pool: Pool, session: Session, context: RunContext
) -> tuple[Pool, Pool, tuple[int, ...]]:
    """The samples of the current round that are not asked for yet, or only in part, where earlier
    ones were smaller; the others; and the frames that were asked for as a whole."""
    segments = context.segments_of(session.current.number)
    keep, whole = np.ones(len(pool), np.bool_), []
    for frame, asked in asked_pixels(session.rounds, context):
        counted = np.bincount(segments[frame][~asked], minlength=segments.count(frame))
        rows = np.flatnonzero(pool.frames == frame)
        keep[rows] = counted[pool.segments[rows]] > 0
        if asked.all():
            whole.append(frame)
    return pool.take(keep), pool.take(~keep), tuple(whole)
