"""Where the camera is and looks: single views, and smooth walks with changing targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

from tools.rooms.scene import Room

Floats = NDArray[np.float64]
_CELL = 0.05
_CLEARANCE = 0.35
_TURN_RATE = np.radians(0.65)
"""Mean turn per frame; about 2.5 px of flow at 320 columns."""


@dataclass(frozen=True)
class Pose:
    """A camera without roll."""

    eye: Floats
    """float64 (3,), metres."""
    yaw: float
    pitch: float

    @property
    def axes(self) -> Floats:
        """float64 (3, 3), rows right, up, forward."""
        cy, sy, cp, sp = np.cos(self.yaw), np.sin(self.yaw), np.cos(self.pitch), np.sin(self.pitch)
        forward = np.array([cy * cp, sy * cp, sp])
        right = np.array([sy, -cy, 0.0])
        return np.stack([right, np.cross(right, forward), forward])


class FreeSpace:
    """How far the camera, between `low` and `high` above the floor, is from anything."""

    def __init__(self, room: Room, low: float, high: float) -> None:
        columns, rows = (int(np.ceil(v / _CELL)) for v in room.size[:2])
        free = np.ones((columns + 2, rows + 2), dtype=bool)
        free[[0, -1]] = False
        free[:, [0, -1]] = False
        for item in room.obstacles:
            if item.high[2] > low - 0.25 and item.low[2] < high + 0.25:
                x0, y0 = np.floor(item.low[:2] / _CELL).astype(int) + 1
                x1, y1 = np.ceil(item.high[:2] / _CELL).astype(int) + 1
                free[max(x0, 0) : max(x1, 0), max(y0, 0) : max(y1, 0)] = False
        self._distance = np.asarray(ndimage.distance_transform_edt(free)) * _CELL

    def clearance(self, points: Floats) -> Floats:
        """float64 (N,), metres, for points float64 (N, 2+)."""
        cells = np.floor(points[:, :2] / _CELL).astype(int) + 1
        inside = (cells >= 0).all(axis=1) & (cells < self._distance.shape).all(axis=1)
        cells = np.clip(cells, 0, np.array(self._distance.shape) - 1)
        return np.where(inside, self._distance[cells[:, 0], cells[:, 1]], 0.0)

    def draw(self, rng: np.random.Generator) -> Floats | None:
        """A free place on the floor plan, float64 (2,); None when the room has none."""
        cells = np.argwhere(self._distance >= _CLEARANCE + 0.05)
        if len(cells) == 0:
            return None
        cell = cells[int(rng.integers(len(cells)))]
        return np.asarray((cell - 0.5) * _CELL, dtype=np.float64)


def _direction(eye: Floats, target: Floats) -> tuple[float, float]:
    x, y, z = target - eye
    pitch = np.clip(np.arctan2(z, np.hypot(x, y)), np.radians(-24), np.radians(3))
    return float(np.arctan2(y, x)), float(pitch)


def _targets(room: Room) -> Floats:
    """float64 (N, 3): the middles of the things worth looking at, and the room's upper corners."""
    middles = [(o.low + o.high) / 2 for o in room.obstacles]
    w, d, h = room.size
    corners = [np.array([x, y, 0.8 * h]) for x in (0.0, w) for y in (0.0, d)]
    return np.stack(middles + corners)


def single_view(room: Room, rng: np.random.Generator) -> Pose | None:
    """A view of a random thing from a random free place."""
    height = float(rng.uniform(1.3, 1.7))
    place = FreeSpace(room, height, height).draw(rng)
    if place is None:
        return None
    eye = np.array([*place, height])
    targets = _targets(room)
    far = targets[np.linalg.norm(targets[:, :2] - place, axis=1) > 1.5]
    if len(far) == 0:
        return None
    return Pose(eye, *_direction(eye, far[int(rng.integers(len(far)))]))


def _walk(space: FreeSpace, frames: int, rng: np.random.Generator) -> Floats | None:
    """Positions float64 (frames, 2) along a spline that keeps clear; None when it failed."""
    knots = max(2, frames // 30 + 2)
    first = space.draw(rng)
    if first is None:
        return None
    places = [first]
    heading = float(rng.uniform(0, 2 * np.pi))
    for _ in range(knots - 1):
        for _ in range(12):
            turn = heading + float(rng.normal(0, 0.7))
            step = float(rng.uniform(0.25, 0.5))
            there = places[-1] + step * np.array([np.cos(turn), np.sin(turn)])
            if space.clearance(there[None])[0] >= _CLEARANCE + 0.05:
                places.append(there)
                heading = turn
                break
            heading = float(rng.uniform(0, 2 * np.pi))
        else:
            return None
    times = np.linspace(0, frames - 1, knots)
    path = PchipInterpolator(times, np.stack(places))(np.arange(frames))
    path = ndimage.gaussian_filter1d(path, 5.0, axis=0, mode="nearest")
    return path if space.clearance(path).min() >= _CLEARANCE else None


def _gaze(eyes: Floats, targets: Floats, rng: np.random.Generator) -> Floats:
    """Yaw and pitch, float64 (frames, 2): from target to target, each some way round the room."""
    frames = len(eyes)
    start = targets[int(rng.integers(len(targets)))]
    angles = [np.array(_direction(eyes[0], start))]
    times, sense = [0.0], 1.0 if rng.random() < 0.5 else -1.0
    while times[-1] < frames:
        eye = eyes[min(int(times[-1]), frames - 1)]
        wanted = sense * rng.uniform(np.radians(20), np.radians(60))
        options = np.array([_direction(eye, target) for target in targets])
        turn = (options[:, 0] - angles[-1][0] + np.pi) % (2 * np.pi) - np.pi
        best = int(np.argmin(np.abs(turn - wanted) + rng.uniform(0, 0.2, len(turn))))
        step = np.array([turn[best], options[best, 1] - angles[-1][1]])
        angles.append(angles[-1] + step)
        times.append(times[-1] + max(8.0, float(np.hypot(*step)) / _TURN_RATE))
        if rng.random() < 0.2:
            sense = -sense
    gaze = PchipInterpolator(times, np.stack(angles))(np.arange(frames))
    return np.asarray(ndimage.gaussian_filter1d(gaze, 3.0, axis=0, mode="nearest"))


def walk(room: Room, frames: int, rng: np.random.Generator) -> list[Pose] | None:
    """A hand-held walk of `frames` poses; None when this attempt found no clear path."""
    height = float(rng.uniform(1.4, 1.6))
    space = FreeSpace(room, height - 0.05, height + 0.05)
    path = _walk(space, frames, rng)
    if path is None:
        return None
    sway = ndimage.gaussian_filter1d(rng.standard_normal((frames, 3)), 6.0, axis=0) * 0.02
    shake = ndimage.gaussian_filter1d(rng.standard_normal((frames, 2)), 1.2, axis=0)
    eyes = np.concatenate([path, np.full((frames, 1), height)], axis=1) + np.clip(sway, -0.04, 0.04)
    angles = _gaze(eyes, _targets(room), rng) + np.radians(0.08) * shake
    return [Pose(eye, float(a[0]), float(a[1])) for eye, a in zip(eyes, angles, strict=True)]
