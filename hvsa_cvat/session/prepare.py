"""What is computed once a video, before its first round."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hvsa_cvat.config import RunConfig
from hvsa_cvat.ports import FlowEstimator, FrameSource, Progress
from hvsa_cvat.segmentation.checkpoint import load_checkpoint
from hvsa_cvat.segmentation.device import fitting_memory
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.session.phases import Bench, Carrier
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import LabelSet, Size
from hvsa_cvat.video.flow import FlowStore, compute_flow
from hvsa_cvat.video.frames import resized_frames
from hvsa_cvat.video.segments import build_segments, granularity_by_round

_CARRYING_LONG_SIDE = 640
"""Pixels; labels are carried at the frames' own size up to here."""


@dataclass(frozen=True)
class Start:
    """A video, and what its rounds start from."""

    source: FrameSource
    labels: LabelSet
    config: RunConfig
    checkpoint: Path
    flow: FlowEstimator
    device: torch.device
    align_corners: bool = True
    """Of a checkpoint that does not say (an official state dict)."""


def prepare(
    start: Start,
    store: Store,
    *,
    full_clicks: int | None,
    progress: Progress,
    lap: Callable[[str], None] = lambda what: None,
) -> Bench:
    """The bench of a video; frames and flow stay in the store's folder. `lap` hears what is done.

    Features for merged superpixels come from the network of round 0, loaded only if one asks.
    """
    config = start.config
    frames = resized_frames(start.source, config.size, store.path("frames.npy"), progress)
    lap("frames")
    workers = os.cpu_count() or 1
    with fitting_memory("the optical flow of the video", start.device):
        flow = compute_flow(frames, start.flow, store.path("flow"), progress, workers)
        lap("flow")
        carrier = _carrier(start, store, frames, flow, progress, workers)
    if carrier is not None:
        lap("carrying")
    network = None

    def features(frame: int) -> NDArray[np.float32]:
        nonlocal network
        if network is None:
            network, _ = load_checkpoint(
                start.checkpoint,
                start.labels,
                align_corners=start.align_corners,
                seed=config.seed,
            )
        dense = predict(network, frames, start.source.size, device=start.device, only=[frame])
        return np.asarray(next(dense).feature_map.cpu())

    kinds = granularity_by_round(config.granularity, len(config.budgets))
    segments = {
        kind: build_segments(kind, start.source, store.path("segments"), features)
        for kind in set(kinds)
    }
    return Bench(
        config=config,
        labels=start.labels,
        source=start.source,
        frames=frames,
        flow=flow,
        segments=tuple(segments[kind] for kind in kinds),
        checkpoint=start.checkpoint,
        align_corners=start.align_corners,
        full_clicks=full_clicks,
        device=start.device,
        progress=progress,
        carrier=carrier,
    )


def carrying_size(frames: Size) -> Size:
    """(height, width) in pixels at which labels of frames of this size are carried."""
    scale = min(1.0, _CARRYING_LONG_SIDE / max(frames))
    return round(frames[0] * scale), round(frames[1] * scale)


def _carrier(
    start: Start,
    store: Store,
    frames: NDArray[np.uint8],
    flow: FlowStore,
    progress: Progress,
    workers: int,
) -> Carrier | None:
    """Frames and flow to carry labels along; those of the network where no others are asked for."""
    carrying = start.config.carrying
    if not start.config.carries:
        return None
    size = carrying_size(start.source.size)
    if carrying.fine and size != start.config.size:
        frames = resized_frames(start.source, size, store.path("carrying", "frames.npy"), progress)
        flow = compute_flow(frames, start.flow, store.path("carrying", "flow"), progress, workers)
    return Carrier(
        flow,
        frames if carrying.without_drift else None,
        frames if carrying.by_colour else None,
    )
