"""The masks that people see who answer the current round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hvsa_cvat.ports import Shown
from hvsa_cvat.session.calibration import right_so_far
from hvsa_cvat.session.context import AskContext
from hvsa_cvat.session.correcting import doubt_of
from hvsa_cvat.session.outlook import MIDDLES
from hvsa_cvat.session.planted import plant, with_errors
from hvsa_cvat.session.publish import published_map
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.types import FrameAnnotation


def shown_masks(session: Session, context: AskContext) -> Shown | None:
    """Those of the round before, with what people have answered; None where people draw."""
    if context.config.correcting_tolerance is None:
        return None
    current = session.current
    before = current.number - 1
    known = MIDDLES if before == 0 else right_so_far(session, context)
    doubt = doubt_of(current.queried, current.number, session, context, known)
    right = 1 - doubt.wrong / np.maximum(doubt.pixels, 1)
    label_map = published_map(session, context.store, before, context.source.names)
    exact = context.audit_of(current.number) is not None
    shown = Shown(before, label_map, right.tolist(), exact)
    if not context.config.planted:
        return shown
    return replace(shown, label_map=with_errors(label_map, _planted(session, shown, context)))


def _planted(session: Session, shown: Shown, context: AskContext) -> Sequence[FrameAnnotation]:
    """The errors of the current round: the same ones however often it is asked for."""
    current = session.current
    files = context.files(current.number)
    before = files.of_round(current.number - 1)
    planted = files.planted_errors()
    if planted is None:
        planted = plant(
            current.queried,
            context.segments_of(current.number),
            shown,
            lambda frame: before.certainty(context.source.names[frame]),
            context.config.planted,
            len(context.labels),
            np.random.default_rng([context.config.seed, current.number, *session.video.encode()]),
        )
        files.save_planted_errors(planted)
    return planted
