"""Which labels of people are masks that they left as they were, and how much these count.

Whoever confirms a mask may not have looked at each pixel of it. So its labels can count less than
those that were drawn: by an option, and by the share of planted errors that people found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.propagation.doubted import Doubted
from hvsa_cvat.session.answers import merge_answers
from hvsa_cvat.session.context import AskContext
from hvsa_cvat.session.planted import planted_so_far, with_errors
from hvsa_cvat.session.rounds import Round, Session
from hvsa_cvat.types import IGNORE, AnswerKind, FrameAnnotation, LabelMap, Packed, Sample

_CHANGED, _KEPT = 0, 1


def doubted_labels(session: Session, context: AskContext) -> Doubted | None:
    """The labels that people have left as they were shown; None where they count like others.

    A label that was drawn in an earlier round, and kept in a later one, counts as drawn.
    """
    config = context.config
    weight = config.confirmed_weight * planted_so_far(session, context.store).trust
    if weight >= 1 or config.correcting_tolerance is None:
        return None
    answered = [one for one in session.rounds if one.clicks is not None]
    marks: dict[int, FrameAnnotation] = {}
    for one in (mark for done in answered for mark in _marked(done, context)):
        marks[one.frame] = _joined(marks.get(one.frame), one)
    # those of the newest round are all that people drew without being asked
    unasked = context.files(answered[-1].number).corrections().annotations if answered else ()
    marks = merge_answers((*marks.values(), *map(_changed, unasked)))
    pixels = {}
    for frame, one in marks.items():
        kept = one.label_map == _KEPT
        if kept.any():
            pixels[frame] = Packed.of(kept)
    return Doubted(pixels, weight)


def _marked(done: Round, context: AskContext) -> list[FrameAnnotation]:
    """For each frame of a round: which of the answered pixels were kept as they were shown."""
    files, segments = context.files(done.number), context.segments_of(done.number)
    before, answers = context.files(done.number - 1), context.files(done.number).answers()
    shown = with_errors(
        lambda frame: before.label_map(context.source.names[frame]), files.planted_errors() or ()
    )
    marked = []
    for one in answers.annotations:
        drawn = [
            segment
            for segment in one.segments
            if answers.kind(Sample(one.frame, segment)) is AnswerKind.DRAWN
        ]
        own = one.label_map
        kept = (own == shown(one.frame)) & ~np.isin(segments[one.frame], drawn)
        marked.append(FrameAnnotation(one.frame, one.segments, _marks(own, kept)))
    return marked


def _joined(old: FrameAnnotation | None, new: FrameAnnotation) -> FrameAnnotation:
    """The marks of a frame after it was answered again; what was drawn before and is kept now
    stays drawn."""
    if old is None:
        return new
    before, now = old.label_map, new.label_map
    marks = np.where(now == IGNORE, before, np.where(before == _CHANGED, before, now))
    return FrameAnnotation(new.frame, (), marks.astype(np.uint8))


def _changed(one: FrameAnnotation) -> FrameAnnotation:
    own = one.label_map
    return FrameAnnotation(one.frame, (), _marks(own, np.zeros(own.shape, np.bool_)))


def _marks(own: LabelMap, kept: NDArray[np.bool_]) -> LabelMap:
    marks = np.where(kept, np.uint8(_KEPT), np.uint8(_CHANGED))
    return np.where(own == IGNORE, np.uint8(IGNORE), marks)
