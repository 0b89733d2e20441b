"""The table of minutes in docs/results.md: people who draw against people who correct.

    python -m benchmarks.minutes clips.toml --out runs/minutes --write docs/results.md

`clips.toml` is that of `benchmarks/results.py`, and so are the runs: one process each, kept in
`rows.json`, not repeated. Runs come seed by seed, first those that draw and correct to 1 pixel on
all clips, then those that correct to 2 pixels, so that the command may be stopped at any time.
Minutes are those of simulated people by the published figures (docs/effort.md).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.results import (
    GroupedClip,
    Point,
    Row,
    Rows,
    Run,
    git_commit,
    group_means,
    groups_of,
    mean_series,
    measure,
    publish,
    read_clips,
)
from hvsa_cvat.budgets import parse_budgets

FIRST, LAST = "<!-- minutes: made by `make minutes` -->", "<!-- /minutes -->"

DRAWN = "`hvsa`, whole frames"
CORRECTED = ("`hvsa`, whole frames, corrected to 1 px", "`hvsa`, whole frames, corrected to 2 px")
_NAMES = dict(zip((DRAWN, *CORRECTED), ("drawn", "corrected to 1 px", "to 2 px"), strict=True))

_GOAL = 2 / 3
"""The share of drawing's minutes that correcting is meant to take at most, for the same mIoU."""


@dataclass(frozen=True)
class Reached:
    """What a series of rounds has with some clicks, or for some mIoU."""

    miou: float
    minutes: float


def due(clips: dict[str, GroupedClip], seeds: list[int], budget: str, commit: str) -> list[Run]:
    """All runs in the order in which they are worth most to an unfinished table."""
    return [
        Run(name, clip, setting, seed, budget, commit)
        for seed in seeds
        for settings in ((DRAWN, CORRECTED[0]), CORRECTED[1:])
        for (name, clip), setting in itertools.product(clips.items(), settings)
    ]


def at_clicks(series: tuple[Point, ...], clicks: float) -> Reached:
    """mIoU and minutes with `clicks`, in %, on a straight line between rounds. A series that ended
    with fewer has what it had then."""
    for before, after in itertools.pairwise(series):
        if before.clicks <= clicks < after.clicks:
            share = (clicks - before.clicks) / (after.clicks - before.clicks)
            return _between(before, after, share)
    return _between(series[-1], series[-1], 0)


def for_miou(series: tuple[Point, ...], miou: float) -> Reached | None:
    """The minutes at which a series first reaches `miou`, in %, on a straight line between rounds;
    None if it does not."""
    for before, after in itertools.pairwise(series):
        if before.miou < miou <= after.miou:
            return _between(before, after, (miou - before.miou) / (after.miou - before.miou))
    return None


def _between(before: Point, after: Point, share: float) -> Reached:
    first, second = before.minutes or 0.0, after.minutes or 0.0
    return Reached(
        before.miou + share * (after.miou - before.miou), first + share * (second - first)
    )


