"""What `simulate` and `demo` print of a round: a line when it ends, and the table of all rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from hvsa_cvat.rates import Rate
from hvsa_cvat.types import AnswerKind

if TYPE_CHECKING:
    from hvsa_cvat.simulation.scores import RoundMetrics


def round_table(rate: Rate | None = None) -> Table:
    """An empty table with a column for each figure of a round."""
    table = Table()
    for column in (
        "round",
        "clicks",
        "% of full\nannotation",
        "minutes\nof people",
        *(("cost",) if rate is not None else ()),
        "mIoU %",
        "pixel\naccuracy %",
        "Boundary\nIoU %",
        "TC %",
        "seconds",
    ):
        table.add_column(column, justify="right")
    return table


def round_row(metrics: RoundMetrics, rate: Rate | None = None) -> list[str]:
    """The cells of a round, in the order of the columns of `round_table`."""
    minutes = metrics.minutes
    cost = ["-" if rate is None or minutes is None else rate.words(minutes)]
    return [
        str(metrics.round),
        str(metrics.clicks),
        f"{metrics.clicks_percent:.2f}",
        "-" if minutes is None else f"{minutes:.1f}",
        *(cost if rate is not None else ()),
        _percent(metrics.miou),
        _percent(metrics.pixel_accuracy),
        _percent(metrics.boundary_iou),
        _percent(metrics.temporal_consistency),
        f"{sum(metrics.seconds.values()):.1f}",
    ]


def round_line(metrics: RoundMetrics) -> str:
    """A line for the terminal when a round ends."""
    return (
        f"round {metrics.round}: {metrics.clicks_percent:.1f} % of clicks, "
        f"mIoU {_percent(metrics.miou)}{_answered(metrics)}{_foreseen(metrics)}{_unseen(metrics)}"
    )


def _answered(metrics: RoundMetrics) -> str:
    """How the round's samples were answered, where they were not all drawn."""
    if set(metrics.answered) <= {AnswerKind.DRAWN}:
        return ""
    told = (f"{samples} {kind}" for kind, (samples, _) in metrics.answered.items())
    return f", answers: {', '.join(told)}"


def _foreseen(metrics: RoundMetrics) -> str:
    """What the session expects without the true labels."""
    seen = metrics.outlook
    if seen is None:
        return ""
    told = "" if seen.audit is None else f"; {seen.audit.words}"
    return (
        f" (without truth: {_percent(seen.expected_miou)}, {_percent(seen.low)} to "
        f"{_percent(seen.high)}; advice: {seen.advice}{told})"
    )


def _unseen(metrics: RoundMetrics) -> str:
    return f"; no answer shows {', '.join(metrics.unseen)} yet" if metrics.unseen else ""


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f}"
