"""What pools of workers share: which tasks are computed, which wait, and what failed.

How an order is carried out is said by the kinds of pools: worker processes (`workers.py`), and a
Ray cluster (`ray_pool.py`).
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self, TypeVar

from hvsa_cvat.agent.compute import Computed, Contact, Ended, Load, Order, TaskOrder, UnderWay
from hvsa_cvat.agent.reports import told
from hvsa_cvat.agent.worker import CutOffError
from hvsa_cvat.agent.workspace import Enrollment, HeldLease

T = TypeVar("T")

AHEAD = 2
"""Orders that are given for each place: one that is carried out, and one that is ready then."""

_LOOK = 0.5
"""Seconds after which waiting looks again whether to stop."""


@dataclass
class _Task:
    """The computing of one task."""

    name: str
    step: str
    lease: HeldLease
    hold: ExitStack
    future: Future[Computed]
    begun: float | None = None
    """When a worker began, by the monotonic clock; None while none is free."""


class Pool(ABC):
    """Some workers. Use it in a `with` statement.

    The lease of a task is held, and renewed, until what was computed for it has been taken.
    """

    def __init__(self, threads: int, wake: Callable[[], None] = lambda: None) -> None:
        """`threads` is how many orders of tasks can be given to workers at once. `wake` is called,
        from a thread, when some computing has ended."""
        self._wake = wake
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="worker")
        self._under_way: dict[int, _Task] = {}
        self._failures: dict[int, str] = {}
        self._line: dict[int, bool] = {}
        self._busy = 0.0
        self._lock = threading.Lock()
        self._closing = threading.Event()

    @property
    @abstractmethod
    def places(self) -> int:
        """How many tasks are computed at once."""

    @abstractmethod
    def _carry_out(
        self,
        order: Order[T],
        contact: Contact,
        cut_off: Callable[[], bool],
        begun: Callable[[], None] = lambda: None,
    ) -> T:
        """In any thread: what the order gives; its errors are raised. `cut_off` is asked all the
        time: once it is true, the worker is ended in the middle of what it does, and `CutOffError`
        raised. `begun` is called when a worker begins."""

    @abstractmethod
    def _end(self) -> None:
        """End all workers; none of them has an order."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, each after its current step, and the leases that are held for them."""
        self._closing.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for one in self._under_way.values():
            one.hold.close()
        self._under_way.clear()
        self._end()

    def ask(self, order: Order[T], contact: Contact) -> T:
        return self._carry_out(order, contact, lambda: False)

    def in_turn(self, enrollments: Sequence[Enrollment]) -> list[Enrollment]:
        by_task = {one.task: one for one in enrollments}
        line = {task: soon for task, soon in self._line.items() if task in by_task}
        self._line = dict(sorted(line.items(), key=lambda waiting: not waiting[1]))
        ended = [task for task, one in self._under_way.items() if one.future.done()]
        first = dict.fromkeys([*self._line, *(task for task in ended if task in by_task)])
        return [by_task[task] for task in (*first, *(t for t in by_task if t not in first))]

    def has_room(self) -> bool:
        return len(self._under_way) < AHEAD * self.places

    def line_up(self, task: int, *, soon: bool) -> None:
        self._line.setdefault(task, soon)

    def begin(
        self, order: TaskOrder, contact: Contact, lease: HeldLease, hold: ExitStack
    ) -> Computed | None:
        self._line.pop(order.task, None)
        mine = _Task(order.name, order.step, lease, ExitStack(), Future())

        def step(text: str) -> None:
            mine.step = text
            contact.step(text)

        heard = replace(
            contact, step=step, stopping=lambda: self._closing.is_set() or contact.stopping()
        )
        mine.hold = hold.pop_all()
        self._under_way[order.task] = mine
        mine.future = self._threads.submit(self._compute, order, heard, mine)
        mine.future.add_done_callback(lambda future: self._wake())
        return None

    def under_way(self, task: int) -> UnderWay | None:
        one = self._under_way.get(task)
        if one is None or one.future.done():
            return None
        return UnderWay(one.name, one.step, self._failures.get(task))

    def take(self, task: int) -> Ended | None:
        one = self._under_way.get(task)
        if one is None or not one.future.done():
            return None
        del self._under_way[task]
        computed = one.future.result()
        if computed.error is None:
            self._failures.pop(task, None)
        else:
            self._failures[task] = computed.error
        return Ended(computed, one.lease, one.hold)

    def wait(self, stopping: Callable[[], bool]) -> None:
        ended = threading.Event()
        for one in list(self._under_way.values()):
            one.future.add_done_callback(lambda future: ended.set())
        while self._under_way and not stopping() and not ended.wait(_LOOK):
            pass

    def load(self) -> Load:
        """May be asked from any thread."""
        now = time.monotonic()
        tasks = [one for one in list(self._under_way.values()) if not one.future.done()]
        with self._lock:
            busy = [now - one.begun for one in tasks if one.begun is not None]
            spent = self._busy + sum(busy)
        waiting = len(tasks) - len(busy) + len(self._line)
        return Load(self.places, len(busy), waiting, spent)

    def _compute(self, order: TaskOrder, contact: Contact, mine: _Task) -> Computed:
        """In a thread: have the order carried out by a worker."""
        if contact.stopping():
            return Computed()

        def begun() -> None:
            with self._lock:
                mine.begun = mine.begun or time.monotonic()

        try:
            return self._carry_out(order, contact, lambda: mine.lease.lost, begun)
        except CutOffError:
            return Computed()
        except Exception as error:  # the other tasks go on, whatever it is
            return Computed(error=told(error, order.folder))
        finally:
            with self._lock:
                if mine.begun is not None:
                    self._busy += time.monotonic() - mine.begun
                    mine.begun = None
