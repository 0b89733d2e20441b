"""The network that the rounds of a task start from, and what these rounds take of the machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.config import RunConfig
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.errors import ConfigError, SessionError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.ports import FlowEstimator
from hvsa_cvat.segmentation.checkpoint import known_classes, load_checkpoint, read_info
from hvsa_cvat.segmentation.official import convert_official, is_official, load_official
from hvsa_cvat.segmentation.start import Backbone, choose_start
from hvsa_cvat.session.demand import demand_of
from hvsa_cvat.session.machine import this_machine
from hvsa_cvat.session.memory import check_fits
from hvsa_cvat.types import LabelSet, Size

_FILE = "start.safetensors"

_CHUNK_BYTES_PER_PIXEL = {"video": 0.1, "images": 1.0}
"""About what the server sends for a pixel of a frame."""


@dataclass(frozen=True)
class StartNetwork:
    """A network that can be used for a task."""

    source: Path | Backbone
    network: str
    known: tuple[str, ...]
    """The classes of the task that it knows."""
    align_corners: bool
    """How an official state dict was trained; other checkpoints say it themselves."""
    told: str
    """In one line: what it is, and what becomes of its classes."""

    def write(self, folder: Path, size: Size) -> None:
        """Put it into the folder of a session, as a checkpoint of ours.

        `size` is the (height, width) in pixels at which it will be trained.
        """
        if isinstance(self.source, Backbone):
            self.source.write(folder / _FILE, size)
            return
        if is_official(self.source):
            convert_official(self.source, folder / _FILE, size, align_corners=self.align_corners)
            return
        with atomic_write(folder / _FILE) as target:
            shutil.copyfile(self.source, target)


def start_network(
    options: EnrollOptions, task: WatchedTask, device: str, tell: Callable[[str], None]
) -> StartNetwork:
    """The network to start from. It is loaded once, so that its faults show at enrollment. `tell`
    hears why it is this one, where the options do not say."""
    path = choose_start(options.start, device, tell)
    if isinstance(path, Backbone):
        line = f"{path}; it knows no classes, so the head starts anew"
        return StartNetwork(path, path.make().name, (), options.align_corners, line)
    if is_official(path):
        network, line = load_official(path, len(task.labels))
        return StartNetwork(path, network.name, (), options.align_corners, line)
    _, line = load_checkpoint(path, task.labels)
    info = read_info(path)
    # a checkpoint that knows no classes at all was made to start from
    strange = bool(info.labels) and not set(info.labels) & set(task.labels.names)
    if options.checkpoint is not None and strange and not options.new_classes:
        raise ConfigError(
            f"{path} knows {', '.join(info.labels)}, none of which is a class of task {task.id} "
            f"({', '.join(task.labels.names)}); give another checkpoint, or --new-classes to "
            "start from its backbone"
        )
    known = tuple(task.labels.names[index] for index in known_classes(path, task.labels))
    return StartNetwork(path, info.network, known, options.align_corners, line)


def start_checkpoint(folder: Path, options: EnrollOptions, size: Size) -> Path:
    """The checkpoint in the folder of a session.

    Earlier versions copied official state dicts as they were: such a copy is converted here.
    """
    path = folder / _FILE
    if path.exists():
        return path
    for official in folder.glob("start.*"):
        if is_official(official):
            convert_official(official, path, size, align_corners=options.align_corners)
            return path
    raise SessionError(
        f"{folder} lacks the network that the session started from; restore the folder from a copy"
    )


def knows_all_classes(checkpoint: Path, labels: LabelSet) -> bool:
    """Whether a checkpoint knows every class."""
    return len(known_classes(checkpoint, labels)) == len(labels)


def check_machine(
    task: WatchedTask,
    config: RunConfig,
    network: str,
    flow: FlowEstimator,
    device: torch.device,
    folder: Path,
) -> str:
    """What the rounds of a task take, in words; `CapacityError` where this machine lacks it."""
    pixels = len(task.media.numbers) * task.size[0] * task.size[1]
    demand = demand_of(
        task.media.names,
        task.size,
        len(task.labels),
        network,
        config,
        flow.name,
        device,
        int(_CHUNK_BYTES_PER_PIXEL[task.media.kind] * pixels),
    )
    return str(check_fits(demand, this_machine(folder, device)))
