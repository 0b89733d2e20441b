"""What the samples of a round are expected to take, in clicks and in seconds, and what it may take
where the budget is time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.annotation.effort import Effort
from hvsa_cvat.budgets import BudgetUnit
from hvsa_cvat.session.context import RunContext
from hvsa_cvat.session.correcting import doubt_of
from hvsa_cvat.session.cost import CostModel, estimated_clicks, round_budget
from hvsa_cvat.session.effort import answered_work, click_seconds, efforts_of, seconds_of
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.types import AnswerKind, Sample


@dataclass(frozen=True)
class Prices:
    """What the answers of one round take of people's time."""

    effort: Effort
    """The figures for samples as the round asks for."""
    clicks: Mapping[AnswerKind, float]
    """Seconds of a click beyond the first of a sample, by kind of answer, where it is known."""
    spent: float
    """Seconds that people have worked before the round."""


@dataclass(frozen=True)
class Expected:
    """What each of some samples is expected to take."""

    clicks: NDArray[np.float64]
    """float64 (N,)."""
    seconds: NDArray[np.float64]
    """float64 (N,)."""

    def in_unit(self, unit: BudgetUnit) -> NDArray[np.float64]:
        """float64 (N,): in what a budget counts."""
        return self.clicks if unit is BudgetUnit.CLICKS else self.seconds


def prices_of(session: Session, context: RunContext) -> Prices:
    """The prices as they are known before the current round selects its samples."""
    number = session.current.number
    whole = not context.segments_of(number).border_is_free
    rounds = answered_work(session, context.config, context.files(number))
    efforts = efforts_of(rounds, context.files(number).team_work())
    effort = efforts.of(whole)
    # by the published figures all clicks are alike
    clicks = click_seconds(rounds, whole, effort) if effort.fitted_to else {}
    return Prices(effort, clicks, sum(seconds_of(one, efforts) for one in rounds))


def answer_seconds(
    clicks: NDArray[np.float64], kind: AnswerKind, prices: Prices
) -> NDArray[np.float64]:
    """float64 (N,): the time of samples that are answered in this way and take these clicks."""
    click = prices.clicks.get(kind, prices.effort.click)
    return np.asarray(prices.effort.confirm + click * np.maximum(clicks - 1, 0), np.float64)


def expected_answers(
    samples: Sequence[Sample],
    costs: CostModel,
    prices: Prices,
    session: Session,
    context: RunContext,
) -> Expected:
    """What samples of the current round are expected to take, each by the quicker kind of answer.

    By the published figures, to whom all clicks are alike, that is the kind with fewer clicks.
    """
    number = session.current.number
    raw = estimated_clicks(samples, context.segments_of(number), number - 1, context)
    drawing = costs.drawing_clicks(raw)
    drawn = Expected(drawing, answer_seconds(drawing, AnswerKind.DRAWN, prices))
    if costs.correcting is None:
        return drawn
    correcting = costs.correcting.sample_clicks(doubt_of(samples, number, session, context))
    seconds = answer_seconds(correcting, AnswerKind.CORRECTED, prices)
    draws = drawn.seconds <= seconds
    return Expected(np.where(draws, drawing, correcting), np.where(draws, drawn.seconds, seconds))


def budget_of_round(
    session: Session, context: RunContext, costs: CostModel, prices: Prices
) -> float:
    """What the current round may spend, in the unit of the budget; 0 or less if it may spend
    nothing."""
    if context.config.budget_unit is BudgetUnit.CLICKS:
        return round_budget(session, context, costs)
    number, budgets = session.current.number, context.config.budgets
    before = budgets[number - 2] if number > 1 else 0.0
    left = budgets[-1] - prices.spent
    # where more was spent than planned, the rounds that follow share what is left
    shared = left * (budgets[number - 1] - before) / (budgets[-1] - before)
    return max(budgets[number - 1] - prices.spent, shared)
