"""Orders that tests give to workers: each does one plain thing in the worker's process."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from hvsa_cvat.agent.compute import Computed, Contact
from hvsa_cvat.errors import ConfigError


@dataclass(frozen=True)
class Gate:
    """Computing that is held open until somebody writes into a pipe."""

    task: int
    pipe: Path
    name: str = "a task"
    folder: Path = Path()
    step: str = "round 9: finetune"

    def carry_out(self, contact: Contact) -> Computed:
        contact.log(f"gate of process {os.getpid()}")
        with self.pipe.open() as pipe:  # returns when the other end is opened
            return Computed((pipe.read(),))


@dataclass(frozen=True)
class Steps:
    """Steps without an end, until the agent wants to stop."""

    task: int = 7
    name: str = "a task"
    folder: Path = Path()
    step: str = "round 9: predict"

    def carry_out(self, contact: Contact) -> Computed:
        moved = 0
        while not contact.stopping():
            contact.log("a step")
            contact.progress("steps", moved, 100)
            moved += 1
            time.sleep(0.02)
        return Computed((f"{moved} steps",))


@dataclass(frozen=True)
class Surroundings:
    """What a worker's process knows."""

    def carry_out(self, contact: Contact) -> dict[str, str]:
        return dict(os.environ)


@dataclass(frozen=True)
class Refusal:
    """An order that cannot be carried out."""

    foreign: bool = False

    def carry_out(self, contact: Contact) -> None:
        if self.foreign:
            raise Peculiar("one", "two")
        raise ConfigError("no such device; choose cpu")


class Peculiar(Exception):
    """An error that cannot be sent from process to process."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


@dataclass(frozen=True)
class Death:
    """Computing in whose middle the process is killed."""

    task: int = 7
    name: str = "a task"
    folder: Path = Path()
    step: str = "round 9: finetune"

    def carry_out(self, contact: Contact) -> Computed:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@dataclass(frozen=True)
class Warm:
    """Import what computing needs, as the first order of a worker does."""

    task: int
    name: str = "a task"
    folder: Path = Path()
    step: str = "round 0: predict"

    def carry_out(self, contact: Contact) -> Computed:
        import hvsa_cvat.agent.compute_rounds  # noqa: F401

        time.sleep(1)  # so that each worker gets one
        return Computed()


@dataclass(frozen=True)
class Nothing:
    """Computing in which nothing is done."""

    task: int
    name: str = "a task"
    folder: Path = Path()
    step: str = "round 0: predict"

    def carry_out(self, contact: Contact) -> Computed:
        return Computed()
