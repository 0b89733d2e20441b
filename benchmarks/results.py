"""The one table of docs/results.md: clicks against mIoU for `hvsa`, `paper` and label propagation.

    python -m benchmarks.results clips.toml --jobs 2 --out runs/results --write docs/results.md

`clips.toml` is that of `benchmarks/ablation.py`; a clip also names the column that it belongs to:

    [room0]
    group = "rooms"
    video = "rooms/clip_000/images"
    ...

Each run is a process of its own. A finished run becomes a row of `rows.json`, and a run that has
its row is not repeated. The table is made from the rows that are there, so the command may be
stopped at any time and given again.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from pydantic import BaseModel, ConfigDict

from benchmarks.ablation import Clip, between_marks
from hvsa_cvat.budgets import parse_budgets
from hvsa_cvat.video.frames import open_frames

FIRST, LAST = "<!-- results: made by `make results` -->", "<!-- /results -->"

ROUNDS = 3
"""Rounds of a budget that names one total only; as many as `simulate` makes of it."""


@dataclass(frozen=True)
class Setting:
    """How people are asked, and what is made of their answers."""

    method: str
    strategy: str
    granularity: str
    seeded: bool = True
    """Whether the result depends on the seed."""
    tolerance: float | None = None
    """Pixels; people correct masks with it. None: they draw."""


SETTINGS = {
    "`hvsa`, whole frames": Setting("hvsa", "uniform", "frame"),
    "`hvsa`, 16-px rectangles, then whole frames": Setting(
        "hvsa", "uniform", "rectangle:16,rectangle:16,frame"
    ),
    "`hvsa`, whole frames, corrected to 1 px": Setting("hvsa", "uniform", "frame", tolerance=1.0),
    "`hvsa`, whole frames, corrected to 2 px": Setting("hvsa", "uniform", "frame", tolerance=2.0),
    "`paper`, whole frames": Setting("paper", "uniform", "frame"),
    "`paper`, 16-px rectangles": Setting("paper", "active", "rectangle:16"),
    "label propagation, whole frames": Setting(
        "label-propagation", "uniform", "frame", seeded=False
    ),
}


class GroupedClip(Clip):
    """A labelled video and the column of the table that it counts for."""

    group: str


class Point(BaseModel):
    """The masks after one round: clicks and mIoU, both in per cent, and the minutes of people."""

    model_config = ConfigDict(frozen=True)

    clicks: float
    miou: float
    minutes: float | None = None
    """None in rows of older versions."""


class Row(BaseModel):
    """One finished run; `points` begins with round 0."""

    model_config = ConfigDict(frozen=True)

    clip: str
    group: str
    frames: int
    setting: str
    seed: int
    budget: str
    commit: str
    device: str
    seconds: float
    points: tuple[Point, ...]

    @property
    def key(self) -> tuple[str, str, int, str, str]:
        return (self.clip, self.setting, self.seed, self.budget, self.commit)


@dataclass(frozen=True)
class Run:
    """One run that is due."""

    name: str
    clip: GroupedClip
    setting: str
    seed: int
    budget: str
    commit: str

    @property
    def key(self) -> tuple[str, str, int, str, str]:
        return (self.name, self.setting, self.seed, self.budget, self.commit)

    def folder(self, out: Path) -> Path:
        setting = SETTINGS[self.setting]
        name = f"{setting.method}-{setting.granularity}".replace(":", "").replace(",", "-")
        if setting.tolerance is not None:
            name += f"-corrected-{setting.tolerance:g}px"
        return out / self.commit / self.name / name / str(self.seed)

    def command(self, out: Path, device: str) -> list[str]:
        setting = SETTINGS[self.setting]
        options = {
            "--labels": self.clip.labels,
            "--classes": self.clip.classes,
            "--checkpoint": self.clip.checkpoint,
            "--size": self.clip.size,
            "--budget": self.budget,
            "--rounds": ROUNDS,
            "--seed": self.seed,
            "--granularity": setting.granularity,
            "--strategy": setting.strategy,
            "--method": setting.method,
            "--flow": "dis",
            "--device": device,
            "--out": self.folder(out),
        }
        if setting.tolerance is None:
            options["--answers"] = "draw"
        else:
            options |= {"--answers": "correct", "--tolerance": setting.tolerance}
        told = [str(part) for option in options.items() for part in option]
        return [sys.executable, "-m", "hvsa_cvat", "simulate", str(self.clip.video), *told]

    def row(self, out: Path, device: str, seconds: float) -> Row:
        rounds = json.loads((self.folder(out) / "metrics.json").read_text())["rounds"]
        return Row(
            clip=self.name,
            group=self.clip.group,
            frames=len(open_frames(self.clip.video)),
            setting=self.setting,
            seed=self.seed,
            budget=self.budget,
            commit=self.commit,
            device=device,
            seconds=seconds,
            points=tuple(
                Point(
                    clicks=one["clicks_percent"],
                    miou=100 * (one["miou"] or 0.0),
                    minutes=one["minutes"],
                )
                for one in rounds
            ),
        )


class Rows:
    """The rows in a JSON file, which is whole after each one that is added."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = json.loads(path.read_text()) if path.exists() else []
        self.all = [Row.model_validate(one) for one in found]

    def add(self, row: Row) -> None:
        self.all.append(row)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = "[\n" + ",\n".join(one.model_dump_json() for one in self.all) + "\n]\n"
        part = self._path.with_suffix(".part")
        part.write_text(text)
        os.replace(part, self._path)


