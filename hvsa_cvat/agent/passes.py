"""Passes over all enrolled tasks: each task moves as far as it can, and says what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from hvsa_cvat.agent.carry_out import carry_out_wishes
from hvsa_cvat.agent.context import AgentContext, holder, server_clock
from hvsa_cvat.agent.enroll import enroll_new_tasks
from hvsa_cvat.agent.events import Event
from hvsa_cvat.agent.reports import TaskReport, one_line, told
from hvsa_cvat.agent.subject import about
from hvsa_cvat.agent.task_pass import TaskPass
from hvsa_cvat.agent.unchanged import Unchanged
from hvsa_cvat.agent.workspace import Enrollment, HeldLease
from hvsa_cvat.cvat.http.errors import Unreachable
from hvsa_cvat.cvat.state import read_requests
from hvsa_cvat.errors import ConfigError, HvsaError, ServerError
from hvsa_cvat.session.rounds import Phase, Round
from hvsa_cvat.session.store import Store


def sync(
    agent: AgentContext,
    only: int | None = None,
    *,
    ask_again: bool = False,
    stopping: Callable[[], bool] = lambda: False,
    unchanged: Unchanged | None = None,
) -> Iterator[TaskReport]:
    """One pass over every enrolled task, or over one. `stopping` is asked before each step.
    `unchanged` knows from earlier passes which tasks need no look.

    The report of a task says what went wrong with it; the others go on.
    """
    if only is not None and agent.workspace.enrollment(only) is None:
        raise ConfigError(f"task {only} is not enrolled; enroll it: hvsa-agent enroll {only}")
    if only is None:
        for project, options in agent.workspace.projects().items():
            yield from enroll_new_tasks(agent, project, options)
    yield from carry_out_wishes(agent, only)
    server, paused = _Server(agent), agent.workspace.pauses.all()
    unchanged = unchanged or Unchanged(agent)
    if server.failure is None:
        unchanged.begin(server.now())
    for enrollment in agent.workspace.enrollments():
        if stopping():
            return
        if only not in (None, enrollment.task):
            continue
        if enrollment.task in paused:
            unchanged.forget(enrollment.task)
            yield TaskReport(enrollment.task, "", paused=True)
            continue
        report = None
        if server.failure is None and not ask_again:
            report = unchanged.report(enrollment)
        if report is None:
            with about(task=enrollment.task):
                report = _lease_and_pass(agent, server, enrollment, ask_again, stopping)
            if report is None:
                continue  # withdrawn since the pass began
            unchanged.keep(enrollment.task, report)
        yield report


def has_work(agent: AgentContext) -> bool:
    """Whether any task or project is enrolled."""
    return bool(agent.workspace.enrollments() or agent.workspace.projects())


def companion_projects(agent: AgentContext) -> list[int]:
    """The projects in which people are asked about the enrolled tasks."""
    found: set[int] = set()
    for enrollment in agent.workspace.enrollments():
        requests = read_requests(agent.workspace.folder(enrollment) / "cvat")
        found.update(request.project for request in requests)
    return sorted(found)


_NOTED = {
    Phase.REQUEST: Event.ASKED,
    Phase.ANNOTATE: Event.TAKEN,
    Phase.PUBLISH: Event.PUBLISHED,
}


def _note(agent: AgentContext, enrollment: Enrollment, done: Round, phase: Phase) -> None:
    """Note that a phase of a round is finished, where people see something of it."""
    agent.finished(phase, done.number, done.seconds.get(phase.value, 0.0))
    if phase in _NOTED:
        agent.workspace.events.add(
            enrollment.task, _NOTED[phase], enrollment=enrollment.key, round_number=done.number
        )


class _Server:
    """The server during one pass: after it failed to answer for one task it is not asked again."""

    def __init__(self, agent: AgentContext) -> None:
        self._agent = agent
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.failure: str | None = None
        """Why it does not answer, in one line."""
        self.check()

    def check(self) -> None:
        """Ask it for the time; whether people are at work is judged by its clock."""
        try:
            self.now = server_clock(self._agent.client)
            self.failure = None
        except ServerError as error:
            self.failure = one_line(error)


def _lease_and_pass(
    agent: AgentContext,
    server: _Server,
    enrollment: Enrollment,
    ask_again: bool,
    stopping: Callable[[], bool],
) -> TaskReport | None:
    """None where the task is not enrolled so any more: a pass may be long."""
    task = enrollment.task
    with agent.workspace.leased(task) as lease:
        if lease is None:
            return TaskReport(task, "", held_by=holder(agent, task))
        present = agent.workspace.enrollment(task)
        if present is None or present.key != enrollment.key:
            return None
        if task in agent.workspace.pauses.all():
            return TaskReport(task, "", paused=True)
        if server.failure is not None:
            report = TaskReport(task, "", error=server.failure)
        else:
            report = _pass_over(agent, enrollment, server.now, lease, ask_again, stopping)
        if report.unreachable:
            server.check()
        if lease.lost:
            lost = "another agent took this task over; the next pass goes on if it is free then"
            report = replace(report, error=report.error or lost)
        with suppress(HvsaError):  # such as a full disk, which the report names
            agent.workspace.set_error(task, report.error)
            if report.error is None:
                agent.workspace.looks.keep(task, enrollment.key, report.open_jobs)
    return report


def _pass_over(
    agent: AgentContext,
    enrollment: Enrollment,
    now: Callable[[], datetime],
    lease: HeldLease,
    ask_again: bool,
    stopping: Callable[[], bool],
) -> TaskReport:
    report = TaskReport(enrollment.task, f"task {enrollment.task}")
    try:
        with Store(agent.workspace.folder(enrollment)) as store:
            work = TaskPass(agent, enrollment, store, now)
            report = replace(report, name=work.session.video)
            if ask_again:
                work.ask_again()
            while not (stopping() or lease.lost):
                due = work.session.current
                with about(round=due.number, phase=due.phase.value):
                    moved = work.step()
                if moved is None:
                    break
                report = replace(report, moved=(*report.moved, moved))
                agent.log(f"task {enrollment.task}: {moved} done")
                _note(agent, enrollment, work.session.rounds[due.number], due.phase)
            unpublished = not lease.lost and work.publish_pending()
            return replace(
                report,
                open_jobs=tuple(work.open_jobs()),
                done=work.session.done,
                next_command=work.next_command(),
                unpublished=unpublished,
            )
    except Exception as error:  # the other tasks go on, whatever it is
        line = told(error, agent.workspace.folder(enrollment))
        return replace(report, error=line, unreachable=isinstance(error, Unreachable))
