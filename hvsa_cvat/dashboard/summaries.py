"""One row about each enrolled task, read again only where its databases have changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from hvsa_cvat.agent.advice import clicks_budget, next_command
from hvsa_cvat.agent.goal import target_words
from hvsa_cvat.agent.workspace import Enrollment
from hvsa_cvat.database import Place, Where
from hvsa_cvat.enrolled.people_time import people_time_of
from hvsa_cvat.enrolled.runs import Run, Stamp, read_run, run_stamps
from hvsa_cvat.enrolled.tasks import EnrolledTask, EnrolledTasks
from hvsa_cvat.errors import HvsaError
from hvsa_cvat.rates import Rate
from hvsa_cvat.session.people_time import PeopleTime
from hvsa_cvat.session.records import Selection
from hvsa_cvat.session.rounds import Phase, Session

_FRESH = 1.0
"""Seconds for which rows hold while the workspace does not change. To ask many files whether they
have changed takes longer than to show them."""


class State(StrEnum):
    """What a task waits for."""

    STOPPED = "stopped"
    PAUSED = "paused"
    PEOPLE = "waits for people"
    AGENT = "waits for the agent"
    WORKING = "agent at work"
    DONE = "done"
    UNREAD = "not read yet"


@dataclass(frozen=True)
class Job:
    """A part of the open request, for one person and one sitting."""

    id: int
    task: int
    """The child task."""
    assignee: str | None
    pictures: int
    minutes: float
    """That it should take."""
    state: str
    """`answered`, `sent back` or `open`, as the last pass found it."""


@dataclass(frozen=True)
class TaskSummary:
    """One enrolled task, as far as a list shows it."""

    task: int
    name: str
    state: State
    round: int = 0
    rounds: int = 0
    """Rounds that ask people."""
    phase: str = ""
    jobs: tuple[Job, ...] = ()
    """Of the request that people answer now."""
    since: datetime | None = None
    """When people were asked."""
    clicks: int = 0
    budget_clicks: float | None = None
    """Clicks that may be spent in all, as far as known."""
    expected: tuple[float, ...] = ()
    """mIoU that the masks of each round are expected to have; the last one is the newest."""
    low: float | None = None
    high: float | None = None
    on_answers: float | None = None
    """mIoU of the newest answers and the masks that had not seen them."""
    unseen: tuple[str, ...] = ()
    """Classes that no answer shows yet."""
    frames: int = 0
    error: str | None = None
    owner: str | None = None
    """The agent that works on the task now."""
    next_command: str | None = None
    time: PeopleTime | None = None
    """Of people."""
    target: str | None = None
    """How the task stands against its target, in words; None where it has none."""
    project: str | None = None
    """In CVAT; None outside projects."""
    masks: int | None = None
    """The newest round whose masks are there."""

    @property
    def people(self) -> tuple[str, ...]:
        """Who has jobs that are not answered."""
        waiting = [job.assignee or "anyone" for job in self.jobs if job.state != "answered"]
        return tuple(dict.fromkeys(waiting))

    @property
    def open_minutes(self) -> float:
        """What is not answered yet should take."""
        return sum(job.minutes for job in self.jobs if job.state != "answered")

    @property
    def quality(self) -> float | None:
        """The newest expected mIoU."""
        return self.expected[-1] if self.expected else None

    @property
    def trend(self) -> float | None:
        """By how much the newest expected mIoU differs from the one before."""
        return self.expected[-1] - self.expected[-2] if len(self.expected) > 1 else None


def summarise(task: int, run: Run, rate: Rate | None = None) -> TaskSummary:
    """The row of a task whose folder was read; `rate` is what people's time costs."""
    session, current = run.session, run.current
    newest = [one for one in reversed(run.rounds) if one.outlook is not None]
    selection = next((one.selection for one in reversed(run.rounds) if one.selection), None)
    agreement = next((one.agreement for one in reversed(run.rounds) if one.agreement), None)
    asked = current.round.phase is Phase.ANNOTATE
    return TaskSummary(
        task=task,
        name=session.video,
        state=State.DONE if session.done else State.PEOPLE if asked else State.AGENT,
        round=current.number,
        rounds=session.rounds_total,
        phase=current.round.phase.value,
        jobs=_jobs(run) if asked else (),
        since=current.asked if asked else None,
        clicks=session.clicks,
        budget_clicks=_budget_clicks(session, selection),
        expected=tuple(one.outlook.expected_miou for one in run.rounds if one.outlook is not None),
        low=newest[0].outlook.low if newest and newest[0].outlook else None,
        high=newest[0].outlook.high if newest and newest[0].outlook else None,
        on_answers=agreement.miou if agreement is not None else None,
        unseen=agreement.unseen if agreement is not None else (),
        frames=len(run.names),
        next_command=next_command(task, session, run.files(current.number)),
        time=people_time_of(run, rate),
        target=target_words(task, session, run.files(current.number)),
        project=run.memory.project,
        masks=run.newest_shown,
    )


def _budget_clicks(session: Session, selection: Selection | None) -> float | None:
    share = clicks_budget(session)
    return None if share is None or selection is None else share * selection.full_clicks


