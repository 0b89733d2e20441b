"""PUBLISH: the masks of a round as people see them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hvsa_cvat.session.annotate import all_answers
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import IGNORE, LabelMap


def published_maps(
    session: Session, store: Store, round_number: int, names: Sequence[str]
) -> Iterator[tuple[int, LabelMap]]:
    """(frame, label map) as a round shows them: its predictions, and over them what people have
    answered. `names` are those of the frames."""
    answers = all_answers(session, store)
    for frame, name in enumerate(names):
        label_map = store.round(round_number).label_map(name)
        if frame in answers:
            known = answers[frame].label_map
            label_map = np.where(known == IGNORE, label_map, known)
        yield frame, label_map
