"""Passes over all enrolled tasks: each task moves as far as it can, and says what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime

from hvsa_cvat.agent.carry_out import carry_out_wishes
from hvsa_cvat.agent.chores import NO_CHORES, Chores, do_chores, open_for_masks
from hvsa_cvat.agent.compute import Computed
from hvsa_cvat.agent.context import AgentContext, holder, server_clock
from hvsa_cvat.agent.enroll import enroll_new_tasks
from hvsa_cvat.agent.events import Event
from hvsa_cvat.agent.orders import ComputeRounds
from hvsa_cvat.agent.reports import TaskReport, one_line, told
from hvsa_cvat.agent.subject import about
from hvsa_cvat.agent.task_pass import TaskPass
from hvsa_cvat.agent.unchanged import Unchanged
from hvsa_cvat.agent.workspace import Enrollment, HeldLease
from hvsa_cvat.cvat.http.errors import Unreachable
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
    to_the_end: bool = False,
    chores: Chores = NO_CHORES,
) -> Iterator[TaskReport]:
    """One pass over every enrolled task, or over one. `stopping` is asked before each step.
    `unchanged` knows from earlier passes which tasks need no look. `to_the_end` waits for what is
    computed, and goes on with it. `chores` are done for each task that is looked at.

    The report of a task says what went wrong with it; the others go on.
    """
    if only is not None and agent.workspace.enrollment(only) is None:
        raise ConfigError(f"task {only} is not enrolled; enroll it: hvsa-agent enroll {only}")
    if only is None:
        for project, options in agent.workspace.projects().items():
            yield from enroll_new_tasks(agent, project, options)
    yield from carry_out_wishes(agent, only)
    server = _Server(agent)
    unchanged = unchanged or Unchanged(agent)
    if server.failure is None:
        unchanged.begin(server.now())
    one_pass = _Pass(agent, server, ask_again, stopping, chores)
    unfinished: dict[int, TaskReport] = {}
    for enrollment in agent.compute.in_turn(agent.workspace.enrollments()):
        if stopping():
            break
        if only not in (None, enrollment.task):
            continue
        report = None
        paused = enrollment.task in one_pass.paused
        if server.failure is None and not ask_again and not paused:
            report = unchanged.report(enrollment)
        if report is None:
            with about(task=enrollment.task):
                report = one_pass.over(enrollment)
            if report is None:
                continue  # withdrawn since the pass began
            unchanged.keep(enrollment.task, report)
        if to_the_end and report.computing is not None:
            unfinished[enrollment.task] = report
        else:
            yield report
    while unfinished and not stopping():
        agent.compute.wait(stopping)
        yield from one_pass.go_on(unfinished)
    yield from unfinished.values()


def has_work(agent: AgentContext) -> bool:
    """Whether any task or project is enrolled."""
    return bool(agent.workspace.enrollments() or agent.workspace.projects())


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


class _Pass:
    """One pass, task by task."""

    def __init__(
        self,
        agent: AgentContext,
        server: _Server,
        ask_again: bool,
        stopping: Callable[[], bool],
        chores: Chores,
    ) -> None:
        self._agent = agent
        self._server = server
        self._ask_again = ask_again
        self._stopping = stopping
        self._chores = chores
        self.paused = agent.workspace.pauses.all()

    def go_on(self, unfinished: dict[int, TaskReport]) -> Iterator[TaskReport]:
        """The tasks of which something was computed since; those that are finished leave
        `unfinished`."""
        for enrollment in self._agent.compute.in_turn(self._agent.workspace.enrollments()):
            before = unfinished.get(enrollment.task)
            if before is None or self._stopping():
                continue
            report = self.over(enrollment) or before
            unfinished[enrollment.task] = report.after(before)
            if report.computing is None:
                yield unfinished.pop(enrollment.task)

    def over(self, enrollment: Enrollment) -> TaskReport | None:
        """Move one task as far as it goes; None where it is not enrolled so any more."""
        agent, task = self._agent, enrollment.task
        if (now := agent.compute.under_way(task)) is not None:
            # what is wrong is said until it goes well
            return TaskReport(task, now.name, computing=now.step, error=now.failed)
        if task in self.paused:
            return self._paused_report(task)
        with ExitStack() as hold:
            ended = agent.compute.take(task)
            if ended is not None:
                hold.push(ended.hold)
                lease: HeldLease | None = ended.lease
            elif (queued := self._queued(enrollment)) is not None:
                return queued
            else:
                lease = hold.enter_context(agent.workspace.leased(task))
            if lease is None:
                return TaskReport(task, "", held_by=holder(agent, task))
            present = agent.workspace.enrollment(task)  # a pass may be long
            if present is None or present.key != enrollment.key:
                return None
            if task in agent.workspace.pauses.all():
                return TaskReport(task, "", paused=True)
            computed = Computed() if ended is None else ended.computed
            report = TaskReport(task, "")
            if not lease.lost:
                report = self._moved(enrollment, computed, lease, hold)
            if report.unreachable:
                self._server.check()
            if lease.lost:
                lost = "another agent took this task over; the next pass goes on if it is free then"
                report = replace(report, error=report.error or lost)
            if report.computing is None:
                with suppress(HvsaError):  # such as a full disk, which the report names
                    agent.workspace.set_error(task, report.error)
                    if report.error is None:
                        agent.workspace.looks.keep(task, enrollment.key, report.open_jobs)
        return report

    def _paused_report(self, task: int) -> TaskReport:
        """Of a paused task; what was computed for it in the meantime stays in its session."""
        if (ended := self._agent.compute.take(task)) is not None:
            ended.hold.close()
        return TaskReport(task, "", paused=True)

    def _queued(self, enrollment: Enrollment) -> TaskReport | None:
        """Of a task that waits until a worker is free. It costs no request."""
        if self._agent.compute.has_room():
            return None
        try:
            session = Store.peek(self._agent.workspace.session_place(enrollment))
        except HvsaError:
            return None  # the pass over it says what is wrong
        if session is None or not session.current.phase.computes:
            return None
        self._agent.compute.line_up(enrollment.task, soon=session.current.phase is Phase.SELECT)
        step = f"round {session.current.number}: {session.current.phase}"
        return TaskReport(enrollment.task, session.video, computing=step, queued=True)

    def _moved(
        self, enrollment: Enrollment, computed: Computed | None, lease: HeldLease, hold: ExitStack
    ) -> TaskReport:
        """Move a task whose lease is held, after what was computed: it speaks to people, computes,
        and so on by turns."""
        compute, task = self._agent.compute, enrollment.task
        report = TaskReport(task, "")
        while computed is not None:
            for phase, number, seconds in computed.seconds:
                self._agent.finished(phase, number, seconds)
            report = replace(report, moved=(*report.moved, *computed.moved), error=computed.error)
            if report.error is not None:
                return report
            if self._server.failure is not None:
                return replace(report, error=self._server.failure)
            spoken, order = self._speak(enrollment, lease, fetch=computed.lacks_frames)
            report = spoken.after(report)
            if order is None:
                return report
            if not compute.has_room():
                compute.line_up(task, soon=order.soon)
                return replace(report, computing=order.step, queued=True)
            contact = self._agent.contact(lambda: self._stopping() or lease.lost, task)
            computed = compute.begin(order, contact, lease, hold)
            if computed is None:
                now = compute.under_way(task)
                failed = now.failed if now is not None else None
                report = replace(report, computing=order.step, error=failed)
        return report

    def _speak(
        self, enrollment: Enrollment, lease: HeldLease, *, fetch: bool
    ) -> tuple[TaskReport, ComputeRounds | None]:
        """Ask people, read their answers and publish masks, as far as that goes; and what has to be
        computed then."""
        agent = self._agent

        def stopped() -> bool:
            return self._stopping() or lease.lost

        report = TaskReport(enrollment.task, f"task {enrollment.task}")
        try:
            with (
                Store(agent.workspace.session_place(enrollment, lease)) as store,
                agent.client.guarded(store.check_held),
            ):
                work = TaskPass(agent, enrollment, store, self._server.now)
                report = replace(report, name=work.session.video)
                if self._ask_again:
                    work.ask_again()
                    self._ask_again = False
                open_for_masks(agent, work)
                while not stopped():
                    due = work.session.current
                    with about(round=due.number, phase=due.phase.value):
                        moved = work.step()
                    if moved is None:
                        if (order := work.order(fetch=fetch)) is not None:
                            return report, order
                        break
                    report = replace(report, moved=(*report.moved, moved))
                    agent.log(f"task {enrollment.task}: {moved} done")
                    _note(agent, enrollment, work.session.rounds[due.number], due.phase)
                unpublished = not lease.lost and work.publish_pending()
                if not stopped():
                    do_chores(agent, enrollment, work, self._chores)
                report = replace(
                    report,
                    open_jobs=tuple(work.open_jobs()),
                    done=work.session.done,
                    next_command=work.next_command(),
                    unpublished=unpublished,
                )
        except Exception as error:  # the other tasks go on, whatever it is
            line = told(error, agent.workspace.folder(enrollment))
            report = replace(report, error=line, unreachable=isinstance(error, Unreachable))
        return report, None
