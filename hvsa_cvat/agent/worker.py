"""A worker: a process that carries out the agent's orders, one after the other.

The agent and the worker speak over one pair of connected sockets. The worker ends when the agent's
end of it is closed, whatever ended the agent. It is given values and paths, never a login to CVAT.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, TypeVar

import hvsa_cvat
from hvsa_cvat.agent.compute import Contact, Order
from hvsa_cvat.agent.settings import SECRETS
from hvsa_cvat.errors import HvsaError

T = TypeVar("T")

_TICK = 0.2
"""Seconds after which the agent looks again whether to stop a worker."""

_PROGRAM = "hvsa_cvat.agent.worker_process"

_PATIENCE = 10.0
"""Seconds for which a worker may take to end after its connection was closed."""

STOP = "stop"
"""Tells the worker to begin no further step."""


class WorkerDiedError(HvsaError):
    """A worker ended before it had carried out its order."""


class CutOffError(HvsaError):
    """The agent has ended a worker that computed for a task which it has no longer."""


@dataclass(frozen=True)
class Line:
    """A line of the log, from a worker."""

    text: str


@dataclass(frozen=True)
class Step:
    """The phase that a worker begins."""

    text: str


@dataclass(frozen=True)
class Advance:
    """How far a worker has come with a long step."""

    step: str
    done: int
    total: int


@dataclass(frozen=True)
class Done:
    """What an order gave."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """What an order raised."""

    error: Exception


def answer(order: Order[Any], contact: Contact) -> Done | Failed:
    """In a worker: carry out an order. Nothing is raised, and what is given can be sent."""
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


class Worker:
    """A worker process, as the agent sees it."""

    def __init__(self, processors: int | None = None) -> None:
        """`processors` is how many cores it uses; None for all."""
        self.at_rest = True
        """Whether it waits for an order."""
        self._connection, theirs = Pipe()
        command = [sys.executable, "-P", "-m", _PROGRAM, str(theirs.fileno())]
        if processors is not None:
            command.append(str(processors))
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(processors),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def carry_out(
        self, order: Order[T], contact: Contact, cut_off: Callable[[], bool] = lambda: False
    ) -> T:
        """What the order gives; its errors are raised here. `cut_off` is asked all the time: once
        it is true, the process is killed."""
        try:
            given = self._answer(order, contact, cut_off)
        except (EOFError, OSError) as error:
            raise WorkerDiedError(self._end()) from error
        self.at_rest = True
        if isinstance(given, Failed):
            raise given.error
        result: T = given.result
        return result

    def _answer(
        self, order: Order[Any], contact: Contact, cut_off: Callable[[], bool]
    ) -> Done | Failed:
        self.at_rest = False
        self._connection.send(order)
        stopped = False
        while True:
            if self._connection.poll(_TICK):
                match self._connection.recv():
                    case Line(text):
                        contact.log(text)
                    case Step(text):
                        contact.step(text)
                    case Advance(step, done, total):
                        contact.progress(step, done, total)
                    case Done() | Failed() as answer:
                        return answer
            if cut_off():
                self._process.kill()
                self.close()
                raise CutOffError("another agent works on the task now")
            if not stopped and contact.stopping():
                self._connection.send(STOP)
                stopped = True

    def _end(self) -> str:
        """How the process ended, in words."""
        self.close()
        code = self._process.returncode
        if code == -signal.SIGKILL:
            return (
                "the worker was killed, perhaps because the memory ran out; the next pass retries"
            )
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        return f"the worker ended by {how}; the next pass retries"

    def close(self) -> None:
        """End the process, in the middle of what it may do."""
        self._connection.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _environment(processors: int | None) -> dict[str, str]:
    """That of the agent without its secrets. The worker runs this copy of the package."""
    environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
    package = str(Path(hvsa_cvat.__file__).resolve().parent.parent)
    others = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    environment["PYTHONPATH"] = os.pathsep.join([package, *others])
    if processors is not None:
        environment.setdefault("OMP_NUM_THREADS", str(processors))
    return environment
