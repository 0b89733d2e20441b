"""Making the open request of a task anew, after people deleted the task that asked them."""

from __future__ import annotations

from hvsa_cvat.agent.stored import stored_session
from hvsa_cvat.cvat.state import State
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store


def ask_again(store: Store) -> Session:
    """Forget the open request of the session in `store`, so that the next step makes it; the
    session as it is then.

    A child task that is still there is found by its key and used as it is, with the answers in it.
    `SessionError` where nobody is asked now.
    """
    session = stored_session(store)
    request = session.current.request
    session = session.ask_again()
    if request is not None:
        State(store.place / "cvat").requests.forget(request)
    store.save(session)
    return session
