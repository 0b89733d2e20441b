"""What people answered in one job: its annotations, read as label maps, clicks and gaps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from hvsa_cvat.cvat.answers.child_labels import ChildLabels
from hvsa_cvat.cvat.answers.read_card import AskedCard, Box, CardAnswer, read_card
from hvsa_cvat.cvat.answers.read_shape import shape_name
from hvsa_cvat.cvat.answers.remarks import Ignored, Remark, TakeRemark
from hvsa_cvat.cvat.shapes import Json
from hvsa_cvat.cvat.state import Part
from hvsa_cvat.cvat.tracks import expand_tracks
from hvsa_cvat.types import IGNORE, AnswerKind, Clicks, FrameAnnotation, Sample, Size


@dataclass(frozen=True)
class Gap:
    """A card whose sample was left without a class in part or in whole."""

    card: int
    """Frame of the child task."""
    share: float
    """Share of the sample's pixels that have no class, 0 to 1."""
    box: Box
    """The largest connected part of the gap."""
    checked: bool
    """Whether the card's tag was removed."""


@dataclass(frozen=True)
class JobAnswers:
    """What one job says, and what it leaves open."""

    annotations: tuple[FrameAnnotation, ...]
    """One for each frame of the video that is on its cards."""
    clicks: dict[Sample, Clicks]
    """Spent on each sample of the job."""
    kinds: dict[Sample, AnswerKind]
    uncovered: dict[Sample, float]
    """Share of each sample's pixels that have no class, 0 to 1."""
    gaps: tuple[Gap, ...]
    lost: tuple[Part, ...]
    """Parts whose masks are gone, and whose pixels have no class."""
    checked: frozenset[int]
    """The cards, by their frames of the child task, whose tags are gone."""
    is_empty: bool
    """Whether no tag was removed, and nothing relabelled or painted."""
    remarks: tuple[Remark, ...]
    """What was left out, or decided, and why."""


def read_answers(
    cards: Sequence[AskedCard],
    annotations: Json,
    labels: ChildLabels,
    size: Size,
    gap_threshold: float,
) -> JobAnswers:
    """Read the server's `annotations` of a finished job with these `cards`, in their order.

    `size` is that of the video's frames. Samples with more than `gap_threshold` of their pixels
    without a class are gaps.
    """
    remarks: dict[Remark, None] = {}
    remark = remarks.setdefault
    numbers = [asked.number for asked in cards]
    shapes = [*annotations["shapes"], *expand_tracks(annotations["tracks"], numbers)]
    found: dict[int, list[tuple[int, Json]]] = {number: [] for number in numbers}
    for label, shape in _of_classes(shapes, labels, remark):
        if shape["frame"] in found:
            found[shape["frame"]].append((label, shape))
        else:
            remark(Ignored(shape_name(shape), "the job has no such frame"))
    tagged = set()
    for tag in annotations["tags"]:
        if tag["label_id"] == labels.tag:
            tagged.add(tag["frame"])
        else:
            remark(Ignored(f"tag {tag['id']} on frame {tag['frame']}", "it covers no pixels"))
    read = {
        asked.number: read_card(
            asked, found[asked.number], checked=asked.number not in tagged, remark=remark
        )
        for asked in cards
    }
    return JobAnswers(
        tuple(_annotations(cards, read, size)),
        {asked.card.sample: read[asked.number].clicks for asked in cards},
        {asked.card.sample: read[asked.number].kind for asked in cards},
        {asked.card.sample: read[asked.number].uncovered for asked in cards},
        tuple(
            Gap(number, one.uncovered, one.gap, one.checked)
            for number, one in read.items()
            if one.gap is not None and one.uncovered > gap_threshold
        ),
        tuple(part for one in read.values() for part in one.lost),
        checked=frozenset(number for number, one in read.items() if one.checked),
        is_empty=not any(one.said for one in read.values()),
        remarks=tuple(remarks),
    )


def _annotations(
    cards: Sequence[AskedCard], read: dict[int, CardAnswer], size: Size
) -> Iterator[FrameAnnotation]:
    """One for each frame; the cards of a frame follow each other."""
    for frame, group in groupby(cards, key=lambda asked: asked.card.sample.frame):
        label_map = np.full(size, IGNORE, np.uint8)
        segments = []
        for asked in group:
            answer = read[asked.number].label_map
            window = label_map[asked.card.window]
            window[answer != IGNORE] = answer[answer != IGNORE]
            segments.append(asked.card.sample.segment)
        yield FrameAnnotation(frame, tuple(sorted(segments)), label_map)


def _of_classes(
    shapes: Iterable[Json], labels: ChildLabels, remark: TakeRemark
) -> Iterator[tuple[int, Json]]:
    """The shapes whose label is a class, with its index."""
    for shape in shapes:
        label = shape["label_id"]
        if label in labels.classes:
            yield labels.classes[label], shape
        else:
            name = labels.name(label)
            remark(Ignored(shape_name(shape), f"its label {name!r} is none of the classes"))
