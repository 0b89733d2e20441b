"""The phases that speak to people: REQUEST, ANNOTATE and PUBLISH. They need no PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hvsa_cvat.ports import AnnotationServer
from hvsa_cvat.session.ahead import chosen_ahead
from hvsa_cvat.session.annotate import collect_answers, keep_answers, request_answers
from hvsa_cvat.session.context import AskContext, Clock
from hvsa_cvat.session.publish import published_maps
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.shown import shown_masks
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import Answers


def exchange(
    session: Session,
    server: AnnotationServer,
    store: Store,
    opened: Callable[[], AskContext],
    clock: Clock,
) -> Session | None:
    """Run the phase that is due, unless it computes, and store where the session stands then.

    A SELECT whose samples were chosen ahead takes them. None: it waits for people, for a phase that
    computes, or is done; nothing has changed, and `opened` was not called.
    """
    phase = session.current.phase
    if phase is Phase.SELECT:
        return _taken_ahead(session, store)
    if phase is Phase.DONE or phase.computes:
        return None
    start = clock()
    answers = None
    if phase is Phase.ANNOTATE:
        answers = collect_answers(session, server)
        if answers is None:
            return None
    session, made = _made(phase, session, answers, server, opened())
    session = session.finish_phase(phase, clock() - start, **made)
    store.save(session)
    return session


def _taken_ahead(session: Session, store: Store) -> Session | None:
    found = chosen_ahead(session, store)
    if found is None:
        return None
    selection, seconds = found
    expected = float(sum(selection.expected_clicks))
    session = session.finish_phase(
        Phase.SELECT, seconds, queried=selection.samples, expected_clicks=expected
    )
    store.save(session)
    return session


def _made(
    phase: Phase,
    session: Session,
    answers: Answers | None,
    server: AnnotationServer,
    context: AskContext,
) -> tuple[Session, dict[str, Any]]:
    """Do the work of a phase; what it makes for the session (see `Round`), which may be told
    anew what people did in earlier rounds."""
    number = session.current.number
    if phase is Phase.REQUEST:
        shown = shown_masks(session, context)
        return session, {"request": request_answers(session, server, context, shown)}
    if phase is Phase.ANNOTATE and answers is not None:
        recounted = keep_answers(session, answers, server, context)
        return session.recounted(recounted), {"clicks": answers.total_clicks}
    server.publish(number, published_maps(session, context.store, number, context.source.names))
    return session, {}
