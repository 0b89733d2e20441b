"""The tasks of a Ray cluster in which `sync` computes. Ray decides when and where each runs.

Where Ray loses the worker of an order, the order is given again, a bounded number of times: a phase
that is repeated ends as it would have.
"""

from __future__ import annotations

import itertools
import math
import pickle
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hvsa_cvat.agent.compute import Contact, Order
from hvsa_cvat.agent.pool import AHEAD, Pool
from hvsa_cvat.agent.ray_cluster import Cluster
from hvsa_cvat.agent.ray_task import Begun, Mailbox, Message, Over, Seen, carry_out
from hvsa_cvat.agent.worker import (
    Advance,
    CutOffError,
    Done,
    Failed,
    Line,
    Step,
    WorkerDiedError,
)
from hvsa_cvat.errors import ProcessLostError

T = TypeVar("T")

_TICK = 0.5
"""Seconds after which the agent looks again whether to stop an order."""
_COUNT_AGAIN = 10.0
"""Seconds after which the machines of the cluster are counted again."""
_MOST = 64
"""Tasks that one agent has computed at once, a few threads for each; more agents have more."""
_PATIENCE = 5.0
"""Seconds for which the last messages of an order may come later than its result."""
_POLL = 1.0

_LOST = (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    ProcessLostError,
    WorkerCrashedError,
)
"""What is raised where a process that worked, or its machine, is gone."""


class _Heard:
    """What is heard of one order."""

    def __init__(self, contact: Contact, begun: Callable[[], None]) -> None:
        self._contact = contact
        self._on_begin = begun
        self.begun = threading.Event()
        self.over = threading.Event()

    def hear(self, message: Message) -> None:
        match message:
            case Begun():
                self.begun.set()
                self._on_begin()
            case Line(text):
                self._contact.log(text)
            case Step(text):
                self._contact.step(text)
            case Advance(step, done, total):
                self._contact.progress(step, done, total)
            case Over():
                self.over.set()


