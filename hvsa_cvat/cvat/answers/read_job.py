"""What people answered in one job: its annotations, read as label maps, clicks and gaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hvsa_cvat.annotation.polygons import Window
from hvsa_cvat.cvat.answers.outlines import ChildLabels, read_outlines
from hvsa_cvat.cvat.shapes import Json, compose, fill_shape, shape_clicks
from hvsa_cvat.cvat.state import Region
from hvsa_cvat.cvat.tracks import expand_tracks
from hvsa_cvat.errors import AnnotationError
from hvsa_cvat.types import IGNORE, Clicks, FrameAnnotation, LabelMap, Mask, Sample, Size

Note = Callable[[str], object]
"""Told in words of what is left out, or decided."""


@dataclass(frozen=True)
class Assignment:
    """One job as it was asked: which pixels of which frames."""

    frames: range
    """Of the child task."""
    regions: tuple[Region, ...]
    """Those on the job's frames."""
    positions: Mapping[int, int]
    """Frame of the child task -> position in the video."""
    numbers: Callable[[int], NDArray[np.int32]]
    """The region's number at each pixel of a frame of the child task, int32 (H, W), 0 outside."""
    size: Size

    def on(self, frame: int) -> list[Region]:
        return [region for region in self.regions if region.child_frame == frame]


@dataclass(frozen=True)
class Gap:
    """Samples of one frame that were left without a class in part or in whole."""

    frame: int
    """Of the child task."""
    samples: int
    share: float
    """Of the pixels of these samples, 0 to 1."""
    box: tuple[int, int, int, int]
    """The largest connected part of the gap: left, top, right, bottom, half-open."""


@dataclass(frozen=True)
class JobAnswers:
    """What one job says, and what it leaves open."""

    annotations: tuple[FrameAnnotation, ...]
    """One a frame of the job, in its order."""
    clicks: dict[Sample, Clicks]
    """Spent on each sample of the job."""
    uncovered: dict[Sample, float]
    """Share of each sample's pixels that have no class, 0 to 1."""
    gaps: tuple[Gap, ...]
    is_empty: bool
    """Whether nothing was drawn in it and no region was given a class."""
    notes: tuple[str, ...]
    """What was left out, or decided, and why."""


