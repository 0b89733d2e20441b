"""Write data sets: clips of a walk through a room, or single views of many rooms.

Everything follows from (seed, clip or room, frame), so the number of processes changes nothing.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from hvsa_cvat.errors import HvsaError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.ports import Progress
from hvsa_cvat.types import Image, LabelMap, Size
from tools.rooms import scene
from tools.rooms.camera import Pose, single_view, walk
from tools.rooms.classes import CLASSES
from tools.rooms.render import Exposure, Renderer, photograph
from tools.rooms.style import Style, draw

VIEWS_PER_ROOM = 4
_CHUNK = 50
_SKETCH = (27, 36)
"""Size of the sketches by which views and walks are chosen."""
_ROOMS = 6
"""Rooms among which a clip chooses."""


@dataclass(frozen=True)
class Request:
    """What to write, and where."""

    style: Style
    clips: int
    """0: single views."""
    frames: int
    """Frames a clip, or views in all."""
    size: Size
    seed: int
    out: Path
    suffix: str
    """`png` or `jpg` (quality 92); label maps are always PNG."""


@dataclass(frozen=True)
class _Job:
    request: Request
    index: int
    """Clip, or room."""
    start: int
    stop: int


def write(request: Request, workers: int, progress: Progress) -> None:
    """Write the whole data set; label maps are uint8 PNG of class indices."""
    jobs = list(_jobs(request))
    total, done = sum(job.stop - job.start for job in jobs), 0
    progress("render", 0, total)
    with atomic_write(request.out / "classes.txt") as path:
        path.write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    if workers == 1:
        for job in jobs:
            done += _run(job)
            progress("render", done, total)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for count in pool.imap_unordered(_run, jobs):
            done += count
            progress("render", done, total)


def _jobs(request: Request) -> Iterator[_Job]:
    if request.clips == 0:
        for start in range(0, request.frames, VIEWS_PER_ROOM):
            stop = min(start + VIEWS_PER_ROOM, request.frames)
            yield _Job(request, start // VIEWS_PER_ROOM, start, stop)
        return
    for index in range(request.clips):
        for start in range(0, request.frames, _CHUNK):
            yield _Job(request, index, start, min(start + _CHUNK, request.frames))


def _run(job: _Job) -> int:
    request, frames = job.request, range(job.start, job.stop)
    if request.clips == 0:
        shots = views(request.style, len(frames), request.size, request.seed, job.index)
        _write_pairs(request.out, "view", request.suffix, frames, shots)
    else:
        whole = clip(request.style, request.frames, request.size, request.seed, job.index)
        with whole.renderer:
            shots = (whole.photograph(frame) for frame in frames)
            folder = request.out / f"clip_{job.index:03d}"
            _write_pairs(folder, "frame", request.suffix, frames, shots)
    return len(frames)


def _write_pairs(
    folder: Path,
    base: str,
    suffix: str,
    numbers: range,
    shots: Iterator[tuple[Image, LabelMap]],
) -> None:
    for number, (image, label_map) in zip(numbers, shots, strict=True):
        name = f"{base}_{number:05d}"
        _write_image(folder / "images" / f"{name}.{suffix}", image[..., ::-1])
        _write_image(folder / "labels" / f"{name}.png", label_map)


def _write_image(path: Path, pixels: Image | LabelMap) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix == ".jpg" else []
    written, data = cv2.imencode(path.suffix, pixels, options)
    if not written:
        raise HvsaError(f"cannot encode {path}; use --format png")
    with atomic_write(path) as temporary:
        temporary.write_bytes(data.tobytes())


def _rng(style: Style, seed: int, *path: int) -> np.random.Generator:
    return np.random.default_rng([seed, *style.name.encode(), *path])


def _field_of_view(rng: np.random.Generator) -> float:
    return float(np.radians(rng.uniform(54, 60)))


def _richness(renderer: Renderer, poses: list[Pose]) -> float:
    """How much the views show: classes, evenness, and distance from the nearest thing."""
    sketches = [renderer.raw(pose, _SKETCH) for pose in poses]
    near = min(float(np.percentile(raw.depth, 5)) for raw in sketches)
    counts = sum(np.bincount(renderer.labels(raw).ravel(), minlength=256) for raw in sketches)
    share = np.asarray(counts, dtype=np.float64)[: len(CLASSES)] / np.sum(counts)
    spread = -np.sum(share * np.log(share + 1e-12)) / np.log(len(CLASSES))
    return float(2 * np.sum(share > 0.003) + 6 * spread - 8 * max(0.0, 0.6 - near))


def _exposure(
    style: Style, renderer: Renderer, poses: list[Pose], rng: np.random.Generator
) -> Exposure:
    """Gain that brings the mean of some views to the room's target."""
    light = np.stack([np.minimum(renderer.lit(renderer.raw(p, (54, 72))), 1.5) for p in poses])
    sensor = style.sensor
    # Middle of the brightness as a person sees it, after gamma.
    mean = float(np.mean(light ** (1 / 2.2))) ** 2.2
    return Exposure(
        renderer.room.exposure / max(mean, 1e-3),
        draw(rng, sensor.noise),
        draw(rng, sensor.blur),
        sensor.vignette,
    )