class RayPool(Pool):
    """The tasks of a Ray cluster that is connected. Use it in a `with` statement."""

    def __init__(self, cluster: Cluster, wake: Callable[[], None] = lambda: None) -> None:
        """`wake` is called, from a thread, when some computing has ended."""
        super().__init__(AHEAD * _MOST, wake)
        self._cluster = cluster
        self._counted = -math.inf
        self._places = 0
        self._heard: dict[str, _Heard] = {}
        actor: Any = ray.remote(Mailbox)
        # it takes nothing of the machines, and is there for as long as the agent
        self._mailbox = actor.options(num_cpus=0, max_restarts=-1).remote()
        together = cluster.share.processes > 1
        # a process in which a training with others has failed does not work again
        self._carry: Any = ray.remote(max_calls=1)(carry_out) if together else ray.remote(carry_out)
        self._deaf = threading.Event()
        self._ear = threading.Thread(target=self._listen, name="mailbox", daemon=True)
        self._ear.start()

    @property
    def places(self) -> int:
        now = time.monotonic()
        if now - self._counted >= _COUNT_AGAIN:
            self._counted = now
            with suppress(RayError, ConnectionError):  # the orders say what is wrong
                self._places = max(1, min(self._cluster.places(), _MOST))
        return self._places

    def close(self) -> None:
        # all at once: else one that waits for a place begins when another has stopped
        self._closing.set()
        with suppress(Exception):
            ray.get(self._mailbox.stop_all.remote(), timeout=_PATIENCE)
        super().close()

    def _end(self) -> None:
        self._deaf.set()
        self._ear.join(10 * _POLL)
        with suppress(Exception):  # the cluster may be gone
            ray.kill(self._mailbox)

    def _carry_out(
        self,
        order: Order[T],
        contact: Contact,
        cut_off: Callable[[], bool],
        begun: Callable[[], None] = lambda: None,
    ) -> T:
        task = getattr(order, "task", None)
        about = f"task {task}: " if isinstance(task, int) else ""
        of_task, retries = isinstance(task, int), self._cluster.retries
        for attempt in itertools.count(1):
            try:
                return self._once(order, contact, cut_off, begun, of_task=of_task)
            except _LOST as error:
                if contact.stopping():
                    raise CutOffError("the agent stops") from error
                if attempt > retries:
                    raise WorkerDiedError(
                        f"{_why(error)}, {attempt} times; {_fix(error)}"
                    ) from error
                again = f"begun again ({attempt} of {retries} times)"
                contact.log(f"{about}{_why(error)}; {again}")
            except (RayError, ConnectionError) as error:
                raise WorkerDiedError(
                    f"the Ray cluster at {self._cluster.address} fails: {_short(error)}; look at "
                    "`ray status` there; the next pass retries"
                ) from error
        raise AssertionError

    def _once(
        self,
        order: Order[T],
        contact: Contact,
        cut_off: Callable[[], bool],
        begun: Callable[[], None],
        *,
        of_task: bool,
    ) -> T:
        with self._hearing(contact, begun) as (key, heard):
            cpus = max(1, int(self._cluster.share.cpus))
            remote = self._carry.options(**self._options(of_task=of_task))
            processes = self._cluster.share.processes
            reference = remote.remote(order, key, self._mailbox, cpus, processes)
            while not ray.wait([reference], timeout=_TICK)[0]:
                if cut_off():
                    ray.cancel(reference, force=True)
                    ray.wait([reference], timeout=_PATIENCE)
                    raise CutOffError("another agent works on the task now")
                if contact.stopping():
                    self._mailbox.stop.remote(key)  # again and again: it may be a new mailbox
                    if not heard.begun.is_set():
                        ray.cancel(reference)
            try:
                given: Done | Failed = pickle.loads(ray.get(reference))
            except TaskCancelledError as error:
                raise CutOffError("the agent stops") from error
            heard.over.wait(_PATIENCE)
        if isinstance(given, Failed):
            raise given.error
        result: T = given.result
        return result

    def _options(self, *, of_task: bool) -> dict[str, Any]:
        """What an order takes. The agent waits for one that is not a task's, so this takes no
        place, and sees the GPUs of a machine as others do."""
        share = self._cluster.share
        if of_task:
            return {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_retries": 0}
        options: dict[str, Any] = {"num_cpus": 0, "max_retries": 0}
        nodes = self._cluster.nodes()
        if share.gpus and nodes:
            seen = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
            options["runtime_env"] = {"env_vars": seen}
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(nodes[0].id, soft=True)
        return options

    @contextmanager
    def _hearing(self, contact: Contact, begun: Callable[[], None]) -> Iterator[tuple[str, _Heard]]:
        key, heard = secrets.token_hex(8), _Heard(contact, begun)
        self._heard[key] = heard
        try:
            yield key, heard
        finally:
            del self._heard[key]
            with suppress(Exception):
                self._mailbox.forget.remote(key)

    def _listen(self) -> None:
        """In a thread: hear what the workers tell."""
        seen = Seen()
        while not self._deaf.is_set():
            try:
                taken = self._mailbox.take.remote(seen, _POLL)
                seen, messages = ray.get(taken, timeout=_PATIENCE + _POLL)
            except Exception:  # the orders say what is wrong
                self._deaf.wait(_POLL)
                continue
            for key, message in messages:
                heard = self._heard.get(key)
                if heard is not None:
                    with suppress(Exception):  # a line that cannot be written stops nothing
                        heard.hear(message)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _fix(error: Exception) -> str:
    if isinstance(error, OutOfMemoryError):
        return (
            "raise cpus_per_task under [compute], so that fewer tasks share a machine, give it "
            "more memory, or enroll the task with a smaller --size"
        )
    return "see the logs of its machine; the next pass retries"


def _why(error: Exception) -> str:
    if isinstance(error, OutOfMemoryError):
        return "the worker was killed, because the memory of its machine ran out"
    if isinstance(error, NodeDiedError | LocalRayletDiedError):
        return "the machine of the worker is lost"
    if isinstance(error, ObjectLostError):
        return "the result of the worker is lost"
    if isinstance(error, ProcessLostError):
        return "one of the processes that train together has ended"
    return "the worker died"
