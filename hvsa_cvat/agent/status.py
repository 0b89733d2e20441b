"""How far the enrolled tasks are: read from the workspace, and from the server if it answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from hvsa_cvat.agent.advice import clicks_budget, next_command, session_time
from hvsa_cvat.agent.goal import target_words
from hvsa_cvat.agent.task_pass import collect_policy
from hvsa_cvat.agent.workspace import Enrollment, Workspace
from hvsa_cvat.cvat.answers.unfinished import UnfinishedJob, unfinished_jobs
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import Unreachable
from hvsa_cvat.cvat.state import read_requests
from hvsa_cvat.errors import HvsaError
from hvsa_cvat.rates import Rate
from hvsa_cvat.session.artefacts import newest_records
from hvsa_cvat.session.outlook import Outlook
from hvsa_cvat.session.people_time import PeopleTime
from hvsa_cvat.session.records import Agreement
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.store import Store


@dataclass(frozen=True)
class TaskStatus:
    """One enrolled task."""

    task: int
    link: str
    worked_on_by: str | None
    """The agent that works on the task now."""
    error: str | None
    """Why the last pass stopped, or why nothing more can be told."""
    paused: bool = False
    """Whether passes leave the task out, because people said so."""
    name: str = ""
    round: int = 0
    rounds: int = 0
    """Rounds that ask people."""
    phase: str = "unknown"
    """What happens next; `done` when all rounds are over."""
    clicks: int = 0
    """Clicks spent so far."""
    budget_clicks: float | None = None
    """Clicks that may be spent in all, as far as known; None before the first selection."""
    expected_clicks: float | None = None
    """Clicks that the samples which people are asked about now are expected to take."""
    open_jobs: tuple[UnfinishedJob, ...] = ()
    """Jobs that are assigned and not finished."""
    scores: Agreement | None = None
    """How well the masks agreed with the newest answers, which they had not learned from."""
    outlook: Outlook | None = None
    """What the newest masks are expected to be worth."""
    budget_from: str | None = None
    """How the clicks of annotating every frame, to which the budget relates, are known."""
    skipped: str | None = None
    """Why the newest round asks for nothing, if so."""
    next_command: str | None = None
    """The command that does what is advised; None where that is done, or nothing is left to ask."""
    people: PeopleTime | None = None
    """How long people have worked, and still will."""
    target: str | None = None
    """How the task stands against its target, in words; None where it has none."""


def read_status(workspace: Workspace, client: CvatClient | None) -> Iterator[TaskStatus]:
    """The status of every enrolled task.

    Without a client, or while the server does not answer, the open jobs are unknown.
    """
    people, paused = _OpenJobs(client), workspace.pauses.all()
    for enrollment in workspace.enrollments():
        link = f"{client.address.url}/tasks/{enrollment.task}" if client is not None else ""
        status = _status(workspace, enrollment, link, people)
        yield replace(status, paused=enrollment.task in paused)


class _OpenJobs:
    """Asks the server for open jobs; after it failed to answer once it is not asked again."""

    def __init__(self, client: CvatClient | None) -> None:
        self._client = client
        self._failure: Unreachable | None = None

    def read(self, folder: Path, key: str, enrollment: Enrollment) -> tuple[UnfinishedJob, ...]:
        request = next((one for one in read_requests(folder) if one.key == key), None)
        if self._client is None or request is None:
            return ()
        if self._failure is not None:
            raise self._failure
        try:
            policy = collect_policy(enrollment.options)
            return tuple(unfinished_jobs(self._client, request, policy))
        except Unreachable as error:
            self._failure = error
            raise


def _status(
    workspace: Workspace, enrollment: Enrollment, link: str, people: _OpenJobs
) -> TaskStatus:
    folder = workspace.folder(enrollment)
    lease = workspace.lease(enrollment.task)
    session, error = None, enrollment.error
    jobs: tuple[UnfinishedJob, ...] = ()
    try:
        session = Store.peek(folder)
        if session is None:
            error = error or f"{folder} holds no session; withdraw the task and enroll it again"
        elif session.current.phase is Phase.ANNOTATE and session.current.request is not None:
            jobs = people.read(folder / "cvat", session.current.request, enrollment)
    except HvsaError as problem:
        error = error or str(problem)
    status = TaskStatus(
        enrollment.task, link, lease.owner if lease is not None else None, error, open_jobs=jobs
    )
    if session is None:
        return status
    try:
        return _with_session(status, session, folder, enrollment.options.rate)
    except HvsaError as problem:
        return replace(status, name=session.video, error=status.error or str(problem))


def _with_session(
    status: TaskStatus, session: Session, folder: Path, rate: Rate | None
) -> TaskStatus:
    current = session.current
    files = Store.peek_round(folder, current.number)
    records = newest_records(files)
    selection = records.selection
    budget = clicks_budget(session)
    return replace(
        status,
        name=session.video,
        round=current.number,
        rounds=session.rounds_total,
        phase=current.phase.value,
        clicks=session.clicks,
        budget_clicks=budget * selection.full_clicks if budget and selection is not None else None,
        expected_clicks=current.expected_clicks if current.clicks is None else None,
        scores=records.agreement,
        outlook=records.outlook,
        budget_from=selection.basis if selection is not None else None,
        skipped=selection.skipped if selection is not None else None,
        next_command=next_command(status.task, session, files),
        target=target_words(status.task, session, files),
        people=session_time(session, files, rate, _asked_minutes(session, folder)),
    )


def _asked_minutes(session: Session, folder: Path) -> float | None:
    """What the jobs of the open request should take; None where nobody is asked."""
    current = session.current
    if current.request is None or current.clicks is not None:
        return None
    asked = (one for one in read_requests(folder / "cvat") if one.key == current.request)
    return sum(job.expected_minutes for one in asked for job in one.jobs) or None
