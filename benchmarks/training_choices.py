"""One fine-tuning on fixed answers, under changed settings: what `docs/method.md` quotes.

    python -m benchmarks.training_choices VIDEO --labels DIR --classes a,b,c --checkpoint FILE \\
        --size 192x256 --frames 5,15,25,35,45 --set learning_rate=0.001 --set epochs=4

Prints one line: the settings that were changed, mIoU, Boundary IoU, TC, seconds of training. With
`--carried` the network learns as `hvsa` does, and a second line tells of it fused with the labels.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import click
import numpy as np

from hvsa_cvat.annotation.clicks import AnnotationRules, mimic_annotation
from hvsa_cvat.config import HVSA, PAPER, TrainingConfig, parse_size
from hvsa_cvat.metrics import score_video
from hvsa_cvat.ports import FrameSource
from hvsa_cvat.propagation.fusion import fuse
from hvsa_cvat.propagation.propagate import Carried, Propagated, carry
from hvsa_cvat.segmentation.checkpoint import load_checkpoint
from hvsa_cvat.segmentation.device import choose_device
from hvsa_cvat.segmentation.finetune import finetune
from hvsa_cvat.segmentation.pairs import TrainingData, shrink_labels, shrink_weights
from hvsa_cvat.segmentation.predict import DensePrediction, predict
from hvsa_cvat.session.prepare import carrying_size
from hvsa_cvat.simulation.datasets import LabelMaps, open_labels
from hvsa_cvat.types import FrameAnnotation, LabelMap, LabelSet, Size
from hvsa_cvat.video.flow import compute_flow
from hvsa_cvat.video.flow_estimators import DisFlow
from hvsa_cvat.video.frames import open_frames, resized_frames
from hvsa_cvat.video.segments import Rectangles


@click.command()
@click.argument("video", type=click.Path(path_type=Path))
@click.option("--labels", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--classes", required=True)
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path))
@click.option("--size", required=True)
@click.option("--frames", "chosen", default="", help="Annotated frames, comma separated.")
@click.option("--rectangles", default=0, help="So many random 16-px rectangles instead.")
@click.option("--carried", is_flag=True, help="Carried labels teach, as in the method hvsa.")
@click.option("--set", "changes", multiple=True, help="NAME=VALUE of the training settings.")
@click.option("--seed", default=0, show_default=True)
def main(
    video: Path,
    folder: Path,
    classes: str,
    checkpoint: Path,
    size: str,
    chosen: str,
    rectangles: int,
    carried: bool,
    changes: tuple[str, ...],
    seed: int,
) -> None:
    labels = LabelSet(tuple(classes.split(",")))
    source = open_frames(video)
    truths = open_labels(folder, source, labels)
    changed = dict(change.split("=", 1) for change in changes)
    shipped = (HVSA if carried else PAPER).model_dump()
    training = TrainingConfig.model_validate({**shipped, **changed})
    at, device = parse_size(size), choose_device("auto")
    if rectangles:
        answers = _rectangles(truths, source.size, rectangles, seed)
    else:
        answers = annotated_frames(truths, [int(frame) for frame in chosen.split(",")])
    with tempfile.TemporaryDirectory() as work:
        frames = resized_frames(source, at, Path(work) / "frames.npy")
        flow = compute_flow(frames, DisFlow(), Path(work) / "flow", workers=2)
        network, _ = load_checkpoint(checkpoint, labels, seed=seed)
        labelled = [FrameAnnotation(frame, (0,), drawn) for frame, drawn in answers.items()]
        arriving = list(_arriving(labelled, source, Path(work))) if carried else []
        if carried:
            targets = {one.frame: shrink_labels(one.label_map, at) for one in arriving}
            weights = {one.frame: shrink_weights(one.confidence, at) for one in arriving}
            data = TrainingData(frames, targets, flow, weights)
        else:
            targets = {frame: shrink_labels(drawn, at) for frame, drawn in answers.items()}
            data = TrainingData(frames, targets, flow)
        start = time.perf_counter()
        finetune(network, data, training, seed=(seed, 1), device=device)
        seconds = time.perf_counter() - start

        def tell(what: str, label_maps: Iterable[LabelMap]) -> None:
            truth = (truths[frame] for frame in range(len(source)))
            scores = score_video(
                label_maps, truth, labels, lambda frame: flow.get(frame, frame + 1)
            )
            figures = (scores.miou, scores.boundary_iou, scores.temporal_consistency)
            shown = " / ".join("-" if one is None else f"{100 * one:.1f}" for one in figures)
            click.echo(f"{' '.join(changes) or 'as shipped'}{what}: {shown}, {seconds:.0f} s")

        dense = predict(network, frames, source.size, device=device)
        tell("", (one.label_map for one in dense))
        if carried:
            dense = predict(network, frames, source.size, device=device, with_probabilities=True)
            tell(", fused", map(_fused, arriving, dense))


def _arriving(answers: list[FrameAnnotation], source: FrameSource, work: Path) -> Carried:
    """What is carried of the answers, as `hvsa` carries it."""
    pictures = resized_frames(source, carrying_size(source.size), work / "carrying.npy")
    flow = compute_flow(pictures, DisFlow(), work / "carrying", workers=2)
    return carry(
        answers,
        flow,
        source.size,
        len(source),
        work / "carried",
        pictures=pictures,
        colours=pictures,
    )


def _fused(carried: Propagated, prediction: DensePrediction) -> LabelMap:
    assert prediction.probabilities is not None
    return fuse(carried, prediction.probabilities).label_map


def annotated_frames(truths: LabelMaps, chosen: list[int]) -> dict[int, LabelMap]:
    rules = AnnotationRules()
    whole = np.zeros(truths[0].shape, np.int32)
    return {
        frame: mimic_annotation(truths[frame], whole, [0], rules, border_is_free=False)[0]
        for frame in chosen
    }


def _rectangles(truths: LabelMaps, size: Size, count: int, seed: int) -> dict[int, LabelMap]:
    segments = Rectangles(len(truths), size, 16, 16)
    everything = [(t, n) for t in range(len(truths)) for n in range(segments.count(t))]
    picked = np.random.default_rng(seed).permutation(everything)[:count]
    answers = {}
    for frame in np.unique(picked[:, 0]).tolist():
        wanted = picked[picked[:, 0] == frame, 1].tolist()
        answers[frame], _ = mimic_annotation(
            truths[frame], segments[frame], wanted, AnnotationRules(), border_is_free=True
        )
    return answers


if __name__ == "__main__":
    main()
