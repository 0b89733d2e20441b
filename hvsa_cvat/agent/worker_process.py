"""The process of a worker: `python -m hvsa_cvat.agent.worker_process SOCKET [PROCESSORS]`."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from hvsa_cvat.agent.compute import Contact, Order
from hvsa_cvat.agent.worker import STOP, Advance, Line, Step, answer
from hvsa_cvat.threads import limit_processors


class _Agent:
    """The agent, as its worker sees it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._stopped = threading.Event()
        self._orders: queue.SimpleQueue[Order[Any]] = queue.SimpleQueue()
        self.contact = Contact(
            log=lambda line: self.send(Line(line)),
            progress=lambda step, done, total: self.send(Advance(step, done, total)),
            stopping=self._stopped.is_set,
            clock=time.time,
            step=lambda text: self.send(Step(text)),
        )
        threading.Thread(target=self._listen, name="agent", daemon=True).start()

    def next_order(self) -> Order[Any]:
        return self._orders.get()

    def send(self, message: object) -> None:
        with self._sending:
            self._connection.send(message)

    def _listen(self) -> None:
        """Take orders until the agent is gone; then end, in the middle of whatever is done: every
        step may be killed and done again."""
        with suppress(EOFError, OSError):
            while True:
                message = self._connection.recv()
                if message == STOP:
                    self._stopped.set()
                else:
                    self._stopped.clear()
                    self._orders.put(message)
        os._exit(0)


def main() -> None:
    # the agent decides when to stop: a terminal or a service manager signals both processes
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if len(sys.argv) > 2:
        limit_processors(int(sys.argv[2]))
    agent = _Agent(Connection(int(sys.argv[1])))
    with suppress(BrokenPipeError, ConnectionResetError):  # the agent is gone
        while True:
            agent.send(answer(agent.next_order(), agent.contact))


if __name__ == "__main__":
    main()
