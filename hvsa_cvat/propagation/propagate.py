"""Label propagation along optical flow, similar to Budvytis et al. 2017, without a network.

Two chains run through the video: one forward from the past and one backward from the future. A
chain does not carry labels. It carries places: for each cell of the flow's grid, the annotated
frame that the cell comes from, and the position in it. Labels are read at the places only once, at
the video's own size and between pixels. So long chains neither blur labels nor add rounding errors.
The labels that both chains read are then decided by vote.
"""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.files import atomic_directory
from hvsa_cvat.ports import Progress, silent
from hvsa_cvat.propagation.doubted import Doubted
from hvsa_cvat.propagation.drift import Places, moved_places, without_drift
from hvsa_cvat.propagation.votes import VOTE_PIXEL, Colours, Disputed, cells_of, count_votes
from hvsa_cvat.threads import map_ahead, processors
from hvsa_cvat.types import IGNORE, FrameAnnotation, LabelMap, Mask, Size
from hvsa_cvat.video.flow import FlowStore
from hvsa_cvat.video.frames import load_npy, npy_writer

DECAY = 0.93
"""The factor of the confidence for each frame. It lets the nearer annotated frame win."""

FAILED_DECAY = 0.3
"""Another factor where the flow fails the check. The label is still carried, and loses against any
better one. The same happens to the border's label, which fills what enters the frame."""

_LEAST_CONFIDENCE = 2.0**-14
"""The smallest normal float16: a label that failed the check often still counts as a label."""

_PLACE = np.dtype([("offset", np.float16, 2), ("source", np.int32), ("confidence", np.float16)])
"""The place of one cell: (dx, dy) to it in cells, and the index of the source, -1 for none."""

CARRIED_PIXEL = 400
"""Bytes for each pixel of the flow that one thread takes while it carries labels."""

_CARRYING_BYTES = 2**29
"""Memory that all threads together may take while they carry labels, if they are more than two."""

_READING_BYTES = 2**29
"""Memory that all threads together may take while they read carried labels."""

_CHAINS = 2

PLACE_BYTES = _PLACE.itemsize
"""Bytes per cell, frame and chain while labels are carried."""


@dataclass(frozen=True)
class Propagated:
    """The result of label propagation for one frame, at the video's own size."""

    frame: int
    label_map: LabelMap
    """`IGNORE` where no label reaches."""
    confidence: NDArray[np.float32]
    """float32 (H, W) in 0..1: 1 where a person labelled, 0 where no label reaches. Elsewhere it is
    the larger confidence of the chains times the label's share of the vote."""
    lead: NDArray[np.float32]
    """float32 (H, W) in 0..2: the confidence in votes for the label minus that for the next label.
    It is not used where a person labelled."""
    reached: float
    """The share of the pixels that have a label."""
    disputed: Disputed | None = None
    """None: there are no pixels that have votes for several labels."""

    @property
    def by_person(self) -> Mask:
        """The pixels that a person labelled."""
        return self.confidence >= 1

    def votes(self, classes: int) -> NDArray[np.float32]:
        """float32 (classes, H, W) in 0..2: the confidence in votes for each label. Both chains are
        for a person's label."""
        votes = np.zeros((classes, *self.label_map.shape), np.float32)
        known = self.label_map != IGNORE
        rows, columns = np.nonzero(known)
        votes[self.label_map[known], rows, columns] = self.lead[known]
        if self.disputed is not None:
            pixels, counted = self.disputed
            flat = votes.reshape(classes, -1)
            flat[:, pixels] = 0
            flat[: len(counted), pixels] = counted
        rows, columns = np.nonzero(self.by_person)
        votes[:, rows, columns] = 0
        votes[self.label_map[rows, columns], rows, columns] = _CHAINS
        return votes


