"""What the agent has computed: values that any process of this machine can carry out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.agent.compute import Computed, Contact
from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.config import RunConfig
from hvsa_cvat.cvat.media import TaskMedia
from hvsa_cvat.cvat.task import WatchedTask
from hvsa_cvat.database import Place
from hvsa_cvat.types import Image, LabelSet


@dataclass(frozen=True)
class ComputeRounds:
    """Run the phases of a session that compute, up to the next one that speaks to people."""

    task: int
    name: str
    """What people call the task."""
    step: str
    """The phase that is due, such as `round 2: finetune`."""
    soon: bool
    """Whether it is short, and people wait for it."""
    place: Place
    """Of the session. Whoever carries this out holds its folder meanwhile."""
    options: EnrollOptions
    server: str
    """The address, by which the kept frames are found."""
    media: TaskMedia
    fetched: bool
    """Whether all frames were fetched for this order. They are not before a first order has seen
    that the machine has room for the task."""

    @property
    def folder(self) -> Path:
        return self.place.folder

    def carry_out(self, contact: Contact) -> Computed:
        from hvsa_cvat.agent.compute_rounds import compute_rounds

        return compute_rounds(self, contact)


@dataclass(frozen=True)
class ChosenStart:
    """The network that a task starts from."""

    network: str
    known: tuple[str, ...]
    """The classes of the task that it knows."""
    told: str
    """In one line: what it is, and what becomes of its classes."""
    takes: str
    """What the rounds take of this machine, in words."""
    config: RunConfig
    """The settings of the rounds, which depend on the machine."""
    checksum: str
    """Of the file with the network."""


@dataclass(frozen=True)
class ChooseStart:
    """Choose the network that a new task starts from, see whether the machine has room for its
    rounds, and put the network into the task's folder."""

    options: EnrollOptions
    task: WatchedTask
    place: Place
    """Of the session that is to be made."""
    disk: Path
    """A folder on the disk that the rounds will fill."""

    def carry_out(self, contact: Contact) -> ChosenStart:
        from hvsa_cvat.agent.start_network import put_start

        return put_start(self, contact)


@dataclass(frozen=True)
class MeasureRounds:
    """What the rounds of an enrolled task take of this machine under other settings, in words;
    `CapacityError` where it lacks that."""

    options: EnrollOptions
    media: TaskMedia
    classes: int
    config: RunConfig
    place: Place
    """Of the session."""

    def carry_out(self, contact: Contact) -> str:
        from hvsa_cvat.agent.start_network import measure_rounds

        return measure_rounds(self)


@dataclass(frozen=True)
class FeatureMap:
    """What the backbone of round 0 says of one frame, by which superpixels are merged."""

    checkpoint: Path
    place: Place
    """Of the session, in whose folder the checkpoint is."""
    labels: LabelSet
    config: RunConfig
    device: str
    image: Image

    def carry_out(self, contact: Contact) -> NDArray[np.float32]:
        """float32 (D, h, w)."""
        from hvsa_cvat.agent.start_network import feature_map

        return feature_map(self)
