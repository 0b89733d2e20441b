"""PUBLISH: the masks of a round as people see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
    label_map = published_map(session, store, round_number, names)
    for frame in range(len(names)):
        yield frame, label_map(frame)


def published_map(
    session: Session, store: Store, round_number: int, names: Sequence[str]
) -> Callable[[int], LabelMap]:
    """The same for single frames."""
    answers = all_answers(session, store)

    def label_map(frame: int) -> LabelMap:
        predicted = store.round(round_number).label_map(names[frame])
        if frame not in answers:
            return predicted
        known = answers[frame].label_map
        return np.where(known == IGNORE, predicted, known)

    return label_map
