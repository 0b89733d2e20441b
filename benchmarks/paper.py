"""The paper's experiments on a folder of labelled clips: a table in Markdown, and a plot.

    python -m benchmarks.paper table1 --data DIR --out runs/paper

| name | what is compared |
| --- | --- |
| table1 | granularities, by active selection (ASS) and at random: scores after the last round |
| table2 | fine-tuning alone, label propagation and both losses (ours), on whole frames |
| figure7 | the rows of table1, round by round, over clicks and over annotated pixels |
| figure8 | the rows of table2 in the same way |
| iterations | what each round adds to the mIoU, for each granularity by active selection |

DIR holds folders of clips, each with `images/`, `labels/` and `classes.txt` as `hvsa-agent dataset
import` writes them; `classes.txt` may lie in the folder above. So does the network of round 0,
`start.safetensors`, unless --checkpoint names one. Clips of one folder are one data set, and a row
is the mean over them; DIR may also hold several such folders.

The paper's printed figures are not part of this project. Where `printed.toml` lies in DIR, with a
table `[table1]` of lines `"Rec16, ASS" = 90.1`, its mIoU stand beside ours.

Runs are resumed where they stand, and shared by all five. `--method paper` has the settings for
small networks in place of the paper's own (docs/method.md).
"""

from __future__ import annotations

import re
import statistics
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import click
from matplotlib.figure import Figure

from benchmarks.side_by_side import Job, run_all
from hvsa_cvat.budgets import parse_budgets
from hvsa_cvat.class_lists import read_classes
from hvsa_cvat.config import TRAINING, Method, RunConfig, Strategy, parse_size
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.segmentation.device import choose_device
from hvsa_cvat.session.context import RunInputs
from hvsa_cvat.simulation.datasets import open_labels
from hvsa_cvat.simulation.experiment import Experiment
from hvsa_cvat.simulation.scores import RoundMetrics, RunMetrics
from hvsa_cvat.video.flow_estimators import choose_flow
from hvsa_cvat.video.frames import open_frames

ROUNDS = 3
"""The paper's; of a budget that names one total only."""

_LARGE = 320 * 240
"""Pixels of a frame; above it a step has as many pairs as the paper's of 800x600."""
_PAIRS_OF_LARGE = 2


@dataclass(frozen=True)
class Row:
    """How people are asked, and what learns from their answers."""

    granularity: str = "frame"
    strategy: Strategy = Strategy.ACTIVE
    method: Method | None = None
    """None: the paper's method in the settings that are asked for."""
    consistent: bool = True
    """Whether temporal consistency is a loss."""


GRANULARITIES = {
    "Frame": "frame",
    "Rec100": "rectangle:100",
    "Rec40": "rectangle:40",
    "Rec16": "rectangle:16",
    "SP": "superpixel:300",
}

SELECTIONS = {
    f"{name}, {told}": Row(kind, strategy)
    for name, kind in GRANULARITIES.items()
    for told, strategy in (("ASS", Strategy.ACTIVE), ("random", Strategy.RANDOM))
}
METHODS = {
    "fine-tune only": Row(consistent=False),
    "label propagation": Row(method="label-propagation"),
    "ours": Row(),
}
ITERATIONS = {name: row for name, row in SELECTIONS.items() if name.endswith("ASS")}

EXPERIMENTS = {
    "table1": SELECTIONS,
    "table2": METHODS,
    "figure7": SELECTIONS,
    "figure8": METHODS,
    "iterations": ITERATIONS,
}


@dataclass(frozen=True)
class PaperClip:
    """A labelled clip and the network of its round 0."""

    folder: Path
    checkpoint: Path

    def experiment(self, row: Row, settings: Settings) -> Experiment:
        labels = read_classes(str(_beside(self.folder, "classes.txt")))
        frames = open_frames(self.folder / "images")
        device = choose_device(settings.device)
        size = parse_size(settings.size) if settings.size else frames.size
        return Experiment(
            video=self.folder.name,
            truths=open_labels(self.folder / "labels", frames, labels),
            inputs=RunInputs(
                source=frames,
                labels=labels,
                config=settings.config(row, size),
                checkpoint=self.checkpoint,
                flow=choose_flow("auto", device.type, None)[0],
                device=device,
            ),
        )


