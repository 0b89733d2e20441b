"""A child task before it is made: its cards, what is on them, and who gets which."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np

from hvsa_cvat.annotation.effort import PUBLISHED, most_clicks
from hvsa_cvat.cvat.cards import PICTURE_SIDE, region_card, whole_card
from hvsa_cvat.cvat.request.parts import (
    SPECK_OF_FRAME,
    SPECK_OF_REGION,
    CardContent,
    cut_parts,
    no_parts,
    whole_part,
)
from hvsa_cvat.cvat.state import Card, Part
from hvsa_cvat.ports import Progress, SegmentMaps, Shown
from hvsa_cvat.types import IGNORE, LabelMap, Mask, Packed, Sample

_SUGGEST_REGION_FROM = 0.5
_SUGGEST_FRAME_FROM = 0.25
"""Share of a sample that must be expected to be right for its masks to be shown. A smaller sample
has few classes, and one of them for all of it takes one key. A whole frame has many: one whose
masks are half wrong is corrected sooner than drawn, and where answers were squares before, masks
are more often right than expected."""


@dataclass(frozen=True)
class Question:
    """What people are asked."""

    key: str
    """Becomes the child task's issue tracker link."""
    samples: Sequence[Sample]
    segments: SegmentMaps
    expected_clicks: Sequence[float]
    """Of each sample."""
    class_order: Sequence[int]
    """Class indices, the most frequent class first."""
    shown: Shown | None = None
    """The masks that people correct; None: they draw."""
    expected_seconds: Sequence[float] = ()
    """Of each sample; empty where only the clicks are known, which then count as published."""


@dataclass(frozen=True)
class AskOptions:
    """Whom to ask, and in which form."""

    annotators: tuple[str, ...] = ()
    """User names; without any nobody has the jobs."""
    picture_side: int = PICTURE_SIDE
    """Pixels, see `region_card`."""
    job_minutes: float = 15.0
    """About as long as a job is to take."""
    planted: bool = False
    """Whether some of the masks that people see are wrong on purpose."""

    @property
    def people(self) -> tuple[str, ...]:
        """The annotators, each once."""
        return tuple(dict.fromkeys(self.annotators))


@dataclass(frozen=True)
class Share:
    """A run of cards that is one job."""

    start: int
    stop: int
    """Inclusive."""
    expected_clicks: float
    person: int
    """Whose job it is: the place among the people who are asked."""
    expected_seconds: float


@dataclass(frozen=True)
class Plan:
    """A child task before it is made; the same question gives the same plan."""

    cards: tuple[Card, ...]
    contents: tuple[Packed, ...]
    """For each card: `CardContent.pixels`."""
    parts: tuple[Part, ...]
    shares: tuple[Share, ...]
    audit: bool = False
    """Whether the answers measure the masks."""


def plan_request(question: Question, options: AskOptions, progress: Progress) -> Plan:
    """A card for each sample, in order of time, and the jobs of each person.

    The frames are divided, so that one person has all samples of a frame in one job.
    """
    places = {sample: place for place, sample in enumerate(question.samples)}
    frames = [list(group) for _, group in groupby(sorted(places), key=lambda one: one.frame)]
    costs = [_clicks(question, group, places) for group in frames]
    minutes = [
        _seconds(question, group, places, cost) / 60
        for group, cost in zip(frames, costs, strict=True)
    ]
    groups = divide(minutes, max(len(options.people), 1))
    cards: list[Card] = []
    contents: list[Packed] = []
    parts: list[Part] = []
    # planned in the order of the child task, so that the numbers of the parts ascend in it
    order = [index for group in groups for index in group]
    for done, index in enumerate(order, start=1):
        for card, content in _cards(question, options, frames[index], places, len(parts) + 1):
            parts += [Part(number, len(cards), label) for number, label in content.labels.items()]
            cards.append(card)
            contents.append(Packed.of(content.pixels))
        progress("planning pictures", done, len(frames))
    shares: list[Share] = []
    for person, group in enumerate(groups):
        for sitting in sittings([minutes[i] for i in group], options.job_minutes):
            indices = [group[place] for place in sitting]
            seconds = 60 * sum(minutes[i] for i in indices)
            start = shares[-1].stop + 1 if shares else 0
            stop = start + sum(len(frames[i]) for i in indices) - 1
            clicks = sum(costs[i] for i in indices)
            shares.append(Share(start, stop, clicks, person, seconds))
    exact = question.shown is not None and question.shown.exact
    return Plan(tuple(cards), tuple(contents), tuple(parts), tuple(shares), exact)


