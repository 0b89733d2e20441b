"""Where the agent's computing is done: in this process, or in workers.

Computing is given as orders: frozen values with paths in them, which any process that can
reach these paths can carry out. What an order needs of PyTorch is imported when it is carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from hvsa_cvat.agent.workspace import Enrollment, HeldLease
from hvsa_cvat.ports import Progress
from hvsa_cvat.session.rounds import Phase

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


@dataclass(frozen=True)
class Contact:
    """How whoever carries out an order speaks with the agent that gave it."""

    log: Callable[[str], None]
    """Takes one line for people."""
    progress: Progress
    stopping: Callable[[], bool]
    """Asked before each step: whether to stop."""
    clock: Callable[[], float]
    """Seconds since 1970."""
    step: Callable[[str], None] = lambda text: None
    """Is told the phase that begins, such as `round 2: finetune`."""


class Order(Protocol[T_co]):
    """Something to compute."""

    def carry_out(self, contact: Contact) -> T_co: ...


@dataclass(frozen=True)
class Computed:
    """What came of the computing for one task."""

    moved: tuple[str, ...] = ()
    """Phases that were finished, such as `round 2: finetune`."""
    seconds: tuple[tuple[Phase, int, float], ...] = ()
    """Phase, number of the round, and time of each of them."""
    error: str | None = None
    """Why it stopped, in one line."""
    lacks_frames: bool = False
    """Whether it stopped because frames have to be fetched first."""


class TaskOrder(Order[Computed], Protocol):
    """The computing that is due for one task."""

    @property
    def task(self) -> int: ...

    @property
    def name(self) -> str:
        """What people call the task."""

    @property
    def folder(self) -> Path:
        """Of the task's session."""

    @property
    def step(self) -> str:
        """The first phase of it, such as `round 2: finetune`."""


@dataclass(frozen=True)
class UnderWay:
    """What is computed for a task now."""

    name: str
    """What people call the task."""
    step: str
    """The phase, in words."""
    failed: str | None
    """Why the computing before stopped, in one line; None where it ended well."""


@dataclass(frozen=True)
class Ended:
    """Computing for a task that has ended, and the lease under which it was done."""

    computed: Computed
    lease: HeldLease
    hold: ExitStack
    """Ends the lease when it is closed."""


@dataclass(frozen=True)
class Load:
    """What the workers of one agent have to do now."""

    places: int
    """Tasks that are computed at once."""
    running: int
    """Tasks that are computed now."""
    waiting: int
    """Tasks that wait until a worker is free."""
    busy_seconds: float
    """For how long workers have computed for tasks so far, all of them together."""


class Compute(Protocol):
    """Where orders are carried out. All methods are called from one thread."""

    def ask(self, order: Order[T], contact: Contact) -> T:
        """Carry out a short order, and return what it gives. Its errors are raised here."""

    def in_turn(self, enrollments: Sequence[Enrollment]) -> list[Enrollment]:
        """Tasks in the order in which a pass looks at them: first those that wait longest."""

    def has_room(self) -> bool:
        """Whether the computing of another task could begin."""

    def line_up(self, task: int, *, soon: bool) -> None:
        """Remember that a task waits for its computing to begin; `soon`: before those that take
        long."""

    def begin(
        self, order: TaskOrder, contact: Contact, lease: HeldLease, hold: ExitStack
    ) -> Computed | None:
        """Begin the computing of a task. What came of it, if it was done at once; None if it is
        under way: then `hold`, which ends the lease, is taken over."""

    def under_way(self, task: int) -> UnderWay | None:
        """What is computed for a task now."""

    def take(self, task: int) -> Ended | None:
        """The computing of a task that has ended since it was begun, once."""

    def wait(self, stopping: Callable[[], bool]) -> None:
        """Return when some computing has ended, or none is under way, or at a stop."""

    def load(self) -> Load:
        """What there is to do now. May be asked from any thread."""


class InProcess:
    """Computing in the agent's own process: the agent waits for it."""

    def ask(self, order: Order[T], contact: Contact) -> T:
        return order.carry_out(contact)

    def in_turn(self, enrollments: Sequence[Enrollment]) -> list[Enrollment]:
        return list(enrollments)

    def has_room(self) -> bool:
        return True

    def line_up(self, task: int, *, soon: bool) -> None:
        return None

    def begin(
        self, order: TaskOrder, contact: Contact, lease: HeldLease, hold: ExitStack
    ) -> Computed | None:
        return order.carry_out(contact)

    def under_way(self, task: int) -> UnderWay | None:
        return None

    def take(self, task: int) -> Ended | None:
        return None

    def wait(self, stopping: Callable[[], bool]) -> None:
        return None

    def load(self) -> Load:
        return Load(1, 0, 0, 0.0)
