import sqlite3
from pathlib import Path

import numpy as np
import pytest

from hvsa_cvat.cvat.state import ChildJob, Pushed, Reading, Region, Request, State
from hvsa_cvat.errors import SessionError
from hvsa_cvat.types import Sample


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "cvat")


def request_of(key: str, task: int) -> Request:
    region = Region(1, Sample(3, 0), 0, (1.0, 1.5, 4.0, 1.5, 1.0, 1.5), shape=77)
    whole = Region(2, Sample(5, 0), 1, ())
    jobs = (ChildJob(9, 0, 0, "ann", 4.5), ChildJob(10, 1, 1, None, 20.0))
    return Request(key, 2, task, (3, 5), (region, whole), jobs)


def test_notes(state: State) -> None:
    assert state.note("colour") is None
    state.set_note("colour", {"red": [1, 2.5, None]})
    assert State(state.folder).note("colour") == {"red": [1, 2.5, None]}
    state.set_note("colour", False)
    assert state.note("colour") is False


def test_requests_come_back_oldest_first(state: State) -> None:
    later, earlier = request_of("rounds/2", 8), request_of("rounds/1", 7)
    state.save_request(later)
    state.save_request(earlier)
    assert State(state.folder).requests() == [earlier, later]
    assert state.request("rounds/2") == later
    state.save_request(request_of("rounds/2", 9))
    assert [one.task for one in state.requests()] == [7, 9]
    state.forget_request("rounds/2")
    assert state.request("rounds/2") is None


def test_number_maps_come_back_frame_by_frame(state: State) -> None:
    numbers = [np.arange(6, dtype=np.int32).reshape(2, 3) + 10 * frame for frame in range(3)]
    state.save_numbers("rounds/1", numbers)
    for frame in range(3):
        back = state.numbers("rounds/1", frame)
        assert back.dtype == np.int32
        assert back.tolist() == numbers[frame].tolist()
    for key, frame in (("rounds/1", 3), ("rounds/2", 0)):
        with pytest.raises(SessionError, match="missing or damaged"):
            state.numbers(key, frame)


def test_readings(state: State) -> None:
    assert state.reading(4) is None
    state.save_reading(4, Reading("2030", sent_back=False))
    state.save_reading(4, Reading("2031", sent_back=True))
    assert State(state.folder).reading(4) == Reading("2031", sent_back=True)


def test_shapes_are_intended_then_settled(state: State) -> None:
    state.intend(1, [(0, "a"), (0, "b"), (5, "c")])
    state.intend(2, [(0, "a")])
    state.settle(1, [("b", 12), ("a", 11)])
    assert State(state.folder).pushed(1) == [
        Pushed(0, "a", 11),
        Pushed(0, "b", 12),
        Pushed(5, "c", None),
    ]
    assert state.pushed(2) == [Pushed(0, "a", None)]
    assert state.pushed_jobs() == [1, 2]
    assert state.pushed_counts() == {1: 2}


def test_what_was_never_intended_cannot_be_settled(state: State) -> None:
    state.intend(1, [(0, "a")])
    for created in ([("a", 11), ("a", 12)], [("b", 11)]):
        with pytest.raises(ValueError, match="never intended"):
            state.settle(1, created)
    assert state.pushed(1) == [Pushed(0, "a", None)]


def test_of_one_shape_two_creations_may_be_open(state: State) -> None:
    for _ in range(5):
        state.intend(1, [(0, "a")])
    assert state.pushed(1) == [Pushed(0, "a", None)] * 2
    state.settle(1, [("a", 11)])
    state.settle(1, [("a", 12)])
    assert [one.shape for one in state.pushed(1)] == [11, 12]


def test_intentions_are_forgotten_one_of_each_or_all(state: State) -> None:
    for _ in range(2):
        state.intend(1, [(0, "a"), (0, "b"), (0, "c")])
    state.settle(1, [("c", 13)])
    state.forget_intents(1, ["a"])
    left = [one.fingerprint for one in state.pushed(1) if one.shape is None]
    assert sorted(left) == ["a", "b", "b", "c"]
    state.forget_intents(1)
    assert state.pushed(1) == [Pushed(0, "c", 13)]


def test_disowned_shapes_are_not_ours_any_more(state: State) -> None:
    for job in (1, 2):
        state.intend(job, [(0, "a"), (1, "b"), (2, "c")])
        state.settle(job, [("a", 11), ("b", 12), ("c", 13)])
    state.disown(1, [11, 13, 99])
    state.disown(1, [])
    assert state.pushed(1) == [Pushed(1, "b", 12)]
    assert len(state.pushed(2)) == 3


def test_how_far_a_round_is_shown(state: State) -> None:
    assert state.published_rounds() == {}
    assert state.reached(1, 2) is None
    state.set_reached(1, 2, -1)
    assert state.reached(1, 2) == -1
    state.set_reached(1, 2, 17)
    assert State(state.folder).reached(1, 2) == 17
    assert state.reached(1, 3) is None
    assert state.published_rounds() == {}
    state.set_published_round(1, 2)
    assert (state.published_rounds(), state.reached(1, 2)) == ({1: 2}, None)
    state.set_reached(1, 3, 4)
    assert state.published_rounds() == {}


def test_a_job_is_forgotten_with_all_that_was_in_it(state: State) -> None:
    for job in (1, 2):
        state.intend(job, [(0, "a")])
        state.set_published_round(job, 2)
    state.forget_job(1)
    assert state.pushed_jobs() == [2]
    assert state.published_rounds() == {2: 2}


def test_foreign_and_newer_databases_are_named(tmp_path: Path) -> None:
    State(tmp_path)
    with sqlite3.connect(tmp_path / "cvat.db") as connection:
        connection.execute("update version set version = 99")
    connection.close()
    with pytest.raises(SessionError, match=r"version 99.*install the newer"):
        State(tmp_path)
    (tmp_path / "cvat.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(SessionError, match=r"cvat\.db is not the memory"):
        State(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(SessionError, match="choose another folder"):
        State(tmp_path / "file" / "cvat")
