"""Samples that were chosen before the turn of their round, right after the masks of the one before.

Choosing needs what is open then, and no answer of people comes in between. So whoever only speaks
to people can ask for them as soon as the masks are published, while others compute.
"""

from __future__ import annotations

import hashlib
import json

from hvsa_cvat.errors import SessionError
from hvsa_cvat.session.records import Ahead, Selection
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store


def keep_ahead(session: Session, store: Store, seconds: float) -> None:
    """Note that the samples of the current round were chosen, which its SELECT would choose."""
    files = store.round(session.current.number)
    files.save_ahead(Ahead(session=_digest(session), seconds=seconds))
    store.save_checksums()


def chosen_ahead(session: Session, store: Store) -> tuple[Selection, float] | None:
    """What was chosen for the current round, and the seconds that it took; None if nothing was, or
    if the session has changed since, such as by an extension."""
    files = store.round(session.current.number)
    ahead = files.ahead()
    if ahead is None or ahead.session != _digest(session):
        return None
    try:
        selection = files.selection()
    except SessionError:  # it is damaged, and SELECT makes it again
        return None
    return None if selection is None else (selection, ahead.seconds)


def _digest(session: Session) -> str:
    """Tells apart sessions whose SELECT may differ; the time that phases took decides nothing."""
    known = session.to_json()
    for one in known["rounds"]:
        del one["seconds"]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