def due(
    clips: dict[str, GroupedClip], settings: list[str], seeds: list[int], budget: str, commit: str
) -> list[Run]:
    """All runs, seed by seed, so that a table that was stopped has every row."""
    return [
        Run(name, clip, setting, seed, budget, commit)
        for seed in seeds
        for (name, clip), setting in itertools.product(clips.items(), settings)
        if seed == seeds[0] or SETTINGS[setting].seeded
    ]


def measure(
    runs: Iterable[Run], rows: Rows, out: Path, *, device: str, jobs: int, end: float
) -> list[str]:
    """Run what has no row yet, `jobs` at once, until the monotonic clock shows `end`.

    Returns one line for each run that failed.
    """
    have = {row.key for row in rows.all}
    waiting = iter([run for run in runs if run.key not in have])
    running: dict[subprocess.Popen[bytes], tuple[Run, float]] = {}
    failed = []
    try:
        while time.monotonic() < end:
            for run in itertools.islice(waiting, jobs - len(running)):
                running[_start(run, out, device)] = (run, time.monotonic())
            if not running:
                break
            for process in [one for one in running if one.poll() is not None]:
                run, began = running.pop(process)
                name = f"{run.name}, {run.setting}, seed {run.seed}"
                if process.returncode != 0:
                    log = run.folder(out).with_suffix(".log")
                    failed.append(f"{name}: exit status {process.returncode}; see {log}")
                    click.echo(failed[-1], err=True)
                    continue
                rows.add(run.row(out, _device_name(device), time.monotonic() - began))
                click.echo(f"{name}: {_points(rows.all[-1])}", err=True)
            time.sleep(0.2)
    finally:
        for process in running:
            process.kill()
            process.wait()
    return failed


def _start(run: Run, out: Path, device: str) -> subprocess.Popen[bytes]:
    folder = run.folder(out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # one thread each: the runs beside it need the other processors
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(run.command(out, device), stdout=log, stderr=log, env=settings)


def _device_name(device: str) -> str:
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} processor"


def _points(row: Row) -> str:
    return ", ".join(f"{one.clicks:.1f} %: {one.miou:.1f}" for one in row.points[1:])


def group_means(rows: list[Row], clips: set[str], setting: str) -> list[tuple[Point, ...]]:
    """One series a seed, the mean over `clips`; a seed that lacks one of them is left out."""
    found = []
    for seed in sorted({row.seed for row in rows}):
        runs = [r for r in rows if r.setting == setting and r.seed == seed and r.clip in clips]
        if {row.clip for row in runs} == clips:
            found.append(mean_series(row.points for row in runs))
    return found


def mean_series(series: Iterable[tuple[Point, ...]]) -> tuple[Point, ...]:
    """Round by round, up to the last round that all have."""
    return tuple(_mean(points) for points in zip(*series, strict=False))


def _mean(points: Iterable[Point]) -> Point:
    every = list(points)
    minutes = [one.minutes for one in every if one.minutes is not None]
    return Point(
        clicks=statistics.mean(one.clicks for one in every),
        miou=statistics.mean(one.miou for one in every),
        minutes=statistics.mean(minutes) if len(minutes) == len(every) else None,
    )


def clicks_for(series: tuple[Point, ...], miou: float) -> float | None:
    """Clicks in % at which a series reaches `miou`, on a straight line between its points."""
    for before, after in itertools.pairwise(series):
        if before.miou >= miou:
            return before.clicks
        if after.miou >= miou:
            share = (miou - before.miou) / (after.miou - before.miou)
            return before.clicks + share * (after.clicks - before.clicks)
    return None


