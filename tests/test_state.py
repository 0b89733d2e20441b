import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hvsa_cvat.cvat.state import (
    Card,
    ChildJob,
    CollectedAnswers,
    Part,
    Pushed,
    Reading,
    Request,
    State,
    WorkTime,
    read_requests,
)
from hvsa_cvat.database import Where
from hvsa_cvat.errors import SessionError
from hvsa_cvat.types import Sample


@pytest.fixture
def state(where: Where) -> State:
    return State(where / "cvat")


def request_of(key: str, task: int) -> Request:
    region = Card(Sample(3, 0), 1, 2, 30, 40, factor=17, suggests=True)
    whole = Card(Sample(5, 0), 0, 0, 90, 120, factor=1, suggests=False)
    parts = (Part(1, 0, 2, shape=77), Part(2, 0, 0))
    jobs = (ChildJob(9, 0, 0, "ann", 4.5), ChildJob(10, 1, 1, None, 20.0))
    return Request(key, 2, task, (region, whole), parts, jobs, tag=31)


def test_a_request_of_version_0_1_has_no_cards() -> None:
    content = {**request_of("k", 7).to_json(), "frames": [3], "regions": [{"number": 1}]}
    del content["cards"], content["parts"]
    read = Request.from_json(content)
    assert (read.cards, read.parts, read.jobs) == ((), (), request_of("k", 7).jobs)


def test_a_request_may_not_know_the_label_of_the_tag() -> None:
    """An older version saved it so."""
    content = request_of("k", 7).to_json()
    del content["tag"]
    assert Request.from_json(content) == replace(request_of("k", 7), tag=None)


def test_facts_about_the_task(state: State) -> None:
    facts, again = state.facts, State(state.place).facts
    assert facts.frames_in_use() is facts.first_label_ids() is facts.class_pixels() is None
    for numbers in ([5, 0, 3], [7]):
        facts.set_frames_in_use(numbers)
        assert again.frames_in_use() == sorted(numbers)
    facts.set_first_label_ids([31, None, 30])
    assert again.first_label_ids() == [31, None, 30]
    for pixels in ([2**40, 0, 5], [1, 2]):
        facts.set_class_pixels(pixels)
        assert again.class_pixels() == pixels


def test_what_became_of_a_request(state: State) -> None:
    requests, again = state.requests, State(state.place).requests
    assert requests.collected(7) is None
    requests.set_collected(7, CollectedAnswers("ab", revised=False))
    requests.set_collected(7, CollectedAnswers("cd", revised=True))
    requests.set_collected(8, CollectedAnswers("ef", revised=False))
    assert again.collected(7) == CollectedAnswers("cd", revised=True)
    assert requests.told(7) is None
    requests.set_told(7, "jobs 1, 2: at work again")
    assert (again.told(7), again.told(8)) == ("jobs 1, 2: at work again", None)
    requests.set_told(7, None)
    assert again.told(7) is None


def test_dates_of_jobs(state: State) -> None:
    again = State(state.place)
    assert state.readings.send_back_begun(4) is state.ledger.own_write(4) is None
    for date in ("2030", "2031"):
        state.readings.begin_send_back(4, date)
        state.ledger.set_own_write(5, date)
        assert (again.readings.send_back_begun(4), again.ledger.own_write(5)) == (date, date)
    assert again.readings.send_back_begun(5) is again.ledger.own_write(4) is None


