"""The network that the rounds of a task start from, and what these rounds take of the machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hvsa_cvat.agent.compute import Contact
from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.agent.orders import ChooseStart, ChosenStart, FeatureMap, MeasureRounds
from hvsa_cvat.agent.start_file import START_FILE, start_checkpoint
from hvsa_cvat.config import RunConfig
from hvsa_cvat.cvat.media import TaskMedia
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.objects import File, objects_of
from hvsa_cvat.ports import FlowEstimator
from hvsa_cvat.segmentation.checkpoint import load_checkpoint, read_info
from hvsa_cvat.segmentation.checkpoint_info import known_classes
from hvsa_cvat.segmentation.device import choose_device
from hvsa_cvat.segmentation.official import convert_official, is_official, load_official
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.segmentation.start import Backbone, choose_start
from hvsa_cvat.session.checksums import file_checksum
from hvsa_cvat.session.demand import demand_of
from hvsa_cvat.session.machine import this_machine
from hvsa_cvat.session.memory import check_fits
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import Size
from hvsa_cvat.video.flow_estimators import choose_flow
from hvsa_cvat.video.frames import resize_image

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
            self.source.write(folder / START_FILE, size)
            return
        if is_official(self.source):
            convert_official(
                self.source, folder / START_FILE, size, align_corners=self.align_corners
            )
            return
        with atomic_write(folder / START_FILE) as target:
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


def put_start(order: ChooseStart, contact: Contact) -> ChosenStart:
    """Choose the network that a new task starts from, and write it into the task's folder."""
    options, task = order.options, order.task
    device = choose_device(options.device)
    config = options.run_config(task.size, device.type, len(task.media.numbers))
    flow, _ = choose_flow(config.flow, device.type, options.flow_weights)
    start = start_network(
        options, task, device.type, lambda line: contact.log(f"task {task.id}: {line}")
    )
    takes = check_machine(
        task.media, len(task.labels), config, start.network, flow, device, order.disk
    )
    folder = order.place.folder
    start.write(folder, config.size)
    checksum = file_checksum(folder / START_FILE)
    if (objects := objects_of(order.place, file_checksum)) is not None:
        objects.put([File(START_FILE, folder / START_FILE, checksum)], folder)
    return ChosenStart(start.network, start.known, start.told, takes, config, checksum)


def measure_rounds(order: MeasureRounds) -> str:
    """What the rounds of an enrolled task take of this machine, in words."""
    options, config = order.options, order.config
    device = choose_device(options.device)
    flow, _ = choose_flow(config.flow, device.type, options.flow_weights)
    folder, checksums = order.place.folder, Store.peek_checksums(order.place, START_FILE)
    network = read_info(start_checkpoint(folder, options, config.size, checksums)).network
    return check_machine(order.media, order.classes, config, network, flow, device, folder)


def feature_map(order: FeatureMap) -> NDArray[np.float32]:
    """float32 (D, h, w): what the backbone of round 0 says of an image."""
    device, size = choose_device(order.device), order.image.shape[:2]
    if not order.checkpoint.exists():
        Store.peek_checksums(order.place, START_FILE).check(order.checkpoint)
    network, _ = load_checkpoint(order.checkpoint, order.labels, seed=order.config.seed)
    frames = resize_image(order.image, order.config.size)[np.newaxis]
    (dense,) = predict(network, frames, (size[0], size[1]), device=device)
    return np.asarray(dense.feature_map.cpu())


def check_machine(
    media: TaskMedia,
    classes: int,
    config: RunConfig,
    network: str,
    flow: FlowEstimator,
    device: torch.device,
    folder: Path,
) -> str:
    """What the rounds of a task take, in words; `CapacityError` where this machine lacks it."""
    pixels = len(media.numbers) * media.size[0] * media.size[1]
    demand = demand_of(
        media.names,
        media.size,
        classes,
        network,
        config,
        flow.name,
        device,
        int(_CHUNK_BYTES_PER_PIXEL[media.kind] * pixels),
    )
    return str(check_fits(demand, this_machine(folder, device)))