def report(rows: list[Row], groups: dict[str, set[str]], commit: str, budget: str) -> str:
    """The table, what it was measured with, and what it means in drawn frames.

    `groups` has the clips of each column.
    """
    rows = [row for row in rows if (row.commit, row.budget) == (commit, budget)]
    table = {
        setting: {group: group_means(rows, clips, setting) for group, clips in groups.items()}
        for setting in SETTINGS
    }
    table = {setting: found for setting, found in table.items() if any(found.values())}
    if not table:
        return f"Nothing has been measured on commit {commit} yet."
    totals = parse_budgets(budget, ROUNDS)
    head = [f"{group}, {100 * total:g} %" for group in groups for total in totals]
    lines = [f"| | seeds | {' | '.join(head)} |", "| --- | ---: |" + " --- |" * len(head)]
    for setting, found in table.items():
        seeds = min(len(series) for series in found.values())
        cells = [_cell(found[group], n + 1) for group in groups for n in range(len(totals))]
        lines.append(f"| {setting} | {seeds} | {' | '.join(cells)} |")
    devices = ", ".join(sorted({row.device for row in rows}))
    lines += [
        "",
        "A cell: clicks in % of drawing every frame: **mIoU** ± standard deviation over seeds.",
        f"All of it is of commit `{commit}` ({devices}) and of one command, `make results`.",
        "",
    ]
    for group, clips in groups.items():
        frames = statistics.mean(row.frames for row in rows if row.clip in clips)
        best = {
            setting: mean_series(found[group]) for setting, found in table.items() if found[group]
        }
        lines += _savings(group, frames, best)
    return "\n".join(lines)


def _cell(series: list[tuple[Point, ...]], number: int) -> str:
    points = [one[number] for one in series if number < len(one)]
    if not points:
        return ""
    mean, mious = _mean(points), [one.miou for one in points]
    spread = f" ±{statistics.stdev(mious):.1f}" if len(mious) > 1 else ""
    return f"{mean.clicks:.1f} %: **{mean.miou:.1f}**{spread}"


def _savings(group: str, frames: float, best: dict[str, tuple[Point, ...]]) -> Iterator[str]:
    """One line for each other method: where `hvsa` has what that has after the last round."""
    ours = [series for name, series in best.items() if SETTINGS[name].method == "hvsa"]
    for name, series in best.items():
        if SETTINGS[name].method == "hvsa" or not ours:
            continue
        goal = series[-1]
        reached = [found for one in ours if (found := clicks_for(one, goal.miou)) is not None]
        drawn = f"{goal.clicks * frames / 100:.1f} of {frames:.0f} drawn frames"
        yield f"- {group}: {name}: {goal.miou:.1f} mIoU for the clicks of {drawn};"
        if reached:
            yield f"  `hvsa` has that for the clicks of {min(reached) * frames / 100:.1f}."
        else:
            yield "  `hvsa` does not reach that."


def read_clips(path: Path) -> dict[str, GroupedClip]:
    """By name, as a TOML file lists them."""
    listed = tomllib.loads(path.read_text())
    return {name: GroupedClip.model_validate(clip) for name, clip in listed.items()}


def groups_of(clips: Mapping[str, GroupedClip]) -> dict[str, set[str]]:
    """The names of the clips of each group."""
    groups: dict[str, set[str]] = {}
    for name, clip in clips.items():
        groups.setdefault(clip.group, set()).add(name)
    return groups


def publish(text: str, write: Path | None, marks: tuple[str, str], failed: Sequence[str]) -> None:
    """Print the text, or put it between two marks of a file; then say which runs failed."""
    if write is None:
        click.echo(text)
    else:
        write.write_text(between_marks(write.read_text(), text, *marks))
    if failed:
        raise click.ClickException("\n".join(["these runs failed:", *failed]))


def git_commit() -> str:
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "unknown"


@click.command()
@click.argument("clips", type=click.Path(path_type=Path, exists=True))
@click.option("--budget", default="2%,4%,10%", show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--settings", default="", help="Only settings with one of these in their names.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--jobs", default=1, show_default=True, help="Runs at once.")
@click.option("--minutes", type=float, help="Stop after this time; the table has what is there.")
@click.option("--commit", help="Name of the measured commit; default: what git says.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the runs.")
@click.option("--rows", "path", type=click.Path(path_type=Path), help="Default: OUT/rows.json.")
@click.option("--write", type=click.Path(path_type=Path), help="Markdown file with the marks.")
@click.option("--table-only", is_flag=True, help="Run nothing; make the table of what is there.")
def main(
    clips: Path,
    budget: str,
    seeds: str,
    settings: str,
    device: str,
    jobs: int,
    minutes: float | None,
    commit: str | None,
    out: Path,
    path: Path | None,
    write: Path | None,
    table_only: bool,
) -> None:
    found = read_clips(clips)
    chosen = [one for one in SETTINGS if any(part in one for part in settings.split(","))]
    commit = commit or git_commit()
    rows = Rows(path or out / "rows.json")
    failed: list[str] = []
    if not table_only:
        runs = due(found, chosen, [int(seed) for seed in seeds.split(",")], budget, commit)
        end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
        failed = measure(runs, rows, out, device=device, jobs=jobs, end=end)
    text = report(rows.all, groups_of(found), commit, budget)
    publish(text, write, (FIRST, LAST), failed)


if __name__ == "__main__":
    main()
