"""One round after the other, one phase at a time: the loop of the paper.

Every phase may be killed and run again. It writes its files whole or not at all, and they have
reached the disk before one transaction records their checksums and moves the session on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvsa_cvat.ports import AnnotationServer
from hvsa_cvat.session.annotate import collect_answers, keep_answers, request_answers
from hvsa_cvat.session.context import Clock, RunContext
from hvsa_cvat.session.finetune import finetune_network
from hvsa_cvat.session.predict import predict_masks
from hvsa_cvat.session.publish import published_maps
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.select import select_samples
from hvsa_cvat.session.shown import shown_masks
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import Answers


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
    phase = session.current.phase
    if phase is Phase.DONE:
        return None
    start = clock()
    answers = None
    if phase is Phase.ANNOTATE:
        answers = collect_answers(session, server)
        if answers is None:
            return None
    made = _run(phase, session, answers, server, prepared())
    session = session.finish_phase(phase, clock() - start, **made)
    store.save(session)
    return session


def _run(
    phase: Phase,
    session: Session,
    answers: Answers | None,
    server: AnnotationServer,
    context: RunContext,
) -> dict[str, Any]:
    """Do the work of a phase; what it makes for the session (see `Round`)."""
    number = session.current.number
    if phase is Phase.SELECT:
        selection = select_samples(session, context)
        expected = float(sum(selection.expected_clicks))
        return {"queried": selection.samples, "expected_clicks": expected}
    if phase is Phase.REQUEST:
        shown = shown_masks(session, context)
        return {"request": request_answers(session, server, context, shown)}
    if phase is Phase.ANNOTATE and answers is not None:
        keep_answers(session, answers, server, context)
        return {"clicks": answers.total_clicks}
    if phase is Phase.FINETUNE:
        finetune_network(session, context)
    elif phase is Phase.PREDICT:
        predict_masks(session, context)
    else:
        maps = published_maps(session, context.store, number, context.source.names)
        server.publish(number, maps)
    return {}
