"""What the agent has run on a Ray cluster: an order, and the actor over which it is spoken with."""

from __future__ import annotations

import asyncio
import os
import pickle
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from hvsa_cvat.agent.compute import Contact, Order
from hvsa_cvat.agent.node_cache import CACHE, in_cache
from hvsa_cvat.agent.worker import Advance, CutOffError, Failed, Line, Step, answer
from hvsa_cvat.threads import limit_processors

_SELDOM = 0.25
"""Seconds between two messages about the progress of a step; a step may give thousands."""


@dataclass(frozen=True)
class Begun:
    """A worker has taken the order."""


@dataclass(frozen=True)
class Over:
    """The last that is heard of an order; its result comes another way."""


Message = Line | Step | Advance | Begun | Over


@dataclass(frozen=True)
class Seen:
    """How much the agent has seen of what came to a mailbox."""

    mailbox: str = ""
    messages: int = 0


class Mailbox:
    """Between one agent and the workers that carry out its orders: an actor, whose calls are
    answered in one thread. Ray starts it anew where its process is lost; what lay in it is lost
    then, which are lines of the log and wishes to stop. The agent repeats its wishes."""

    def __init__(self) -> None:
        self._id = secrets.token_hex(8)
        self._messages: list[tuple[str, Message]] = []
        self._seen = 0
        self._some = asyncio.Event()
        self._stopped: set[str] = set()
        self._all_stopped = False

    async def put(self, order: str, message: Message) -> None:
        """From a worker."""
        self._messages.append((order, message))
        self._some.set()

    async def take(self, seen: Seen, seconds: float) -> tuple[Seen, list[tuple[str, Message]]]:
        """For the agent: what has come after what it has seen, waiting for it so long at the most.
        It stays until the agent says that it has seen it, because an answer may be lost."""
        if seen.mailbox == self._id and seen.messages > self._seen:
            del self._messages[: seen.messages - self._seen]
            self._seen = seen.messages
        if not self._messages:
            self._some.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._some.wait(), seconds)
        return Seen(self._id, self._seen + len(self._messages)), list(self._messages)

    async def stop(self, order: str) -> None:
        """From the agent: begin no further step."""
        self._stopped.add(order)

    async def stop_all(self) -> None:
        """From the agent: begin no further step of any order."""
        self._all_stopped = True

    async def stopping(self, order: str) -> bool:
        """For a worker."""
        return self._all_stopped or order in self._stopped

    async def forget(self, order: str) -> None:
        """From the agent, when an order is over."""
        self._stopped.discard(order)


def carry_out(order: Order[Any], key: str, mailbox: Any, processors: int, processes: int) -> bytes:
    """On the cluster: carry out an order, which the agent calls `key`, with `processes` that train
    together. A pickled `Done` or `Failed`: as bytes, so that Ray neither wraps errors nor makes
    arrays read-only."""
    limit_processors(processors)
    if cache := os.environ.get(CACHE):
        order = in_cache(order, Path(cache))
    told = _Told(key, mailbox, time.monotonic)
    told.send(Begun())
    contact = Contact(
        log=lambda line: told.send(Line(line)),
        progress=told.progress,
        stopping=told.stopping,
        clock=time.time,
        step=lambda text: told.send(Step(text)),
    )
    if told.stopping():  # while it waited for a place
        given = pickle.dumps(Failed(CutOffError("the agent stops")))
    else:
        with _trained_by(processes, processors):
            given = pickle.dumps(answer(order, contact))
    told.end()
    return given


@contextmanager
def _trained_by(processes: int, processors: int) -> Iterator[None]:
    if processes == 1:
        yield
        return
    from hvsa_cvat.agent.ray_team import RayLeader  # which imports PyTorch
    from hvsa_cvat.segmentation.distributed import led_by

    with led_by(RayLeader(processes, processors)):
        yield


class _Told:
    """The agent, as the worker of one order sees it."""

    def __init__(self, key: str, mailbox: Any, clock: Callable[[], float]) -> None:
        self._key = key
        self._mailbox = mailbox
        self._clock = clock
        self._last = 0.0

    def send(self, message: Message) -> None:
        self._mailbox.put.remote(self._key, message)  # nobody waits for it

    def progress(self, step: str, done: int, total: int) -> None:
        now = self._clock()
        if done == total or now - self._last >= _SELDOM:
            self._last = now
            self.send(Advance(step, done, total))

    def stopping(self) -> bool:
        try:
            return bool(ray.get(self._mailbox.stopping.remote(self._key)))
        except ray.exceptions.RayActorError:  # it is started anew
            return False

    def end(self) -> None:
        """Return when all that was sent has arrived."""
        try:
            ray.get(self._mailbox.put.remote(self._key, Over()))
        except ray.exceptions.RayActorError:
            return