@dataclass(frozen=True, eq=False)
class Carried:
    """Labels carried through a whole video. Iterating computes the result of each frame.

    Labels and places are memory-mapped files.
    """

    annotated: tuple[int, ...]
    """The annotated frames, in order."""
    labels: NDArray[np.uint8]
    """uint8 (A, H, W): the label maps of the annotated frames."""
    past: NDArray[Any]
    """`_PLACE` (N, h, w): where the cells of every frame come from in earlier frames."""
    future: NDArray[Any]
    """`_PLACE` (N, h, w): where they come from in later frames."""
    colours: NDArray[np.uint8] | None = None
    """uint8 (N, h, w, 3) RGB, any size: the frames, if votes depend on colours."""
    doubted: Doubted | None = None

    def teaching(self, one: Propagated) -> NDArray[np.float32]:
        """float32 (H, W): how much each label of a frame counts when it teaches."""
        if self.doubted is None:
            return one.confidence
        own = self.doubted.confidence(one.frame)
        return np.where(one.by_person, one.confidence * own, one.confidence)

    def __len__(self) -> int:
        return len(self.past)

    def __iter__(self) -> Iterator[Propagated]:
        """Every frame of the video in order. A pixel that a person labelled keeps its label."""
        threads = reading_threads(self.labels.shape[1:], processors())
        return map_ahead(self.__getitem__, range(len(self)), threads)

    def __getitem__(self, frame: int) -> Propagated:
        colours = self.colours
        label_map, confidence, lead, disputed = count_votes(
            (self.past[frame], self.future[frame]),
            self.labels,
            None if colours is None else Colours(frame, self.annotated, colours),
        )
        if frame in self.annotated:
            own = self.labels[self.annotated.index(frame)]
            label_map = np.where(own != IGNORE, own, label_map)
            confidence[own != IGNORE] = 1
        reached = float((label_map != IGNORE).mean())
        return Propagated(frame, label_map, confidence, lead, reached, disputed)


