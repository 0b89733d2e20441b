"""What the phases of a run work with: video, settings, files, and what is prepared from them.

Asking people and reading their answers needs an `AskContext` only. PyTorch is imported by what
computes, and not before, so that a process that only asks does without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.annotation.clicks import AnnotationRules
from hvsa_cvat.config import RunConfig
from hvsa_cvat.ports import FlowEstimator, FrameSource, Progress, SegmentMaps
from hvsa_cvat.session.artefacts import RoundFiles
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import LabelSet
from hvsa_cvat.video.segments import Features, build_segments, granularity_by_round

if TYPE_CHECKING:
    import torch

    from hvsa_cvat.segmentation.frozen import VideoFeatures
    from hvsa_cvat.segmentation.network import SegmentationNetwork
    from hvsa_cvat.segmentation.refine import RefinementHead
    from hvsa_cvat.video.flow import FlowStore

Clock = Callable[[], float]
"""Seconds, from any start."""


@dataclass(frozen=True)
class VideoInputs:
    """A video, its classes, and the settings of its rounds."""

    source: FrameSource
    labels: LabelSet
    config: RunConfig


@dataclass(frozen=True)
class RunInputs(VideoInputs):
    """The same, and what the rounds start from."""

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
        from hvsa_cvat.segmentation.checkpoint import load_checkpoint

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
    smoothing: NDArray[np.uint8] | None = None
    """The same, to weigh neighbouring frames by; None smooths nothing."""


@dataclass(frozen=True)
class AskContext:
    """What asking people and reading their answers works with."""

    inputs: VideoInputs
    store: Store
    segments: tuple[SegmentMaps, ...]
    """For each round that asks people: the segments that it may ask for."""

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

    def audit_of(self, round_number: int) -> int | None:
        """How many frames a round audits; None where it is no audit."""
        if not 1 <= round_number <= len(self.config.budgets):
            return None
        kinds = granularity_by_round(self.config.granularity, len(self.config.budgets))
        return kinds[round_number - 1].frames


def segments_by_round(
    inputs: VideoInputs, store: Store, features: Features
) -> tuple[SegmentMaps, ...]:
    """The segments of each round that asks people. `features` is called for superpixels that are
    merged by them, where those of a frame are not kept yet."""
    kinds = granularity_by_round(inputs.config.granularity, len(inputs.config.budgets))
    store.bring(store.video.segments)  # another GPU might not make the same ones
    segments = {
        kind: build_segments(kind, inputs.source, store.video.segments, features)
        for kind in set(kinds)
    }
    return tuple(segments[kind] for kind in kinds)


@dataclass(frozen=True)
class RunContext(AskContext):
    """One video, prepared for computing."""

    inputs: RunInputs
    frames: NDArray[np.uint8]
    """uint8 (N, h, w, 3) RGB at network size."""
    flow: FlowStore
    """At network size."""
    full_clicks: int | None
    """Clicks of annotating every frame of the video, to which budgets relate. None: nobody knows,
    so SELECT estimates them."""
    progress: Progress
    carrying: CarryingInputs | None = None
    """For methods that train a network and carry labels too."""
    features: VideoFeatures | None = None
    """Where the backbone does not learn."""

    def load_network(self, round_number: int) -> SegmentationNetwork:
        """The network that speaks for a round."""
        trained = self.files(round_number).newest_network()
        return self.inputs.load_network(trained or self.inputs.checkpoint)

    def load_head(self, round_number: int) -> RefinementHead | None:
        """The refinement head that speaks for a round; None where none has been trained."""
        from hvsa_cvat.segmentation.refine import load_head

        trained = self.files(round_number).newest_head()
        return None if trained is None else load_head(trained, len(self.labels))

    def rng(self, round_number: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, round_number])
