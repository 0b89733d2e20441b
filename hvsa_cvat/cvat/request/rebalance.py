"""Giving jobs that wait with somebody who is slow or away to people who have finished theirs.

Only jobs that nobody has begun are given away: new ones that hold exactly what we put into them. A
person who has such a job open, and has saved nothing, cannot save it any more; so it must have
waited for a while.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from hvsa_cvat.cvat.answers.child_labels import ChildLabels
from hvsa_cvat.cvat.answers.finished import assignee_of, child_job_rows
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.errors import Uncertain, Unreachable
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.request.assign import find_person
from hvsa_cvat.cvat.request.make_masks import is_untouched
from hvsa_cvat.cvat.state import ChildJob, Request
from hvsa_cvat.errors import ServerError


@dataclass(frozen=True)
class Given:
    """A job that somebody else has now."""

    job: int
    before: str
    """User name of whoever had it."""
    after: str


def rebalance(connection: TaskConnection, request: Request, hours: float) -> list[Given]:
    """Give jobs that have waited for `hours` to people who have finished theirs. Safe to repeat.

    Somebody who has saved nothing in any of their jobs for that long is away, and keeps only what
    they have begun. Of others as much is taken as makes what is left more even.
    """
    rows = child_job_rows(connection.client, request)
    given = []
    for planned in _plan(request, rows, connection.now() - timedelta(hours=hours)):
        if _give(connection, request, planned):
            given.append(planned)
    return given


def _plan(request: Request, rows: dict[int, Json], before: datetime) -> Iterator[Given]:
    """Who gets what of whom; jobs that were saved after `before` stay."""
    minutes = {job.id: job.expected_minutes for job in request.jobs}
    left: dict[str, list[Json]] = {}
    finished: set[str] = set()
    for row in rows.values():
        name = assignee_of(row)
        if name is None:
            continue
        if row["state"] == "completed":
            finished.add(name)
        else:
            left.setdefault(name, []).append(row)
    loads = {name: sum(minutes[row["id"]] for row in mine) for name, mine in left.items()}
    free = dict.fromkeys(sorted(finished - left.keys()), 0.0)
    if not free:
        return
    for name in sorted(left, key=lambda name: -loads[name]):
        mine = [row for row in rows.values() if assignee_of(row) == name]
        away = all(_date(row) < before for row in mine)
        waiting = [row for row in left[name] if _waits(row) and _date(row) < before]
        # the last first: people work from the first to the last
        for row in sorted(waiting, key=lambda row: -row["start_frame"]):
            job, taker = row["id"], min(free, key=lambda one: (free[one], one))
            if away or free[taker] + minutes[job] < loads[name]:
                free[taker] += minutes[job]
                loads[name] -= minutes[job]
                yield Given(job, name, taker)


def _waits(row: Json) -> bool:
    return bool(row["state"] == "new" and row["stage"] == "annotation")


def _date(row: Json) -> datetime:
    return datetime.fromisoformat(row["updated_date"])


def _give(connection: TaskConnection, request: Request, planned: Given) -> bool:
    """Whether the job was given away; it stays where it was where somebody has begun it."""
    client, job = connection.client, planned.job
    try:
        row = client.get(f"jobs/{job}")
        if not _waits(row) or assignee_of(row) != planned.before:
            return False
        if not _is_as_made(connection, request, row):
            return False
        person = find_person(client, planned.after)
        client.change("PATCH", f"jobs/{job}", {"assignee": person.id, "state": "new"})
        if not _is_as_made(connection, request, row):
            owner = find_person(client, planned.before)
            body = {"assignee": owner.id, "state": "in progress"}
            client.change("PATCH", f"jobs/{job}", body)
            connection.log(f"job {job} stays with {planned.before}, who has just begun it")
            return False
    except ServerError as error:
        if isinstance(error, Unreachable | Uncertain):
            raise
        connection.log(f"job {job} stays with {planned.before}: {error}")
        return False
    _remember(connection, request, planned)
    connection.log(
        f"job {job}, which nobody has begun, goes from {planned.before} to {person.name}"
    )
    return True


def _is_as_made(connection: TaskConnection, request: Request, row: Json) -> bool:
    """Whether a job holds what we put into it, and nothing else.

    A mask with another class keeps its source, so the classes are compared as well.
    """
    client, names = connection.client, connection.task.labels.names
    labels = ChildLabels.of(client.rows("labels", task_id=request.task), names, request.tag)
    content = client.get(f"jobs/{row['id']}/annotations")
    if labels is None or not content["tags"] or not is_untouched(content, row, labels.tag):
        return False
    ids = labels.ids()
    frames = range(row["start_frame"], row["stop_frame"] + 1)
    ours = {part.shape: ids.get(part.label) for part in request.parts if part.card in frames}
    return ours == {shape["id"]: shape["label_id"] for shape in content["shapes"]}


def _remember(connection: TaskConnection, request: Request, given: Given) -> None:
    requests = connection.state.requests
    known = requests.get(request.key) or request
    requests.save(replace(known, jobs=tuple(_renamed(known.jobs, given))))


def _renamed(jobs: Sequence[ChildJob], given: Given) -> Iterator[ChildJob]:
    for job in jobs:
        yield replace(job, assignee=given.after) if job.id == given.job else job
