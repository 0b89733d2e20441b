"""What people answered in one job: its annotations, read as label maps, clicks and gaps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.annotation.polygons import Window
from hvsa_cvat.cvat.answers.gaps import Gap, find_gap, main_sample, uncovered_shares
from hvsa_cvat.cvat.answers.outlines import ChildLabels, read_outlines
from hvsa_cvat.cvat.answers.remarks import Ignored, Remark, TakeRemark
from hvsa_cvat.cvat.shapes import Json, compose, fill_shape, shape_clicks
from hvsa_cvat.cvat.state import Region
from hvsa_cvat.cvat.tracks import expand_tracks
from hvsa_cvat.errors import AnnotationError
from hvsa_cvat.types import IGNORE, Clicks, FrameAnnotation, LabelMap, Mask, Sample, Size

_NO_PIXELS = "it covers no pixels"


@dataclass(frozen=True)
class Assignment:
    """One job as it was asked: which pixels of which frames."""

    frames: range
    """Numbers in the child task."""
    regions: tuple[Region, ...]
    """The regions on the job's frames."""
    positions: Mapping[int, int]
    """Frame of the child task -> position in the video."""
    numbers: Callable[[int], NDArray[np.int32]]
    """Frame of the child task -> the region's number at each pixel, int32 (H, W), 0 outside."""
    size: Size

    def on(self, frame: int) -> list[Region]:
        return [region for region in self.regions if region.child_frame == frame]


@dataclass(frozen=True)
class JobAnswers:
    """What one job says, and what it leaves open."""

    annotations: tuple[FrameAnnotation, ...]
    """One for each frame of the job, in its order."""
    clicks: dict[Sample, Clicks]
    """Spent on each sample of the job."""
    uncovered: dict[Sample, float]
    """Share of each sample's pixels that have no class, 0 to 1."""
    gaps: tuple[Gap, ...]
    lost: tuple[Region, ...]
    """Regions with pixels that have no class, and whose outlines are gone."""
    is_empty: bool
    """Whether nothing was drawn in it and no region was given a class."""
    remarks: tuple[Remark, ...]
    """What was left out, or decided, and why."""


def read_answers(
    asked: Assignment, annotations: Json, labels: ChildLabels, gap_threshold: float
) -> JobAnswers:
    """Read the server's `annotations` of a finished job.

    What is drawn lies over the class of a region. A pixel with neither stays without a class.
    Samples with more than `gap_threshold` of their pixels without a class are gaps.
    """
    outlines = read_outlines(asked.regions, annotations["shapes"], labels, asked.size)
    remarks: dict[Remark, None] = dict.fromkeys(outlines.remarks)
    remark = remarks.setdefault
    shapes = [*outlines.rest, *expand_tracks(annotations["tracks"], asked.frames)]
    drawn: dict[int, list[tuple[int, Json]]] = {frame: [] for frame in asked.frames}
    for label, shape in _of_classes(shapes, labels, remark):
        if shape["frame"] in drawn:
            drawn[shape["frame"]].append((label, shape))
        else:
            remark(Ignored(_name(shape), "the job has no such frame"))
    for tag in annotations["tags"]:
        remark(Ignored(f"tag {tag['id']} on frame {tag['frame']}", _NO_PIXELS))

    found = [
        _read_frame(asked, frame, drawn[frame], outlines.classes, gap_threshold, remark)
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
        tuple(region for region in outlines.lost if uncovered.get(region.sample)),
        is_empty=not outlines.classes and not any(one.has_drawings for one in found),
        remarks=tuple(remarks),
    )


@dataclass(frozen=True)
class _Frame:
    """What the job says about one frame; see `JobAnswers`."""

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
    remark: TakeRemark,
) -> _Frame:
    """`shapes` are (class index, shape); `classes` are number of a region -> class index."""
    regions, numbers = asked.on(frame), asked.numbers(frame)
    sample_of = {region.number: region.sample for region in regions}
    found = (read_shape(label, shape, asked.size, remark) for label, shape in shapes)
    drawn = [each for each in found if each is not None]
    label_map = _label_map(numbers, regions, classes, drawn, asked.size)

    clicks = {region.sample: Clicks() for region in regions}
    for region in regions:
        clicks[region.sample] += Clicks(classes=int(region.number in classes))
    for each in drawn:
        sample = main_sample(numbers[each.window][each.inside], sample_of)
        if sample is None:
            remark(Ignored(_name(each.shape), "it covers no pixel that was asked for"))
        elif each.shape.get("keyframe", True):
            clicks[sample] += shape_clicks(each.shape, asked.size)

    shares = uncovered_shares(numbers, label_map, sample_of)
    open_ = {sample for sample, share in shares.items() if share > gap_threshold}
    gap = find_gap(frame, open_, numbers, label_map, sample_of) if open_ else None
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


def read_shape(label: int, shape: Json, size: Size, remark: TakeRemark) -> Drawn | None:
    """A shape as the pixels it covers; None, and a remark, where it covers none or is damaged."""
    try:
        filled = fill_shape(shape, size)
    except AnnotationError as error:
        remark(str(error))
        return None
    if filled is None:
        remark(Ignored(_name(shape), _NO_PIXELS))
        return None
    return Drawn(label, shape, *filled)


def _of_classes(
    shapes: Iterable[Json], labels: ChildLabels, remark: TakeRemark
) -> Iterator[tuple[int, Json]]:
    """The shapes whose label is a class, with its index."""
    for shape in shapes:
        label = shape["label_id"]
        if label in labels.classes:
            yield labels.classes[label], shape
        elif label == labels.region:
            remark(Ignored(_name(shape), "it is the outline of no region, perhaps a copy"))
        else:
            name = labels.name(label)
            remark(Ignored(_name(shape), f"its label {name!r} is none of the classes"))


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
    """What people said about one frame, inside the regions."""
    chosen = np.full(1 + max((region.number for region in regions), default=0), IGNORE, np.uint8)
    for region in regions:
        chosen[region.number] = classes.get(region.number, IGNORE)
    over = compose([(each.label, each.shape) for each in drawn], size)
    return np.where((over != IGNORE) & (numbers > 0), over, chosen[numbers])
