"""What may be spent: a share of the clicks of annotating every frame, or the time of people."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from hvsa_cvat.errors import ConfigError

BUDGET_FORMS = (
    "in % of the clicks that annotating every frame would take (5%), or as the time of people in "
    "minutes or hours (90min, 3h)"
)
BUDGET_HELP = (
    f"What people may spend, {BUDGET_FORMS}: one total that is split evenly over the rounds, or "
    "the total after each round (2%,5%,10%)."
)

_MOST_HOURS = 100_000

_TIME = re.compile(r"(?P<number>\d+(?:\.\d+)?|)\s*(?P<unit>h|hours?|min|minutes?)")


class BudgetUnit(StrEnum):
    """What the numbers of a budget count."""

    CLICKS = "clicks"
    """As fractions of the clicks of annotating every frame."""
    SECONDS = "seconds"
    """Of people's time."""


@dataclass(frozen=True)
class Budget:
    """What may be spent up to and with each round."""

    totals: tuple[float, ...]
    """Rising, above 0, in the unit."""
    unit: BudgetUnit = BudgetUnit.CLICKS


def total_text(total: float, unit: BudgetUnit) -> str:
    """A total in the form of `parse_budget`: `5%`, `90min`, `3h`."""
    if unit is BudgetUnit.CLICKS:
        return f"{100 * total:.3g}%"
    minutes = total / 60
    if minutes >= 60 and minutes % 60 == 0:
        return f"{minutes / 60:.0f}h"
    return f"{round(minutes, 1):g}min"


def total_words(total: float, unit: BudgetUnit) -> str:
    """A total for people."""
    if unit is BudgetUnit.CLICKS:
        return f"{100 * total:.3g} % of the clicks of annotating every frame"
    return f"{time_words(total)} of people's time"


def time_words(seconds: float) -> str:
    """`40 s`, `12 min` or `3 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def parse_budget(text: str, rounds: int) -> Budget:
    """`6%` or `3h` is divided evenly among the rounds; `2%,5%,10%` or `30min,1h` names the total
    after each round."""
    if rounds < 1:
        raise ConfigError(f"--rounds {rounds}: at least one round is needed")
    _ask_back(text)
    parts = [part.strip() for part in text.split(",")]
    times = [_TIME.fullmatch(part) for part in parts]
    if any(times) and not all(times):
        raise ConfigError(
            f"--budget {text!r} mixes a time and a percentage; give all totals as a time "
            "(30min,1h) or all in % (2%,5%)"
        )
    found = [time for time in times if time is not None]
    if found:
        totals = [_seconds(text, one) for one in found]
    else:
        totals = [_fraction(text, part) for part in parts]
    unit = BudgetUnit.SECONDS if found else BudgetUnit.CLICKS
    if len(totals) == 1:
        return Budget(tuple(totals[0] * (k + 1) / rounds for k in range(rounds)), unit)
    if any(b <= a for a, b in pairwise(totals)):
        raise ConfigError(f"--budget {text!r}: the totals after each round must rise")
    return Budget(tuple(totals), unit)


def parse_budgets(text: str, rounds: int) -> tuple[float, ...]:
    """The total share of clicks after each round, for callers to whom a time says nothing."""
    budget = parse_budget(text, rounds)
    if budget.unit is not BudgetUnit.CLICKS:
        raise ConfigError(f"--budget {text!r}: only percentages are known here; write 6%")
    return budget.totals


def _fraction(text: str, part: str) -> float:
    try:
        percent = float(part.removesuffix("%").strip())
    except ValueError:
        raise ConfigError(
            f"--budget {text!r}: {part!r} is neither a percentage nor a time; write 6%, "
            "2%,5%,10%, 90min or 3h"
        ) from None
    if not 0 < percent <= 100:
        raise ConfigError(
            f"--budget {text!r}: {part!r} must be above 0 % and at most 100 % "
            "of the clicks of annotating every frame"
        )
    return percent / 100


def _seconds(text: str, time: re.Match[str]) -> float:
    if not time["number"]:
        raise ConfigError(f"--budget {text!r}: {time[0]!r} has no number; write 90min or 3h")
    seconds = float(time["number"]) * (3600 if time["unit"].startswith("h") else 60)
    if not 0 < seconds <= 3600 * _MOST_HOURS:
        raise ConfigError(
            f"--budget {text!r}: {time[0]!r} must be above 0 and at most {_MOST_HOURS} hours"
        )
    return seconds


def _ask_back(text: str) -> None:
    """Refuse what may be meant in two ways: a decimal comma, and a fraction in place of percent."""
    comma = re.fullmatch(r"\s*(\d+),(\d+)\s*(%|h|hours?|min|minutes?|)\s*", text)
    if comma:
        first, second, unit = comma[1], comma[2], comma[3] or "%"
        raise ConfigError(
            f"--budget {text!r}: a decimal comma, or two totals? write {first}.{second}{unit} or "
            f"{first}{unit},{second}{unit}"
        )
    for part in text.split(","):
        if re.fullmatch(r"\s*0?\.\d+\s*", part):
            raise ConfigError(
                f"--budget {text!r}: a fraction, or percent? write {100 * float(part):g}% or "
                f"{part.strip()}%"
            )
