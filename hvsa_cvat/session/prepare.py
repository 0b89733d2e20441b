"""What is computed once a video, before its first round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.ports import Progress
from hvsa_cvat.segmentation.checkpoint import read_info
from hvsa_cvat.segmentation.device import fitting_memory
from hvsa_cvat.segmentation.frozen import VideoFeatures, compute_features, freezes
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.session.context import CarryingInputs, RunContext, RunInputs, segments_by_round
from hvsa_cvat.session.store import Store
from hvsa_cvat.threads import processors
from hvsa_cvat.types import Size
from hvsa_cvat.video.flow import FlowStore, compute_flow
from hvsa_cvat.video.frames import resized_frames
from hvsa_cvat.video.segments import Features

_CARRYING_LONG_SIDE = 640
"""Pixels; labels are carried at the frames' own size up to here."""


def prepare(
    inputs: RunInputs,
    store: Store,
    *,
    full_clicks: int | None,
    progress: Progress,
    done: Callable[[str], None] = lambda part: None,
) -> RunContext:
    """The context of a run. Frames and flow are kept in the store's folder, and taken from there
    when they lie there undamaged. `done` hears which part is finished."""
    config, video = inputs.config, store.video
    frames = _resized(inputs, config.size, store, video.frames, progress)
    done("frames")
    with fitting_memory("the optical flow of the video", inputs.device):
        flow = _flow(inputs, frames, store, video.flow, progress)
        done("flow")
        carrying = None
        if config.carries:
            carrying = _carrying(inputs, store, frames, flow, progress)
            done("carrying")
    features = _features(inputs, frames, store, progress)
    if features is not None:
        done("features")
    return RunContext(
        inputs=inputs,
        store=store,
        frames=frames,
        flow=flow,
        segments=segments_by_round(inputs, store, _features_of(inputs, frames)),
        full_clicks=full_clicks,
        progress=progress,
        carrying=carrying,
        features=features,
    )


def carrying_size(frames: Size) -> Size:
    """(height, width) in pixels at which labels of frames of this size are carried."""
    scale = min(1.0, _CARRYING_LONG_SIDE / max(frames))
    return round(frames[0] * scale), round(frames[1] * scale)


def _carrying(
    inputs: RunInputs,
    store: Store,
    frames: NDArray[np.uint8],
    flow: FlowStore,
    progress: Progress,
) -> CarryingInputs:
    """Frames and flow to carry labels along; those of the network where no others are asked for."""
    carrying, size = inputs.config.carrying, carrying_size(inputs.source.size)
    if carrying.fine and size != inputs.config.size:
        frames = _resized(inputs, size, store, store.video.carrying_frames, progress)
        flow = _flow(inputs, frames, store, store.video.carrying_flow, progress)
    return CarryingInputs(
        flow,
        frames if carrying.without_drift else None,
        frames if carrying.by_colour else None,
        frames if carrying.smoothed else None,
    )


def _resized(
    inputs: RunInputs, size: Size, store: Store, path: Path, progress: Progress
) -> NDArray[np.uint8]:
    with store.video.checked(path):
        return resized_frames(inputs.source, size, path, progress)


def _flow(
    inputs: RunInputs, frames: NDArray[np.uint8], store: Store, folder: Path, progress: Progress
) -> FlowStore:
    with store.video.checked(folder):
        return compute_flow(frames, inputs.flow, folder, progress, processors())


def _features(
    inputs: RunInputs, frames: NDArray[np.uint8], store: Store, progress: Progress
) -> VideoFeatures | None:
    """Those of the backbone of round 0, where it does not learn."""
    config, path = inputs.config, store.video.features
    name = read_info(inputs.checkpoint).network
    if config.training is None or not freezes(config.freeze, name):
        return None
    network = inputs.load_network(inputs.checkpoint)
    with store.video.checked(path):
        return compute_features(network, frames, path, device=inputs.device, progress=progress)


def _features_of(inputs: RunInputs, frames: NDArray[np.uint8]) -> Features:
    """The feature maps of the network of round 0, which is loaded only if one is asked for."""
    network: SegmentationNetwork | None = None

    def features(frame: int) -> NDArray[np.float32]:
        nonlocal network
        if network is None:
            network = inputs.load_network(inputs.checkpoint)
        dense = predict(network, frames, inputs.source.size, device=inputs.device, only=[frame])
        return np.asarray(next(dense).feature_map.cpu())

    return features
