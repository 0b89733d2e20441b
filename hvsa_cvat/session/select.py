"""SELECT: which samples people are asked for, within what may be spent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.config import Strategy
from hvsa_cvat.selection.strategy import Pool, Query, select
from hvsa_cvat.session.context import RunContext
from hvsa_cvat.session.cost import (
    asked_pixels,
    correction_of,
    estimated_clicks,
    estimated_full_clicks,
)
from hvsa_cvat.session.records import Selection
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.types import Sample


def select_samples(session: Session, context: RunContext) -> Selection:
    """Choose the samples of the current round, and keep what was found."""
    number = session.current.number
    estimated = estimated_full_clicks(number - 1, context)
    known = context.full_clicks is not None
    segments = context.segments_of(number)
    factor = correction_of(session, context, small=segments.border_is_free)
    full = float(context.full_clicks) if context.full_clicks is not None else factor * estimated
    # predicted outlines are smoother than a person's, propagated ones rougher
    scale = full / estimated if known else 1.0

    def expected_cost(samples: Sequence[Sample]) -> NDArray[np.float64]:
        raw = estimated_clicks(samples, segments, number - 1, context)
        # the first click of a sample chooses a class; only outlines are smoother or rougher
        return factor * np.where(raw > 0, 1 + scale * (raw - 1), 0)

    allowed = context.config.budgets[number - 1] * full
    chosen: list[Sample] = []
    if allowed > session.clicks:
        pool, asked, whole = unasked(context.files(number - 1).scores(), session, context)
        strategy = context.config.strategy
        if strategy is Strategy.UNIFORM and segments.border_is_free:
            strategy = Strategy.ACTIVE  # frames are spaced evenly, smaller samples are not
        farthest = context.config.farthest and segments.border_is_free
        query = Query(
            budget=allowed - session.clicks,
            expected_cost=expected_cost,
            strategy=strategy,
            diversity_only=number == 1,
            labeled_frames=whole,
            length=len(context.source),
            known=asked.features if farthest else None,
        )
        chosen = select(pool, query, context.rng(number), context.inputs.device)
    costs = expected_cost(chosen).tolist() if chosen else []
    selection = Selection(tuple(chosen), tuple(costs), full)
    context.files(number).save_selection(selection)
    return selection


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
