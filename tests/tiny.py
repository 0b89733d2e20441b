"""A clip, a network and a training so small that the whole loop runs in a second."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PillowImage

from hvsa_cvat.config import RunConfig, TrainingConfig
from hvsa_cvat.ports import Progress, silent
from hvsa_cvat.segmentation.checkpoint import new_network, save_checkpoint
from hvsa_cvat.segmentation.checkpoint_info import CheckpointInfo
from hvsa_cvat.session.context import Clock, RunInputs
from hvsa_cvat.simulation.datasets import LabelMaps, open_labels
from hvsa_cvat.simulation.experiment import Experiment, run_experiment
from hvsa_cvat.simulation.scores import RoundMetrics, RunMetrics
from hvsa_cvat.types import IGNORE, LabelMap, LabelSet, Size
from hvsa_cvat.video.flow_estimators import DisFlow
from hvsa_cvat.video.frames import open_frames

LABELS = LabelSet(("floor", "box", "ball"))
COLOURS = np.array([(90, 90, 90), (200, 40, 40), (40, 60, 220)], np.uint8)
SIZE = (48, 64)

QUICK = TrainingConfig(optimizer="adamw", learning_rate=1e-3, epochs=1, batch_pairs=3)
"""Two steps a round."""


@dataclass(frozen=True)
class Clip:
    """Folders of PNG files that belong together."""

    images: Path
    labels: Path


def truth(frame: int, size: Size = SIZE) -> LabelMap:
    """A box that moves right and a ball that moves down, on a floor."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    label_map = np.zeros(size, np.uint8)
    left = width // 8 + 3 * frame
    label_map[height // 4 : height // 2, left : left + width // 4] = 1
    centre = (height // 3 + 2 * frame, width * 3 // 4)
    label_map[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (height // 6) ** 2] = 2
    return label_map


def write_clip(root: Path, length: int = 6, size: Size = SIZE, void: bool = False) -> Clip:
    """Frames a0.png, a1.png, ... and their labels; `void` labels none of the pixels."""
    clip = Clip(root / "images", root / "labels")
    for folder in (clip.images, clip.labels):
        folder.mkdir(parents=True)
    texture = np.random.default_rng(0).integers(0, 40, (*size, 1), np.uint8)
    for frame in range(length):
        label_map = truth(frame, size)
        save_png(clip.images / f"a{frame}.png", COLOURS[label_map] + texture)
        save_png(
            clip.labels / f"a{frame}.png", np.full_like(label_map, IGNORE) if void else label_map
        )
    return clip


def save_png(path: Path, pixels: np.ndarray) -> None:
    PillowImage.fromarray(pixels).save(path)


def read_png(path: Path) -> np.ndarray:
    with PillowImage.open(path) as image:
        return np.asarray(image)


def write_checkpoint(path: Path, labels: LabelSet = LABELS) -> Path:
    """Random weights."""
    network = new_network("hrnet_w18_small", len(labels), seed=3)
    info = CheckpointInfo(network.name, labels.names, SIZE, network.align_corners, 0)
    save_checkpoint(network, info, path)
    return path


def experiment(
    clip: Clip,
    checkpoint: Path,
    labels: LabelSet = LABELS,
    truths: LabelMaps | None = None,
    video: Path | None = None,
    **settings: Any,
) -> Experiment:
    """`settings` are those of `RunConfig`; two rounds of frames unless they say otherwise."""
    frames = open_frames(video or clip.images)
    if settings.get("method") != "label-propagation":
        settings.setdefault("training", QUICK)
    height, width = frames.size
    return Experiment(
        video="clip",
        truths=truths or open_labels(clip.labels, frames, labels),
        inputs=RunInputs(
            source=frames,
            labels=labels,
            config=RunConfig(
                **{
                    "method": "paper",
                    "budgets": (0.2, 0.5),
                    "size": (max(height, 32), max(width, 32)),
                    **settings,
                }
            ),
            checkpoint=checkpoint,
            flow=DisFlow(),
            device=torch.device("cpu"),
        ),
    )


def run(
    what: Experiment,
    out: Path,
    *,
    clock: Clock = time.perf_counter,
    progress: Progress = silent,
) -> RunMetrics:
    return run_experiment(what, out, clock=clock, progress=progress, tell=_nobody)


def _nobody(metrics: RoundMetrics) -> None:
    pass


def ticking() -> Clock:
    """A clock that goes on by a second each time it is read."""
    ticks: Iterator[int] = count()
    return lambda: float(next(ticks))


def numbers(out: Path) -> dict[str, Any]:
    """`metrics.json` without what was measured by the clock."""
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    del metrics["preparation_seconds"]
    for one in metrics["rounds"]:
        del one["seconds"]
    return metrics


def label_maps(out: Path) -> dict[str, bytes]:
    """Pixels of every label map by `round/name`."""
    found = sorted((out / "rounds").glob("*/label_maps/*.png"))
    return {f"{p.parts[-3]}/{p.stem}": read_png(p).tobytes() for p in found}
