"""The pool of workers in which `sync` computes, while the agent goes on speaking to people."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TypeVar

from hvsa_cvat.agent.compute import Computed, Contact, Ended, Order, TaskOrder, UnderWay
from hvsa_cvat.agent.reports import told
from hvsa_cvat.agent.worker import CutOffError, Worker, WorkerDiedError
from hvsa_cvat.agent.workspace import Enrollment, HeldLease

T = TypeVar("T")

_AHEAD = 2
"""Orders that are given for each worker: one that it carries out, and one that is ready then."""

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


class WorkerPool:
    """Some worker processes, each started when it is first needed. Use it in a `with` statement.

    A worker that dies is replaced; the others are not touched. The lease of a task is held, and
    renewed, until what was computed for it has been taken.
    """

    def __init__(self, count: int, wake: Callable[[], None] = lambda: None) -> None:
        """`wake` is called, from a thread, when some computing has ended."""
        self._count = count
        self._wake = wake
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._under_way: dict[int, _Task] = {}
        self._failures: dict[int, str] = {}
        self._line: dict[int, bool] = {}
        self._idle: list[Worker] = []
        self._alive = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.busy_seconds = 0.0
        """For how long workers have computed for tasks, all of them together."""

    def __enter__(self) -> WorkerPool:
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
        while self._idle:
            self._idle.pop().close()

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
        return len(self._under_way) < _AHEAD * self._count

    def line_up(self, task: int, *, soon: bool) -> None:
        self._line.setdefault(task, soon)

    def begin(
        self, order: TaskOrder, contact: Contact, lease: HeldLease, hold: ExitStack
    ) -> Computed | None:
        self._line.pop(order.task, None)
        mine = _Task(order.name, order.step, lease, ExitStack(), Future())

        def step(text: str) -> None:
            mine.step = text

        heard = replace(
            contact, step=step, stopping=lambda: self._closing.is_set() or contact.stopping()
        )
        mine.future = self._threads.submit(self._compute, order, heard, lease)
        mine.hold = hold.pop_all()
        self._under_way[order.task] = mine
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

    def _compute(self, order: TaskOrder, contact: Contact, lease: HeldLease) -> Computed:
        """In a thread: have the order carried out by a worker."""
        if contact.stopping():
            return Computed()
        begun = time.monotonic()
        try:
            return self._carry_out(order, contact, lambda: lease.lost)
        except CutOffError:
            return Computed()
        except Exception as error:  # the other tasks go on, whatever it is
            return Computed(error=told(error, order.folder))
        finally:
            with self._lock:
                self.busy_seconds += time.monotonic() - begun

    def _carry_out(self, order: Order[T], contact: Contact, cut_off: Callable[[], bool]) -> T:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
            self._alive += worker is None
        try:
            worker = worker or Worker(self._processors())
        except OSError as error:  # no memory for another process
            with self._lock:
                self._alive -= 1
            raise WorkerDiedError(f"a worker cannot be started: {error}; free memory") from error
        try:
            return worker.carry_out(order, contact, cut_off)
        finally:
            self._put_back(worker)

    def _put_back(self, worker: Worker) -> None:
        """Keep a worker for the next order; one that is not at rest, or one more than there should
        be, is ended."""
        with self._lock:
            kept = worker.at_rest and self._alive <= self._count
            if kept:
                self._idle.append(worker)
            else:
                self._alive -= 1
        if not kept:
            worker.close()

    def _processors(self) -> int | None:
        """The processor cores of one worker; None for all."""
        if self._count == 1:
            return None
        return max(1, (os.cpu_count() or 1) // self._count)
