"""What a run will take at most, told before it starts, and the largest network size that fits.

Bounds are of memory that the system cannot drop; pages of mapped files (frames, flow, targets) come
on top as far as there is room. Tensors of the network are counted (`segmentation.footprint`),
arrays of the program added up here; what neither knows, such as the workspace of convolutions and
how well label maps compress, has an allowance, a constant below. `benchmarks/memory.py` holds the
bounds against what a run takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from hvsa_cvat.config import Strategy
from hvsa_cvat.errors import CapacityError
from hvsa_cvat.propagation.propagate import (
    CARRIED_PIXEL,
    PLACE_BYTES,
    carrying_threads,
    reading_threads,
)
from hvsa_cvat.propagation.votes import VOTE_PIXEL
from hvsa_cvat.segmentation.footprint import Footprint, Step, counted_pixels, footprint
from hvsa_cvat.segmentation.frozen import BATCH, feature_bytes, freezes
from hvsa_cvat.session.demand import Demand, at_size
from hvsa_cvat.session.machine import Machine
from hvsa_cvat.session.prepare import carrying_size
from hvsa_cvat.types import Size
from hvsa_cvat.video.flow import WORKING_BYTES, working_bytes
from hvsa_cvat.video.segments import granularity_by_round

_GIB, _MIB = 2**30, 2**20

_STRIDE = 32

_PROGRAM = {"cpu": 640 * _MIB, "cuda": 1536 * _MIB}
"""Interpreter and libraries, and what small things add up to."""

_DECODER = 64
"""Frames that a video decoder may hold, 1.5 bytes a pixel each."""

_FRAME_PIXEL = 160
"""Bytes a pixel of the frames' own size that one frame takes while it is cut into segments, scored,
outlined or compressed."""

_CLASS_PIXEL = 12
"""Bytes a pixel of the frames' own size and class: logits, probabilities, and their exchange."""

_FUSED_PIXEL = 8
"""Bytes a pixel and class more where carried labels join the probabilities."""

_REMEMBERED_PIXEL = 16
"""Bytes a pixel and class more where the network of round 0 is asked, too."""

_PACKED_PIXEL = 1 / 32
"""Bytes a pixel of an answered label map, deflated."""

_ENCODED_PIXEL = 0.3
"""Bytes a pixel of a frame's label map and certainty together, as PNG."""

_SUPERPIXEL_PIXEL = 0.15
"""Bytes a pixel of a kept map of superpixels."""

_SAMPLE = 1200
"""Bytes of the objects that stand for a sample during selection, its features left out."""

_POOLS = 5
"""Times that the features of all samples lie in memory during selection; 2 while pooled."""

_DISTANCES = 256 * _MIB
"""Bytes of distances from members to centres, and what else k-means holds beside the features."""

_HELD_OUT = 2**16
"""Bytes of the table that compares an answered frame with the masks before it."""

_SPARE = 2.0
"""Times the counted tensors of the network: convolutions' workspace and what lies between
allocations. On a CPU, where freed memory is kept (`kept_memory`), 24 steps came to 1.73 times. On
a GPU a step of W18-small at 256x320 came to 1.45 times, its prediction to 1.8 times."""

_POOLED_PIXEL = 200
"""Bytes a pixel of the frames' own size on a GPU while the segments of a frame are pooled there."""

_CLUSTERED = 4
"""Times that the features of all samples lie on a GPU in selection, `_DISTANCES` beside them."""

_ON_DEVICE = {"cpu": 0, "cuda": 768 * _MIB}
"""Bytes of the device's memory that the driver and libraries take."""

_RAFT = 3 * _GIB
"""Bytes of the device's memory for a batch of flow by RAFT: its correlation and the rest."""


