"""Planted errors: a few masks that people see are wrong on purpose.

Somebody who confirms pictures without looking at them confirms these, too. The share of them that
people mend tells how far a confirmation can be trusted. What is planted is kept until the answers
come, and pixels that still show it then are taken out: nothing learns from a planted error, and no
mask shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from skimage import measure

from hvsa_cvat.ports import SegmentMaps, Shown
from hvsa_cvat.session.asked import by_frame
from hvsa_cvat.session.records import Planted
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import IGNORE, Answers, FrameAnnotation, LabelMap, Mask, Sample, SegmentMap

_MASKED = 0.5
"""Samples are candidates whose masks are expected to be right on this share of their pixels; people
draw the others, and see no masks there."""

_SURE = 0.8
"""The mean certainty of a part in which an error is planted. Where the masks are not sure, the part
could be wrong already, and the planted class right."""

_LEAST_SHARE, _LARGEST_SHARE = 0.02, 0.5
"""The size of an error, as a share of the sample: large enough to be seen, and not all of it."""

_LEAST_PIXELS = 16


def plant(
    samples: Sequence[Sample],
    segments: SegmentMaps,
    shown: Shown,
    certainty: Callable[[int], NDArray[np.float32]],
    share: float,
    classes: int,
    rng: np.random.Generator,
) -> tuple[FrameAnnotation, ...]:
    """Errors for about `share` of the samples that show masks.

    An error gives one connected part of a sample's mask a class that does not touch the part, so
    that choosing another class mends it. `certainty` of a frame is float32 (H, W), 0 to 1.

    Returns:
        One annotation for each frame with errors: the wrong class where one is planted, `IGNORE`
        elsewhere, and the segments that have one.
    """
    if classes < 2:
        return ()
    masked = [one for one, part in zip(samples, shown.right, strict=True) if part >= _MASKED]
    # rounded at random, so that the share holds over many small rounds, too
    count = min(int(share * len(masked) + rng.random()), len(masked))
    chosen = [masked[place] for place in sorted(rng.choice(len(masked), count, replace=False))]
    planted = []
    for frame, places in by_frame(chosen).items():
        label_map, sure, ids = shown.label_map(frame), certainty(frame), segments[frame]
        errors, used = np.full(label_map.shape, IGNORE, np.uint8), []
        for place in places:
            segment = chosen[place].segment
            found = _error(label_map, sure, ids == segment, classes, rng)
            if found is not None:
                part, label = found
                errors[part] = label
                used.append(segment)
        if used:
            planted.append(FrameAnnotation(frame, tuple(used), errors))
    return tuple(planted)


def with_errors(
    label_map: Callable[[int], LabelMap], planted: Sequence[FrameAnnotation]
) -> Callable[[int], LabelMap]:
    """The label map of a frame with what is planted there."""
    errors = {one.frame: one for one in planted}

    def shown(frame: int) -> LabelMap:
        if frame not in errors:
            return label_map(frame)
        wrong = errors[frame].label_map
        return np.where(wrong == IGNORE, label_map(frame), wrong)

    return shown


def without_errors(
    answers: Answers, planted: Sequence[FrameAnnotation], segments: SegmentMaps
) -> tuple[Answers, Planted]:
    """Answers without the pixels that show a planted error, and how many errors were mended.

    An error is mended where less than half of its answered pixels show it. Errors in samples that
    nobody has answered do not count.
    """
    errors = {one.frame: one for one in planted}
    annotations, looked_at, mended = [], 0, 0
    for one in answers.annotations:
        if one.frame in errors:
            for still in _still_shown(one.label_map, errors[one.frame], segments[one.frame]):
                looked_at += 1
                mended += bool(still < 0.5)
            one = _without(one, errors[one.frame].label_map)
        annotations.append(one)
    kept = replace(answers, annotations=tuple(annotations))
    return kept, Planted(planted=looked_at, mended=mended)


def planted_so_far(session: Session, store: Store) -> Planted:
    """What people did with the planted errors of all rounds."""
    return sum((store.round(one.number).planted() for one in session.rounds), Planted())


def _without(answer: FrameAnnotation, errors: LabelMap) -> FrameAnnotation:
    still = (answer.label_map == errors) & (errors != IGNORE)
    label_map = np.where(still, np.uint8(IGNORE), answer.label_map)
    return FrameAnnotation(answer.frame, answer.segments, label_map)


def _still_shown(
    answer: LabelMap, errors: FrameAnnotation, segments: SegmentMap
) -> Iterator[float]:
    """For each error of a frame that was answered: the share of its pixels that show it still."""
    wrong = errors.label_map
    for segment in errors.segments:
        known = (wrong != IGNORE) & (segments == segment) & (answer != IGNORE)
        if known.any():
            yield float((answer[known] == wrong[known]).mean())


def _error(
    label_map: LabelMap,
    certainty: NDArray[np.float32],
    sample: Mask,
    classes: int,
    rng: np.random.Generator,
) -> tuple[Mask, int] | None:
    """A part of a sample and the wrong class for it; None where no part fits."""
    parts: NDArray[np.int64] = measure.label(  # type: ignore[no-untyped-call]
        np.where(sample & (label_map != IGNORE), label_map.astype(np.int64) + 1, 0),
        background=0,
        connectivity=1,
    )
    pixels = np.bincount(parts.ravel())
    sure = np.bincount(parts.ravel(), certainty.ravel()) >= _SURE * pixels
    whole = int(sample.sum())
    least = max(_LEAST_SHARE * whole, _LEAST_PIXELS)
    fitting = np.flatnonzero(sure & (pixels >= least) & (pixels <= _LARGEST_SHARE * whole))
    fitting = fitting[fitting > 0]
    for number in rng.permutation(fitting):
        part = parts == number
        apart = np.setdiff1d(np.arange(classes), _touching(label_map, part))
        if len(apart):
            # a class that the frame shows elsewhere looks more probable than any other
            near = np.intersect1d(apart, np.unique(label_map))
            return part, int(rng.choice(near if len(near) else apart))
    return None


def _touching(label_map: LabelMap, part: Mask) -> NDArray[np.uint8]:
    """The classes of the part and of the pixels beside it."""
    beside = part.copy()
    beside[1:] |= part[:-1]
    beside[:-1] |= part[1:]
    beside[:, 1:] |= part[:, :-1]
    beside[:, :-1] |= part[:, 1:]
    return np.unique(label_map[beside])
