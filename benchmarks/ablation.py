"""What each part of the method `hvsa` earns: part added to part, and every part taken out.

    python -m benchmarks.ablation clips.toml --seeds 0,1,2 --out runs/ablation \\
        --write docs/ablation.md
    python -m benchmarks.ablation clips.toml --device cuda --jobs 16 --out runs/ablation

`clips.toml` names the labelled videos, each with its network of round 0:

    [driving]
    video = "camvid/video/images"
    labels = "camvid/video/labels"
    classes = "sky,building,pole"
    checkpoint = "start.safetensors"
    size = "192x256"

Runs are resumed where they stand, so a stopped table goes
on. Prints Markdown, or puts it between the marks in a file.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import torch
from pydantic import BaseModel, ConfigDict

from benchmarks.paper_table import table
from benchmarks.side_by_side import Job, run_all
from hvsa_cvat.budgets import parse_budgets
from hvsa_cvat.config import (
    HVSA_CARRYING,
    PAPER,
    CarryingConfig,
    Method,
    RunConfig,
    Strategy,
    TrainingConfig,
    parse_size,
)
from hvsa_cvat.session.context import RunInputs
from hvsa_cvat.simulation.datasets import open_labels
from hvsa_cvat.simulation.experiment import Experiment
from hvsa_cvat.types import LabelSet
from hvsa_cvat.video.flow_estimators import DisFlow
from hvsa_cvat.video.frames import open_frames

FIRST, LAST = "<!-- ablation: made by `make ablation` -->", "<!-- /ablation -->"


@dataclass(frozen=True)
class Row:
    """What is run; evenly spaced whole frames are asked for unless it says otherwise."""

    method: Method
    carrying: CarryingConfig | None = None
    training: TrainingConfig | None = None
    """Both the method's own unless given."""
    strategy: Strategy = Strategy.UNIFORM
    granularity: str = "frame"
    last: str | None = None
    """Granularity of the last round, if another."""
    farthest: bool | None = None
    """The method's own unless given."""
    tolerance: float | None = None
    """Pixels. People confirm and correct the masks of the round before; without it they draw."""
    confirmed_weight: float = 1.0
    """How much the masks count that they left as they were."""


def _hvsa_but(**parts: bool) -> CarryingConfig:
    return HVSA_CARRYING.model_copy(update=parts)


ROWS: dict[str, Row] = {
    "label propagation": Row("label-propagation"),
    "+ finer flow": Row("label-propagation", CarryingConfig(fine=True)),
    "+ drift taken out": Row("label-propagation", CarryingConfig(fine=True, without_drift=True)),
    "+ read by colour": Row(
        "label-propagation", CarryingConfig(fine=True, without_drift=True, by_colour=True)
    ),
    "+ network of `paper`, fused": Row(
        "hvsa", _hvsa_but(taught=False, refined=False, smoothed=False), PAPER
    ),
    "+ carried labels teach it": Row("hvsa", _hvsa_but(refined=False, smoothed=False)),
    "+ refined": Row("hvsa", _hvsa_but(smoothed=False)),
    "+ smoothed: `hvsa`": Row("hvsa", HVSA_CARRYING),
    "`hvsa` without finer flow": Row("hvsa", _hvsa_but(fine=False)),
    "`hvsa` without taking out drift": Row("hvsa", _hvsa_but(without_drift=False)),
    "`hvsa` without reading by colour": Row("hvsa", _hvsa_but(by_colour=False)),
    "`hvsa` without fusion": Row("hvsa", _hvsa_but(fused=False)),
    "`hvsa` without remembering": Row("hvsa", _hvsa_but(remembered=False)),
    "`hvsa` without refinement": Row("hvsa", _hvsa_but(refined=False)),
    "`hvsa` with 16-px rectangles": Row(
        "hvsa", strategy=Strategy.ACTIVE, granularity="rectangle:16"
    ),
    "`hvsa` with 16-px rectangles, at last frames": Row(
        "hvsa", granularity="rectangle:16", last="frame"
    ),
    "that, one rectangle of each cluster": Row(
        "hvsa", granularity="rectangle:16", last="frame", farthest=False
    ),
    "16-px rectangles, at last frames, not refined, not smoothed": Row(
        "hvsa",
        _hvsa_but(refined=False, smoothed=False),
        granularity="rectangle:16",
        last="frame",
    ),
    "`hvsa`, corrected to 1 px": Row("hvsa", tolerance=1.0),
    "corrected to 1 px, what was left as it was counts half": Row(
        "hvsa", tolerance=1.0, confirmed_weight=0.5
    ),
    "corrected to 1 px, not refined, not smoothed": Row(
        "hvsa", _hvsa_but(refined=False, smoothed=False), tolerance=1.0
    ),
    "`paper`": Row("paper"),
    "`paper` with 16-px rectangles": Row(
        "paper", strategy=Strategy.ACTIVE, granularity="rectangle:16"
    ),
}
"""The first eight add part after part; then parts are taken out, smaller samples asked for, and the
paper's method. Rectangles are chosen by active selection."""