@dataclass(frozen=True)
class Bounds:
    """The most bytes that a run takes, each part by its name."""

    program: int
    """For all processes, and the weights of those that help."""
    host: dict[str, int]
    """By phase, one after another, each beside the program."""
    disk: dict[str, int]
    """All of it at the same time."""
    device: dict[str, int]
    """By phase; empty where the network runs in the host's memory."""

    @property
    def host_bytes(self) -> int:
        return self.program + max(self.host.values())

    @property
    def disk_bytes(self) -> int:
        return sum(self.disk.values())

    @property
    def device_bytes(self) -> int:
        return max(self.device.values(), default=0)

    def fit(self, machine: Machine) -> bool:
        return not self.lacking(machine)

    def lacking(self, machine: Machine) -> list[str]:
        """What there is too little of, each in a few words."""
        kinds = [
            ("memory", self.host_bytes, machine.host),
            (f"disk space in {machine.folder}", self.disk_bytes, machine.disk),
        ]
        if machine.device is not None:
            kinds.append(("GPU memory", self.device_bytes, machine.device))
        return [
            f"up to {_gib(needed)} of {kind}, {_gib(free)} is free"
            for kind, needed, free in kinds
            if needed > free
        ]

    def __str__(self) -> str:
        parts = [
            f"memory up to {_gib(self.host_bytes)} (most: {_most(self.host)})",
            f"disk up to {_gib(self.disk_bytes)} (most: {_most(self.disk)})",
        ]
        if self.device:
            parts.insert(
                1, f"GPU memory up to {_gib(self.device_bytes)} (most: {_most(self.device)})"
            )
        return ", ".join(parts)


def bounds(demand: Demand, resident: int = 0) -> Bounds:
    """At most what a run takes; `resident` as in `Machine`."""
    config, training, carrying = demand.config, demand.config.training, demand.config.carrying
    length, rounds = demand.length, len(demand.config.budgets)
    own, pixels = _area(demand.frames), _area(config.size)
    carried_at = _carried_at(demand)
    fused, taught = carrying.fused, carrying.taught
    frozen = training is not None and freezes(config.freeze, demand.network)
    step = None
    if training is not None:
        step = Step(training.consistency_weight > 0, taught, frozen)
    counted = footprint(demand.network, demand.classes, step, demand.half)
    samples = length * demand.samples
    features = 4 * samples * counted.features
    answers = int(length * own * _PACKED_PIXEL)
    vote = 0
    if config.carries:
        vote = reading_threads(demand.frames, demand.threads) * own * VOTE_PIXEL
        chains = carrying_threads(carried_at, demand.threads)
        vote += chains * _area(carried_at) * CARRIED_PIXEL
    on_device = demand.device != "cpu"
    kept_features = length * feature_bytes(demand.network, config.size) if frozen else 0
    remembered = fused and carrying.remembered
    images = BATCH + remembered
    predicted = _SPARE * images * counted.image * counted_pixels(config.size)
    predicted += (2 + remembered) * counted.weights
    joined = (_FUSED_PIXEL if fused else 0) + (_REMEMBERED_PIXEL if remembered else 0)
    classes = own * demand.classes * (_CLASS_PIXEL + joined)
    trained = _trained(demand, counted) * _SPARE if training is not None else 0.0
    frame = own * _FRAME_PIXEL
    host = {
        "frames": frame + int(1.5 * _DECODER * own),
        "flow": max(_flowing(at, demand.threads) for at in {config.size, carried_at}),
        "predict": 2 * features + answers + frame + vote,
        "select": _POOLS * features
        + _DISTANCES
        + samples * (_SAMPLE + 4 * demand.classes)
        + answers
        + frame,
        "annotate": 3 * answers + frame + length * _HELD_OUT,
    }
    if training is not None:
        host["fine-tune"] = answers + frame + vote
    device = {}
    if on_device:
        video = length * pixels * (3 + 20 + (5 if taught else 1)) + kept_features
        kept = video if video <= resident else 0
        device = {
            "flow": _RAFT if demand.flow.startswith("raft") else 0,
            "predict": int(predicted) + classes + own * _POOLED_PIXEL,
            "fine-tune": int(trained) + kept,
        }
        spaced = config.strategy is Strategy.UNIFORM and demand.samples == 1
        if config.strategy is not Strategy.RANDOM and not spaced:
            device["select"] = _CLUSTERED * features + _DISTANCES
        device = {what: size + _ON_DEVICE[demand.device] for what, size in device.items()}
        if fused:
            host["predict"] += own * demand.classes * (4 + joined)
        # weights are read, and then leave for the device before anything else begins
        host = {what: max(size, 2 * counted.weights) for what, size in host.items()}
    else:
        host["predict"] += int(predicted) + classes
        if training is not None:
            host["fine-tune"] = max(host["fine-tune"], answers + int(trained))
    disk = {
        "frames": 3 * length * pixels,
        "flow": 20 * length * pixels,
        "masks": int((rounds + 2) * length * own * _ENCODED_PIXEL),
        "features": (rounds + 1) * samples * (4 * counted.features + 12),
        "answers": rounds * 2 * answers,
        "networks": (rounds + 4) * counted.weights,
    }
    if carried_at != config.size:
        disk["carrying"] = 23 * length * _area(carried_at)
    if config.carries:
        disk["carried labels"] = length * (2 * PLACE_BYTES * _area(carried_at) + own)
    if training is not None:
        disk["targets"] = length * pixels * (5 if taught else 1)
    kinds = set(granularity_by_round(config.granularity, rounds))
    if frozen:
        disk["backbone features"] = kept_features
    if superpixels := sum(kind.number is not None for kind in kinds):
        disk["superpixels"] = int(superpixels * length * own * _SUPERPIXEL_PIXEL)
    if demand.video_bytes:
        disk["video"] = demand.video_bytes
    program = demand.processes * _PROGRAM[demand.device]
    program += (demand.processes - 1) * 5 * counted.weights
    return Bounds(program, host, disk, device)