@dataclass(frozen=True)
class Settings:
    """What all rows have in common."""

    method: Method
    budget: str
    size: str | None
    seed: int
    device: str
    epochs: int | None = None
    """None: those of the method."""

    def config(self, row: Row, size: tuple[int, int]) -> RunConfig:
        method = row.method or self.method
        training = TRAINING[method]
        if training is not None:
            changes: dict[str, float | int] = {}
            if not row.consistent:
                changes["consistency_weight"] = 0.0
            if size[0] * size[1] > _LARGE:
                changes["batch_pairs"] = min(training.batch_pairs, _PAIRS_OF_LARGE)
            if self.epochs is not None:
                changes["epochs"] = self.epochs
            training = training.model_copy(update=changes)
        return RunConfig(
            method=method,
            strategy=row.strategy,
            granularity=row.granularity,
            budgets=parse_budgets(self.budget, ROUNDS),
            size=size,
            seed=self.seed,
            training=training,
        )


def find_clips(data: Path, checkpoint: Path | None) -> dict[str, list[PaperClip]]:
    """The clips of each data set in `data`, by the name of its folder."""
    found: dict[str, list[PaperClip]] = {}
    for images in sorted([*data.glob("*/images"), *data.glob("*/*/images")]):
        clip = images.parent
        start = checkpoint or _beside(clip, "start.safetensors")
        for needed in (clip / "labels", _beside(clip, "classes.txt"), start):
            if not needed.exists():
                raise ConfigError(
                    f"{clip} has no {needed.name}; import the data by `hvsa-agent dataset import`, "
                    "and put the network of round 0 there as start.safetensors or name it by "
                    "--checkpoint"
                )
        found.setdefault(clip.parent.name, []).append(PaperClip(clip, start))
    if not found:
        raise ConfigError(
            f"{data} holds no clips: folders with images/, labels/ and classes.txt; make them by "
            "`hvsa-agent dataset import`, or by `python -m tools.rooms` in place of SceneNet"
        )
    return found


def _beside(clip: Path, name: str) -> Path:
    """In the clip's folder, else in the one above it."""
    own = clip / name
    return own if own.exists() else clip.parent / name


def measure(
    clips: Sequence[PaperClip], rows: Mapping[str, Row], settings: Settings, out: Path, at_once: int
) -> dict[str, list[RoundMetrics]]:
    """For each row the mean over the clips, round by round; what has run already is read."""
    folders = {
        name: [_folder(out, clip, name, row, settings) for clip in clips]
        for name, row in rows.items()
    }
    jobs = {
        folder: Job(f"{clip.folder.name}: {name}", partial(clip.experiment, row, settings), folder)
        for name, row in rows.items()
        for clip, folder in zip(clips, folders[name], strict=True)
    }
    run_all(list(jobs.values()), at_once)
    return {name: means([_metrics(one) for one in runs]) for name, runs in folders.items()}


def _folder(out: Path, clip: PaperClip, name: str, row: Row, settings: Settings) -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())
    # the rows "ours" and "Frame, ASS" are the same run
    slug = "frame-ass" if row == Row() else slug
    at = out / clip.folder.parent.name / clip.folder.name / slug
    return at / f"{settings.method}-{settings.seed}"


def _metrics(folder: Path) -> RunMetrics:
    return RunMetrics.model_validate_json((folder / "metrics.json").read_bytes())


_AVERAGED = ("miou", "boundary_iou", "temporal_consistency", "clicks_percent", "pixels_percent")


def means(runs: Sequence[RunMetrics]) -> list[RoundMetrics]:
    """The rounds that all runs have, with the mean of their scores."""
    averaged = []
    for rounds in zip(*(run.rounds for run in runs), strict=False):
        values = {name: _mean([getattr(one, name) for one in rounds]) for name in _AVERAGED}
        averaged.append(rounds[0].model_copy(update=values))
    return averaged


def _mean(scores: Sequence[float | None]) -> float | None:
    """Of those that are defined."""
    defined = [one for one in scores if one is not None]
    return statistics.mean(defined) if defined else None


