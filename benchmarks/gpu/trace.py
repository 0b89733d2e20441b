"""Where the time of training steps goes on a GPU, by PyTorch's profiler."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from benchmarks.gpu.ledger import Figures, Skipped
from benchmarks.gpu.rounds import Scene
from benchmarks.parts import SEED, finished
from hvsa_cvat.config import TrainingConfig
from hvsa_cvat.segmentation.finetune import finetune
from hvsa_cvat.segmentation.pairs import TrainingData
from hvsa_cvat.video.flow import FlowStore

_WARM, _SEEN = 4, 5
"""Steps before the ones that are looked at, and those."""

_KINDS = (
    ("copies and casts", ("copy", "memcpy", "memset", "catarray")),
    ("batch norm", ("batch_norm", "batchnorm", "bn_fw", "bn_bw", "bn_")),
    ("convolutions", ("conv", "xmma", "gemm", "cutlass", "cudnn", "wgrad", "dgrad", "fprop")),
    ("upsampling and warp", ("upsample", "grid_sampl", "interp")),
    ("optimizer", ("multi_tensor", "adam", "sgd")),
    ("losses", ("softmax", "nll", "cross_entropy")),
    ("gathering", ("index", "gather", "scatter")),
    ("sums, ReLU and other single values", ("elementwise", "reduce", "fill")),
)
"""By what the names of kernels contain, the first that fits."""

Event = Mapping[str, Any]


def kind_of(name: str) -> str:
    lower = name.lower()
    for kind, marks in _KINDS:
        if any(mark in lower for mark in marks):
            return kind
    return "other"


def shares(events: Iterable[Event], steps: int) -> Figures:
    """Of the events of a Chrome trace: how long the GPU worked and on what, how long it waited
    between kernels, and what was copied. `ts` and `dur` are microseconds."""
    on_gpu = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    if not on_gpu:
        raise Skipped("the profiler saw no kernel on a GPU")
    by_kind: Counter[str] = Counter()
    by_name: Counter[str] = Counter()
    copied = 0
    for event in on_gpu:
        by_kind[kind_of(event["name"])] += event["dur"]
        by_name[event["name"][:90]] += event["dur"]
        if event["cat"] == "gpu_memcpy":
            copied += int(event.get("args", {}).get("bytes", 0))
    begin = min(e["ts"] for e in on_gpu)
    end = max(e["ts"] + e["dur"] for e in on_gpu)
    worked, total = covered(on_gpu), sum(by_kind.values())
    return {
        "a step": (end - begin) / steps / 1e6,
        "GPU waits, share": 1 - worked / (end - begin),
        "kernels a step": sum(e["cat"] == "kernel" for e in on_gpu) / steps,
        "a kernel, microseconds": total / len(on_gpu),
        "share by kind": {kind: time / total for kind, time in by_kind.most_common()},
        "slowest kernels": {name: time / total for name, time in by_name.most_common(15)},
        "bytes copied a step": copied / steps,
    }


def covered(events: Iterable[Event]) -> float:
    """Microseconds in which at least one of them runs."""
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events)
    total, reached = 0.0, float("-inf")
    for begin, end in spans:
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def profiled(scene: Scene, device: torch.device, work: Path) -> Figures:
    """The training step of `paper-exact`, in the product's own loop."""
    if device.type != "cuda":
        raise Skipped("this needs a GPU")
    file = work / "trace.json"
    data, config = training_of(scene, _WARM + _SEEN)
    with profile(
        activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA],
        schedule=schedule(wait=1, warmup=_WARM - 1, active=_SEEN, repeat=1),
        on_trace_ready=lambda done: done.export_chrome_trace(str(file)),
    ) as profiler:

        def stepped(_: str, done: int, total: int) -> None:
            if done in (_WARM, _WARM + _SEEN):
                finished()
            profiler.step()

        learner = copy.deepcopy(scene.network)
        finetune(learner, data, config, seed=SEED, device=device, progress=stepped)
    return shares(json.loads(file.read_text())["traceEvents"], _SEEN)


def training_of(scene: Scene, steps: int) -> tuple[TrainingData, TrainingConfig]:
    """As many frames of the clip as `steps` steps take, if it has them, and epochs
    enough for a recorded step."""
    pairs = scene.config.batch_pairs
    length = min(steps * pairs, len(scene.clip.frames))
    flow, valid = scene.made["flow"].arrays
    kept = FlowStore(flow[:length], valid[:length])
    targets = {t: m for t, m in scene.clip.targets.items() if t < length}
    targets = targets or {0: next(iter(scene.clip.targets.values()))}
    data = TrainingData(scene.clip.frames[:length], targets, kept)
    return data, scene.config.model_copy(update={"epochs": 3})
