"""The process of a worker: `python -m hvsa_cvat.agent.worker_process SOCKET [PROCESSORS]`."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from hvsa_cvat.agent.compute import Contact, Order
from hvsa_cvat.agent.worker import STOP, Advance, Done, Failed, Line, Step
from hvsa_cvat.errors import HvsaError
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


def _answer(order: Order[Any], contact: Contact) -> Done | Failed:
    try:
        return Done(order.carry_out(contact))
    except HvsaError as error:
        return Failed(error)
    except Exception as error:
        error.add_note("in a worker:\n" + traceback.format_exc())
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # it cannot be sent as it is
            told = RuntimeError(f"{type(error).__name__}: {error}")
            told.add_note(error.__notes__[-1])
            return Failed(told)
        return Failed(error)


def main() -> None:
    # the agent decides when to stop: a terminal or a service manager signals both processes
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if len(sys.argv) > 2:
        limit_processors(int(sys.argv[2]))
    agent = _Agent(Connection(int(sys.argv[1])))
    with suppress(BrokenPipeError, ConnectionResetError):  # the agent is gone
        while True:
            agent.send(_answer(agent.next_order(), agent.contact))


if __name__ == "__main__":
    main()
