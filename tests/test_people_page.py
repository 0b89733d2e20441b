"""The page of those whom the tasks wait for."""

from __future__ import annotations

from datetime import UTC, datetime

from hvsa_cvat.dashboard.people_page import by_person
from hvsa_cvat.dashboard.summaries import Job, State, TaskSummary
from tests.lead import WAITING, Filled, run_of
from tests.test_dashboard import browsing, page

EARLY, LATE = datetime(2026, 11, 2, tzinfo=UTC), datetime(2026, 11, 9, tzinfo=UTC)


def row(task: int, since: datetime, *jobs: Job) -> TaskSummary:
    return TaskSummary(task, f"task {task}", State.PEOPLE, jobs=jobs, since=since)


def test_jobs_of_all_tasks_are_added_up_by_person() -> None:
    rows = [
        row(2, LATE, Job(7, 20, "bob", 3, 30.0, "open"), Job(8, 20, None, 1, 5.0, "open")),
        row(
            1, EARLY, Job(5, 10, "bob", 4, 12.5, "sent back"), Job(6, 10, "Ann", 4, 9.0, "answered")
        ),
        row(3, LATE, Job(9, 30, "Ann", 2, 8.0, "open")),
    ]
    ann, bob, anyone = by_person(rows)
    assert (ann.name, bob.name, anyone.name) == ("Ann", "bob", "anyone")
    assert [one.job.id for one in ann.waiting] == [9]
    assert [one.job.id for one in bob.waiting] == [5, 7]
    assert (bob.minutes, bob.pictures, bob.since) == (42.5, 7, EARLY)
    assert by_person([]) == ()


def test_the_page_links_every_waiting_job(filled: Filled) -> None:
    request = run_of(filled, WAITING).request_of(2)
    assert request is not None
    with browsing(filled) as browser:
        text = page(browser, "/people")
    for job in request.jobs:
        assert f'href="{filled.url}/tasks/{request.task}/jobs/{job.id}"' in text
    assert text.index(">ann</h2>") < text.index(">bob</h2>")
    assert "<img src=x" not in text
