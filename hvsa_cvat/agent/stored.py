"""The session of an enrolled task."""

from __future__ import annotations

from hvsa_cvat.errors import SessionError
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store


def stored_session(store: Store) -> Session:
    """The session of an enrolled task."""
    session = store.load()
    if session is None:
        raise SessionError(f"{store.root} holds no session; withdraw the task and enroll it again")
    return session