def report(rows: list[Row], groups: dict[str, set[str]], commit: str, budget: str) -> str:
    """Both tables; `groups` has the clips of each part of them. Rows of older versions, without
    minutes, are left out."""
    rows = [
        row
        for row in rows
        if (row.commit, row.budget) == (commit, budget)
        and all(point.minutes is not None for point in row.points)
    ]
    found = {
        group: {
            setting: series for setting in _NAMES if (series := group_means(rows, clips, setting))
        }
        for group, clips in groups.items()
    }
    found = {group: table for group, table in found.items() if table}
    if not found:
        return f"Nothing has been measured on commit {commit} yet."
    totals = [100 * total for total in parse_budgets(budget, 4)]
    devices = ", ".join(sorted({row.device for row in rows}))
    lines = [
        f"| | seeds | {' | '.join(f'{total:g} %' for total in totals)} |",
        "| --- | ---: |" + " --- |" * len(totals),
    ]
    for group, table in found.items():
        for setting, series in table.items():
            cells = [_cell([at_clicks(one, total) for one in series]) for total in totals]
            lines.append(f"| {group}, {_NAMES[setting]} | {len(series)} | {' | '.join(cells)} |")
    lines += [
        "",
        "A cell: **mIoU** ± standard deviation over seeds (minutes of people), with these clicks in"
        " % of drawing every frame; on a straight line between rounds, and where a run ended with"
        " fewer clicks, what it had then.",
        "",
        f"| the mIoU of drawing | minutes to draw | {' | '.join(map(_title, CORRECTED))} |",
        "| --- | ---: |" + " --- |" * len(CORRECTED),
    ]
    for group, table in found.items():
        lines += _equal(group, table, totals)
    lines += [
        "",
        "Minutes for the same mIoU, and their share of the minutes to draw: "
        f"at most {100 * _GOAL:.0f} % are wanted. Means over seeds.",
        f"All of it is of commit `{commit}` ({devices}) and of one command, `make minutes`.",
    ]
    return "\n".join(lines)


def _title(setting: str) -> str:
    return f"corrected {_NAMES[setting].removeprefix('corrected ')}"


def _cell(reached: list[Reached]) -> str:
    mious = [one.miou for one in reached]
    spread = f" ±{statistics.stdev(mious):.1f}" if len(mious) > 1 else ""
    minutes = statistics.mean(one.minutes for one in reached)
    return f"**{statistics.mean(mious):.1f}**{spread} ({minutes:.0f} min)"


def _equal(
    group: str, table: dict[str, list[tuple[Point, ...]]], totals: list[float]
) -> Iterator[str]:
    """One line for each share of clicks: what people who correct need for what drawing has then."""
    if DRAWN not in table:
        return
    drawn = mean_series(table[DRAWN])
    for total in totals:
        goal, cells = at_clicks(drawn, total), []
        for setting in CORRECTED:
            series = table.get(setting)
            reached = None if series is None else for_miou(mean_series(series), goal.miou)
            if reached is not None:
                share = 100 * reached.minutes / goal.minutes
                cells.append(f"{reached.minutes:.0f} min ({share:.0f} %)")
            else:
                cells.append("" if series is None else "not reached")
        yield (
            f"| {group}, {total:g} %: {goal.miou:.1f} | {goal.minutes:.0f} | {' | '.join(cells)} |"
        )


@click.command()
@click.argument("clips", type=click.Path(path_type=Path, exists=True))
@click.option("--budget", default="2%,4%,7%,10%", show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--jobs", default=1, show_default=True, help="Runs at once.")
@click.option("--commit", help="Name of the measured commit; default: what git says.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the runs.")
@click.option("--write", type=click.Path(path_type=Path), help="Markdown file with the marks.")
@click.option("--table-only", is_flag=True, help="Run nothing; make the tables of what is there.")
def main(
    clips: Path,
    budget: str,
    seeds: str,
    device: str,
    jobs: int,
    commit: str | None,
    out: Path,
    write: Path | None,
    table_only: bool,
) -> None:
    found = read_clips(clips)
    commit, rows = commit or git_commit(), Rows(out / "rows.json")
    failed: list[str] = []
    if not table_only:
        runs = due(found, [int(seed) for seed in seeds.split(",")], budget, commit)
        failed = measure(runs, rows, out, device=device, jobs=jobs, end=float("inf"))
    groups = groups_of(found)
    # a group of several clips lacks a seed until all of them have it; its clips stand beside it
    each = {name: {name} for clips_of in groups.values() if len(clips_of) > 1 for name in clips_of}
    each = {name: clips_of for name, clips_of in sorted(each.items()) if name not in groups}
    text = report(rows.all, {**groups, **each}, commit, budget)
    publish(text, write, (FIRST, LAST), failed)


if __name__ == "__main__":
    main()
