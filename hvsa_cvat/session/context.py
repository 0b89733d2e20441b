"""What the phases of a run work with: video, settings, files, and what is prepared from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hvsa_cvat.annotation.clicks import AnnotationRules
from hvsa_cvat.config import RunConfig
from hvsa_cvat.ports import FlowEstimator, FrameSource, Progress, SegmentMaps
from hvsa_cvat.segmentation.checkpoint import load_checkpoint
from hvsa_cvat.segmentation.frozen import VideoFeatures
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.session.artefacts import RoundFiles
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import LabelSet
from hvsa_cvat.video.flow import FlowStore

Clock = Callable[[], float]
"""Seconds, from any start."""


@dataclass(frozen=True)
class RunInputs:
    """A video, its classes, and what its rounds start from."""

    source: FrameSource
    labels: LabelSet
    config: RunConfig
    checkpoint: Path
    """The network of round 0."""
    flow: FlowEstimator
    device: torch.device
    align_corners: bool = True
    """Used for a checkpoint that does not say (an official state dict)."""

    @property
    def rules(self) -> AnnotationRules:
        return AnnotationRules(self.config.epsilon, self.config.charge_junctions)

    def load_network(self, path: Path) -> SegmentationNetwork:
        """The network of a checkpoint, with a head for the classes of the video."""
        network, _ = load_checkpoint(
            path, self.labels, align_corners=self.align_corners, seed=self.config.seed
        )
        return network


@dataclass(frozen=True)
class CarryingInputs:
    """What people's labels are carried along with."""

    flow: FlowStore
    pictures: NDArray[np.uint8] | None
    """uint8 (N, h, w, 3) RGB at the flow's size, to take out drift; None leaves it in."""
    colours: NDArray[np.uint8] | None = None
    """The same, to read labels by; None reads them by distance alone."""


@dataclass(frozen=True)
class RunContext:
    """One video, prepared, with the settings and the files of its run."""

    inputs: RunInputs
    store: Store
    frames: NDArray[np.uint8]
    """uint8 (N, h, w, 3) RGB at network size."""
    flow: FlowStore
    """At network size."""
    segments: tuple[SegmentMaps, ...]
    """For each round that asks people: the segments that it may ask for."""
    full_clicks: int | None
    """Clicks of annotating every frame of the video, to which budgets relate. None: nobody knows,
    so SELECT estimates them."""
    progress: Progress
    carrying: CarryingInputs | None = None
    """For methods that train a network and carry labels too."""
    features: VideoFeatures | None = None
    """Where the backbone does not learn."""

    @property
    def config(self) -> RunConfig:
        return self.inputs.config

    @property
    def labels(self) -> LabelSet:
        return self.inputs.labels

    @property
    def source(self) -> FrameSource:
        return self.inputs.source

    def files(self, round_number: int) -> RoundFiles:
        return self.store.round(round_number)

    def segments_of(self, round_number: int) -> SegmentMaps:
        """Those of a round; round 0 has those of the first, a round after the last those of the
        last."""
        return self.segments[min(max(round_number, 1), len(self.segments)) - 1]

    def load_network(self, round_number: int) -> SegmentationNetwork:
        """The network that speaks for a round."""
        trained = self.files(round_number).newest_network()
        return self.inputs.load_network(trained or self.inputs.checkpoint)

    def rng(self, round_number: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, round_number])
