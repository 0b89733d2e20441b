"""Tracks to shapes: what people see of a track on each frame.

The server stores keyframes only. The server and its web page each compute how a shape moves between
keyframes. This module does the same; where the two differ it follows the page, because that is what
people saw when they corrected their work.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.cvat.shapes import Json

_Points = NDArray[np.float64]
"""float64 (N, 2) xy, frame pixels."""


def expand_tracks(
    tracks: Sequence[Json], frames: Collection[int], deleted: Collection[int] = ()
) -> list[Json]:
    """The shapes that `tracks` show on `frames`, track by track, in order of frames.

    * A track shows nothing before its first keyframe, and nothing from an `outside` keyframe to the
      next one. The last keyframe holds to the end. Keyframes on `deleted` frames do not count.
    * Rectangles and ellipses move evenly and turn the shorter way (half a turn: clockwise, as on
      the page; the server's export turns by one degree there).
    * Polygons may have different numbers of vertices: each vertex moves to the one whose share of
      the way around is nearest, and vertices that come close on the way are merged.
    * All other kinds stay in place until the next keyframe. The server moves polylines and single
      points too, which cover no pixels; it refuses masks and a change of kind.
    * A shape has the attributes of the keyframes so far, later ones first, and the track's own.

    A shape has the keys of the server's shapes, with `id` None, and two more: `track_id`, and
    `keyframe`, which says whether a person placed it on this very frame.
    """
    return [shape for track in tracks for shape in _expand(track, sorted(frames), deleted)]


def _expand(track: Json, frames: Sequence[int], deleted: Collection[int]) -> Iterator[Json]:
    keyframes = {one["frame"]: one for one in track["shapes"] if one["frame"] not in deleted}
    placed = sorted(keyframes)
    for frame in frames:
        passed = bisect_right(placed, frame)
        if passed == 0 or keyframes[placed[passed - 1]].get("outside"):
            continue
        shape = dict(keyframes[placed[passed - 1]])
        is_keyframe = shape["frame"] == frame
        if not is_keyframe and passed < len(placed):
            following = keyframes[placed[passed]]
            share = (frame - shape["frame"]) / (following["frame"] - shape["frame"])
            shape |= _between(shape, following, share)
        attributes = {
            one["spec_id"]: one
            for at in placed[:passed]
            for one in keyframes[at].get("attributes") or ()
        }
        yield shape | {
            "id": None,
            "track_id": track.get("id"),
            "keyframe": is_keyframe,
            "frame": frame,
            "label_id": track["label_id"],
            "group": track.get("group"),
            "source": track.get("source"),
            "attributes": [*attributes.values(), *(track.get("attributes") or ())],
        }


def _between(before: Json, after: Json, share: float) -> Json:
    """Points and rotation at `share` of the time from one keyframe to the next."""
    kind = before["type"]
    if after["type"] != kind:
        return {}
    start, end = (np.array(one["points"], dtype=np.float64) for one in (before, after))
    if kind == "polygon":
        moved = _morph(start.reshape(-1, 2), end.reshape(-1, 2), share)
        return {"points": moved.ravel().tolist()}
    if kind in ("rectangle", "ellipse"):
        angle = before.get("rotation") or 0.0
        turn = 180 - (180 - ((after.get("rotation") or 0.0) - angle)) % 360
        return {
            "points": (start + (end - start) * share).tolist(),
            "rotation": (angle + turn * share) % 360,
        }
    return {}


def _morph(before: _Points, after: _Points, share: float) -> _Points:
    """The polygon at `share` of the way from one to another."""
    before, after = np.append(before, before[:1], axis=0), np.append(after, after[:1], axis=0)
    sides, sides_after = _sides(before), _sides(after)
    if not (sides.any() and sides_after.any()):
        return before[:-1]
    distance = np.abs(_way(sides)[:, None] - _way(sides_after))
    there, back = distance.argmin(axis=1).tolist(), distance.argmin(axis=0).tolist()
    unreached = set(range(len(after))).difference(there)
    matched = sorted([*enumerate(there), *((back[j], j) for j in unreached)])
    opens = np.bincount([i for i, _ in matched]) > 1

    # Where one vertex becomes many, or many become one, they would crowd near their common end.
    # There, vertices closer than half the distance that they have at the other end are merged.
    vertices: list[_Points] = []
    for (is_opening, _), group in groupby(
        matched, key=lambda pair: (opens[pair[0]], pair[0] if opens[pair[0]] else pair[1])
    ):
        left, right = np.array(list(group)).T
        many, length = (right, sides_after) if is_opening else (left, sides)
        usual = length[many[0] : many[-1]].sum() / (many[-1] - many[0] + 1)
        moved = before[left] + (after[right] - before[left]) * share
        vertices.extend(_thin(moved, float(usual / 2)))
    return np.array(vertices[:-1])


def _sides(closed: _Points) -> NDArray[np.float64]:
    """float64 (N - 1,): lengths between the points of an outline."""
    lengths: NDArray[np.float64] = np.linalg.norm(np.diff(closed, axis=0), axis=1)
    return lengths


def _way(sides: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 (N,): share of the way around, from 0 to 1, at each point."""
    way: NDArray[np.float64] = np.append(0.0, np.cumsum(sides)) / sides.sum()
    return way


def _thin(points: _Points, spread: float) -> list[_Points]:
    """`points` with both ends and, of the others, those at least `spread` from the one before."""
    if len(points) == 1:
        return [points[0]]
    kept = [points[0]]
    for point in points[1:-1]:
        if np.linalg.norm(point - kept[-1]) >= spread:
            kept.append(point)
    if len(kept) == 1 and np.linalg.norm(points[-1] - points[0]) < spread:
        return [(points[0] + points[-1]) / 2]
    return [*kept, points[-1]]
