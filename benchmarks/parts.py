"""What `benchmarks.bench` and `benchmarks.gpu` measure: parts of a round, ours and the plain
ones of `benchmarks/reference`, on the demo's clip."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.reference import rest, training
from benchmarks.reference.network import ReferenceNetwork
from hvsa_cvat.config import HVSA, PAPER, TrainingConfig
from hvsa_cvat.propagation.fusion import fuse
from hvsa_cvat.propagation.propagate import carry
from hvsa_cvat.segmentation.checkpoint import load_checkpoint, new_network
from hvsa_cvat.segmentation.finetune import finetune
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.pairs import TrainingData, shrink_labels
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.segmentation.scoring import score_segments
from hvsa_cvat.selection.diversity import cluster_members
from hvsa_cvat.simulation.datasets import open_labels
from hvsa_cvat.types import FrameAnnotation, LabelSet, Size
from hvsa_cvat.video.flow import FlowStore, compute_flow
from hvsa_cvat.video.flow_estimators import DisFlow
from hvsa_cvat.video.frames import open_frames, resize_image
from hvsa_cvat.video.segments import Rectangles

SEED = (0, 1)


def finished() -> None:
    """Wait until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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

    def measure(self, *asked: str) -> None:
        """Once each, or those asked for, `ours` and `plain`."""
        for who, work in (("ours", self.ours), ("plain", self.plain)):
            if work is None or (asked and who not in asked):
                continue
            finished()
            clock, cpu = time.perf_counter(), time.process_time()
            self.values[who] = work()
            finished()
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


class Laps:
    """Seconds of the pieces of one run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def __call__(self, piece: str) -> None:
        """`piece` ends now."""
        finished()
        now = time.perf_counter()
        self.seconds[piece], self._since = now - self._since, now


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


def plain_network(network: SegmentationNetwork) -> ReferenceNetwork:
    """With the same weights, in the layout that they have before ours brings them to its own."""
    plain = ReferenceNetwork(copy.deepcopy(network))
    return plain.to(memory_format=torch.contiguous_format)


def flow_part(clip: Clip, made: dict[str, Any]) -> Part:
    def ours() -> float:
        # a fresh folder, so that nothing is found in it
        made["flow"] = compute_flow(
            clip.frames,
            DisFlow(),
            Path(tempfile.mkdtemp(dir=made["work"])) / "flow",
            workers=os.cpu_count() or 1,
        )
        return 100 * float(np.mean(list(made["flow"].valid_share().values())))

    def plain() -> float:
        made["plain flow"] = rest.compute_flow(clip.frames, rest.dis)
        return 100 * float(np.mean([valid.mean() for _, valid in made["plain flow"].values()]))

    return Part("flow (DIS), % valid", ours, plain)


def predict_part(
    clip: Clip,
    network: SegmentationNetwork,
    size: Size,
    side: int,
    made: dict[str, Any],
    device: torch.device,
) -> Part:
    """Leaves the features of all rectangles in `made`."""
    segments = Rectangles(len(clip.frames), size, side, side)
    plainly = plain_network(network)

    def ours() -> float:
        scored = [
            score_segments(one, segments[one.frame], segments.count(one.frame))
            for one in predict(network, clip.frames, size, device=device)
        ]
        made["features"] = [one.features for one in scored]
        return sum(float(one.uncertainty.sum()) for one in scored)

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
        learner = plain_network(network)
        losses = training.finetune(learner, pairs, plain_config, SEED, str(device))
        return float(np.mean(losses[-(len(losses) // plain_config.epochs) :]))

    return Part(name, ours, plain)


def hvsa_config(paper: TrainingConfig) -> TrainingConfig:
    """The default method's training, with the share of steps of `paper` that it has as it ships."""
    epochs = max(1, round(HVSA.epochs * paper.epochs / PAPER.epochs))
    return HVSA.model_copy(update={"epochs": epochs, "batch_pairs": paper.batch_pairs})


def hvsa_part(
    clip: Clip,
    network: SegmentationNetwork,
    size: Size,
    side: int,
    config: TrainingConfig,
    made: dict[str, Any],
    device: torch.device,
) -> Part:
    """All of the default method's round but the selection. Leaves the seconds of its pieces in
    `made`."""
    segments = Rectangles(len(clip.frames), size, side, side)
    answers = [FrameAnnotation(t, (0,), target) for t, target in clip.targets.items()]

    def ours() -> float:
        lap = Laps()
        made["laps"] = lap.seconds
        # a fresh folder, so that nothing is found in it
        folder = Path(tempfile.mkdtemp(dir=made["work"])) / "carried"
        length = len(clip.frames)
        carried = carry(answers, made["flow"], size, length, folder, pictures=clip.frames)
        lap("carry")
        taught = {one.frame: (one.label_map, one.confidence) for one in carried}
        data = TrainingData(
            clip.frames,
            {t: label_map for t, (label_map, _) in taught.items()},
            made["flow"],
            {t: confidence for t, (_, confidence) in taught.items()},
        )
        lap("read carried labels")
        learner = copy.deepcopy(network)
        finetune(learner, data, config, seed=SEED, device=device)
        lap("fine-tune")
        dense = predict(learner, clip.frames, size, device=device, with_probabilities=True)
        uncertain = 0.0
        for labels, one in zip(carried, dense, strict=True):
            assert one.probabilities is not None
            fuse(labels, one.probabilities)
            scored = score_segments(one, segments[one.frame], segments.count(one.frame))
            uncertain += float(scored.uncertainty.sum())
        lap("predict, fuse, pool")
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