def _clicks(question: Question, samples: Sequence[Sample], places: dict[Sample, int]) -> float:
    """What the samples of one frame are expected to take."""
    pixels = np.bincount(question.segments[samples[0].frame].ravel())
    return sum(
        min(question.expected_clicks[places[one]], most_clicks(int(pixels[one.segment])))
        for one in samples
    )


def _seconds(
    question: Question, samples: Sequence[Sample], places: dict[Sample, int], clicks: float
) -> float:
    """What the samples of one frame are expected to take, which need these clicks in all.

    Where fewer clicks count than were expected, the time is shorter in the same proportion.
    """
    if not question.expected_seconds:
        return 60 * PUBLISHED.minutes(len(samples), clicks)
    seconds = sum(question.expected_seconds[places[one]] for one in samples)
    expected = sum(question.expected_clicks[places[one]] for one in samples)
    return seconds * min(clicks / expected, 1.0) if expected > 0 else seconds


def _cards(
    question: Question,
    options: AskOptions,
    samples: Sequence[Sample],
    places: dict[Sample, int],
    first: int,
) -> Iterator[tuple[Card, CardContent]]:
    """The cards of the `samples` of one frame; their parts are numbered from `first`."""
    shown, frame = question.shown, samples[0].frame
    segment_map = question.segments[frame]
    label_map = shown.label_map(frame) if shown is not None else None
    least = _SUGGEST_REGION_FROM if question.segments.border_is_free else _SUGGEST_FRAME_FROM
    for sample in samples:
        region = segment_map == sample.segment
        suggests = shown is not None and shown.right[places[sample]] >= least
        if question.segments.border_is_free:
            side = options.picture_side
            card = region_card(sample, region, suggests=suggests, side=side)
            speck = SPECK_OF_REGION
        else:
            card = whole_card(sample, segment_map.shape, suggests=suggests)
            speck = SPECK_OF_FRAME
        wanted = region[card.window]
        if suggests and label_map is not None:
            content = cut_parts(label_map[card.window], wanted, first, speck)
        elif question.segments.border_is_free:
            # one class for all of it: where that is the answer, choosing it takes one key
            label = _most_frequent(label_map, region, question.class_order[0])
            content = whole_part(label, wanted, first)
        else:
            content = no_parts(wanted)
        first += len(content.labels)
        yield card, content


def _most_frequent(label_map: LabelMap | None, region: Mask, otherwise: int) -> int:
    if label_map is None:
        return otherwise
    counts = np.bincount(label_map[region], minlength=IGNORE + 1)[:IGNORE]
    return int(counts.argmax()) if counts.any() else otherwise


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


def sittings(minutes: Sequence[float], most: float) -> list[range]:
    """Runs of indices of `minutes`, each about equally long, and about `most` at the longest.

    A run holds one index at least, so that it may be longer.
    """
    count = math.ceil(sum(minutes) / most)
    ends = list(accumulate(minutes))
    middles = [end - one / 2 for end, one in zip(ends, minutes, strict=True)]
    parts = [min(int(count * middle / ends[-1]), count - 1) for middle in middles]
    runs = [list(group) for _, group in groupby(range(len(minutes)), key=parts.__getitem__)]
    return [range(run[0], run[-1] + 1) for run in runs]