def reading_threads(size: Size, processors: int) -> int:
    """How many threads read the carried labels of frames of `size` (height, width) at once: a
    thread for each processor, as far as `_READING_BYTES` go."""
    return min(processors, max(1, _READING_BYTES // (VOTE_PIXEL * size[0] * size[1])))


def carry(
    annotations: Sequence[FrameAnnotation],
    flow: FlowStore,
    size: Size,
    length: int,
    folder: Path,
    progress: Progress = silent,
    pictures: NDArray[np.uint8] | None = None,
    colours: NDArray[np.uint8] | None = None,
    doubted: Doubted | None = None,
) -> Carried:
    """Carry `annotations` through a video of `length` frames of `size`.

    An annotation may cover a part of its frame. Where two of the same frame overlap, the later one
    counts. `pictures` are the frames at the flow's size, uint8 (length, h, w, 3) RGB; if given,
    drift is corrected at every step. `colours` are the frames at any size; if given, votes depend
    on colours. The labels that are `doubted` are carried with less confidence.

    The places are written to `folder`, which is replaced as a whole. They are not computed again if
    `folder` holds undamaged places of the same annotations. The caller must use another folder for
    other flow or pictures.
    """
    if len(flow) != length:
        raise ValueError(f"flow of {len(flow)} frames for a video of {length}")
    latest = _merged(annotations, size)
    places = (length, *flow.size)
    if (kept := _read_kept(folder, latest, size, places, doubted)) is not None:
        return replace(kept, colours=colours, doubted=doubted)
    with atomic_directory(folder) as temporary:
        with npy_writer(temporary / "labels.npy", (len(latest), *size), np.uint8) as append:
            for annotation in latest.values():
                append(annotation.label_map)
        labels = np.load(temporary / "labels.npy", mmap_mode="r")
        chains = {
            name: np.lib.format.open_memmap(temporary / f"{name}.npy", "w+", _PLACE, places)
            for name in ("past", "future")
        }
        orders = {"past": range(length), "future": range(length)[::-1]}
        whole = {frame for frame, own in zip(latest, labels, strict=True) if (own != IGNORE).all()}
        parts = [
            _stored(_chain(tuple(latest), labels, flow, part, pictures, doubted), chains[name], row)
            for name, order in orders.items()
            for row, part in _cut(order, whole)
        ]
        threads = carrying_threads(flow.size, processors())
        _run(parts, threads, length, progress)
        sums = {name: _checksum(rows) for name, rows in {"labels": labels, **chains}.items()}
        (temporary / "carried.json").write_text(json.dumps(_description(latest, sums, doubted)))
    carried = _open_files(folder, tuple(latest), size, places)
    if carried is None:
        raise ValueError(f"{folder} was changed while labels were carried")
    return replace(carried, colours=colours, doubted=doubted)


def carrying_threads(size: Size, processors: int) -> int:
    """How many threads carry labels along flow of `size` (height, width) at once: two, one a chain,
    and more where processors and `_CARRYING_BYTES` allow it."""
    return max(2, min(processors, _CARRYING_BYTES // (CARRIED_PIXEL * size[0] * size[1])))


def _cut(order: range, whole: Collection[int]) -> Iterator[tuple[int, range]]:
    """`order` in parts that begin at the frames of `whole`, each with its place in the order.

    Nothing before a frame that is labelled wholly reaches what comes after it.
    """
    starts = [row for row, frame in enumerate(order) if row == 0 or frame in whole]
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        yield start, order[start:stop]


def _stored(chain: Iterator[NDArray[Any]], rows: NDArray[Any], row: int) -> Iterator[int]:
    """Write what `chain` gives into `rows` from `row` on, one row a step."""
    for at, places in enumerate(chain, row):
        rows[at] = places
        yield at


def _run(parts: Sequence[Iterator[int]], threads: int, length: int, progress: Progress) -> None:
    """Run the parts of both chains to their ends, `threads` of them side by side.

    They go from step to step together, so that whatever ends one ends the others.
    """
    waiting, running, steps = deque(parts), list[Iterator[int]](), 0
    with ThreadPoolExecutor(threads) as pool:
        while waiting or running:
            while waiting and len(running) < threads:
                running.append(waiting.popleft())
            found = [pool.submit(next, part, None) for part in running]
            moved = [step.result() is not None for step in found]
            running = [part for part, on in zip(running, moved, strict=True) if on]
            before, steps = steps, steps + sum(moved)
            if steps // 2 > before // 2:
                progress("carrying labels", steps // 2, length)


def _read_kept(
    folder: Path,
    latest: Mapping[int, FrameAnnotation],
    size: Size,
    places: tuple[int, int, int],
    doubted: Doubted | None,
) -> Carried | None:
    """The places in `folder`, if they are undamaged and belong to these annotations."""
    try:
        told = json.loads((folder / "carried.json").read_text())
    except (OSError, ValueError):
        return None
    found = _open_files(folder, tuple(latest), size, places)
    if found is None:
        return None
    sums = {
        "labels": _checksum(one.label_map for one in latest.values()),
        "past": _checksum(found.past),
        "future": _checksum(found.future[::-1]),
    }
    whole = (
        told == _description(latest, sums, doubted) and _checksum(found.labels) == sums["labels"]
    )
    return found if whole else None


def _open_files(
    folder: Path, annotated: tuple[int, ...], size: Size, places: tuple[int, int, int]
) -> Carried | None:
    labels = load_npy(folder / "labels.npy", (len(annotated), *size), np.uint8)
    past, future = (load_npy(folder / f"{name}.npy", places, _PLACE) for name in ("past", "future"))
    if labels is None or past is None or future is None:
        return None
    # the file of the future was written from the last frame to the first
    return Carried(annotated, labels, past, future[::-1])


def _description(
    latest: Iterable[int], sums: Mapping[str, int], doubted: Doubted | None
) -> dict[str, Any]:
    told: dict[str, Any] = {"frames": list(latest), "sums": dict(sums)}
    if doubted is not None:
        told["doubted"] = doubted.described()
    return told


def _checksum(entries: Iterable[NDArray[Any]]) -> int:
    checksum = 0
    for entry in entries:
        checksum = zlib.crc32(entry.data, checksum)
    return checksum


def fill(propagated: Propagated, prediction: LabelMap) -> LabelMap:
    """The propagated labels, with the network's labels where none reaches."""
    return np.where(propagated.label_map != IGNORE, propagated.label_map, prediction)


def _merged(annotations: Sequence[FrameAnnotation], size: Size) -> dict[int, FrameAnnotation]:
    """One annotation for each annotated frame, in order of frames."""
    merged: dict[int, FrameAnnotation] = {}
    for new in annotations:
        if new.packed.shape != size:
            raise ValueError(f"a label map has {new.packed.shape}, but the video has {size}")
        old = merged.get(new.frame)
        if old is not None:
            drawn = new.label_map
            joined = np.where(drawn != IGNORE, drawn, old.label_map)
            new = FrameAnnotation(new.frame, new.segments, joined)
        merged[new.frame] = new
    return dict(sorted(merged.items()))


def _chain(
    annotated: Sequence[int],
    labels: NDArray[np.uint8],
    flow: FlowStore,
    order: range,
    pictures: NDArray[np.uint8] | None,
    doubted: Doubted | None = None,
) -> Iterator[NDArray[Any]]:
    """The places of each frame in `order`, `_PLACE` (h, w), from the frames before it."""
    centres = np.ix_(
        *(cells_of(n, own) for n, own in zip(flow.size, labels.shape[1:], strict=True))
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
                places = without_drift(places, pictures, frame, annotated)
        if frame in annotated:
            index = annotated.index(frame)
            own = labels[index][centres] != IGNORE
            places.offset[own], places.source[own], places.confidence[own] = 0, index, 1
            if doubted is not None and frame in doubted.pixels:
                places.confidence[own] = np.asarray(doubted.confidence(frame))[centres][own]
        stored = np.empty(flow.size, dtype=_PLACE)
        stored["offset"], stored["source"] = places.offset, places.source
        stored["confidence"] = places.confidence
        yield stored
