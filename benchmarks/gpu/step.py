"""One training step, eager and by other means: autotuned convolutions, CUDA graphs, torch.compile.

    python -m benchmarks.gpu.step --variant compile --network hrnet_w48 --size 240x320 --pairs 14 \\
        --out FILE

runs one variant in a process of its own, which can be ended where compiling takes too long.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.ledger import Figures, Skipped
from benchmarks.gpu.rounds import Setting
from benchmarks.parts import finished
from hvsa_cvat.config import PAPER_EXACT, parse_size
from hvsa_cvat.segmentation.checkpoint import new_network
from hvsa_cvat.segmentation.device import choose_device
from hvsa_cvat.segmentation.finetune import batch_loss, make_optimizer
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.pairs import Batch, TrainingData, make_batch
from hvsa_cvat.types import Size
from hvsa_cvat.video.flow import OFFSETS, FlowStore

CLASSES = 11
VARIANTS = ("eager", "autotuned", "graph", "compile", "compile and graph")


def noise_batch(size: Size, pairs: int, device: torch.device) -> Batch:
    """Pairs of frames of noise that moves a pixel a frame; two images have labels."""
    rng = np.random.default_rng(0)
    length = pairs + 1
    frames = rng.integers(0, 256, (length, *size, 3)).astype(np.uint8)
    flow = np.zeros((length, len(OFFSETS), 2, *size), np.float16)
    flow[:, :, 0] = np.array(OFFSETS)[:, None, None]
    valid = np.ones((length, len(OFFSETS), *size), bool)
    targets = {t: rng.integers(0, CLASSES, size).astype(np.uint8) for t in (0, length - 1)}
    data = TrainingData(frames, targets, FlowStore(flow, valid))
    return make_batch(data, [(t, t + 1) for t in range(pairs)]).to(device)


class Step:
    """Forward, losses, backward and the optimizer's step on one batch that stays where it is."""

    def __init__(self, network: str, size: Size, pairs: int, device: torch.device) -> None:
        self.network = new_network(network, CLASSES)
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.train()
        self.model: Callable[[Tensor], Tensor] = self.network
        self.batch = noise_batch(size, pairs, device)
        self._optimizer = make_optimizer(self.network, PAPER_EXACT)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._loss = torch.zeros((), device=device)

    def __call__(self) -> Tensor:
        if self._graph is None:
            self._gradients()
        else:
            self._graph.replay()
        self._optimizer.step()
        return self._loss

    def _gradients(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        loss = batch_loss(self.network, self.batch, PAPER_EXACT.consistency_weight, self.model)
        loss.backward()  # type: ignore[no-untyped-call]
        self._loss = loss.detach()

    def capture(self) -> None:
        """From now on forward and backward are a CUDA graph; its gradients keep their places."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._gradients()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self._gradients()
        self._graph = graph


def measure(
    variant: str, network: str, size: Size, pairs: int, device: torch.device, steps: int
) -> Figures:
    """Seconds until the variant has done its first steps, and of a step after that."""
    if variant != "eager" and device.type != "cuda":
        raise Skipped("this needs a GPU")
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = variant != "eager"
    try:
        step = Step(network, size, pairs, device)
        begun = time.perf_counter()
        _prepare(step, variant)
        for _ in range(3):
            step()
        finished()
        start = time.perf_counter() - begun
        laps = []
        for _ in range(3):
            begun = time.perf_counter()
            for _ in range(steps):
                loss = step()
            finished()
            laps.append((time.perf_counter() - begun) / steps)
    finally:
        torch.backends.cudnn.benchmark = before
    return {"start": start, "a step": sorted(laps)[1], "loss": float(loss)}


def _prepare(step: Step, variant: str) -> None:
    if variant.startswith("compile"):
        step.model = compiled(step.network)
    if variant.endswith("graph"):
        step.capture()


def compiled(network: SegmentationNetwork) -> Callable[[Tensor], Tensor]:
    made: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=False)
    return made


def compare(setting: Setting, device: torch.device, steps: int) -> Figures:
    """Eager, autotuned, and as a CUDA graph."""
    figures: Figures = {}
    for variant in ("eager", "autotuned", "graph"):
        try:
            figures[variant] = measure(
                variant, setting.network, setting.size, setting.pairs, device, steps
            )
        except Skipped as why:
            figures[variant] = f"skipped: {why}"
        except Exception as error:  # one that cannot be done does not end the others
            figures[variant] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return figures


def apart(
    variant: str, setting: Setting, device: torch.device, seconds: float, steps: int = 10
) -> Figures:
    """One variant in a process of its own, which is ended after `seconds`."""
    if variant != "eager" and device.type != "cuda":
        raise Skipped("this needs a GPU")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        height, width = setting.size
        command = [sys.executable, "-m", "benchmarks.gpu.step", "--variant", variant]
        command += ["--network", setting.network, "--size", f"{height}x{width}"]
        command += ["--pairs", str(setting.pairs), "--device", device.type]
        command += ["--steps", str(steps), "--out", str(out)]
        try:
            done = subprocess.run(command, timeout=seconds, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            raise Skipped(f"not ready after {seconds:.0f} s") from None
        if not out.exists():
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise RuntimeError(f"exit code {done.returncode}: {last}")
        figures: Figures = json.loads(out.read_text())
        return figures


@click.command()
@click.option("--variant", required=True, type=click.Choice(VARIANTS))
@click.option("--network", required=True)
@click.option("--size", required=True)
@click.option("--pairs", required=True, type=int)
@click.option("--device", default="auto")
@click.option("--steps", default=10)
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(
    variant: str, network: str, size: str, pairs: int, device: str, steps: int, out: Path
) -> None:
    """Measure one variant of the training step."""
    figures = measure(variant, network, parse_size(size), pairs, choose_device(device), steps)
    out.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