class Clip(BaseModel):
    """A labelled video; paths are relative to where the command runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    video: Path
    labels: Path
    classes: str
    """Comma separated names."""
    checkpoint: Path
    size: str
    """HEIGHTxWIDTH of the network."""

    def experiment(self, row: str, budget: str, seed: int, device: str = "cpu") -> Experiment:
        asked = ROWS[row]
        frames = open_frames(self.video)
        labels = LabelSet(tuple(self.classes.split(",")))
        budgets = parse_budgets(budget, 3)
        granularity = asked.granularity
        if asked.last is not None:
            granularity = ",".join([granularity] * (len(budgets) - 1) + [asked.last])
        return Experiment(
            video=self.video.resolve().parent.name,
            truths=open_labels(self.labels, frames, labels),
            inputs=RunInputs(
                source=frames,
                labels=labels,
                config=RunConfig(
                    method=asked.method,
                    strategy=asked.strategy,
                    granularity=granularity,
                    budgets=budgets,
                    size=parse_size(self.size),
                    seed=seed,
                    flow="dis",
                    training=asked.training,
                    carrying=asked.carrying,
                    farthest=asked.farthest,
                    answers="draw" if asked.tolerance is None else "correct",
                    tolerance=asked.tolerance,
                    confirmed_weight=asked.confirmed_weight,
                ),
                checkpoint=self.checkpoint,
                flow=DisFlow(),
                device=torch.device(device),
            ),
        )


@click.command()
@click.argument("clips", type=click.Path(path_type=Path, exists=True))
@click.option("--budget", default="2%,5%,10%", show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option(
    "--rows", default="", help="Only rows whose names contain one of these, comma separated."
)
@click.option("--device", default="cpu", show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Runs at once.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--write", type=click.Path(path_type=Path), help="Markdown file with the marks.")
@click.option("--table-only", is_flag=True, help="Run nothing; make the table of what is there.")
def main(
    clips: Path,
    budget: str,
    seeds: str,
    rows: str,
    device: str,
    jobs: int,
    out: Path,
    write: Path | None,
    table_only: bool,
) -> None:
    found = {
        name: Clip.model_validate(clip) for name, clip in tomllib.loads(clips.read_text()).items()
    }
    chosen = [row for row in ROWS if any(part in row for part in rows.split(","))]
    numbers = [int(seed) for seed in seeds.split(",")]
    # seed by seed, so that an unfinished table has every row
    due = [
        Job(
            f"{name}, {row}, seed {seed}",
            partial(clip.experiment, row, budget, seed, device),
            _folder(out, name, row, seed),
        )
        for seed in numbers
        for name, clip in found.items()
        for row in chosen
    ]
    run_all([] if table_only else due, jobs)
    parts = []
    for name in found:
        folders = {row: [_folder(out, name, row, seed) for seed in numbers] for row in chosen}
        parts += [f"### {name}", "", table(folders), ""]
    text = "\n".join(parts)
    if write is None:
        click.echo(text)
    else:
        write.write_text(between_marks(write.read_text(), text))


def between_marks(document: str, text: str, first: str = FIRST, last: str = LAST) -> str:
    """`document` with `text` in place of what stood between the marks."""
    before, mark, rest = document.partition(first)
    _, end, after = rest.partition(last)
    if not (mark and end):
        raise click.ClickException(f"no place for the table; write {first} and {last} in the file")
    return f"{before}{first}\n\n{text.strip()}\n\n{last}{after}"


def _folder(out: Path, clip: str, row: str, seed: int) -> Path:
    return out / clip / re.sub(r"[^a-z0-9]+", "-", row).strip("-") / str(seed)


if __name__ == "__main__":
    main()
