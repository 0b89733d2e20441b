"""Dense labels that people made without being asked, as an audit of the masks of a round.

They are compared and never learnt from. A frame that people were asked about, or drew in, is left
out: the masks there show what people said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hvsa_cvat.session.audit import audit
from hvsa_cvat.session.outlook import HeldOut, count_held_out
from hvsa_cvat.session.records import Audit
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import LabelMap


def audit_by_truth(
    session: Session, store: Store, number: int, names: Sequence[str], truth: Mapping[int, LabelMap]
) -> Audit | None:
    """What `truth`, by frame, says of the masks of round `number`.

    None where each of its frames taught the masks. What people answered in other frames counts like
    all else that the masks show.
    """
    files, classes = store.round(number), len(session.labels)
    taught = _taught(session, store, number)
    tables = []
    for frame in sorted(truth.keys() - taught):
        label_map, levels = files.label_map(names[frame]), files.certainty_levels(names[frame])
        tables.append(count_held_out(label_map, levels, truth[frame], classes))
    nothing = np.zeros(classes, np.int64)
    rng = np.random.default_rng([int(session.config["seed"]), number])
    return audit(HeldOut(tables, classes), files.level_counts(), nothing, rng)


def _taught(session: Session, store: Store, number: int) -> set[int]:
    """Frames of which people told something before the masks of a round were made."""
    taught: set[int] = set()
    for done in session.rounds[: number + 1]:
        taught.update(sample.frame for sample in done.queried)
        if done.clicks is not None:
            corrected = store.round(done.number).corrections().annotations
            taught.update(one.frame for one in corrected)
    return taught