VERSION_1 = """
create table version (version integer);
insert into version values (1);
create table notes (name varchar(100) primary key, value json not null);
insert into notes values
    ('frames in use', '[0, 1, 4]'), ('label ids', '[31, null, 30]'), ('class pixels', '[9, 0, 7]'),
    ('answers of task 12', '{"digest": "ab", "revised": true}'),
    ('jobs of task 12', '"job 5: at work again"'), ('jobs of task 13', 'null'),
    ('sending back job 5', '"2030-01-01"'), ('own write to job 6', '"2031-01-01"');
create table requests (key varchar(500) primary key, content json not null);
create table readings (
    job integer primary key, updated_date varchar(40) not null, sent_back boolean not null
);
insert into readings values (5, '2030-01-02', 1);
create table pushed (
    entry integer primary key, job integer not null, frame integer not null,
    fingerprint varchar(64) not null, shape integer
);
create index pushed_shape on pushed (job, shape);
insert into pushed values (1, 6, 4, 'f00d', 77), (2, 6, 4, 'beef', null);
create table published (job integer primary key, round integer not null, reached integer);
insert into published values (6, 2, null);
"""


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    """The folder of a memory that the version before made."""
    folder = tmp_path / "cvat"
    folder.mkdir()
    request = request_of("rounds/1", 12)
    with closing(sqlite3.connect(folder / "cvat.db")) as connection, connection:
        connection.executescript(VERSION_1)
        row = (request.key, json.dumps(request.to_json()))
        connection.execute("insert into requests values (?, ?)", row)
    return folder


def test_a_memory_of_version_1_goes_on(version_1: Path) -> None:
    for _ in range(2):
        state = State(version_1)
        assert state.facts.frames_in_use() == [0, 1, 4]
        assert state.facts.first_label_ids() == [31, None, 30]
        assert state.facts.class_pixels() == [9, 0, 7]
        assert state.requests.all() == [request_of("rounds/1", 12)]
        assert state.requests.collected(12) == CollectedAnswers("ab", revised=True)
        assert state.requests.told(12) == "job 5: at work again"
        assert state.requests.told(13) is None
        assert state.readings.get(5) == Reading("2030-01-02", sent_back=True)
        assert state.readings.send_back_begun(5) == "2030-01-01"
        assert state.ledger.own_write(6) == "2031-01-01"
        assert state.ledger.pushed(6) == [Pushed(4, "f00d", 77), Pushed(4, "beef", None)]
        assert state.ledger.published_rounds() == {6: 2}
    with closing(sqlite3.connect(state.path)) as connection:
        assert connection.execute("select version from version").fetchall() == [(3,)]
        tables = connection.execute("select name from sqlite_master where type = 'table'")
        assert ("notes",) not in tables.fetchall()


def test_a_memory_of_version_2_gets_the_times_of_jobs(tmp_path: Path) -> None:
    state = State(tmp_path / "cvat")
    state.facts.set_frames_in_use([0, 4])
    with closing(sqlite3.connect(state.path)) as connection, connection:
        connection.execute("drop table work_times")
        connection.execute("drop table log_refusals")
        connection.execute("update version set version = 2")
    for _ in range(2):
        times = State(state.place).work_times
        assert times.get(5) == WorkTime()
        times.save({4: WorkTime("in progress", "2030-01-01", logged=3.5)})
        assert times.get(4).worked == 3.5
        assert State(state.place).facts.frames_in_use() == [0, 4]


def test_requests_are_read_without_changing_anything(version_1: Path) -> None:
    before = {path: path.read_bytes() for path in version_1.iterdir()}
    with closing(sqlite3.connect(version_1 / "cvat.db", isolation_level=None)) as writer:
        writer.execute("begin immediate")
        assert read_requests(version_1) == [request_of("rounds/1", 12)]
    assert {path: path.read_bytes() for path in version_1.iterdir()} == before
    assert read_requests(version_1 / "nothing") == []
    assert not (version_1 / "nothing").exists()


def test_requests_come_back_oldest_first(state: State) -> None:
    later, earlier = request_of("rounds/2", 8), request_of("rounds/1", 7)
    state.requests.save(later)
    state.requests.save(earlier)
    assert State(state.place).requests.all() == [earlier, later]
    assert state.requests.get("rounds/2") == later
    state.requests.save(request_of("rounds/2", 9))
    assert [one.task for one in state.requests.all()] == [7, 9]
    state.requests.forget("rounds/2")
    assert state.requests.get("rounds/2") is None


def test_number_maps_come_back_frame_by_frame(state: State) -> None:
    numbers = [np.arange(6, dtype=np.int32).reshape(2, 3) + 10 * frame for frame in range(3)]
    state.requests.save_contents("rounds/1", numbers)
    for frame in range(3):
        back = state.requests.content("rounds/1", frame)
        assert back.dtype == np.int32
        assert back.tolist() == numbers[frame].tolist()
    for key, frame in (("rounds/1", 3), ("rounds/2", 0)):
        with pytest.raises(SessionError, match="missing or damaged"):
            state.requests.content(key, frame)


