"""How near audits come: the truth against what a few frames at random places tell.

    python -m benchmarks.audits clips.toml --runs runs/results/COMMIT --frames 3,5

`--runs` holds finished runs as `benchmarks/results.py` leaves them, CLIP/SETTING/SEED, with the
masks of each round. Masks are not computed again: the frames are chosen as an audit chooses them,
and compared with the true labels. Prints Markdown.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.ablation import Clip
from hvsa_cvat.session.answers import ANSWER_COLUMNS, answers_of
from hvsa_cvat.session.audit import audit, audit_frames
from hvsa_cvat.session.outlook import HeldOut, count_held_out, count_levels
from hvsa_cvat.simulation.datasets import open_labels
from hvsa_cvat.types import LabelSet
from hvsa_cvat.video.frames import open_frames

_AUDITS = 2
"""Of each round, from different offsets."""


@dataclass(frozen=True)
class Masks:
    """The masks of one round of one run, compared with the truth."""

    clip: str
    setting: str
    round: int
    miou: float
    tables: list[NDArray[np.int64]]
    """`count_held_out` of each frame."""
    levels: NDArray[np.int64]
    """`count_levels` of each frame, int64 (N, C, LEVELS)."""
    answered: frozenset[int]
    """Frames that people have answered as a whole."""
    certain: bool
    """Whether their masks are right: people drew them, and masks show what people drew."""


def find_masks(clips: dict[str, Clip], runs: Path) -> Iterator[Masks]:
    for name, clip in clips.items():
        frames = open_frames(clip.video)
        labels = LabelSet(tuple(clip.classes.split(",")))
        truths, count = open_labels(clip.labels, frames, labels), len(labels)
        for path in sorted((runs / name).glob("*/*/metrics.json")):
            answered: set[int] = set()
            setting = path.parent.parent.name
            for one in json.loads(path.read_text())["rounds"][1:]:
                folder = path.parent / "rounds" / str(one["round"])
                answered |= _whole_frames(folder / "answers.npz")
                maps = [_read(folder / "label_maps" / f"{frame}.png") for frame in frames.names]
                certainty = [_read(folder / "certainty" / f"{frame}.png") for frame in frames.names]
                pairs = list(zip(maps, certainty, strict=True))
                yield Masks(
                    name,
                    setting,
                    one["round"],
                    one["miou"],
                    [count_held_out(*pair, truths[t], count) for t, pair in enumerate(pairs)],
                    np.stack([count_levels(*pair, count) for pair in pairs]),
                    frozenset(answered),
                    not setting.startswith("paper") and "corrected" not in setting,
                )


def _whole_frames(path: Path) -> set[int]:
    with np.load(path) as kept:
        answers = answers_of([kept[name] for name in ANSWER_COLUMNS])
    return {one.frame for one in answers.annotations if one.segments == (0,)}


def _read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def audits(masks: Masks, count: int, rng: np.random.Generator) -> Iterator[tuple[float, bool]]:
    """(estimated less true mIoU, whether the interval holds the truth) of a few audits."""
    candidates = [t for t in range(len(masks.tables)) if t not in masks.answered]
    known = sorted(masks.answered) if masks.certain else []
    for _ in range(_AUDITS):
        chosen = audit_frames(candidates, count, rng)
        found = audit(
            HeldOut([masks.tables[t] for t in chosen], masks.levels.shape[1]),
            masks.levels.sum(axis=0),
            masks.levels[known].sum(axis=(0, 2)),
            rng,
        )
        assert found is not None
        inside = found.miou.low <= masks.miou <= found.miou.high
        yield found.miou.estimate - masks.miou, inside


@click.command()
@click.argument("clips", type=click.Path(path_type=Path, exists=True))
@click.option("--runs", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--frames", default="3,5", show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(clips: Path, runs: Path, frames: str, seed: int) -> None:
    found = {
        name: Clip.model_validate({k: v for k, v in one.items() if k != "group"})
        for name, one in tomllib.loads(clips.read_text()).items()
    }
    masks = list(find_masks(found, runs))
    click.echo(
        "| | frames | audits | mean difference | mean absolute difference | largest | "
        "truth inside |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    settings = sorted({one.setting for one in masks})
    for count in map(int, frames.split(",")):
        results = [
            (m.setting, a) for m in masks for a in audits(m, count, np.random.default_rng(seed))
        ]
        for setting in [*settings, None]:
            rows = [a for name, a in results if setting in (None, name)]
            away = 100 * np.array([difference for difference, _ in rows])
            inside = np.mean([held for _, held in rows])
            click.echo(
                f"| {setting or 'all'} | {count} | {len(rows)} | {away.mean():+.1f} | "
                f"{abs(away).mean():.1f} | {abs(away).max():.1f} | {100 * inside:.0f} % |"
            )


if __name__ == "__main__":
    main()
