"""How long people have worked in a job: by their saves, or by the server's log of events."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvsa_cvat.cvat.answers.work_time import note_saves, read_working_time
from hvsa_cvat.cvat.saves import Save, Saves
from hvsa_cvat.cvat.state import State, WorkTime
from tests.asked_task import LATER, LEFT, RIGHT, Asking, Places
from tests.standin import StandIn

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> str:
    """A date of the server."""
    return (NOON + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seen(*steps: tuple[str, float]) -> WorkTime:
    """What is noted of a job that is seen in these states, at these dates of its own."""
    found = WorkTime()
    for state, seconds in steps:
        found = found.seen(state, at(seconds))
    return found


# -- by saves


def test_the_time_between_saves_counts_and_that_before_the_first_as_their_mean() -> None:
    found = seen(
        ("new", -500),
        ("in progress", 0),
        ("in progress", 40),
        ("in progress", 100),
        ("completed", 180),
    )
    assert (found.seconds, found.gaps, found.pauses) == (180, 3, 0)
    assert found.worked == pytest.approx(180 + 60)


def test_a_gap_with_a_pause_counts_as_the_mean_of_the_others() -> None:
    found = seen(
        ("in progress", 0),
        ("in progress", 30),
        ("in progress", 3600),
        ("in progress", 3650),
        ("completed", 3690),
    )
    assert (found.seconds, found.gaps, found.pauses) == (120, 3, 1)
    assert found.worked == pytest.approx(40 * 5)


@pytest.mark.parametrize(
    "steps",
    [
        [("completed", 60)],
        [("new", 0), ("completed", 60)],
        [("in progress", 0), ("completed", 60)],
        [("in progress", 0), ("in progress", 50), ("in progress", 500), ("in progress", 1000)],
        [("in progress", 0), ("in progress", 200), ("completed", 900)],
    ],
)
def test_of_too_few_saves_nothing_is_said(steps: list[tuple[str, float]]) -> None:
    assert seen(*steps).worked is None


def test_only_what_a_person_does_counts() -> None:
    """Not the time that a job lies with others: assigned, sent back, accepted."""
    work = [("in progress", 0.0), ("in progress", 50.0), ("completed", 90.0)]
    before = seen(*work)
    after = seen(*work, ("rejected", 95), ("in progress", 99), ("in progress", 119))
    assert (after.seconds, after.gaps) == (before.seconds + 20, before.gaps + 1)
    assert seen(*work, ("completed", 95)).worked == before.worked


def test_a_pass_that_sees_nothing_new_changes_nothing() -> None:
    found = seen(("in progress", 0), ("in progress", 20))
    assert found.seen("in progress", at(20)) == found


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 5000), min_size=1, max_size=30), st.data())
def test_seen_less_often_is_never_more_than_seen_at_each_save(
    gaps: list[float], data: st.DataObject
) -> None:
    times = [sum(gaps[: k + 1]) for k in range(len(gaps))]
    every = seen(*(("in progress", one) for one in times))
    some = data.draw(st.lists(st.sampled_from(times), unique=True).map(sorted))
    assert seen(*(("in progress", one) for one in some)).seconds <= every.seconds + 1e-3
    assert every.seconds <= 100 * every.gaps + 1e-3


def test_dates_that_cannot_be_read_count_nothing() -> None:
    found = WorkTime("in progress", "yesterday").seen("completed", at(3))
    assert (found.seconds, found.gaps, found.pauses) == (0, 0, 0)


def test_what_was_seen_outlives_the_process(tmp_path: Path) -> None:
    times, again = State(tmp_path / "cvat").work_times, State(tmp_path / "cvat").work_times
    assert again.get(4) == WorkTime()
    for found in (seen(("in progress", 0)), seen(("in progress", 0), ("completed", 5))):
        times.save({4: found, 5: replace(found, logged=12.5)})
        assert again.get(4) == found
        assert again.get(5).worked == 12.5
    times.save({})
    assert times.refusal() is None
    for reason in ("gone", "still gone"):
        times.set_refusal(reason)
        assert again.refusal() == reason
    times.set_refusal(None)
    assert again.refusal() is None


# -- by the server's log


def test_the_log_of_events_is_summed_by_job() -> None:
    rows = [
        {"scope": "send:working_time", "job_id": "3", "duration": "1500"},
        {"scope": "send:working_time", "job_id": "3", "duration": "250"},
        {"scope": "send:working_time", "job_id": "4", "duration": "1000"},
        {"scope": "draw:object", "job_id": "3", "duration": "9000"},
        {"scope": "send:working_time", "job_id": "", "duration": "9000"},
        {"scope": "send:working_time", "job_id": "4", "duration": "nan"},
        {"scope": "send:working_time", "job_id": "4", "duration": None},
        {"scope": "send:working_time", "job_id": "4", "duration": "-7"},
    ]
    assert read_working_time(rows) == {3: 1.75, 4: 1.0}
    assert read_working_time([{"something": "else"}]) == {}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with StandIn() as cvat:
        yield Places(cvat, tmp_path_factory.mktemp("asked"))


@pytest.fixture
def asking(places: Places, tmp_path: Path) -> Iterator[Asking]:
    with places.fresh(tmp_path / "state") as asking:
        yield asking


def test_answers_bring_the_time_of_their_jobs(asking: Asking) -> None:
    first, second = asking.jobs
    asking.cvat.world.analytics, asking.cvat.world.refuses_events = True, None
    asking.cvat.world.working_time = [(first, 61_000), (first, 1_500), (second, 8_000)]
    asking.check(0, 1, 2)
    asking.finish()
    answers = asking.collect()
    assert answers is not None
    told = {one.samples: one.seconds for one in answers.timed}
    assert told == {(LEFT, RIGHT): 62.5, (LATER,): 8.0}
    assert not any("how long" in line for line in asking.log)


@pytest.mark.parametrize("status", [403, 404, 500, 501, None])
def test_without_a_log_the_agent_goes_on_and_says_so_once(
    asking: Asking, status: int | None
) -> None:
    """None: the export is begun and fails."""
    asking.cvat.world.refuses_events = status
    asking.check(0, 1, 2)
    asking.finish()
    for _ in range(2):
        answers = asking.collect()
        assert answers is not None
        assert answers.timed == (), "nobody saw two saves"
    (line,) = [line for line in asking.log if "how long" in line]
    assert "docs/effort.md" in line


def test_saves_that_webhooks_tell_of_count_between_two_passes(asking: Asking) -> None:
    job, _ = asking.jobs
    connection = replace(asking.connection, saves=Saves())
    for seconds in (30, 0, 70, 30):  # late, and twice
        connection.saves.add(Save(job, "in progress", at(seconds)))
    connection.saves.add(Save(987654, "in progress", at(5)))
    note_saves(connection, [{"id": job, "state": "in progress", "updated_date": at(70)}])
    found = asking.state.work_times.get(job)
    assert (found.seconds, found.gaps, found.pauses) == (70, 2, 0)
    # a row that was read before a save, which was delivered before the pass noted the row
    connection.saves.add(Save(job, "completed", at(90)))
    note_saves(connection, [{"id": job, "state": "in progress", "updated_date": at(70)}])
    found = asking.state.work_times.get(job)
    assert (found.state, found.seconds, found.gaps) == ("completed", 90, 3)


def test_saves_that_passes_see_tell_the_time(asking: Asking) -> None:
    job, _ = asking.jobs
    times = asking.state.work_times
    for seconds in (0, 30, 70):
        times.save({job: times.get(job).seen("in progress", at(seconds))})
    before = times.get(job)
    assert (before.seconds, before.gaps) == (70, 2)
    asking.check(0, 1, 2)
    asking.finish()
    answers = asking.collect()
    assert answers is not None
    (only,) = answers.timed
    # the end lies years before those dates, so it counts for nothing
    assert (only.samples, only.seconds) == ((LEFT, RIGHT), pytest.approx(105))
