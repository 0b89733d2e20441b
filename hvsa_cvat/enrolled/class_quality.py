"""How good each class is, and what people changed of it, by what they answered."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.enrolled.runs import Run
from hvsa_cvat.errors import SessionError
from hvsa_cvat.session.records import Audit, Interval
from hvsa_cvat.types import IGNORE, Mask


@dataclass(frozen=True)
class ClassQuality:
    """One class. Fractions; None where nothing is known."""

    name: str
    shown: int
    """Answered pixels that the masks before showed as this class."""
    iou: float | None
    """Of these masks, in the pixels that were answered."""
    changed: float | None
    """The share of `shown` to which people gave another class."""
    mostly: str | None
    """The class that they gave most of these."""
    audit: Interval | None
    """The IoU over the whole video, by the newest audit."""


@dataclass(frozen=True)
class ClassQualities:
    """Those of the newest round that was answered."""

    round: int
    classes: tuple[ClassQuality, ...]
    audit: Audit | None
    """The newest one."""


def class_qualities(run: Run) -> ClassQualities | None:
    """None before the first answers that can be compared with masks."""
    labels = run.session.labels
    audit = next(
        (one.outlook.audit for one in reversed(run.rounds) if one.outlook and one.outlook.audit),
        None,
    )
    for one in reversed(run.rounds):
        if one.answered is None or one.number == 0:
            continue
        with suppress(SessionError):
            counts = run.files(one.number).held_out(len(labels)).counts().sum(axis=1)
            rows = by_class(counts, labels.names, audit)
            return ClassQualities(one.number, rows, audit)
    return None


def by_class(
    counts: NDArray[np.float64], labels: tuple[str, ...], audit: Audit | None
) -> tuple[ClassQuality, ...]:
    """The rows of a table; `counts` is float64 (C, C), pixels by class shown and class answered."""
    right = np.diagonal(counts)
    shown, answered = counts.sum(axis=1), counts.sum(axis=0)
    union = shown + answered - right
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    return tuple(
        ClassQuality(
            name,
            int(shown[k]),
            float(right[k] / union[k]) if union[k] else None,
            float(wrong[k].sum() / shown[k]) if shown[k] else None,
            labels[int(wrong[k].argmax())] if wrong[k].any() else None,
            None if audit is None else audit.classes[k],
        )
        for k, name in enumerate(labels)
    )


def answered_in(run: Run, frame: int) -> int | None:
    """The last round in which people answered something in a frame, and that had masks before."""
    for one in reversed(run.rounds[1:]):
        compared = one.answered is not None and run.rounds[one.number - 1].shown is not None
        if compared and any(sample.frame == frame for sample in one.round.queried):
            return one.number
    return None


def changed_pixels(run: Run, number: int, frame: int) -> Mask:
    """bool (H, W): where people gave another class in a round than the masks before it showed."""
    before = run.files(number - 1).label_map(run.names[frame])
    changed = np.zeros(before.shape, np.bool_)
    for one in run.files(number).answers().annotations:
        if one.frame == frame:
            changed |= (one.label_map != IGNORE) & (one.label_map != before)
    return changed
