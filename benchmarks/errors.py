"""Where the masks of a run are still wrong: by distance to the nearest boundary of the truth, by
distance in time to the nearest frame with an answer, by class.

    python -m benchmarks.errors runs/ablation/driving/hvsa/0 VIDEO --labels DIR --classes a,b,c \\
        --round 3

Prints one Markdown table; shares are of pixels with a truth.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy.ndimage import distance_transform_edt
from skimage.segmentation import find_boundaries

from hvsa_cvat.simulation.datasets import open_labels
from hvsa_cvat.types import IGNORE, LabelMap, LabelSet
from hvsa_cvat.video.frames import open_frames

PIXELS = (2, 5, 10)
"""Upper ends of the steps of distance to a boundary; the last step has none."""

FRAMES = (0, 4, 8)
"""The same in time, in frames; 0 is an answered frame itself."""


def boundary_steps(truth: LabelMap) -> NDArray[np.int64]:
    """int64 (H, W): in which step of `PIXELS` a pixel is."""
    edges = find_boundaries(truth, mode="thick")
    if not edges.any():
        return np.full(truth.shape, len(PIXELS), np.int64)
    return np.digitize(distance_transform_edt(~edges) + 1, PIXELS, right=True)


def time_step(frame: int, answered: Sequence[int]) -> int:
    """In which step of `FRAMES` a frame is."""
    return int(np.digitize(min(abs(frame - one) for one in answered), FRAMES, right=True))


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("video", type=click.Path(path_type=Path, exists=True))
@click.option("--labels", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--classes", required=True)
@click.option("--round", "number", required=True, type=click.IntRange(1))
def main(run: Path, video: Path, folder: Path, classes: str, number: int) -> None:
    labels = LabelSet(tuple(classes.split(",")))
    source = open_frames(video)
    truths = open_labels(folder, source, labels)
    rounds = run / "rounds"
    answered = sorted(
        {
            frame
            for k in range(1, number + 1)
            for frame, _ in json.loads((rounds / str(k) / "selection.json").read_text())["samples"]
        }
    )
    near = np.zeros((2, len(PIXELS) + 1))
    late = np.zeros((2, len(FRAMES) + 1))
    for frame, name in enumerate(source.names):
        truth = truths[frame]
        known = truth != IGNORE
        with PillowImage.open(rounds / str(number) / "label_maps" / f"{name}.png") as image:
            wrong = (np.asarray(image) != truth)[known]
        steps = boundary_steps(truth)[known]
        near += [np.bincount(steps, w, len(PIXELS) + 1) for w in (np.ones(len(wrong)), wrong)]
        late[:, time_step(frame, answered)] += len(wrong), wrong.sum()
    click.echo("| | share of pixels, % | wrong there, % | share of all errors, % |")
    click.echo("| --- | ---: | ---: | ---: |")
    for unit, ends, (pixels, errors) in (
        ("pixels from a boundary", PIXELS, near),
        ("frames from an answer", FRAMES, late),
    ):
        starts = ("", *(f"over {end}" for end in ends))
        for k, start in enumerate(starts):
            step = " ".join(
                part for part in (start, f"to {ends[k]}" if k < len(ends) else "") if part
            )
            click.echo(
                f"| {step} {unit} | {100 * pixels[k] / pixels.sum():.1f} "
                f"| {100 * errors[k] / max(pixels[k], 1):.1f} "
                f"| {100 * errors[k] / max(errors.sum(), 1):.1f} |"
            )
    scores = json.loads((run / "metrics.json").read_text())["rounds"][number]
    worst = sorted((iou, name) for name, iou in scores["iou"].items() if iou is not None)
    click.echo("\nIoU: " + ", ".join(f"{name} {100 * iou:.0f}" for iou, name in worst))


if __name__ == "__main__":
    main()
