"""Label propagation along optical flow, in the way of Budvytis et al. 2017, without a network.

Two chains run through the video, one from the past and one from the future. A chain does not carry
labels but places: for every cell of the flow's grid, which annotated frame it comes from and where
in it. Labels are read there once, at the video's own size and between pixels, so nothing blurs or
drifts by rounding however long the chain; and what the two chains read is put to the vote.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.errors import HvsaError
from hvsa_cvat.ports import Progress, silent
from hvsa_cvat.propagation.drift import Places, moved_places, without_drift
from hvsa_cvat.types import IGNORE, FrameAnnotation, LabelMap, Size
from hvsa_cvat.video.flow import FlowStore

DECAY = 0.93
"""What is left of the confidence after one frame, so that the nearer annotated frame wins."""

FAILED_DECAY = 0.3
"""The same, further, where the flow check fails: the label travels on unless something better
contradicts it. So does the border's label into what enters the frame."""

_LEAST_CONFIDENCE = 2.0**-14
"""Smallest normal float16; keeps a label that failed the check often above no label at all."""

_PLACE = np.dtype([("offset", np.float16, 2), ("source", np.int32), ("confidence", np.float16)])
"""Of one cell: (dx, dy) to its place in the source, in cells; index of the source, -1 for none."""

PLACE_BYTES = _PLACE.itemsize
"""Of one cell in one frame, while labels are carried."""

IN_MEMORY = 2**26
"""Bytes of places, and of labels; a longer or larger video keeps them in a temporary file."""


@dataclass(frozen=True)
class Propagated:
    """What label propagation says of one frame, at the video's own size."""

    frame: int
    label_map: LabelMap
    """`IGNORE` where no label reaches."""
    confidence: NDArray[np.float32]
    """float32 (H, W) in 0..1: 1 where a person labelled, 0 where no label reaches, between them
    the better chain's confidence times the label's share of the vote."""
    reached: float
    """Share of the pixels that have a label."""


def propagate(
    annotations: Sequence[FrameAnnotation],
    flow: FlowStore,
    size: Size,
    length: int,
    progress: Progress = silent,
    pictures: NDArray[np.uint8] | None = None,
    folder: Path | None = None,
) -> Iterator[Propagated]:
    """Every frame of the video in order, labelled from `annotations`, whole or partial.

    A pixel that a person labelled keeps its label. Of several annotations of a frame the later one
    holds. With `pictures`, the frames uint8 (length, h, w, 3) RGB at the flow's size, drift is
    taken out at every step. What does not fit into memory lies in `folder` meanwhile, by default
    that of the system's temporary files.
    """
    if len(flow) != length:
        raise ValueError(f"flow of {len(flow)} frames for a video of {length}")
    frames, latest = _merged(annotations, size)
    where = str(folder) if folder is not None else None
    with (
        tempfile.SpooledTemporaryFile(IN_MEMORY, dir=where) as later,
        tempfile.SpooledTemporaryFile(IN_MEMORY, dir=where) as drawn,
    ):
        try:
            labels = _label_maps(drawn, [latest[frame] for frame in frames], size)
            chain = _chain(frames, labels, flow, range(length)[::-1], pictures)
            for done, places in enumerate(chain, 1):
                later.write(places.tobytes())
                progress("propagating labels backward", done, length)
        except OSError as error:
            mend = "free space" if where else "free space or set TMPDIR"
            raise HvsaError(
                f"cannot write temporary files to {where or tempfile.gettempdir()}: "
                f"{error.strerror or error}; {mend}"
            ) from error
        entry = PLACE_BYTES * flow.size[0] * flow.size[1]
        for frame, before in enumerate(_chain(frames, labels, flow, range(length), pictures)):
            later.seek((length - 1 - frame) * entry)
            after = np.frombuffer(later.read(entry), dtype=_PLACE).reshape(flow.size)
            label_map, confidence = _vote((before, after), labels)
            if frame in frames:
                own = labels[frames.index(frame)]
                label_map = np.where(own != IGNORE, own, label_map)
                confidence[own != IGNORE] = 1
            reached = float((label_map != IGNORE).mean())
            yield Propagated(frame, label_map, confidence, reached)
            progress("propagating labels", frame + 1, length)


def fill(propagated: Propagated, prediction: LabelMap) -> LabelMap:
    """The propagated labels, and the network's where none reaches."""
    return np.where(propagated.label_map != IGNORE, propagated.label_map, prediction)


def _merged(
    annotations: Sequence[FrameAnnotation], size: Size
) -> tuple[list[int], dict[int, FrameAnnotation]]:
    """The annotated frames in order, and one annotation of each."""
    merged: dict[int, FrameAnnotation] = {}
    for new in annotations:
        if new.packed.shape != size:
            raise ValueError(f"a label map of {new.packed.shape} for a video of {size}")
        old = merged.get(new.frame)
        if old is not None:
            drawn = new.label_map
            joined = np.where(drawn != IGNORE, drawn, old.label_map)
            new = FrameAnnotation(new.frame, new.segments, joined)
        merged[new.frame] = new
    return sorted(merged), merged


