"""mIoU of one fine-tuning by the method `paper`, the product's against the plain one.

    python -m benchmarks.quality clips.toml --seeds 0,1,2

`clips.toml` names labelled videos, see `benchmarks/ablation.py`. Evenly spaced frames are answered;
both see the same answers and draw the same pairs. Scores are at the frames' own size, over all
frames.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.ablation import Clip
from benchmarks.reference import rest, training
from benchmarks.reference.network import ReferenceNetwork
from benchmarks.training_choices import annotated_frames
from hvsa_cvat.config import PAPER, parse_size
from hvsa_cvat.metrics import score_video
from hvsa_cvat.segmentation.checkpoint import load_checkpoint
from hvsa_cvat.segmentation.finetune import finetune
from hvsa_cvat.segmentation.pairs import TrainingData, shrink_labels
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.simulation.datasets import open_labels
from hvsa_cvat.types import LabelMap, LabelSet
from hvsa_cvat.video.flow import compute_flow
from hvsa_cvat.video.flow_estimators import DisFlow
from hvsa_cvat.video.frames import open_frames, resized_frames


def compare(clip: Clip, answered: int, seed: int, work: Path) -> tuple[float, float]:
    """mIoU in percent, the product's and the plain one's."""
    cpu, at = torch.device("cpu"), parse_size(clip.size)
    labels = LabelSet(tuple(clip.classes.split(",")))
    source = open_frames(clip.video)
    truths = open_labels(clip.labels, source, labels)
    frames = np.array(resized_frames(source, at, work / "frames.npy"))
    length = len(source)
    chosen = [int(t) for t in (np.arange(answered) + 0.5) * length / answered]
    targets = {t: shrink_labels(m, at) for t, m in annotated_frames(truths, chosen).items()}
    start, _ = load_checkpoint(clip.checkpoint, labels, seed=seed)

    def miou(maps: Iterable[LabelMap]) -> float:
        truth = (truths[t] for t in range(length))
        return 100 * (score_video(maps, truth, labels, lambda t: None).miou or 0.0)

    network = copy.deepcopy(start)
    flow = compute_flow(frames, DisFlow(), work / "flow", workers=1)
    finetune(network, TrainingData(frames, targets, flow), PAPER, seed=(seed, 1), device=cpu)
    ours = miou(one.label_map for one in predict(network, frames, source.size, device=cpu))

    plain = ReferenceNetwork(copy.deepcopy(start))
    pairs = training.Pairs(frames, targets, rest.compute_flow(frames, rest.dis))
    training.finetune(plain, pairs, PAPER, (seed, 1))
    whole = np.zeros(source.size, np.int32)
    return ours, miou(
        one.label_map for one in rest.predict(plain, frames, source.size, lambda t: whole)
    )


@click.command()
@click.argument("clips", type=click.Path(path_type=Path, exists=True))
@click.option("--answered", default=5, show_default=True, help="Frames.")
@click.option("--seeds", default="0,1,2", show_default=True)
def main(clips: Path, answered: int, seeds: str) -> None:
    click.echo("| video | product, mIoU by seed | plain | difference of the means |")
    click.echo("| --- | --- | --- | ---: |")
    for name, clip in tomllib.loads(clips.read_text()).items():
        found = []
        for seed in seeds.split(","):
            with tempfile.TemporaryDirectory() as work:
                found.append(compare(Clip.model_validate(clip), answered, int(seed), Path(work)))
        ours, plain = zip(*found, strict=True)
        apart = statistics.mean(ours) - statistics.mean(plain)
        shown = [" ".join(f"{value:.1f}" for value in values) for values in (ours, plain)]
        click.echo(f"| {name} | {shown[0]} | {shown[1]} | {apart:+.2f} |")


if __name__ == "__main__":
    main()
