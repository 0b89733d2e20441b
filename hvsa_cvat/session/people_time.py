"""How long people work for a session, as it is told to them and to other programs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from hvsa_cvat.budgets import time_words
from hvsa_cvat.rates import Rate


class PeopleTime(BaseModel):
    """The time of all people together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spent_minutes: float
    """For all answers so far."""
    expected_minutes: float | None = None
    """For the samples that people are asked for now; None where they are asked for none."""
    every_frame_minutes: float | None = None
    """To draw every frame of the video; None before its clicks are known."""
    saved_minutes: float | None = None
    """Against that."""
    budget_minutes: float | None = None
    """What may be spent; None where the budget counts clicks."""
    figures: str
    """Which figures say how long answers take, where that was not measured."""
    spent_money: float | None = None
    """None without an hourly rate."""
    expected_money: float | None = None
    saved_money: float | None = None
    currency: str | None = None

    @property
    def words(self) -> str:
        """What it says, for people."""
        spent = _told(self.spent_minutes, self.spent_money, self.currency)
        budget = "" if self.budget_minutes is None else f" of {_time(self.budget_minutes)}"
        told = [f"{spent}{budget} are spent ({self.figures})"]
        if self.expected_minutes is not None:
            asked = _told(self.expected_minutes, self.expected_money, self.currency)
            told.append(f"{asked} more are asked for now")
        if self.every_frame_minutes is not None and self.saved_minutes is not None:
            saved = _told(self.saved_minutes, self.saved_money, self.currency)
            every = _time(self.every_frame_minutes)
            told.append(f"drawing every frame would take {every}, so {saved} are saved")
        return "; ".join(told)


def tell_time(
    *,
    spent: float,
    expected: float | None,
    every_frame: float | None,
    figures: str,
    budget: float | None = None,
    rate: Rate | None = None,
) -> PeopleTime:
    """The time of people, in minutes, and what it costs at a rate."""
    saved = None if every_frame is None else max(every_frame - spent, 0.0)

    def money(minutes: float | None) -> float | None:
        return None if rate is None or minutes is None else rate.money(minutes)

    return PeopleTime(
        spent_minutes=spent,
        expected_minutes=expected,
        every_frame_minutes=every_frame,
        saved_minutes=saved,
        budget_minutes=budget,
        figures=figures,
        spent_money=money(spent),
        expected_money=money(expected),
        saved_money=money(saved),
        currency=None if rate is None else rate.currency,
    )


def _time(minutes: float) -> str:
    return time_words(60 * minutes)


def _told(minutes: float, money: float | None, currency: str | None) -> str:
    """`12 min`, or with a rate `12 min (2.50 EUR)`."""
    if money is None:
        return _time(minutes)
    cost = " ".join(filter(None, (f"{money:,.2f}", currency)))
    return f"{_time(minutes)} ({cost})"
