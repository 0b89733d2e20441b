"""The pool of worker processes in which `sync` computes, while the agent speaks to people."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from hvsa_cvat.agent.compute import Contact, Order
from hvsa_cvat.agent.pool import Pool
from hvsa_cvat.agent.worker import Worker, WorkerDiedError

T = TypeVar("T")


class WorkerPool(Pool):
    """Some worker processes, each started when it is first needed. Use it in a `with` statement.

    A worker that dies is replaced; the others are not touched.
    """

    def __init__(self, count: int, wake: Callable[[], None] = lambda: None) -> None:
        """`wake` is called, from a thread, when some computing has ended."""
        super().__init__(count, wake)
        self._count = count
        self._idle: list[Worker] = []
        self._alive = 0

    @property
    def places(self) -> int:
        return self._count

    def _end(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _carry_out(
        self,
        order: Order[T],
        contact: Contact,
        cut_off: Callable[[], bool],
        begun: Callable[[], None] = lambda: None,
    ) -> T:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
            self._alive += worker is None
        begun()
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