def fitting_size(demand: Demand, machine: Machine) -> Size | None:
    """The largest network size of the frames' shape, in multiples of 32 and not above the one asked
    for, at which the run fits; None where it does not at any."""
    height, width = demand.config.size
    low, high = 0, height // _STRIDE
    best = None
    while low < high:
        steps = (low + high + 1) // 2
        size = steps * _STRIDE, max(1, round(steps * width / height)) * _STRIDE
        if size[1] <= width and bounds(at_size(demand, size), machine.resident).fit(machine):
            low, best = steps, size
        else:
            high = steps - 1
    return best


def check_fits(demand: Demand, machine: Machine) -> Bounds:
    """The bounds of a run, or `CapacityError` with the size that does fit."""
    found = bounds(demand, machine.resident)
    lacking = found.lacking(machine)
    if not lacking:
        return found
    height, width = demand.config.size
    size = fitting_size(demand, machine)
    if size is not None:
        mend = f"choose --size {size[0]}x{size[1]}, which fits"
    else:
        mend = (
            "no smaller size fits; free some, or take another folder or machine, a shorter video "
            "or larger samples"
        )
    raise CapacityError(
        f"{demand.length} frames of {demand.frames[0]}x{demand.frames[1]} with the network at size "
        f"{height}x{width} (height x width) take {' and '.join(lacking)}; {mend}"
    )


def _trained(demand: Demand, counted: Footprint) -> float:
    """Tensors of a training step: those that grow with the images, weights, gradients, and what the
    optimizer keeps of each weight."""
    training = demand.config.training
    assert training is not None
    kept = 2 if training.optimizer == "adamw" else 1
    kept += demand.processes > 1  # where gradients of all are added up
    images = training.batch_pairs * counted.pair * counted_pixels(demand.config.size)
    return images + (2 + kept) * counted.weights


def _flowing(size: Size, threads: int) -> int:
    one = working_bytes(size)
    return one * max(1, min(threads, WORKING_BYTES // one))


def _carried_at(demand: Demand) -> Size:
    fine = demand.config.carrying.fine and demand.config.carries
    return carrying_size(demand.frames) if fine else demand.config.size


def _area(size: Size) -> int:
    return size[0] * size[1]


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB / 10 else f"{size / _MIB:.1f} MiB"


def _most(parts: dict[str, int]) -> str:
    name = max(parts, key=lambda part: parts[part])
    return f"{name}, {_gib(parts[name])}"
