"""The answers to a request, once all its jobs are finished, and again when people change them.

People can go on drawing after a job is finished. So a job is read at one date of it, and that date
is compared later.
"""

from __future__ import annotations

from dataclasses import replace

from hvsa_cvat.cvat.answers.child_labels import TagLost
from hvsa_cvat.cvat.answers.finished import CollectPolicy, assignee_of
from hvsa_cvat.cvat.answers.merge import digest_of, merge
from hvsa_cvat.cvat.answers.read_request import ReadJob, RequestReader, name_jobs
from hvsa_cvat.cvat.answers.send_back import finish_sending_back, send_back, was_sent_back
from hvsa_cvat.cvat.answers.work_time import note_saves, timed_jobs
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.request.links import job_link
from hvsa_cvat.cvat.state import ChildJob, CollectedAnswers, Request
from hvsa_cvat.errors import ServerError
from hvsa_cvat.types import Answers


def collect(connection: TaskConnection, request: Request, policy: CollectPolicy) -> Answers | None:
    """The answers once all jobs of the request are finished, else None.

    A finished job with gaps goes back to its annotator, once: with an issue on each frame that has
    gaps, and in the state `rejected`. `ServerError` where somebody has deleted the jobs or the
    label of the tag, and where version 0.1 made the request.
    """
    if not request.cards:
        raise ServerError(_asked_by_old_version(connection, request))
    reader = RequestReader(connection, request, policy)
    rows = reader.rows()
    note_saves(connection, rows.values())
    gone = [job.id for job in request.jobs if job.id not in rows]
    if gone:
        raise reader.deleted(gone)
    is_complete = all(reader.is_finished(row) for row in rows.values())
    answered = []
    for job in request.jobs:
        row = rows[job.id]
        # A job that has been read, and waits for others, is read again together with them.
        if reader.is_finished(row) and (is_complete or not reader.was_read(row)):
            read = _take_or_send_back(connection, request, reader, job, row)
            if read is not None:
                answered.append(read)
    if len(answered) < len(request.jobs):
        return None
    answers = merge([read.answers for read in answered])
    answers = replace(answers, timed=timed_jobs(connection, request))
    collected = CollectedAnswers(digest_of(answers), revised=False)
    connection.state.requests.set_collected(request.task, collected)
    return answers


def revised(connection: TaskConnection, request: Request, policy: CollectPolicy) -> Answers | None:
    """The answers as they are now, if people have changed them after they were collected.

    Once changed they are given at every call, because only the caller knows which ones it has kept.
    None while a job is at work again, and where jobs or the label of the tag are deleted: what was
    collected still holds.
    """
    requests = connection.state.requests
    collected = requests.collected(request.task)
    if collected is None or not request.cards:  # version 0.1 asked in another form
        return None
    reader = RequestReader(connection, request, policy)
    rows = reader.rows()
    news = _obstacle(request, reader, rows)
    found: list[ReadJob | None] = []
    if news is None and (collected.revised or not all(map(reader.was_read, rows.values()))):
        try:
            found = [reader.read(job, rows[job.id]) for job in request.jobs]
        except TagLost:
            news = f"task {request.task} has lost its red tags; what was collected of it holds"
    _tell_once(connection, request, news)
    complete = [read for read in found if read is not None]
    if len(complete) < len(request.jobs):
        return None
    answers = merge([read.answers for read in complete])
    digest = digest_of(answers)
    if digest != collected.digest:
        # Before the dates: a process that ends in between finds the revision again.
        collected = CollectedAnswers(digest, revised=True)
        requests.set_collected(request.task, collected)
    for read in complete:
        if not reader.was_read(read.row):
            reader.log_reading(read)
            reader.save_reading(read.row)
    return answers if collected.revised else None


def _asked_by_old_version(connection: TaskConnection, request: Request) -> str:
    task = connection.task.id
    return (
        f"task {request.task} asks about task {task} in the form of hvsa-agent 0.1; finish the "
        f"round with that version, or ask again: hvsa-agent sync --task {task} --ask-again"
    )


def _take_or_send_back(
    connection: TaskConnection,
    request: Request,
    reader: RequestReader,
    job: ChildJob,
    row: Json,
) -> ReadJob | None:
    """A finished job whose answers are taken; None where it goes back or does not stop changing."""
    if finish_sending_back(connection, row):
        return None
    read = reader.read(job, row)
    if read is None:
        return None
    if not reader.was_read(read.row):
        reader.log_reading(read)
    if read.answers.gaps and not was_sent_back(connection.state, row):
        if send_back(connection, read.row, reader.cards(job), read.answers, reader.labels()):
            who = assignee_of(row) or "its annotator"
            first = read.answers.gaps[0].card
            link = job_link(connection.client, request, job.id, first)
            reader.log(
                job.id, f"goes back to {who} because of the gaps; it goes back only once: {link}"
            )
        return None
    reader.save_reading(read.row)
    return read


def _obstacle(request: Request, reader: RequestReader, rows: dict[int, Json]) -> str | None:
    """Why the jobs cannot be read now; None where all are there and finished."""
    at_work = [job for job, row in rows.items() if not reader.is_finished(row)]
    if len(rows) < len(request.jobs):
        return f"task {request.task} has lost jobs; what was collected of them holds"
    if at_work:
        jobs = name_jobs(at_work)
        return f"{jobs}: at work again; what was collected holds until that is finished"
    return None


def _tell_once(connection: TaskConnection, request: Request, news: str | None) -> None:
    """Tell the log when something is new."""
    requests = connection.state.requests
    if news != requests.told(request.task):
        requests.set_told(request.task, news)
        if news:
            connection.log(news)
