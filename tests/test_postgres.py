"""What agents on several machines share in PostgreSQL."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hvsa_cvat.agent import tables
from hvsa_cvat.agent.events import Event, read_events
from hvsa_cvat.agent.looking import is_workspace, look_into
from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.agent.workspace import Workspace
from hvsa_cvat.cvat.state import Pushed, Reading, State, memory_stamps, read_memory
from hvsa_cvat.dashboard.marks import Marks
from hvsa_cvat.database import Fence, LeaseLostError, Place, Tables, open_database, read_only
from hvsa_cvat.database.postgres import close_all, server_at
from hvsa_cvat.database.postgres_schema import make_tables
from hvsa_cvat.database.postgres_server import PostgresServer
from hvsa_cvat.errors import ConfigError, SessionError
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.store import Store, session_stamps
from hvsa_cvat.types import LabelSet
from tests.postgres import LocalServer

pytestmark = pytest.mark.cluster

SERVER = "cvat.example.com"
CLASSES = [(5, "road"), (9, "car")]


@pytest.fixture
def place(tmp_path: Path, postgres: str) -> Place:
    return Place(tmp_path / "workspace", postgres)


def agent(place: Place, owner: str = "a", **options: Any) -> Workspace:
    return Workspace(place, SERVER, owner, lambda: 100.0, **options)


def session(name: str = "s") -> Session:
    return Session(name, "clip", LabelSet(("road", "sky")), {"seed": 1}, 2)


def test_a_session_comes_back_as_it_was(place: Place) -> None:
    assert Store.peek(place / "one") is None
    for name in ("one", "two"):
        with Store(place / name) as store:
            store.create(session(name))
            later = session(name).finish_phase(Phase.PREDICT, 3.0)
            store.save(later)
    for name in ("one", "two"):
        later = session(name).finish_phase(Phase.PREDICT, 3.0)
        assert Store.peek(place / name) == later
        with Store(place / name) as store:
            assert store.load() == later
            with pytest.raises(SessionError, match="already holds session"):
                store.create(session())
    assert not list(place.folder.rglob("*.db"))


def test_a_folder_with_rounds_needs_its_session(place: Place) -> None:
    (place.folder / "rounds").mkdir(parents=True)
    with pytest.raises(SessionError, match="missing or empty"):
        Store(place)


def test_memories_of_tasks_are_apart(place: Place) -> None:
    one, two = State(place / "1" / "cvat"), State(place / "2" / "cvat")
    wide = 5_000_000_000  # more than 32 bits
    for state in (one, two, one):
        state.ledger.intend(7, [(0, "a"), (0, "b")])
    one.ledger.settle(7, [("a", wide), ("a", wide + 1)])
    one.ledger.forget_intents(7, ["b"])
    assert one.ledger.pushed(7) == [
        Pushed(0, "a", wide),
        Pushed(0, "a", wide + 1),
        Pushed(0, "b", None),
    ]
    assert two.ledger.pushed(7) == [Pushed(0, "a", None), Pushed(0, "b", None)]
    one.work_times.set_refusal("no")
    one.work_times.set_refusal("not now")
    one.readings.save(7, Reading("2026", sent_back=False))
    one.facts.set_class_colours(["#ff0000"])
    assert (one.work_times.refusal(), two.work_times.refusal()) == ("not now", None)
    assert read_memory(place / "1" / "cvat").answered == {7}
    assert read_memory(place / "1" / "cvat").colours == ("#ff0000",)
    assert read_memory(place / "2" / "cvat").answered == frozenset()
    two.ledger.forget_job(7)
    assert len(one.ledger.pushed(7)) == 3


def test_the_workspace(place: Place) -> None:
    assert not is_workspace(place)
    assert look_into(place, SERVER, 0).enrollments == ()
    workspace = agent(place)
    taken = workspace.add_task(12, "c0ffee", CLASSES, EnrollOptions(annotators=("ann",)))
    workspace.add_project(3, {"budget": "4%"})
    workspace.set_withdrawn(3, 9)
    with pytest.raises(ConfigError, match="enrolled already"):
        agent(place).add_task(12, "other", CLASSES, EnrollOptions())
    assert agent(place).enrollments() == [taken]
    assert look_into(place, SERVER, 0).enrollments == (taken,)
    assert workspace.withdrawn(3) == {9}
    assert [one.what for one in read_events(place, SERVER, 12)] == [Event.ENROLLED]
    assert workspace.session_place(taken) == place / "tasks" / f"{SERVER}-12-c0ffee"
    marks = Marks(place, lambda: 5.0)
    assert marks.actions(9) == []
    marks.mark("s", 1, 2, seen=True, sender="me")
    assert marks.seen("s", 1) == {2}
    assert [one.sender for one in marks.actions(9)] == ["me"]


def test_stamps_change_with_what_is_written_and_nothing_else(place: Place) -> None:
    one, two = place / "1", place / "2"
    assert session_stamps([one, two]) == [(), ()]
    with Store(one) as store:
        store.create(session())
    before = session_stamps([one])[0]
    with Store(two) as store:
        store.create(session())
    with Store(one) as store:
        store.load()
        assert session_stamps([one])[0] == before
        store.save(session())
        assert session_stamps([one])[0] != before
    state = State(one)
    before = memory_stamps([one])[0]
    state.ledger.intend(7, [(0, "a")])
    assert memory_stamps([one])[0] != before


def test_an_error_takes_everything_back(place: Place) -> None:
    database = open_database(place, tables.TABLES)
    row = {"server": SERVER, "task": 1, "token": 1}
    with pytest.raises(SessionError, match="duplicate"), database.transaction() as connection:
        connection.execute(sa.insert(tables.fences), [row, row])
    with read_only(place, tables.TABLES) as connection:
        assert connection.execute(sa.select(tables.fences)).all() == []
        with pytest.raises(sa.exc.DBAPIError, match="read-only"):
            connection.execute(sa.insert(tables.fences), row)


def test_a_task_is_held_by_one_agent(place: Place) -> None:
    one, two = agent(place, "one"), agent(place, "two")
    with one.leased(12) as held, two.leased(12) as refused:
        assert held is not None
        assert held.fence == Fence(SERVER, 12, 1)
        assert refused is None
        lease = two.lease(12)
        assert lease is not None
        assert lease.owner == "one"
        assert look_into(place, SERVER, 1e9).owners == {12: "one"}  # whatever our own clock says
    with two.leased(12) as held:
        assert held is not None
        assert held.fence == Fence(SERVER, 12, 2)


def expire(server: LocalServer, place: Place) -> None:
    assert place.database is not None
    name = place.database.rpartition("/")[2]
    server.execute("UPDATE hvsa_workspace.leases SET expires = expires - 61", name)


def test_a_lost_lease_stops_its_holder_before_the_next_write(
    place: Place, postgres_server: LocalServer
) -> None:
    one, two = agent(place, "one"), agent(place, "two")
    enrollment = one.add_task(12, "k", CLASSES, EnrollOptions())
    with ExitStack() as stack:
        lease = stack.enter_context(one.leased(12))
        mine = pickle.loads(pickle.dumps(one.session_place(enrollment, lease)))
        store = stack.enter_context(Store(mine))
        store.create(session())
        state = State(store.place / "cvat")
        state.ledger.intend(7, [(0, "a")])
        expire(postgres_server, place)
        store.save(session())  # nobody has taken the task
        with two.leased(12) as taken:
            assert taken is not None
            before = Store.peek(mine)
            for write in (
                lambda: store.save(session().finish_phase(Phase.PREDICT, 3.0)),
                lambda: state.ledger.settle(7, [("a", 1)]),
                store.check_held,
            ):
                with pytest.raises(LeaseLostError, match="task 12 over, so nothing was written"):
                    write()
            theirs = two.session_place(enrollment, taken)
            assert Store.peek(theirs) == before
            assert State(theirs / "cvat").ledger.pushed(7) == [Pushed(0, "a", None)]
        with pytest.raises(LeaseLostError):  # also when the other has given it back
            store.check_held()
    with two.leased(12) as again:  # the end of a lost lease ends nobody else's
        assert again is not None


def test_a_write_that_has_begun_ends_before_another_agent_takes_the_task(
    place: Place, postgres_server: LocalServer
) -> None:
    """Else the old holder could commit after the new one had read."""
    one, two = agent(place, "one"), agent(place, "two")
    enrollment = one.add_task(12, "k", CLASSES, EnrollOptions())
    with one.leased(12) as lease:
        database = open_database(one.session_place(enrollment, lease), tables.TABLES)
        expire(postgres_server, place)
        with database.transaction():
            name = str(place.database).rpartition("/")[2]
            with pytest.raises(Exception, match="lock timeout"):
                postgres_server.execute(
                    "SET lock_timeout = '50ms'; UPDATE hvsa_workspace.fences SET token = 9", name
                )
        with two.leased(12) as taken:
            assert taken is not None


def older(server: LocalServer, address: str, *statements: str) -> None:
    for statement in statements:
        server.execute(statement, address.rpartition("/")[2])
    close_all()  # as in a new process


def test_a_workspace_of_the_version_before_is_upgraded(
    place: Place, postgres_server: LocalServer
) -> None:
    taken = agent(place).add_task(12, "k", CLASSES, EnrollOptions())
    older(
        postgres_server,
        str(place.database),
        "DROP TABLE hvsa_workspace.fences CASCADE",
        "UPDATE hvsa_workspace.version SET version = 3",
    )
    assert look_into(place, SERVER, 0).enrollments == (taken,)
    with agent(place).leased(12) as held:
        assert held is not None
    assert agent(place).enrollments() == [taken]


def test_an_upgrade_changes_the_rows_of_all_places(place: Place) -> None:
    first, second = sa.MetaData(), sa.MetaData()
    sa.Table("notes", first, sa.Column("name", sa.Text, primary_key=True))
    notes = sa.Table(
        "notes",
        second,
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("length", sa.Integer),
    )
    for name in ("a", "bb"):
        with open_database(place / name, Tables("t.db", first, 1, "x")).transaction() as c:
            c.execute(sa.insert(first.tables["notes"]), {"name": name})
    close_all()

    def upgrade(connection: sa.Connection) -> None:
        connection.execute(sa.text("ALTER TABLE notes ADD COLUMN length INTEGER"))
        connection.execute(sa.text("UPDATE notes SET length = length(name)"))

    later = Tables("t.db", second, 2, "x", upgrades={1: upgrade})
    for name in ("a", "bb"):
        with open_database(place / name, later).transaction() as c:
            assert c.execute(sa.select(notes)).all() == [(name, len(name))]


def test_a_newer_version_is_refused_also_while_we_run(
    place: Place, postgres_server: LocalServer
) -> None:
    workspace = agent(place)
    newer = "UPDATE hvsa_workspace.version SET version = 99"
    postgres_server.execute(newer, str(place.database).rpartition("/")[2])
    refused = r"version 99, this .* up to 4; install the newer"
    with pytest.raises(SessionError, match=refused):
        workspace.enrollments()
    with pytest.raises(SessionError, match=refused):
        look_into(place, SERVER, 0)
    close_all()  # as in a new process
    with pytest.raises(SessionError, match=refused):
        agent(place)


def test_many_processes_may_make_the_tables_at_once(postgres: str, tmp_path: Path) -> None:
    def make(number: int) -> int:
        place = Place(tmp_path, postgres)
        with closing(PostgresServer(postgres)) as server:
            server.once("x", lambda connection: make_tables(connection, place, tables.TABLES))
        return number

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(make, range(4))) == [0, 1, 2, 3]


def test_bad_addresses_are_one_line(
    postgres_server: LocalServer, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres_server.execute("DROP ROLE IF EXISTS guest")
    postgres_server.execute("CREATE ROLE guest LOGIN PASSWORD 'g'")
    name = postgres.rpartition("/")[2]

    def refusal(address: str) -> str:
        with pytest.raises(SessionError) as caught:
            agent(Place(tmp_path, address))
        text = str(caught.value)
        assert "\n" not in text
        assert "secret" not in text
        return text

    assert "createdb nowhere" in refusal(postgres_server.address("nowhere"))
    assert re.search(
        "refused.* see whether PostgreSQL runs there",
        refusal("postgresql+psycopg://a@127.0.0.1:1/b"),
    )
    assert "correct the host" in refusal("postgresql+psycopg://a@no-such-host.invalid/b")
    monkeypatch.setenv("PGPASSWORD", "wrong")
    assert "set PGPASSWORD to the password of hvsa" in refusal(postgres)
    monkeypatch.delenv("PGPASSWORD")
    assert "set PGPASSWORD to the password of hvsa" in refusal(postgres)
    monkeypatch.setenv("PGPASSWORD", "g")
    text = refusal(postgres_server.address(name, user="guest"))
    assert text.endswith(f'let its owner run: GRANT CREATE ON DATABASE "{name}" TO "guest"')


def test_a_database_that_goes_away_is_waited_for(
    postgres_server: LocalServer, postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            postgres_server.start()

    with closing(PostgresServer(postgres, sleep=sleep)) as server:
        answer = partial(read_one, server)
        assert server.retried(answer) == 1
        postgres_server.stop()
        assert server.retried(answer) == 1
    assert len(slept) == 3
    assert len(caplog.records) == 3
    assert "does not answer, trying again" in caplog.text


def read_one(server: PostgresServer) -> int:
    with server.connect() as connection:
        return int(connection.execute(sa.text("SELECT 1")).scalar_one())


def test_a_database_that_stays_away_is_one_line(
    postgres_server: LocalServer, postgres: str
) -> None:
    gone = pytest.raises(SessionError, match=r"refused.*; see whether PostgreSQL runs; the next")
    patient = PostgresServer(postgres, patience=0.3, sleep=lambda seconds: None)
    with closing(patient) as server:
        assert read_one(server) == 1
        postgres_server.stop()
        try:
            with gone, server.refusals():
                server.retried(partial(read_one, server))
        finally:
            postgres_server.start()


def test_a_lost_transaction_is_done_again_where_that_is_safe(
    postgres_server: LocalServer, place: Place
) -> None:
    with Store(place) as store:
        store.create(session())
        tries = []

        def restart(*_: object) -> None:
            tries.append(1)
            if len(tries) == 1:
                postgres_server.stop()
                postgres_server.start()

        engine = server_at(str(place.database))._engine
        sa.event.listen(engine, "before_cursor_execute", once(restart, "DELETE FROM rounds"))
        later = session().finish_phase(Phase.PREDICT, 3.0)
        store.save(later)
        assert store.load() == later
        assert len(tries) == 2


def once(act: Callable[[], None], beginning: str) -> Callable[..., None]:
    def look(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(beginning):
            act()

    return look
