"""What may be spent: percentages of clicks, and the time of people."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvsa_cvat.budgets import (
    BudgetUnit,
    parse_budget,
    parse_budgets,
    time_words,
    total_text,
    total_words,
)
from hvsa_cvat.errors import ConfigError


def test_one_budget_is_split_evenly_over_the_rounds() -> None:
    assert parse_budgets("6%", 3) == pytest.approx((0.02, 0.04, 0.06))
    assert parse_budgets("100", 1) == (1.0,)


def test_several_budgets_are_the_totals_after_each_round() -> None:
    assert parse_budgets("2%, 5 %,10", 3) == pytest.approx((0.02, 0.05, 0.1))


@pytest.mark.parametrize(
    "text", ["", "%", "six%", "6%%", "nan", "inf", "0%", "-1%", "101%", "2%,,5%", "5%,2%", "5%,5%"]
)
def test_unusable_budgets_are_named(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_budgets(text, 3)

    assert repr(text) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


def test_no_round_is_refused() -> None:
    with pytest.raises(ConfigError, match="--rounds 0"):
        parse_budgets("6%", 0)


@settings(deadline=None)
@given(st.floats(0.01, 100), st.integers(1, 20))
def test_split_budgets_rise_to_the_whole(percent: float, rounds: int) -> None:
    budgets = parse_budgets(f"{percent}%", rounds)

    assert len(budgets) == rounds
    assert list(budgets) == sorted(set(budgets))
    assert budgets[-1] == pytest.approx(percent / 100)


@pytest.mark.parametrize(
    ("text", "both"),
    [
        ("2,5%", "write 2.5% or 2%,5%"),
        ("2,5", "write 2.5% or 2%,5%"),
        ("0.05", "write 5% or 0.05%"),
        (".5", "write 50% or .5%"),
        ("2%,0.05", "write 5% or 0.05%"),
    ],
)
def test_budgets_that_can_be_meant_in_two_ways_are_asked_back(text: str, both: str) -> None:
    with pytest.raises(ConfigError) as told:
        parse_budgets(text, 2)
    assert both in str(told.value)


def test_budgets_that_are_clear_are_not_asked_back() -> None:
    assert parse_budgets("0.05%", 1) == pytest.approx((0.0005,))
    assert parse_budgets("2%,5%", 2) == pytest.approx((0.02, 0.05))
    assert parse_budgets("2, 5", 2) == pytest.approx((0.02, 0.05))


def test_a_time_is_split_evenly_over_the_rounds() -> None:
    budget = parse_budget("3h", 3)
    assert budget.unit is BudgetUnit.SECONDS
    assert budget.totals == pytest.approx((3600, 7200, 10800))
    assert parse_budget("90min", 1).totals == pytest.approx((5400,))
    assert parse_budget("1.5 hours", 1).totals == parse_budget("90 minutes", 1).totals


def test_several_times_are_the_totals_after_each_round() -> None:
    budget = parse_budget("30min, 1h,90min", 5)
    assert (budget.totals, budget.unit) == ((1800, 3600, 5400), BudgetUnit.SECONDS)
    assert parse_budget("5%", 1).unit is BudgetUnit.CLICKS


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0h", "must be above 0"),
        ("0min", "must be above 0"),
        ("h", "has no number"),
        ("30min,h", "has no number"),
        ("minutes", "has no number"),
        ("5%,3h", "mixes a time and a percentage"),
        ("1h,2", "mixes a time and a percentage"),
        ("2h,1h", "must rise"),
        ("60min,1h", "must rise"),
        ("3 days", "neither a percentage nor a time"),
        ("-3h", "neither a percentage nor a time"),
        ("2h30", "neither a percentage nor a time"),
        ("999999h", "at most 100000 hours"),
        ("1,5h", "write 1.5h or 1h,5h"),
        ("30,5 min", "write 30.5min or 30min,5min"),
    ],
)
def test_unusable_times_are_one_line(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_budget(text, 3)
    assert told in str(raised.value)
    assert repr(text) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_where_a_time_says_nothing_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="only percentages"):
        parse_budgets("3h", 1)


@settings(deadline=None)
@given(st.integers(1, 60 * 1000))
def test_times_are_read_as_they_are_written(minutes: int) -> None:
    seconds = 60.0 * minutes
    text = total_text(seconds, BudgetUnit.SECONDS)
    assert parse_budget(text, 1).totals == pytest.approx((seconds,))


def test_totals_for_people() -> None:
    assert total_words(0.05, BudgetUnit.CLICKS) == "5 % of the clicks of annotating every frame"
    assert total_words(5400, BudgetUnit.SECONDS) == "1 h 30 min of people's time"
    assert [time_words(one) for one in (40, 59 * 60, 3599, 3600)] == [
        "40 s",
        "59 min",
        "1 h 00 min",
        "1 h 00 min",
    ]
