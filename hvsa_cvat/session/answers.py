"""What people have answered: kept in files, and merged over the rounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.types import IGNORE, AnswerKind, Answers, Clicks, FrameAnnotation, Packed, Sample

ANSWER_COLUMNS = (
    "frames",
    "sizes",
    "packed",
    "packed_bytes",
    "segments",
    "segment_counts",
    "clicks",
)
"""The arrays of a file of answers."""

_KINDS = tuple(AnswerKind)
"""A file holds their indices, so a new kind comes last."""


def write_answers(path: Path, answers: Answers) -> None:
    """Write `answers` to a file of numpy arrays."""
    packed = [a.packed for a in answers.annotations]
    segments = [s for a in answers.annotations for s in a.segments]
    clicks = [
        (s.frame, s.segment, c.boundary, c.classes, _KINDS.index(answers.kind(s)), c.polygons)
        for s, c in answers.clicks.items()
    ]
    np.savez(
        path,
        frames=np.array([a.frame for a in answers.annotations], np.int32),
        sizes=np.array([one.shape for one in packed], np.int32).reshape(-1, 2),
        # label maps, uint8, each deflated by itself
        packed=np.frombuffer(b"".join(one.content for one in packed), np.uint8),
        packed_bytes=np.array([len(one.content) for one in packed], np.int64),
        segments=np.array(segments, np.int32),
        segment_counts=np.array([len(a.segments) for a in answers.annotations], np.int64),
        clicks=np.array(clicks, np.int64).reshape(-1, 6),
    )


def answers_of(columns: Sequence[NDArray[Any]]) -> Answers:
    """The reverse of `write_answers`; the arrays in the order of `ANSWER_COLUMNS`.

    Files of version 0.1 have four columns of clicks, without the kind of answer; later ones may
    lack the sixth, the polygons.
    """
    frames, sizes, packed, lengths, segments, counts, clicks = columns
    parts = _split(segments, counts)
    label_maps = [
        Packed(tuple(size), np.dtype(np.uint8).str, content.tobytes())
        for size, content in zip(sizes.tolist(), _split(packed, lengths), strict=True)
    ]
    samples = [Sample(frame, segment) for frame, segment in clicks[:, :2].tolist()]
    polygons = clicks[:, 5] if clicks.shape[1] > 5 else np.zeros(len(clicks), np.int64)
    counted = np.column_stack([clicks[:, 2:4], polygons]).tolist()
    spent = [Clicks(*numbers) for numbers in counted]
    kinds = [_KINDS[kind] for kind in clicks[:, 4].tolist()] if clicks.shape[1] > 4 else []
    return Answers(
        tuple(
            FrameAnnotation(int(frame), tuple(part.tolist()), label_map)
            for frame, part, label_map in zip(frames, parts, label_maps, strict=True)
        ),
        dict(zip(samples, spent, strict=True)),
        {one: kind for one, kind in zip(samples, kinds, strict=False) if kind != _KINDS[0]},
    )


def merge_answers(answers: Iterable[FrameAnnotation]) -> dict[int, FrameAnnotation]:
    """One annotation a frame; where two answered the same pixel, the later one holds."""
    merged: dict[int, FrameAnnotation] = {}
    for new in answers:
        old = merged.get(new.frame)
        if old is not None:
            labels = np.where(new.label_map == IGNORE, old.label_map, new.label_map)
            segments = tuple(sorted({*old.segments, *new.segments}))
            new = FrameAnnotation(new.frame, segments, labels)
        merged[new.frame] = new
    return dict(sorted(merged.items()))


def answered_classes(answers: Iterable[FrameAnnotation], count: int) -> NDArray[np.bool_]:
    """bool (count,): the classes that some answer shows."""
    shown = np.zeros(IGNORE + 1, np.bool_)
    for one in answers:
        shown[np.unique(one.label_map)] = True
    return shown[:count]


def _split(joined: NDArray[Any], counts: NDArray[np.int64]) -> list[NDArray[Any]]:
    return np.split(joined, np.cumsum(counts)[:-1]) if len(counts) else []