def score_table(
    found: Mapping[str, Sequence[RoundMetrics]], printed: Mapping[str, float]
) -> list[str]:
    """Markdown: the scores of each row after its last round."""
    theirs = " mIoU in the paper |" if printed else ""
    lines = [
        f"| | clicks, % | pixels, % | mIoU |{theirs} Boundary IoU | TC |",
        "| --- |" + " ---: |" * (6 if printed else 5),
    ]
    for name, rounds in found.items():
        last = rounds[-1]
        beside = f" {printed.get(name, '')} |" if printed else ""
        lines.append(
            f"| {name} | {last.clicks_percent:.1f} | {last.pixels_percent:.1f} | "
            f"**{_percent(last.miou)}** |{beside} {_percent(last.boundary_iou)} | "
            f"{_percent(last.temporal_consistency)} |"
        )
    return lines


def gain_table(found: Mapping[str, Sequence[RoundMetrics]]) -> list[str]:
    """Markdown: the mIoU of round 0, and what each round adds to it."""
    count = max(len(rounds) for rounds in found.values())
    numbers = range(1, count)
    lines = ["| | round 0 |" + "".join(f" round {k} |" for k in numbers)]
    lines.append("| --- |" + " ---: |" * count)
    for name, rounds in found.items():
        mious = [100 * (one.miou or 0.0) for one in rounds]
        gains = [f"{after - before:+.1f}" for before, after in pairwise(mious)]
        lines.append(f"| {name} | {mious[0]:.1f} | {' | '.join(gains)} |")
    return lines


def _percent(score: float | None) -> str:
    return "" if score is None else f"{100 * score:.1f}"


def plot(found: Mapping[str, Sequence[RoundMetrics]], title: str, path: Path) -> None:
    """mIoU over clicks, and over annotated pixels, as a PNG file."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, rounds in found.items():
        mious = [100 * (one.miou or 0.0) for one in rounds]
        left.plot([one.clicks_percent for one in rounds], mious, marker="o", label=name)
        right.plot([one.pixels_percent for one in rounds], mious, marker="o", label=name)
    left.set(xlabel="clicks, % of annotating every frame", ylabel="mIoU, %", title=title)
    right.set(xlabel="annotated pixels, %")
    right.legend(fontsize="small")
    figure.savefig(path, dpi=120)


@click.command()
@click.argument("name", type=click.Choice(list(EXPERIMENTS)))
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--method",
    type=click.Choice(["paper-exact", "paper"]),
    default="paper-exact",
    show_default=True,
)
@click.option("--budget", default="2%,5%,10%", show_default=True)
@click.option("--size", help="HEIGHTxWIDTH of the network. Default: the frames' own.")
@click.option("--rows", default="", help="Only rows with one of these in their names.")
@click.option("--seed", default=0, show_default=True)
@click.option("--epochs", type=int, help="Fewer than the method's, for a first look.")
@click.option("--device", default="auto", show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Runs at once.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(
    name: str,
    data: Path,
    checkpoint: Path | None,
    method: Method,
    budget: str,
    size: str | None,
    rows: str,
    seed: int,
    epochs: int | None,
    device: str,
    jobs: int,
    out: Path,
) -> None:
    settings = Settings(method, budget, size, seed, device, epochs)
    parts = [part.strip() for part in rows.split(",")]
    chosen = {row: one for row, one in EXPERIMENTS[name].items() if any(p in row for p in parts)}
    try:
        printed = _printed(data / "printed.toml", name)
        for group, clips in find_clips(data, checkpoint).items():
            found = measure(clips, chosen, settings, out, jobs)
            lines = gain_table(found) if name == "iterations" else score_table(found, printed)
            title = f"{name}, {group}, {len(clips)} clips"
            text = "\n".join([f"### {title}", "", *lines, ""])
            (out / f"{name}-{group}.md").write_text(text)
            plot(found, title, out / f"{name}-{group}.png")
            click.echo(text)
    except HvsaError as error:
        raise click.ClickException(str(error)) from error


def _printed(path: Path, name: str) -> dict[str, float]:
    """The paper's mIoU by row; empty where nobody has put them there."""
    if not path.exists():
        return {}
    try:
        table = tomllib.loads(path.read_text()).get(name, {})
        return {row: float(value) for row, value in table.items()}
    except (tomllib.TOMLDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f'{path}: {error}; write a table [{name}] of lines "Rec16, ASS" = 90.1'
        ) from error


if __name__ == "__main__":
    main()
