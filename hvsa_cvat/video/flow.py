"""Dense optical flow between frames that are at most two apart: O_{t->t'} and M_{t->t'}."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.errors import CheckpointError
from hvsa_cvat.files import atomic_directory
from hvsa_cvat.ports import FlowEstimator, Progress, silent
from hvsa_cvat.threads import map_ahead
from hvsa_cvat.types import Correspondence, Mask, Size
from hvsa_cvat.video.frames import load_npy, npy_writer
from hvsa_cvat.video.opencv import use_one_opencv_thread

OFFSETS = (-2, -1, 1, 2)
"""The values of t' - t for which flow is computed."""

CONSISTENT_BELOW = 1.0
"""In pixels. The flow of a pixel is valid if following it to the other frame and back ends closer
than this to the start."""

_CHUNK = 8
"""The pairs that start in this many frames are estimated in one call."""

WORKING_BYTES = 2**30
"""The memory that all threads together may use to estimate flow. One thread may always run."""

_ESTIMATOR_BYTES = 150
"""Bytes per pixel that an estimator and the check of its flow hold, besides images and flow."""

_MOST_FLOW = 60000.0
"""In pixels. Larger flow is cut to this, because float16 ends at 65504. It leaves every frame."""


def warp(values: NDArray[Any], flow: NDArray[np.floating[Any]]) -> NDArray[Any]:
    """Backward sampling: at each pixel x, the value of the target frame at x + flow(x).

    `values` are (H, W) or (H, W, C), and `flow` is (2, H, W) in pixels. Floats are sampled
    bilinearly. Integers and bool, which are labels, are taken from the nearest pixel. Positions
    outside the frame get the value of the nearest pixel of its border; `valid` tells which.
    """
    if values.dtype.kind == "f":
        return np.asarray(_sample(values.astype(np.float32, copy=False), flow), dtype=values.dtype)
    height, width = values.shape[:2]
    x, y = np.rint(_positions(flow)).astype(np.intp)
    sampled: NDArray[Any] = values[y.clip(0, height - 1), x.clip(0, width - 1)]
    return sampled


