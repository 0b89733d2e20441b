"""How near audits come: the truth against what a few frames at random places tell.

    python -m benchmarks.audits clips.toml --runs runs/results/COMMIT --frames 3,5

`--runs` holds finished runs as `benchmarks/results.py` leaves them, CLIP/SETTING/SEED, with the
masks of each round. Masks are not computed again: the frames are chosen as an audit chooses them,
and compared with the true labels. Rows that end in `, next` are of the masks of the round after, of
which the outlook says what the audit and the clicks let expect. Prints Markdown.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.ablation import Clip
from hvsa_cvat.session.answers import ANSWER_COLUMNS, answers_of
from hvsa_cvat.session.audit import audit, audit_frames
from hvsa_cvat.session.outlook import (
    STEEPEST_FALL,
    HeldOut,
    after_clicks,
    count_held_out,
    count_levels,
)
from hvsa_cvat.session.records import Audit
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
    clicks: float
    """Spent up to and with the round, in % of annotating every frame."""
    next: tuple[float, float] | None
    """mIoU and clicks of the round after; None after the last one."""
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
            rounds = json.loads(path.read_text())["rounds"][1:]
            for one, after in zip_longest(rounds, rounds[1:]):
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
                    one["clicks_percent"],
                    None if after is None else (after["miou"], after["clicks_percent"]),
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


Missed = tuple[float, bool]
"""(Estimated less true mIoU, whether the interval holds the truth)."""


def audits(masks: Masks, count: int, rng: np.random.Generator) -> Iterator[Audit]:
    """A few audits of some masks."""
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
        yield found


def missed(masks: Masks, found: Audit) -> Iterator[tuple[str, Missed]]:
    """How far an audit is from the truth, and the outlook of the next masks that rests on it; by
    the name of a row."""
    low, high = found.miou.low, found.miou.high
    yield masks.setting, (found.miou.estimate - masks.miou, low <= masks.miou <= high)
    if masks.next is not None:
        true, clicks = masks.next
        expected = after_clicks(found.miou.estimate, masks.clicks, clicks)
        highest = after_clicks(high, masks.clicks, clicks, STEEPEST_FALL)
        yield f"{masks.setting}, next", (expected - true, low <= true <= highest)


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
    for count in map(int, frames.split(",")):
        results = [
            one
            for m in masks
            for found_there in audits(m, count, np.random.default_rng(seed))
            for one in missed(m, found_there)
        ]
        groups = {name: [a for row, a in results if row == name] for name, _ in sorted(results)}
        groups["all"] = [a for row, a in results if not row.endswith(", next")]
        groups["all, next"] = [a for row, a in results if row.endswith(", next")]
        for setting, rows in groups.items():
            if not rows:
                continue
            away = 100 * np.array([difference for difference, _ in rows])
            inside = np.mean([held for _, held in rows])
            click.echo(
                f"| {setting} | {count} | {len(rows)} | {away.mean():+.1f} | "
                f"{abs(away).mean():.1f} | {abs(away).max():.1f} | {100 * inside:.0f} % |"
            )


if __name__ == "__main__":
    main()
