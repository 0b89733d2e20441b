"""What annotators get to see: frames darkened around the samples, and the samples' outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from hvsa_cvat.annotation.polygons import corners, outline_of
from hvsa_cvat.cvat.state import Region
from hvsa_cvat.ports import Progress, SegmentMaps
from hvsa_cvat.types import Image, Mask, Packed, Sample, SegmentMap


@dataclass(frozen=True)
class Share:
    """A run of frames of the child task that is one person's job."""

    start: int
    stop: int
    """Inclusive."""
    expected_clicks: float


@dataclass(frozen=True)
class Plan:
    """A child task before it is made; the same samples give the same plan."""

    frames: tuple[int, ...]
    """Position in the video of each frame of the child task."""
    regions: tuple[Region, ...]
    numbers: tuple[Packed, ...]
    """For each frame of the child task the region's number at each pixel, int32 (H, W), 0 outside
    the samples."""
    shares: tuple[Share, ...]


def plan_request(
    samples: Sequence[Sample],
    expected_clicks: Sequence[float],
    segments: SegmentMaps,
    people: int,
    progress: Progress,
) -> Plan:
    """Cut the samples into regions and divide their frames among `people` (0: one share).

    Regions are numbered in order of time, segment and place.
    """
    costs: dict[int, float] = {}
    for sample, clicks in zip(samples, expected_clicks, strict=True):
        costs[sample.frame] = costs.get(sample.frame, 0.0) + clicks
    in_time = sorted(costs)
    shares = divide([costs[frame] for frame in in_time], max(people, 1))
    order = [in_time[i] for share in shares for i in share]
    child_frame = {frame: i for i, frame in enumerate(order)}

    regions: list[Region] = []
    numbers: dict[int, Packed] = {}
    for frame, group in groupby(sorted(samples), key=lambda sample: sample.frame):
        wanted = [sample.segment for sample in group]
        first = len(regions) + 1
        found, numbered = cut(segments[frame], wanted, first, segments.border_is_free)
        numbers[frame] = Packed.of(numbered)
        regions += [
            Region(first + i, Sample(frame, segment), child_frame[frame], points)
            for i, (segment, points) in enumerate(found)
        ]
        progress("cutting regions", len(numbers), len(in_time))
    regions.sort(key=lambda region: (region.child_frame, region.number))
    return Plan(
        tuple(order),
        tuple(regions),
        tuple(numbers[frame] for frame in order),
        tuple(_runs([sum(costs[in_time[i]] for i in share) for share in shares], shares)),
    )


def divide(costs: Sequence[float], parts: int) -> list[list[int]]:
    """Indices of `costs` in at most `parts` groups of about equal cost, none of them empty.

    The dearest first, each to the group that has the least so far: no group costs more than a third
    above the best division there is. Within a group indices ascend, and groups by their first.
    """
    parts = min(parts, len(costs))
    groups: list[list[int]] = [[] for _ in range(parts)]
    loads = [0.0] * parts
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = min(range(parts), key=lambda part: (loads[part], len(groups[part])))
        groups[least].append(index)
        loads[least] += costs[index]
    return sorted(sorted(group) for group in groups)


def cut(
    segment_map: SegmentMap, wanted: Sequence[int], first: int, outlined: bool
) -> tuple[list[tuple[int, tuple[float, ...]]], NDArray[np.int32]]:
    """Segment and outline of each 4-connected part of the `wanted` segments, and the map of their
    numbers, `first` and up: int32 (H, W), 0 elsewhere.

    An outline is a closed line along pixel borders: x, y, ..., the last point the first again. The
    holes of a part are not outlined. Where not `outlined` each segment is one part without a line.
    """
    rank = np.full(int(segment_map.max()) + 1, -1, dtype=np.int32)
    rank[list(wanted)] = np.arange(len(wanted))
    keys = rank[segment_map]
    if not outlined:
        return [(segment, ()) for segment in wanted], np.where(keys < 0, 0, keys + first)
    parts = measure.label(keys, background=-1, connectivity=1)  # type: ignore[no-untyped-call]
    windows = ndimage.find_objects(parts)
    masks = [parts[window] == i for i, window in enumerate(windows, start=1)]
    owner = [int(keys[window][mask][0]) for window, mask in zip(windows, masks, strict=True)]
    order = sorted(range(len(windows)), key=lambda i: (owner[i], i))

    number_of = np.zeros(len(windows) + 1, dtype=np.int32)
    number_of[np.asarray(order, dtype=np.intp) + 1] = np.arange(len(order)) + first
    found = []
    for i in order:
        origin = (windows[i][1].start, windows[i][0].start)
        outline = corners(outline_of(masks[i])) + np.asarray(origin, dtype=np.int32)
        closed = np.concatenate([outline, outline[:1]])
        found.append((wanted[owner[i]], tuple(map(float, closed.ravel()))))
    return found, number_of[parts]


def darken(image: Image, lit: Mask, darkness: float) -> Image:
    """`image`, the share `darkness` of its brightness taken from all that is not `lit`."""
    shades = np.round(np.arange(256) * (1 - darkness)).astype(np.uint8)
    return np.where(lit[..., np.newaxis], image, shades[image])


def _runs(clicks: Sequence[float], shares: Sequence[Sequence[int]]) -> list[Share]:
    runs, start = [], 0
    for cost, share in zip(clicks, shares, strict=True):
        runs.append(Share(start, start + len(share) - 1, cost))
        start += len(share)
    return runs
