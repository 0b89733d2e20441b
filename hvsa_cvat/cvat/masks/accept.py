"""Marking jobs of the watched task for validation where their masks are probably right.

CVAT's way to say that annotation is over and a review may begin is the stage `validation`. Only
jobs are marked that nobody has begun (stage `annotation`, state `new`) and that show the masks of
the last round, each once: a stage that a person sets, even back to annotation, stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hvsa_cvat.cvat.connection import Log, TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import Forbidden, NotFound, Refused
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.masks.job_frames import JobFrames, read_job_frames
from hvsa_cvat.cvat.state import Mark, State


@dataclass(frozen=True)
class Doubt:
    """A frame of the watched task, and how much of it is expected to be wrong."""

    frame: int
    """CVAT's number."""
    job: int
    """One that shows it."""
    wrong: float
    """Share of its pixels."""


@dataclass(frozen=True)
class Accepted:
    """What became of the jobs that were judged now."""

    marked: tuple[int, ...]
    unsure: tuple[int, ...]
    """Jobs in which too much is expected to be wrong."""
    doubts: tuple[Doubt, ...]
    """Each frame of the judged jobs once."""


def accept_jobs(
    connection: TaskConnection,
    round_number: int,
    judge: Callable[[], Callable[[int], float]],
    threshold: float,
) -> Accepted:
    """Mark the jobs of which a share of `threshold` is expected to be right. Safe to repeat.

    `judge` gives what tells the share of the frame at a position that is expected to be wrong in
    the masks of round `round_number`. It is called only where a job is judged now.
    """
    marked: list[int] = []
    unsure: list[int] = []
    doubts: dict[int, Doubt] = {}
    jobs = _judgeable(connection, round_number, threshold)
    wrong = judge() if jobs else None
    for one in jobs:
        mine = []
        for frame in one.frames:
            position = connection.task.media.position(frame)
            if position is not None and wrong is not None:
                mine.append(Doubt(frame, one.job, wrong(position)))
        if not mine:
            continue
        right = 1 - sum(doubt.wrong for doubt in mine) / len(mine)
        mark = Mark(round_number, threshold, right, marked=right >= threshold)
        if mark.marked and not _mark(connection, one.job, mark):
            continue
        if not mark.marked:
            connection.state.marks.save(one.job, mark)
        (marked if mark.marked else unsure).append(one.job)
        for doubt in mine:
            doubts.setdefault(doubt.frame, doubt)
    return Accepted(tuple(marked), tuple(unsure), tuple(doubts.values()))


def take_back(client: CvatClient, state: State, log: Log) -> None:
    """Set the stages that we set, and that are as we left them, back to annotation, and forget them
    all. Safe to repeat."""
    for job, mark in state.marks.all().items():
        if mark.marked:
            try:
                _take_back(client, log, job, mark)
            except NotFound:
                log(f"job {job}, marked for validation, is gone")
            except (Forbidden, Refused) as error:
                log(f"job {job} stays marked for validation: {error}")
        state.marks.forget(job)


def _judgeable(connection: TaskConnection, round_number: int, threshold: float) -> list[JobFrames]:
    known = connection.state.marks.all()
    shown = connection.state.ledger.published_rounds()
    found = []
    for one in read_job_frames(connection.client, connection.task):
        mark = known.get(one.job)
        if mark is not None and mark.marked and _was_set(connection, one.row, mark):
            continue
        decided = (
            mark is not None
            and not mark.marked
            and (mark.round, mark.threshold) == (round_number, threshold)
        )
        if not decided and _is_free(one.row) and shown.get(one.job) == round_number:
            found.append(one)
    return found


def _is_free(row: Json) -> bool:
    """Whether nobody has begun the job."""
    return bool(row.get("stage", "annotation") == "annotation" and row["state"] == "new")


def _mark(connection: TaskConnection, job: int, mark: Mark) -> bool:
    """Whether the stage is set; not where somebody has begun the job just now, or we may not."""
    client, marks = connection.client, connection.state.marks
    try:
        if not _is_free(client.get(f"jobs/{job}")):
            return False
        # before the server is told: a process that ends in between finds it here
        marks.save(job, mark)
        # the state as well, because another stage would set it
        row = client.change("PATCH", f"jobs/{job}", {"stage": "validation", "state": "new"})
    except (NotFound, Forbidden, Refused) as error:
        marks.forget(job)
        connection.log(f"job {job} is not marked for validation: {error}")
        return False
    marks.save(job, replace(mark, updated_date=row["updated_date"]))
    return True


def _was_set(connection: TaskConnection, row: Json, mark: Mark) -> bool:
    """Whether a job was marked; not where a process ended before the server was told."""
    if mark.updated_date is None:
        if _is_free(row):
            return False
        if row["stage"] == "validation" and row["state"] == "new":
            known = replace(mark, updated_date=row["updated_date"])
            connection.state.marks.save(row["id"], known)
    return True


def _take_back(client: CvatClient, log: Log, job: int, mark: Mark) -> None:
    row = client.get(f"jobs/{job}")
    as_left = mark.updated_date in (None, row["updated_date"])
    if row["stage"] == "validation" and row["state"] == "new" and as_left:
        client.change("PATCH", f"jobs/{job}", {"stage": "annotation", "state": "new"})
        log(f"job {job} is back in the stage annotation")
    elif not _is_free(row):
        log(f"job {job} stays in the stage {row['stage']}: somebody has changed it since")
