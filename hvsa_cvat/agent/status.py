"""How far the enrolled tasks are, read from the workspace alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from hvsa_cvat.agent.advice import clicks_budget, next_command, session_time
from hvsa_cvat.agent.goal import target_words
from hvsa_cvat.agent.looking import look_into
from hvsa_cvat.agent.looks import OpenJob
from hvsa_cvat.agent.workspace import enrollment_place
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.cvat.state import read_requests
from hvsa_cvat.database import Place, Where
from hvsa_cvat.errors import HvsaError
from hvsa_cvat.rates import Rate
from hvsa_cvat.session.artefacts import RoundFiles, newest_records
from hvsa_cvat.session.outlook import Outlook
from hvsa_cvat.session.people_time import PeopleTime
from hvsa_cvat.session.records import Agreement, Planted
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
    computing_seconds: float | None = None
    """For how long an agent has computed this phase; None where none does."""
    clicks: int = 0
    """Clicks spent so far."""
    budget_clicks: float | None = None
    """Clicks that may be spent in all, as far as known; None before the first selection."""
    expected_clicks: float | None = None
    """Clicks that the samples which people are asked about now are expected to take."""
    open_jobs: tuple[OpenJob, ...] = ()
    """Jobs that are assigned and not finished, as the last look at the server found them."""
    jobs_seen: datetime | None = None
    """When that was, in UTC; None before the first look."""
    jobs_age: float | None = None
    """How many seconds ago that was."""
    scores: Agreement | None = None
    """How well the masks agreed with the newest answers, which they had not learned from."""
    outlook: Outlook | None = None
    """What the newest masks are expected to be worth."""
    budget_from: str | None = None
    """How the clicks of annotating every frame, to which the budget relates, are known."""
    skipped: str | None = None
    """Why the newest round asks for nothing, if so."""
    planted: Planted = field(default_factory=Planted)
    """What people did with planted errors so far."""
    next_command: str | None = None
    """The command that does what is advised; None where that is done, or nothing is left to ask."""
    people: PeopleTime | None = None
    """How long people have worked, and still will."""
    target: str | None = None
    """How the task stands against its target, in words; None where it has none."""
    ground_truth: str | None = None
    """What a ground truth job that people made says of the masks, in words; None without one."""


def read_status(
    workspace: Where, url: str, now: float, failures: Mapping[int, str] | None = None
) -> Iterator[TaskStatus]:
    """The status of every task of the server at `url` that is enrolled in the workspace.

    No server is asked, no file is made, and no agent waits. `now`: seconds since 1970. `failures`:
    why the server could not be asked for the open jobs just now, by task.
    """
    server, failures = server_key(url), failures or {}
    contents = look_into(workspace, server, now)
    for enrollment in contents.enrollments:
        task = enrollment.task
        status = TaskStatus(
            task,
            f"{url}/tasks/{task}",
            contents.owners.get(task),
            enrollment.error or failures.get(task),
            paused=task in contents.paused,
        )
        look = contents.looks.get(task)
        if look is not None and look.enrollment == enrollment.key:
            seen, age = datetime.fromtimestamp(look.time, UTC), max(0.0, now - look.time)
            status = replace(status, open_jobs=look.jobs, jobs_seen=seen, jobs_age=age)
        place = enrollment_place(workspace, server, enrollment)
        status = _with_place(status, place, enrollment.options.rate)
        step = contents.steps.get(task)
        due = f"round {status.round}: {status.phase}"
        if step is not None and status.worked_on_by is not None and step.text == due:
            status = replace(status, computing_seconds=max(0.0, contents.now - step.since))
        yield status


def _with_place(status: TaskStatus, place: Place, rate: Rate | None) -> TaskStatus:
    """The status with what the place of the task says, as far as that can be read."""
    name = ""
    try:
        found = Store.peek_records(place)
        if found is None:
            lost = f"{place.folder} holds no session; withdraw the task and enroll it again"
            return replace(status, error=status.error or lost)
        name = found[0].video
        return _with_session(status, *found, place, rate)
    except HvsaError as problem:
        return replace(status, name=name, error=status.error or str(problem))


def _with_session(
    status: TaskStatus, session: Session, files: RoundFiles, place: Place, rate: Rate | None
) -> TaskStatus:
    current = session.current
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
        open_jobs=status.open_jobs if current.phase is Phase.ANNOTATE else (),
        scores=records.agreement,
        outlook=records.outlook,
        planted=records.planted,
        budget_from=selection.basis if selection is not None else None,
        skipped=selection.skipped if selection is not None else None,
        next_command=next_command(status.task, session, files, records),
        target=target_words(status.task, session, files),
        ground_truth=_truth_words(files),
        people=session_time(session, files, rate, _asked_minutes(session, place)),
    )


def _truth_words(files: RoundFiles) -> str | None:
    """Of the newest masks that were judged so."""
    for number in range(files.number, -1, -1):
        found = files.of_round(number).truth_audit()
        if found is not None:
            return f"the ground truth job: {found.truth_words}, after round {number}"
    return None


def _asked_minutes(session: Session, place: Place) -> float | None:
    """What the jobs of the open request should take; None where nobody is asked."""
    current = session.current
    if current.request is None or current.clicks is not None:
        return None
    asked = (one for one in read_requests(place / "cvat") if one.key == current.request)
    return sum(job.expected_minutes for one in asked for job in one.jobs) or None
