"""The phases that compute: SELECT, FINETUNE and PREDICT. They speak to nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvsa_cvat.session.ahead import keep_ahead
from hvsa_cvat.session.context import Clock, RunContext
from hvsa_cvat.session.finetune import finetune_network
from hvsa_cvat.session.predict import predict_masks
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.select import select_samples
from hvsa_cvat.session.store import Store


def compute(
    session: Session,
    store: Store,
    prepared: Callable[[], RunContext],
    clock: Clock,
) -> Session:
    """Run the phase that is due, which must be one that computes, and store where the session
    stands then."""
    phase = session.current.phase
    start = clock()
    made = _made(phase, session, prepared())
    session = session.finish_phase(phase, clock() - start, **made)
    store.save(session)
    return session


def choose_ahead(session: Session, store: Store, context: RunContext, clock: Clock) -> None:
    """Choose the samples of the next round, while PUBLISH of the current one is due."""
    coming = session.finish_phase(Phase.PUBLISH)
    if not coming.done:
        start = clock()
        select_samples(coming, context)
        keep_ahead(coming, store, clock() - start)


def _made(phase: Phase, session: Session, context: RunContext) -> dict[str, Any]:
    """Do the work of a phase; what it makes for the session (see `Round`)."""
    if phase is Phase.SELECT:
        selection = select_samples(session, context)
        expected = float(sum(selection.expected_clicks))
        return {"queried": selection.samples, "expected_clicks": expected}
    if phase is Phase.FINETUNE:
        finetune_network(session, context)
    elif phase is Phase.PREDICT:
        predict_masks(session, context)
    else:
        raise ValueError(f"{phase} does not compute")
    return {}
