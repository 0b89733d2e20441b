"""The round against the plain one of `benchmarks/reference`: one Markdown table of ratios.

    python -m benchmarks.bench
    python -m benchmarks.bench --frames 50 --size 192x256 --epochs 8 --samples 90000 --clusters 60
    python -m benchmarks.bench --network hrnet_w48 --frames 300 --size 240x320 --epochs 15 \\
        --batch 14

Both see the demo's clip, there and back where more frames are asked for, with five answered frames,
and take turns in one run, so that a busy machine slows both. Seconds are the best of the repeats;
the second ratio is that of processor time, in which other programs' work does not count.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.reference import rest, training
from benchmarks.reference.network import ReferenceNetwork
from hvsa_cvat.config import HVSA, NETWORKS, PAPER, TrainingConfig, parse_size
from hvsa_cvat.propagation.fusion import fuse
from hvsa_cvat.propagation.propagate import carry
from hvsa_cvat.segmentation.checkpoint import load_checkpoint, new_network
from hvsa_cvat.segmentation.device import choose_device
from hvsa_cvat.segmentation.finetune import finetune
from hvsa_cvat.segmentation.hrnet import SegmentationNetwork
from hvsa_cvat.segmentation.pairs import TrainingData, shrink_labels
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.segmentation.scoring import score_segments
from hvsa_cvat.selection.diversity import cluster_members
from hvsa_cvat.simulation.datasets import open_labels
from hvsa_cvat.types import FrameAnnotation, LabelSet, Size
from hvsa_cvat.video.flow import DisFlow, FlowStore, compute_flow
from hvsa_cvat.video.frames import open_frames, resize_image
from hvsa_cvat.video.segments import Rectangles

SEED = (0, 1)


@dataclass
class Part:
    """One thing that both do; each call gives what is worth comparing."""

    name: str
    ours: Callable[[], float]
    plain: Callable[[], float] | None = None
    """None: what it is compared with are other parts."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Of `ours` and `plain`, and of `ours cpu` and `plain cpu`."""
    values: dict[str, float] = field(default_factory=dict)

    def measure(self) -> None:
        for who, work in (("ours", self.ours), ("plain", self.plain)):
            if work is None:
                continue
            clock, cpu = time.perf_counter(), time.process_time()
            self.values[who] = work()
            self.seconds.setdefault(f"{who} cpu", []).append(time.process_time() - cpu)
            self.seconds.setdefault(who, []).append(time.perf_counter() - clock)

    def best(self, who: str) -> float:
        return min(self.seconds[who])

    def row(self) -> str:
        ours, plain = self.best("ours"), self.best("plain")
        cpu = self.best("plain cpu") / self.best("ours cpu")
        told = f"{self.values['ours']:.4g} / {self.values['plain']:.4g}"
        return (
            f"| {self.name} | {ours:.2f} | {plain:.2f} | {plain / ours:.2f} | {cpu:.2f} | {told} |"
        )


@dataclass(frozen=True)
class Clip:
    """The demo's clip at the benchmark's size."""

    frames: NDArray[np.uint8]
    targets: dict[int, NDArray[np.uint8]]
    labels: LabelSet
    checkpoint: Path


def demo_clip(length: int, size: Size) -> Clip:
    root = Path(str(files("hvsa_cvat") / "data" / "demo"))
    labels = LabelSet(tuple((root / "classes.txt").read_text().split()))
    source = open_frames(root / "images")
    truths = open_labels(root / "labels", source, labels)
    there_and_back = [*range(len(source)), *range(len(source) - 2, 0, -1)]
    order = [there_and_back[t % len(there_and_back)] for t in range(length)]
    frames = np.stack([resize_image(source[t], size) for t in order])
    answered = {int(t) for t in (np.arange(5) + 0.5) * length / 5}
    targets = {t: shrink_labels(truths[order[t]], size) for t in answered}
    return Clip(frames, targets, labels, root / "pretrained.safetensors")


def network_of(name: str, clip: Clip) -> SegmentationNetwork:
    """The demo's where it is of that name, else random weights, which take as long."""
    network, _ = load_checkpoint(clip.checkpoint, clip.labels)
    return network if network.name == name else new_network(name, len(clip.labels))


def flow_part(clip: Clip, made: dict[str, Any]) -> Part:
    def ours() -> float:
        # a fresh folder, so that nothing is found in it
        made["flow"] = compute_flow(
            clip.frames, DisFlow(), Path(tempfile.mkdtemp(dir=made["work"])) / "flow", workers=2
        )
        return 100 * float(np.mean(list(made["flow"].valid_share().values())))

    def plain() -> float:
        made["plain flow"] = rest.compute_flow(clip.frames, rest.dis)
        return 100 * float(np.mean([valid.mean() for _, valid in made["plain flow"].values()]))

    return Part("flow (DIS), % valid", ours, plain)