def read_answers(
    asked: Assignment, annotations: Json, labels: ChildLabels, gap_threshold: float
) -> JobAnswers:
    """Read the server's `annotations` of a finished job.

    What is drawn lies over the class of a region; where neither is, nothing is known. Samples with
    more than `gap_threshold` of their pixels uncovered are gaps.
    """
    outlines = read_outlines(asked.regions, annotations["shapes"], labels, asked.size)
    notes = dict.fromkeys(outlines.notes)
    note = notes.setdefault
    shapes = [*outlines.rest, *expand_tracks(annotations["tracks"], asked.frames)]
    drawn: dict[int, list[tuple[int, Json]]] = {frame: [] for frame in asked.frames}
    for label, shape in _of_classes(shapes, labels, note):
        if shape["frame"] in drawn:
            drawn[shape["frame"]].append((label, shape))
        else:
            note(f"{_name(shape)} is ignored: the job has no such frame")
    for tag in annotations["tags"]:
        note(f"tag {tag['id']} on frame {tag['frame']} is ignored: it covers no pixels")

    found = [
        _read_frame(asked, frame, drawn[frame], outlines.classes, gap_threshold, note)
        for frame in asked.frames
    ]
    clicks: dict[Sample, Clicks] = {}
    uncovered: dict[Sample, float] = {}
    for one in found:
        clicks |= one.clicks
        uncovered |= one.uncovered
    return JobAnswers(
        tuple(one.annotation for one in found),
        clicks,
        uncovered,
        tuple(one.gap for one in found if one.gap is not None),
        is_empty=not outlines.classes and not any(one.has_drawings for one in found),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Frame:
    """What is said of one frame; see `JobAnswers`."""

    annotation: FrameAnnotation
    clicks: dict[Sample, Clicks]
    uncovered: dict[Sample, float]
    gap: Gap | None
    has_drawings: bool


def _read_frame(
    asked: Assignment,
    frame: int,
    shapes: Iterable[tuple[int, Json]],
    classes: Mapping[int, int],
    gap_threshold: float,
    note: Note,
) -> _Frame:
    """`shapes` with their class indices; `classes` of the regions by number."""
    regions, numbers = asked.on(frame), asked.numbers(frame)
    sample_of = {region.number: region.sample for region in regions}
    found = (read_shape(label, shape, asked.size, note) for label, shape in shapes)
    drawn = [each for each in found if each is not None]
    label_map = _label_map(numbers, regions, classes, drawn, asked.size)

    clicks = {region.sample: Clicks() for region in regions}
    for region in regions:
        clicks[region.sample] += Clicks(classes=int(region.number in classes))
    for each in drawn:
        sample = _owner(numbers[each.window][each.inside], sample_of)
        if sample is None:
            note(f"{_name(each.shape)} is ignored: it covers no pixel that was asked for")
        elif each.shape.get("keyframe", True):
            clicks[sample] += shape_clicks(each.shape, asked.size)

    shares = _uncovered(numbers, label_map, sample_of)
    wanting = {sample for sample, share in shares.items() if share > gap_threshold}
    gap = _gap(frame, wanting, numbers, label_map, sample_of) if wanting else None
    segments = tuple(sorted({sample.segment for sample in clicks}))
    annotation = FrameAnnotation(asked.positions[frame], segments, label_map)
    return _Frame(annotation, clicks, shares, gap, bool(drawn))


@dataclass(frozen=True)
class Drawn:
    """A shape that covers pixels of a frame."""

    label: int
    """Class index."""
    shape: Json
    window: Window
    inside: Mask
    """bool, of the window's size."""


def read_shape(label: int, shape: Json, size: Size, note: Note) -> Drawn | None:
    """A shape as the pixels it covers; None, and a note, where it covers none or is damaged."""
    try:
        filled = fill_shape(shape, size)
    except AnnotationError as error:
        note(str(error))
        return None
    if filled is None:
        note(f"{_name(shape)} is ignored: it covers no pixels")
        return None
    return Drawn(label, shape, *filled)


def _of_classes(
    shapes: Iterable[Json], labels: ChildLabels, note: Note
) -> Iterator[tuple[int, Json]]:
    """Those of `shapes` whose label is a class, with its index."""
    for shape in shapes:
        label = shape["label_id"]
        if label in labels.classes:
            yield labels.classes[label], shape
        elif label == labels.region:
            note(f"{_name(shape)} is ignored: it is the outline of no region, perhaps a copy")
        else:
            name = labels.name(label)
            note(f"{_name(shape)} is ignored: its label {name!r} is none of the classes")


def _name(shape: Json) -> str:
    if "track_id" in shape:
        return f"track {shape['track_id']}"
    return f"{shape['type']} {shape['id']} on frame {shape['frame']}"


def _label_map(
    numbers: NDArray[np.int32],
    regions: Sequence[Region],
    classes: Mapping[int, int],
    drawn: Sequence[Drawn],
    size: Size,
) -> LabelMap:
    """What is known of one frame, inside the regions."""
    chosen = np.full(1 + max((region.number for region in regions), default=0), IGNORE, np.uint8)
    for region in regions:
        chosen[region.number] = classes.get(region.number, IGNORE)
    over = compose([(each.label, each.shape) for each in drawn], size)
    return np.where((over != IGNORE) & (numbers > 0), over, chosen[numbers])


def _owner(numbers: NDArray[np.int32], sample_of: Mapping[int, Sample]) -> Sample | None:
    """The sample to which most of the pixels with these region numbers belong."""
    pixels = _count(numbers, sample_of)
    return max(sorted(pixels), key=lambda sample: pixels[sample], default=None)


def _uncovered(
    numbers: NDArray[np.int32], label_map: LabelMap, sample_of: Mapping[int, Sample]
) -> dict[Sample, float]:
    """Share of the pixels of each sample that have no class."""
    open_ = _count(numbers[label_map == IGNORE], sample_of)
    return {sample: open_[sample] / all_ for sample, all_ in _count(numbers, sample_of).items()}


def _gap(
    frame: int,
    samples: Container[Sample],
    numbers: NDArray[np.int32],
    label_map: LabelMap,
    sample_of: Mapping[int, Sample],
) -> Gap:
    wanted = [number for number, sample in sample_of.items() if sample in samples]
    asked = np.isin(numbers, wanted)
    missing = asked & (label_map == IGNORE)
    parts, _ = ndimage.label(missing)
    rows, columns = ndimage.find_objects(parts)[np.bincount(parts[missing])[1:].argmax()]
    return Gap(
        frame,
        len({sample_of[number] for number in wanted}),
        float(missing.sum() / asked.sum()),
        (columns.start, rows.start, columns.stop, rows.stop),
    )


def _count(numbers: NDArray[np.int32], sample_of: Mapping[int, Sample]) -> Counter[Sample]:
    """Pixels of each sample among these region numbers."""
    pixels: Counter[Sample] = Counter()
    counts = np.bincount(numbers.ravel())
    for number in np.flatnonzero(counts).tolist():
        if number:
            pixels[sample_of[number]] += int(counts[number])
    return pixels
