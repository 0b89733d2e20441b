"""The masks that people see who answer the current round."""

from __future__ import annotations

import numpy as np

from hvsa_cvat.ports import Shown
from hvsa_cvat.session.context import AskContext
from hvsa_cvat.session.correcting import doubt_of
from hvsa_cvat.session.publish import published_map
from hvsa_cvat.session.rounds import Session


def shown_masks(session: Session, context: AskContext) -> Shown | None:
    """Those of the round before, with what people have answered; None where people draw."""
    if context.config.correcting_tolerance is None:
        return None
    current = session.current
    before = current.number - 1
    doubt = doubt_of(current.queried, current.number, session, context)
    right = 1 - doubt.wrong / np.maximum(doubt.pixels, 1)
    label_map = published_map(session, context.store, before, context.source.names)
    exact = context.audit_of(current.number) is not None
    return Shown(before, label_map, right.tolist(), exact)
