"""What the agent works with, in one value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hvsa_cvat.agent.compute import Compute, Contact, InProcess
from hvsa_cvat.agent.settings import AgentSettings
from hvsa_cvat.agent.subject import about
from hvsa_cvat.agent.workspace import HeldLease, Workspace
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.saves import Saves
from hvsa_cvat.errors import HvsaError, SessionError
from hvsa_cvat.ports import Progress
from hvsa_cvat.session.rounds import Phase


@dataclass(frozen=True)
class AgentContext:
    """One agent at work for one server, in one thread."""

    settings: AgentSettings
    workspace: Workspace
    client: CvatClient
    clock: Callable[[], float]
    """Seconds since 1970."""
    log: Callable[[str], None]
    """Takes one line for people, without a line break."""
    progress: Progress
    compute: Compute = field(default_factory=InProcess)
    finished: Callable[[Phase, int, float], None] = lambda phase, number, seconds: None
    """Is told of each finished phase, the number of its round, and its seconds."""
    saves: Saves = field(default_factory=Saves)
    """What webhooks have told of jobs, and no pass has taken yet."""

    def contact(
        self, stopping: Callable[[], bool] = lambda: False, task: int | None = None
    ) -> Contact:
        """How those who compute, for a task or in general, speak with this agent."""

        def log(line: str) -> None:
            with about(**({} if task is None else {"task": task})):
                self.log(line)

        def step(text: str) -> None:
            if task is not None:
                with suppress(HvsaError):  # such as a full disk, which the work meets too
                    self.workspace.steps.begin(task, text)

        return Contact(log, self.progress, stopping, self.clock, step)


def server_clock(client: CvatClient) -> Callable[[], datetime]:
    """The time of the server, with a time zone; ours where the server does not tell its own.

    The server dates the saves of jobs: whether people are at work is judged by its clock.
    """
    theirs = client.server_time()
    ahead = theirs - datetime.now(UTC) if theirs is not None else timedelta()
    return lambda: datetime.now(UTC) + ahead


class TaskHeld(SessionError):
    """Another agent works on the task."""


@contextmanager
def alone_with(agent: AgentContext, task: int) -> Iterator[HeldLease]:
    """Hold the lease of a task; `TaskHeld` where another agent has it."""
    with agent.workspace.leased(task) as lease:
        if lease is None:
            raise TaskHeld(
                f"{holder(agent, task)} works on task {task} now; try again when it is done"
            )
        yield lease


def holder(agent: AgentContext, task: int) -> str:
    """The name of the agent that works on a task now."""
    lease = agent.workspace.lease(task)
    return lease.owner if lease is not None else "another agent"