def test_readings(state: State) -> None:
    assert state.readings.get(4) is None
    state.readings.save(4, Reading("2030", sent_back=False))
    state.readings.save(4, Reading("2031", sent_back=True))
    assert State(state.place).readings.get(4) == Reading("2031", sent_back=True)


def test_shapes_are_intended_then_settled(state: State) -> None:
    state.ledger.intend(1, [(0, "a"), (0, "b"), (5, "c")])
    state.ledger.intend(2, [(0, "a")])
    state.ledger.settle(1, [("b", 12), ("a", 11)])
    assert State(state.place).ledger.pushed(1) == [
        Pushed(0, "a", 11),
        Pushed(0, "b", 12),
        Pushed(5, "c", None),
    ]
    assert state.ledger.pushed(2) == [Pushed(0, "a", None)]
    assert state.ledger.jobs() == [1, 2]
    assert state.ledger.counts() == {1: 2}


def test_what_was_never_intended_cannot_be_settled(state: State) -> None:
    state.ledger.intend(1, [(0, "a")])
    for created in ([("a", 11), ("a", 12)], [("b", 11)]):
        with pytest.raises(ValueError, match="never intended"):
            state.ledger.settle(1, created)
    assert state.ledger.pushed(1) == [Pushed(0, "a", None)]


def test_of_one_shape_two_creations_may_be_open(state: State) -> None:
    for _ in range(5):
        state.ledger.intend(1, [(0, "a")])
    assert state.ledger.pushed(1) == [Pushed(0, "a", None)] * 2
    state.ledger.settle(1, [("a", 11)])
    state.ledger.settle(1, [("a", 12)])
    assert [one.shape for one in state.ledger.pushed(1)] == [11, 12]


def test_intentions_are_forgotten_one_of_each_or_all(state: State) -> None:
    for _ in range(2):
        state.ledger.intend(1, [(0, "a"), (0, "b"), (0, "c")])
    state.ledger.settle(1, [("c", 13)])
    state.ledger.forget_intents(1, ["a"])
    left = [one.fingerprint for one in state.ledger.pushed(1) if one.shape is None]
    assert sorted(left) == ["a", "b", "b", "c"]
    state.ledger.forget_intents(1)
    assert state.ledger.pushed(1) == [Pushed(0, "c", 13)]


def test_disowned_shapes_are_not_ours_any_more(state: State) -> None:
    for job in (1, 2):
        state.ledger.intend(job, [(0, "a"), (1, "b"), (2, "c")])
        state.ledger.settle(job, [("a", 11), ("b", 12), ("c", 13)])
    state.ledger.disown(1, [11, 13, 99])
    state.ledger.disown(1, [])
    assert state.ledger.pushed(1) == [Pushed(1, "b", 12)]
    assert len(state.ledger.pushed(2)) == 3


def test_how_far_a_round_is_shown(state: State) -> None:
    assert state.ledger.published_rounds() == {}
    assert state.ledger.reached(1, 2) is None
    state.ledger.set_reached(1, 2, -1)
    assert state.ledger.reached(1, 2) == -1
    state.ledger.set_reached(1, 2, 17)
    assert State(state.place).ledger.reached(1, 2) == 17
    assert state.ledger.reached(1, 3) is None
    assert state.ledger.published_rounds() == {}
    state.ledger.set_published_round(1, 2)
    assert (state.ledger.published_rounds(), state.ledger.reached(1, 2)) == ({1: 2}, None)
    state.ledger.set_reached(1, 3, 4)
    assert state.ledger.published_rounds() == {}


def test_a_job_is_forgotten_with_all_that_was_in_it(state: State) -> None:
    for job in (1, 2):
        state.ledger.intend(job, [(0, "a")])
        state.ledger.set_published_round(job, 2)
    state.ledger.forget_job(1)
    assert state.ledger.jobs() == [2]
    assert state.ledger.published_rounds() == {2: 2}


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
