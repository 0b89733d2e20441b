"""Coordinates of the drawings on the pages; the templates write them as SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.config import RunConfig
from hvsa_cvat.enrolled.people_time import minutes_by_round
from hvsa_cvat.enrolled.runs import Run

WIDTH, HEIGHT = 640, 280
"""Of the curve, in units of the SVG."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 32, 34, 40
_BARS = 240
"""At most as many bars in a row of the strip; a long video gets one for several frames."""


@dataclass(frozen=True)
class Point:
    """One round in the curve."""

    x: float
    y: float
    low: float | None
    """Coordinates of the ends of the interval; None where there is none."""
    high: float | None
    label: str
    """The mIoU, in %."""
    told: str
    """What the point says, in words."""


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Curve:
    """Expected quality over clicks or minutes of people."""

    over: str
    """`clicks` or `minutes`."""
    points: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    target: Tick | None
    """Of a task that has one."""

    @property
    def line(self) -> str:
        return " ".join(f"{p.x:.1f},{p.y:.1f}" for p in self.points)

    @property
    def band(self) -> str:
        """The area between the ends of the intervals."""
        ends = [(p.x, p.low, p.high) for p in self.points if p.low is not None]
        upper = [f"{x:.1f},{high:.1f}" for x, _, high in ends]
        lower = [f"{x:.1f},{low:.1f}" for x, low, _ in reversed(ends)]
        return " ".join(upper + lower)

    @property
    def told(self) -> str:
        target = "" if self.target is None else f"; the target is {self.target.label}"
        points = "; ".join(point.told for point in self.points)
        return f"Expected mIoU over {self.over}. {points}{target}"


def quality_curve(run: Run, over: str = "clicks") -> Curve | None:
    """Over `clicks` or `minutes`. None before the first outlook, which comes with the answers of
    round 2."""
    spent: list[float] = (
        [one.clicks_so_far for one in run.rounds]
        if over == "clicks"
        else list(minutes_by_round(run))
    )
    values = list[tuple[float, float, float | None, float | None, str]]()
    for one in run.rounds:
        seen = one.outlook
        if seen is None:
            continue
        if not values and one.number > 0:
            told = f"after round {one.number - 1}"
            values.append((spent[one.number - 1], seen.miou_before, None, None, told))
        told = f"after round {one.number}"
        values.append((spent[one.number], seen.expected_miou, seen.low, seen.high, told))
    if not values:
        return None
    target = RunConfig.model_validate(run.session.config).target
    ends = [end for _, y, low, high, _ in values for end in (y, low, high) if end is not None]
    ends += [] if target is None else [target]
    top = math.ceil(max(ends) * 10)
    tenths = range(min(math.floor(min(ends) * 10), top - 1), top + 1)
    bottom = tenths[0] / 10
    least, most = _shown([x for x, *_ in values])

    def across(clicks: float) -> float:
        return _LEFT + (clicks - least) / (most - least) * (WIDTH - _LEFT - _RIGHT)

    def up(miou: float) -> float:
        share = (miou - bottom) / (top / 10 - bottom)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    return Curve(
        over,
        tuple(
            Point(
                across(x),
                up(y),
                None if low is None else up(low),
                None if high is None else up(high),
                f"{100 * y:.1f}",
                _told(x, over, y, low, high, which),
            )
            for x, y, low, high, which in values
        ),
        tuple(Tick(across(at), f"{at:,}") for at in _round_numbers(least, most)),
        tuple(Tick(up(at / 10), f"{10 * at} %") for at in tenths),
        None if target is None else Tick(up(target), f"{100 * target:g} %"),
    )


def _told(
    spent: float, over: str, miou: float, low: float | None, high: float | None, which: str
) -> str:
    interval = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f} %)"
    return f"{which}, {spent:,.0f} {over}: {100 * miou:.1f} %{interval}"


def _shown(spent: list[float]) -> tuple[float, float]:
    """From 0 to a little more than the largest, or from near the smallest where all are large."""
    least, most = min(spent), max(spent)
    margin = 0.06 * most + 1 if 2 * least < most else 0.15 * (most - least) + 1
    return (0, most + margin) if 2 * least < most else (max(least - margin, 0), most + margin)


def _round_numbers(least: float, most: float) -> list[int]:
    """About five multiples of 1, 2 or 5 times a power of ten between two numbers."""
    rough = max((most - least) / 5, 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 5, 10) if power * one >= rough)
    return [step * k for k in range(math.ceil(least / step), math.floor(most / step) + 1)]


@dataclass(frozen=True)
class Bar:
    """One or several neighbouring frames that people were asked about."""

    x: float
    """Share of the strip's width at which it begins, 0..100."""
    width: float
    height: float
    """Share of the row, 0..100."""
    frame: int
    """The first frame in it that was asked about."""
    samples: int


def bars(counts: NDArray[np.int64], busiest: int) -> tuple[Bar, ...]:
    """A row of the strip; `counts` is int64 (N,), samples in each frame, and `busiest` the largest
    of all rows."""
    number = min(len(counts), _BARS)
    starts = np.arange(number + 1) * len(counts) // max(number, 1)
    found = []
    for k in np.flatnonzero(np.add.reduceat(counts, starts[:-1]) if number else []):
        part = counts[starts[k] : starts[k + 1]]
        found.append(
            Bar(
                100 * k / number,
                100 / number,
                max(12.0, 100 * int(part.max()) / max(busiest, 1)),
                int(starts[k] + np.flatnonzero(part)[0]),
                int(part.sum()),
            )
        )
    return tuple(found)