def views(
    style: Style, count: int, size: Size, seed: int, room_index: int
) -> Iterator[tuple[Image, LabelMap]]:
    """The views of one room, each the richest of several."""
    rng = _rng(style, seed, 1, room_index)
    room = scene.build(style, rng)
    with Renderer(room, _field_of_view(rng)) as renderer:
        for _ in range(count):
            options = [pose for _ in range(5) if (pose := single_view(room, rng)) is not None]
            if not options:
                raise HvsaError(
                    f"room {room_index} of seed {seed} has no place for a camera; "
                    "choose another --seed"
                )
            best = max(options, key=lambda pose: _richness(renderer, [pose]))
            exposure = _exposure(style, renderer, [best], rng)
            yield photograph(renderer, best, size, exposure, rng)


@dataclass(frozen=True)
class Clip:
    """A planned walk, ready to be photographed in any order."""

    style: Style
    renderer: Renderer
    poses: list[Pose]
    exposure: Exposure
    wander: tuple[float, float]
    """Period in frames and phase of the exposure's slow change."""
    size: Size
    seed: tuple[int, int]
    """Of the data set, and the clip's number."""

    def photograph(self, frame: int) -> tuple[Image, LabelMap]:
        """Picture and truth of one frame; depends on no other frame."""
        swing = np.sin(2 * np.pi * frame / self.wander[0] + self.wander[1])
        gain = self.exposure.gain * 2 ** (self.style.sensor.flicker * swing / 2)
        rng = _rng(self.style, self.seed[0], 3, self.seed[1], frame)
        exposure = replace(self.exposure, gain=float(gain))
        return photograph(self.renderer, self.poses[frame], self.size, exposure, rng)


def clip(style: Style, frames: int, size: Size, seed: int, index: int, rooms: int = _ROOMS) -> Clip:
    """Furnish some rooms and choose the walk that shows most; the caller closes its renderer."""
    rng = _rng(style, seed, 2, index)
    step = max(1, frames // 7)
    best: tuple[float, scene.Room, float, list[Pose]] | None = None
    for _ in range(rooms):
        room, view = scene.build(style, rng), _field_of_view(rng)
        walks = [poses for _ in range(24) if (poses := walk(room, frames, rng)) is not None][:8]
        with Renderer(room, view) as sketcher:
            for poses in walks:
                rich = _richness(sketcher, poses[::step])
                if best is None or rich > best[0]:
                    best = rich, room, view, poses
    if best is None:
        raise HvsaError(f"clip {index} of seed {seed} has no clear path; choose another --seed")
    _, room, view, poses = best
    renderer = Renderer(room, view)
    exposure = _exposure(style, renderer, poses[::step], rng)
    wander = (float(rng.uniform(60, 120)), float(rng.uniform(0, 2 * np.pi)))
    return Clip(style, renderer, poses, exposure, wander, size, (seed, index))
