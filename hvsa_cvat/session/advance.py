"""One round after the other, one phase at a time: the loop of the paper.

Every phase may be killed and run again. It writes its files whole or not at all, and they have
reached the disk before one transaction records their checksums and moves the session on.
"""

from __future__ import annotations

from collections.abc import Callable

from hvsa_cvat.ports import AnnotationServer
from hvsa_cvat.session.compute import compute
from hvsa_cvat.session.context import Clock, RunContext
from hvsa_cvat.session.exchange import exchange
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store


def advance(
    session: Session,
    server: AnnotationServer,
    store: Store,
    prepared: Callable[[], RunContext],
    clock: Clock,
) -> Session | None:
    """Run the phase that is due and store where the session stands then.

    None: it waits for people, or is done; nothing has changed, and `prepared` was not called.
    """
    if session.current.phase.computes:
        return compute(session, store, prepared, clock)
    return exchange(session, server, store, prepared, clock)