def _label_maps(
    file: tempfile.SpooledTemporaryFile[bytes], annotations: Sequence[FrameAnnotation], size: Size
) -> NDArray[np.uint8]:
    """uint8 (A, H, W), all label maps inflated; where they are large, mapped from `file`."""
    shape = (len(annotations), *size)
    if len(annotations) * size[0] * size[1] <= IN_MEMORY:
        maps = [annotation.label_map for annotation in annotations]
        return np.array(maps, np.uint8).reshape(shape)
    # not written through the map: on a full disk that kills the process instead of raising
    for annotation in annotations:
        file.write(annotation.label_map.tobytes())
    file.flush()
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, np.uint8).reshape(shape)


def _chain(
    frames: Sequence[int],
    labels: NDArray[np.uint8],
    flow: FlowStore,
    order: range,
    pictures: NDArray[np.uint8] | None,
) -> Iterator[NDArray[Any]]:
    """For every frame in `order` the places, `_PLACE` (h, w), that the ones before it lead to."""
    centres = np.ix_(
        *(_rescaled(n, own) for n, own in zip(flow.size, labels.shape[1:], strict=True))
    )
    places = Places(
        np.zeros((*flow.size, 2), dtype=np.float32),
        np.full(flow.size, -1, dtype=np.int32),
        np.zeros(flow.size, dtype=np.float32),
    )
    for frame in order:
        step = flow.get(frame, frame - order.step)
        if frame != order[0] and step is not None:
            places = moved_places(places, step.flow)
            kept = np.where(step.valid, DECAY, DECAY * FAILED_DECAY).astype(np.float32)
            confidence = np.maximum(places.confidence * kept, _LEAST_CONFIDENCE)
            places = places._replace(confidence=confidence)
            if pictures is not None:
                places = without_drift(places, pictures, frame, frames)
        if frame in frames:
            index = frames.index(frame)
            own = labels[index][centres] != IGNORE
            places.offset[own], places.source[own], places.confidence[own] = 0, index, 1
        stored = np.empty(flow.size, dtype=_PLACE)
        stored["offset"], stored["source"] = places.offset, places.source
        stored["confidence"] = places.confidence
        yield stored


def _vote(
    chains: Sequence[NDArray[Any]], labels: NDArray[np.uint8]
) -> tuple[LabelMap, NDArray[np.float32]]:
    """The label of every pixel with the most votes, and its confidence.

    A chain's confidence is shared out, bilinearly, among the four pixels around its place.
    """
    size = labels.shape[1:]
    read = [_read(places, labels) for places in chains]
    seen = np.concatenate([corners for corners, _, _ in read])
    weights = np.concatenate([weights for _, weights, _ in read])
    best = np.maximum.reduce([confidence for _, _, confidence in read])
    label_map = seen[0].copy()
    share = np.ones(size, dtype=np.float32)
    # Nearly everywhere all are of one mind; count only where they are not.
    disputed = (seen != seen[0]).any(axis=0)
    seen, weights = seen[:, disputed], weights[:, disputed]
    weights[seen == IGNORE] = 0
    seen[seen == IGNORE] = 0
    votes = np.zeros((int(seen.max(initial=0)) + 1, seen.shape[1]), dtype=np.float32)
    for voted, weight in zip(seen, weights, strict=True):
        votes[voted, np.arange(len(voted))] += weight
    winners = votes.argmax(axis=0)
    won, cast = votes.max(axis=0, initial=0), weights.sum(axis=0)
    label_map[disputed] = np.where(won > 0, winners, IGNORE)
    share[disputed] = won / np.maximum(cast, np.finfo(np.float32).tiny)
    return label_map, np.where(label_map != IGNORE, best * share, 0).astype(np.float32)


def _read(
    places: NDArray[Any], labels: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """For every pixel, uint8 (4, H, W) the labels around its place, float32 (4, H, W) their
    weights, which add up to its confidence, and that, float32 (H, W)."""
    height, width = size = labels.shape[1:]
    h, w = places.shape
    cells = places[np.ix_(_rescaled(height, h), _rescaled(width, w))]
    offset = cells["offset"].astype(np.float32)
    x = (np.arange(width) + offset[..., 0] * (width / w)).clip(0, width - 1)
    y = (np.arange(height)[:, np.newaxis] + offset[..., 1] * (height / h)).clip(0, height - 1)
    left, top = x.astype(np.intp), y.astype(np.intp)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = (x - left).astype(np.float32), (y - top).astype(np.float32)
    source = cells["source"]
    confidence = np.where(source >= 0, cells["confidence"], 0).astype(np.float32)
    corners = np.full((4, *size), IGNORE, dtype=np.uint8)
    if len(labels):
        for i, (v, u) in enumerate(((top, left), (top, right), (bottom, left), (bottom, right))):
            corners[i] = np.where(source >= 0, labels[source, v, u], IGNORE)
    shares = ((1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across)
    return corners, np.stack(shares) * confidence, confidence


def _rescaled(count: int, other: int) -> NDArray[np.intp]:
    """Of `count` cells along a side, which of `other` cells each centre lies in."""
    return ((np.arange(count) + 0.5) * other / count).astype(np.intp)