def _positions(flow: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """float32 (2, H, W): the x and y to which the flow moves each pixel. Pixel 0 lies at 0."""
    height, width = flow.shape[1:]
    moved = flow.astype(np.float32)
    moved[0] += np.arange(width, dtype=np.float32)
    moved[1] += np.arange(height, dtype=np.float32)[:, np.newaxis]
    return moved


def _sample(values: NDArray[np.float32], flow: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    x, y = _positions(flow)
    sampled = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(sampled, dtype=np.float32)


def consistent(there: NDArray[np.float32], back: NDArray[np.float32]) -> Mask:
    """The forward-backward check M_{t->t'} of two flows, float32 (2, H, W).

    M_{t->t'}(x) is true if ||O_{t->t'}(x) + O_{t'->t}(x + O_{t->t'}(x))||_2 < 1 px and
    x + O_{t->t'}(x) lies inside the frame.
    """
    height, width = there.shape[1:]
    returned = np.stack([_sample(component, there) for component in back])
    closed: Mask = ((there + returned) ** 2).sum(axis=0) < CONSISTENT_BELOW**2
    x, y = _positions(there)
    inside: Mask = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    return closed & inside


# The flow of a whole video


class FlowStore:
    """The flow of one video at the network's size, in memory-mapped files."""

    offsets = OFFSETS

    def __init__(self, flow: NDArray[np.float16], valid: NDArray[np.bool_]) -> None:
        """`flow` is float16 (N, 4, 2, h, w), `valid` bool (N, 4, h, w); axis 1 is `OFFSETS`."""
        self._flow = flow
        self._valid = valid

    def __len__(self) -> int:
        return len(self._flow)

    @property
    def arrays(self) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        """`flow` and `valid`. No pixel is valid for a target frame outside the video."""
        return self._flow, self._valid

    @property
    def size(self) -> Size:
        height, width = self._flow.shape[3:]
        return height, width

    def get(self, source: int, target: int) -> Correspondence | None:
        """None if the frames are equal, more than two apart, or outside the video."""
        inside = 0 <= source < len(self) and 0 <= target < len(self)
        if not inside or target - source not in OFFSETS:
            return None
        i = OFFSETS.index(target - source)
        return Correspondence(source, target, self._flow[source, i], self._valid[source, i])

    def valid_share(self) -> dict[int, float]:
        """The share of pixels that pass the check, for |t - t'| = 1 and for |t - t'| = 2.

        A distance at which the video has no pair has no entry.
        """
        shares = {}
        for distance in (1, 2):
            pairs = len(self) - distance
            if pairs > 0:
                both = [OFFSETS.index(distance), OFFSETS.index(-distance)]
                valid = sum(int(self._valid[:, i].sum(dtype=np.int64)) for i in both)
                shares[distance] = valid / (2 * pairs * self.size[0] * self.size[1])
        return shares


def compute_flow(
    frames: NDArray[np.uint8],
    estimator: FlowEstimator,
    folder: Path,
    progress: Progress = silent,
    workers: int = 1,
) -> FlowStore:
    """The flow between all frames that are at most two apart; `frames` are uint8 (N, h, w, 3) RGB.

    The flow is written to `folder`, which is replaced as a whole. It is not computed again if
    `folder` holds flow of the same estimator for frames of the same shape. `workers` threads call
    the estimator.
    """
    use_one_opencv_thread()
    length, height, width = frames.shape[:3]
    shape = (length, len(OFFSETS), 2, height, width)
    if (kept := _load(folder, estimator.name, shape)) is not None:
        return kept
    with (
        atomic_directory(folder) as temporary,
        npy_writer(temporary / "flow.npy", shape, np.float16) as append_flow,
        npy_writer(temporary / "valid.npy", (*shape[:2], *shape[3:]), np.bool_) as append_valid,
    ):
        for done, (flow, valid) in enumerate(_flow_by_frame(frames, estimator, workers), 1):
            append_flow(flow)
            append_valid(valid)
            progress("computing optical flow", done, length)
        (temporary / "flow.json").write_text(json.dumps(_description(estimator.name, shape)))
    store = _load(folder, estimator.name, shape)
    if store is None:
        raise ValueError(f"{folder} was changed while optical flow was written to it")
    return store


def working_bytes(size: Size) -> int:
    """An upper bound of the memory of one thread that estimates flow for frames of `size`.

    It counts one chunk of frames, and the result of the chunk before.
    """
    pairs, pixels = 2 * _CHUNK, size[0] * size[1]
    # both frames as RGB, once by themselves and once joined in both orders; the flow both ways
    images, flow = pairs * 3 * (2 + 4), 2 * pairs * 8
    return pixels * (images + flow + _ESTIMATOR_BYTES + 2 * 2 * pairs * 5)


def _description(name: str, shape: Sequence[int]) -> dict[str, Any]:
    return {"estimator": name, "shape": list(shape), "offsets": list(OFFSETS)}


def _load(folder: Path, name: str, shape: tuple[int, ...]) -> FlowStore | None:
    try:
        description = json.loads((folder / "flow.json").read_text())
    except (OSError, ValueError):
        return None
    if description != _description(name, shape):
        return None
    flow = load_npy(folder / "flow.npy", shape, np.float16)
    valid = load_npy(folder / "valid.npy", (*shape[:2], *shape[3:]), np.bool_)
    return None if flow is None or valid is None else FlowStore(flow, valid)


def _flow_by_frame(
    frames: NDArray[np.uint8], estimator: FlowEstimator, workers: int
) -> Iterator[tuple[NDArray[np.float16], NDArray[np.bool_]]]:
    """The flow and validity of each frame, in order, in the form of `FlowStore`."""
    length, height, width = frames.shape[:3]
    entry = (len(OFFSETS), height, width)
    rows: dict[int, tuple[NDArray[np.float16], NDArray[np.bool_]]] = {}

    def row(frame: int) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        if frame not in rows:
            flow = np.zeros((len(OFFSETS), 2, height, width), dtype=np.float16)
            rows[frame] = flow, np.zeros(entry, dtype=np.bool_)
        return rows[frame]

    def pairs_from(start: int) -> list[Correspondence]:
        pairs = [
            (t, t + distance)
            for t in range(start, min(start + _CHUNK, length))
            for distance in (1, 2)
            if t + distance < length
        ]
        return _estimate_both_ways(frames, pairs, estimator) if pairs else []

    starts = range(0, length, _CHUNK)
    workers = min(workers, max(1, WORKING_BYTES // working_bytes((height, width))))
    for start, pairs in zip(starts, map_ahead(pairs_from, starts, workers), strict=True):
        for pair in pairs:
            flow, valid = row(pair.source)
            i = OFFSETS.index(pair.target - pair.source)
            flow[i], valid[i] = pair.flow, pair.valid
        # Pairs of later chunks contain later frames only, so these frames are finished.
        for frame in range(start, min(start + _CHUNK, length)):
            yield row(frame)
            del rows[frame]


def _estimate_both_ways(
    frames: NDArray[np.uint8], pairs: Sequence[tuple[int, int]], estimator: FlowEstimator
) -> list[Correspondence]:
    here, there = frames[[s for s, _ in pairs]], frames[[t for _, t in pairs]]
    flows = estimator.estimate(np.concatenate([here, there]), np.concatenate([there, here]))
    if not np.isfinite(flows).all():
        raise CheckpointError(
            f"the flow of {estimator.name} holds values that are no numbers, so its weights are "
            "damaged; give others with --flow-weights FILE, or use --flow dis"
        )
    flows.clip(-_MOST_FLOW, _MOST_FLOW, out=flows)
    found = []
    for (source, target), forward, backward in zip(
        pairs, flows[: len(pairs)], flows[len(pairs) :], strict=True
    ):
        for s, t, flow, opposite in (
            (source, target, forward, backward),
            (target, source, backward, forward),
        ):
            valid = consistent(flow, opposite)
            found.append(Correspondence(s, t, flow.astype(np.float16), valid))
    return found
