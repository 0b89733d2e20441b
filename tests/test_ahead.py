"""Samples that were chosen before the turn of their round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hvsa_cvat.ports import AnnotationServer
from hvsa_cvat.session.ahead import chosen_ahead, keep_ahead
from hvsa_cvat.session.context import AskContext
from hvsa_cvat.session.exchange import exchange
from hvsa_cvat.session.records import Selection
from hvsa_cvat.session.rounds import Phase, Round, Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import Sample
from tests import tiny

SELECTION = Selection((Sample(2, 0), Sample(4, 1)), (3.0, 4.5), 100.0)
SESSION = Session(
    "s", "clip", tiny.LABELS, {"budgets": [0.1]}, 1, (Round(0, Phase.DONE), Round(1, Phase.SELECT))
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "run") as store:
        store.create(SESSION)
        yield store


def moved(session: Session, store: Store) -> Session | None:
    """After `exchange`, which asks nobody."""
    server: AnnotationServer = None  # type: ignore[assignment]
    return exchange(session, server, store, nothing, tiny.ticking())


def nothing() -> AskContext:
    raise AssertionError("what was chosen needs no context")


def test_what_was_chosen_ahead_is_taken(store: Store) -> None:
    store.round(1).save_selection(SELECTION)
    keep_ahead(SESSION, store, 2.5)
    # the time that a phase took decides nothing
    timed = replace(SESSION.rounds[0], seconds={"publish": 3.0})
    session = replace(SESSION, rounds=(timed, SESSION.rounds[1]))
    found = moved(session, store)
    assert found is not None
    assert found == store.load()
    assert found.current.phase is Phase.REQUEST
    assert found.current.queried == SELECTION.samples
    assert found.current.expected_clicks == 7.5
    assert found.current.seconds == {"select": 2.5}


def test_what_was_chosen_for_another_session_is_not_taken(store: Store) -> None:
    assert moved(SESSION, store) is None
    store.round(1).save_selection(SELECTION)
    keep_ahead(SESSION, store, 2.5)
    extended = SESSION.extended(2, {"budgets": [0.1, 0.2]}, predict_again=False)
    assert moved(extended, store) is None
    assert store.load() == SESSION


@pytest.mark.parametrize("name", ["selection.json", "ahead.json"])
@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_what_is_damaged_is_chosen_again(store: Store, name: str, damage: bytes | None) -> None:
    store.round(1).save_selection(SELECTION)
    keep_ahead(SESSION, store, 2.5)
    path = store.round(1).folder / name
    path.unlink() if damage is None else path.write_bytes(damage)
    assert chosen_ahead(SESSION, store) is None
    store.round(1).save_selection(SELECTION)
    keep_ahead(SESSION, store, 2.5)
    assert chosen_ahead(SESSION, store) == (SELECTION, 2.5)
