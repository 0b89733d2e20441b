"""What people's time costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hvsa_cvat.errors import ConfigError

RATE_HELP = (
    "What an hour of an annotator costs. Then minutes are told as money too. Default: they are not."
)
CURRENCY_HELP = "The unit of the hourly rate, such as EUR. Default: plain numbers."


@dataclass(frozen=True)
class Rate:
    """What an hour of an annotator costs."""

    hourly: float
    currency: str | None = None

    def __post_init__(self) -> None:
        if not (self.hourly > 0 and math.isfinite(self.hourly)):
            raise ConfigError(f"--hourly-rate {self.hourly:g}: name a number above 0")

    def money(self, minutes: float) -> float:
        """What these minutes cost, to the hundredth."""
        return round(self.hourly * minutes / 60, 2)

    def words(self, minutes: float) -> str:
        """`12.50`, or with a currency `12.50 EUR`."""
        return " ".join(filter(None, (f"{self.money(minutes):,.2f}", self.currency)))


def read_rate(hourly: float | None, currency: str | None) -> Rate | None:
    """None where nothing is said of a rate."""
    if hourly is not None:
        return Rate(hourly, currency)
    if currency is not None:
        raise ConfigError(f"--currency {currency}: it needs a rate; give --hourly-rate 12.50")
    return None
