"""Minutes of people and their money, as they are told."""

import pytest

from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.rates import Rate, read_rate
from hvsa_cvat.session.people_time import tell_time


def test_minutes_become_money() -> None:
    assert Rate(12.5).money(90) == 18.75
    assert Rate(12.5).words(90) == "18.75"
    assert Rate(12.5, "EUR").words(6000) == "1,250.00 EUR"
    assert read_rate(None, None) is None
    assert read_rate(30, None) == Rate(30)


@pytest.mark.parametrize("hourly", [0, -3, float("nan"), float("inf")])
def test_a_rate_must_be_above_0(hourly: float) -> None:
    with pytest.raises(ConfigError, match=r"--hourly-rate .* above 0") as told:
        read_rate(hourly, "EUR")
    assert "\n" not in str(told.value)


def test_a_currency_needs_a_rate() -> None:
    for made in (lambda: read_rate(None, "EUR"), lambda: EnrollOptions(currency="EUR")):
        with pytest.raises(ConfigError, match="it needs a rate"):
            made()
    assert EnrollOptions(hourly_rate=12.5, currency="EUR").rate == Rate(12.5, "EUR")
    assert EnrollOptions().rate is None


def test_what_is_told_before_anything_is_known() -> None:
    told = tell_time(spent=0, expected=None, every_frame=None, figures="published figures")
    assert told.words == "0 s are spent (published figures)"
    assert (told.saved_minutes, told.spent_money) == (None, None)


def test_what_is_told_while_people_are_asked() -> None:
    told = tell_time(
        spent=12,
        expected=9.4,
        every_frame=320,
        figures="fitted to 12 jobs",
        budget=60,
        rate=Rate(12.5, "EUR"),
    )
    assert told.words == (
        "12 min (2.50 EUR) of 1 h 00 min are spent (fitted to 12 jobs); "
        "9 min (1.96 EUR) more are asked for now; "
        "drawing every frame would take 5 h 20 min, so 5 h 08 min (64.17 EUR) are saved"
    )
    assert (told.spent_money, told.expected_money, told.saved_money) == (2.5, 1.96, 64.17)


def test_more_than_drawing_everything_saves_nothing() -> None:
    told = tell_time(spent=30, expected=None, every_frame=20, figures="published figures")
    assert told.saved_minutes == 0