def _jobs(run: Run) -> tuple[Job, ...]:
    request = run.request_of(run.current.number)
    if request is None:
        return ()
    return tuple(
        Job(
            job.id,
            request.task,
            job.assignee,
            job.pictures,
            job.expected_minutes,
            _job_state(run, job.id),
        )
        for job in request.jobs
    )


def _job_state(run: Run, job: int) -> str:
    if job in run.memory.answered:
        return "answered"
    return "sent back" if job in run.memory.sent_back else "open"


def with_enrollment(summary: TaskSummary, enrolled: EnrolledTask) -> TaskSummary:
    """The row with what the workspace says of the task: who works on it, and why it stopped."""
    error = summary.error or enrolled.enrollment.error
    state = summary.state
    if enrolled.paused:
        state = State.PAUSED
    elif error is not None:
        state = State.STOPPED
    elif enrolled.owner is not None and state is State.AGENT:
        state = State.WORKING
    command = f"hvsa-agent resume {enrolled.number}" if enrolled.paused else summary.next_command
    return replace(
        summary,
        error=error,
        owner=enrolled.owner,
        state=state,
        next_command=command,
        jobs=tuple(_as_seen(job, enrolled) for job in summary.jobs),
    )


def _as_seen(job: Job, enrolled: EnrolledTask) -> Job:
    """The job with whoever has it now, which CVAT may know better than the request."""
    seen = enrolled.look.jobs if enrolled.look is not None else ()
    now = next((one for one in seen if one.job == job.id), None)
    return job if now is None or now.state == "deleted" else replace(job, assignee=now.assignee)


@dataclass(frozen=True)
class Rows:
    """The rows of all enrolled tasks."""

    summaries: tuple[TaskSummary, ...]
    unread: int
    """Tasks that were not read yet; their rows hold only a number."""


class Overview:
    """The rows of the tasks of a server, kept while nothing changes. Several threads may ask."""

    def __init__(
        self,
        tasks: EnrolledTasks,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
        read: Callable[[Where], Run] = read_run,
    ) -> None:
        """`patience`: seconds after which the tasks that are left are shown unread. `read` may keep
        what it reads for other pages."""
        self._tasks = tasks
        self._read_run = read
        self._clock = clock
        self._patience = patience
        self._kept: dict[Place, tuple[Stamp, TaskSummary]] = {}
        self._newest: tuple[Mapping[int, EnrolledTask], float, Rows] | None = None
        self._lock = threading.Lock()

    def rows(self) -> Rows:
        """All rows. Reading tasks that were never read takes turns with showing them."""
        enrolled = self._tasks.all()
        with self._lock:
            now = self._clock()
            newest = self._newest
            if newest is not None and newest[0] is enrolled and 0 <= now - newest[1] < _FRESH:
                return newest[2]
            rows = self._read(enrolled, now + self._patience)
            # tasks that are left are read by the next page
            self._newest = None if rows.unread else (enrolled, now, rows)
            return rows

    def _read(self, enrolled: Mapping[int, EnrolledTask], ends: float) -> Rows:
        stamps = run_stamps([one.place for one in enrolled.values()])
        found = {task: self._row(one, stamps, ends) for task, one in enrolled.items()}
        self._kept = {at: kept for at, kept in self._kept.items() if at in stamps}
        return Rows(
            tuple(with_enrollment(row, enrolled[task]) for task, row in found.items()),
            sum(row.state is State.UNREAD for row in found.values()),
        )

    def _row(
        self, enrolled: EnrolledTask, stamps: Mapping[Place, Stamp], ends: float
    ) -> TaskSummary:
        stamp = stamps[enrolled.place]
        kept = self._kept.get(enrolled.place)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        if self._clock() > ends:
            return kept[1] if kept is not None else _unread(enrolled.enrollment)
        row = self._summary(enrolled)
        self._kept[enrolled.place] = stamp, row
        return row

    def _summary(self, enrolled: EnrolledTask) -> TaskSummary:
        """The row of a task; where its folder cannot be read, it says so."""
        try:
            run = self._read_run(enrolled.place)
            return summarise(enrolled.number, run, enrolled.enrollment.options.rate)
        except HvsaError as problem:
            name = f"task {enrolled.number}"
            return TaskSummary(enrolled.number, name, State.STOPPED, error=str(problem))


def _unread(enrollment: Enrollment) -> TaskSummary:
    return TaskSummary(enrollment.task, f"task {enrollment.task}", State.UNREAD)


def totals(rows: tuple[TaskSummary, ...]) -> Mapping[str, float]:
    """Sums over the rows of a list."""
    return {
        "tasks": len(rows),
        "stopped": sum(row.state is State.STOPPED for row in rows),
        "done": sum(row.state is State.DONE for row in rows),
        "jobs": sum(job.state != "answered" for row in rows for job in row.jobs),
        "clicks": sum(row.clicks for row in rows),
        "budget": sum(row.budget_clicks or 0 for row in rows),
        "minutes": sum(row.open_minutes for row in rows),
        "worked": sum(row.time.spent_minutes for row in rows if row.time),
    }