def predict_part(
    clip: Clip, network: SegmentationNetwork, size: Size, side: int, device: torch.device
) -> Part:
    segments = Rectangles(len(clip.frames), size, side, side)
    plainly = ReferenceNetwork(copy.deepcopy(network))

    def ours() -> float:
        return sum(
            float(
                score_segments(
                    one, segments[one.frame], segments.count(one.frame)
                ).uncertainty.sum()
            )
            for one in predict(network, clip.frames, size, device=device)
        )

    def plain() -> float:
        found = rest.predict(plainly, clip.frames, size, lambda t: segments[t], str(device))
        return sum(float(one.uncertainty.sum()) for one in found)

    return Part(f"predict and pool ({side}-px rectangles), sum of uncertainty", ours, plain)


def finetune_part(
    name: str,
    clip: Clip,
    network: SegmentationNetwork,
    config: TrainingConfig,
    plain_config: TrainingConfig,
    made: dict[str, Any],
    device: torch.device,
) -> Part:
    def ours() -> float:
        flow: FlowStore = made["flow"]
        data = TrainingData(clip.frames, clip.targets, flow)
        return finetune(copy.deepcopy(network), data, config, seed=SEED, device=device).losses[-1]

    def plain() -> float:
        pairs = training.Pairs(clip.frames, clip.targets, made["plain flow"])
        learner = ReferenceNetwork(copy.deepcopy(network))
        losses = training.finetune(learner, pairs, plain_config, SEED, str(device))
        return float(np.mean(losses[-(len(losses) // plain_config.epochs) :]))

    return Part(name, ours, plain)


def hvsa_part(
    clip: Clip,
    network: SegmentationNetwork,
    size: Size,
    side: int,
    paper: TrainingConfig,
    made: dict[str, Any],
    device: torch.device,
) -> Part:
    """All of the default method's round but the selection; `paper` is what its steps are a share
    of."""
    segments = Rectangles(len(clip.frames), size, side, side)
    epochs = max(1, round(HVSA.epochs * paper.epochs / PAPER.epochs))
    config = HVSA.model_copy(update={"epochs": epochs, "batch_pairs": paper.batch_pairs})
    answers = [FrameAnnotation(t, (0,), target) for t, target in clip.targets.items()]

    def ours() -> float:
        # a fresh folder, so that nothing is found in it
        folder = Path(tempfile.mkdtemp(dir=made["work"])) / "carried"
        length = len(clip.frames)
        carried = carry(answers, made["flow"], size, length, folder, pictures=clip.frames)
        taught = {one.frame: (one.label_map, one.confidence) for one in carried}
        data = TrainingData(
            clip.frames,
            {t: label_map for t, (label_map, _) in taught.items()},
            made["flow"],
            {t: confidence for t, (_, confidence) in taught.items()},
        )
        learner = copy.deepcopy(network)
        finetune(learner, data, config, seed=SEED, device=device)
        dense = predict(learner, clip.frames, size, device=device, with_probabilities=True)
        uncertain = 0.0
        for labels, one in zip(carried, dense, strict=True):
            assert one.probabilities is not None
            fuse(labels, one.probabilities)
            scored = score_segments(one, segments[one.frame], segments.count(one.frame))
            uncertain += float(scored.uncertainty.sum())
        return uncertain

    return Part("hvsa", ours)


def select_part(features: NDArray[np.float32], clusters: int, device: torch.device) -> Part:
    def ours() -> float:
        distance, _ = cluster_members(features, clusters, np.random.default_rng(0), device)
        return float(distance.sum(dtype=float))

    def plain() -> float:
        return float(KMeans(clusters, random_state=0).fit(features).inertia_)

    count, width = features.shape
    return Part(f"select, {count} x {width}, {clusters} clusters, inertia", ours, plain)


@torch.inference_mode()
def pooled(clip: Clip, count: int) -> NDArray[np.float32]:
    """float32 (count, 720): features of random cells of the clip as the demo's network sees them,
    the cell's own and the means over 3 x 3 and 7 x 7 cells."""
    network, _ = load_checkpoint(clip.checkpoint, clip.labels)
    network.eval()
    rng = np.random.default_rng(0)
    each = -(-count // len(clip.frames))
    rows = []
    for frame in clip.frames:
        fine = network.features(torch.from_numpy(frame).permute(2, 0, 1)[None])
        wider = [F.avg_pool2d(fine, k, 1, k // 2, count_include_pad=False) for k in (3, 7)]
        cells = torch.cat([fine, *wider], dim=1)[0].flatten(1).T
        rows.append(cells.numpy()[rng.choice(len(cells), each, replace=each > len(cells))])
    return np.concatenate(rows)[:count]


def probe(device: torch.device) -> str:
    """What the machine reaches in a matrix product and in adding arrays, best of five."""

    def best(work: Callable[[], object]) -> float:
        found = []
        for _ in range(5):
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            found.append(time.perf_counter() - start)
        return min(found)

    side = 8192 if device.type == "cuda" else 1536
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b, c = (torch.ones(side, side, device=device, dtype=kind) for _ in range(3))
    flops = 2 * side**3 / best(lambda: torch.mm(a, b, out=c))
    moved = 3 * a.nbytes / best(lambda: torch.add(a, b, out=c))
    return f"{flops / 1e9:.0f} GFLOP/s in a product, {moved / 1e9:.1f} GB/s in a sum"


def step_flops(network: SegmentationNetwork, size: Size, pairs: int) -> float:
    """Of convolutions and products in one training step, by PyTorch's counter."""
    counter = FlopCounterMode(display=False)
    learner = copy.deepcopy(network).cpu().train()
    with counter:
        learner(torch.zeros(2 * pairs, 3, *size)).sum().backward()
    return float(counter.get_total_flops())


@click.command()
@click.option("--network", "name", default="hrnet_w18_small", type=click.Choice(NETWORKS))
@click.option("--frames", "length", default=10, show_default=True)
@click.option("--size", default="96x128", show_default=True)
@click.option("--epochs", default=1, show_default=True)
@click.option("--batch", default=PAPER.batch_pairs, show_default=True, help="Pairs a step.")
@click.option("--rectangles", default=16, show_default=True, help="Side in pixels.")
@click.option("--samples", default=6000, show_default=True)
@click.option("--clusters", default="60", show_default=True, help="Numbers, comma separated.")
@click.option("--only", default="", help="Parts whose names begin so, such as select.")
@click.option("--repeats", default=2, show_default=True)
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--threads", default=0, help="Of PyTorch; default: its own choice.")
def main(
    name: str,
    length: int,
    size: str,
    epochs: int,
    batch: int,
    rectangles: int,
    samples: int,
    clusters: str,
    only: str,
    repeats: int,
    device: str,
    threads: int,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    where, at = choose_device(device), parse_size(size)
    clip = demo_clip(length, at)
    network = network_of(name, clip)
    config = PAPER.model_copy(update={"epochs": epochs, "batch_pairs": batch})
    with tempfile.TemporaryDirectory() as work:
        made: dict[str, Any] = {"work": work}
        flow = flow_part(clip, made)
        scores = predict_part(clip, network, at, rectangles, where)
        learn = finetune_part("fine-tune, loss", clip, network, config, config, made, where)
        default = hvsa_part(clip, network, at, rectangles, config, made, where)
        choose = [
            select_part(pooled(clip, samples), int(count), where) for count in clusters.split(",")
        ]
        parts = [p for p in (flow, scores, learn, default, *choose) if p.name.startswith(only)]
        for _ in range(repeats):
            for part in parts:
                part.measure()
    click.echo(
        f"{name}, {length} frames at {size}, {epochs} epochs, {batch} pairs a step, {where}, "
        f"{torch.get_num_threads()} threads, best of {repeats}\n"
    )
    click.echo("| part, value compared | s | plain, s | ratio | processor | value / plain |")
    click.echo("| --- | ---: | ---: | ---: | ---: | --- |")
    for part in parts:
        if part.plain is not None:
            click.echo(part.row())
    if not only:
        plainly = (scores, choose[0], learn)
        click.echo(round_row("round of `paper`: predict, select, fine-tune", plainly, plainly))
        click.echo(round_row("round of `hvsa`, with carrying", (default, choose[0]), plainly))
    flops = step_flops(network, at, batch)
    click.echo(f"\nA step: {flops / 1e9:.1f} GFLOP. This machine: {probe(where)}.")


def round_row(label: str, ours: tuple[Part, ...], plain: tuple[Part, ...]) -> str:
    seconds, cpu = (sum(part.best(who) for part in ours) for who in ("ours", "ours cpu"))
    plainly, plain_cpu = (sum(part.best(who) for part in plain) for who in ("plain", "plain cpu"))
    return (
        f"| {label} | {seconds:.2f} | {plainly:.2f} | {plainly / seconds:.2f} "
        f"| {plain_cpu / cpu:.2f} | |"
    )


if __name__ == "__main__":
    main()
