"""Ends an exchange that takes too long, whatever it waits for: TLS, headers, a body, our own bytes.

urllib3 limits the time between two bytes only: for it a server that sends one byte a second is
never late. So a thread looks at the clock and shuts the connection down.
"""

from __future__ import annotations

import socket
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from hvsa_cvat.cvat.http.exchange import Failure

_TICK = 0.1
"""Seconds between two looks at the clock."""


class Deadline:
    """Ends the exchanges of one pool manager, which one thread uses.

    `stopping` tells whether the agent was asked to stop; an exchange then has `grace` seconds left.
    """

    def __init__(
        self, pools: urllib3.PoolManager, stopping: Callable[[], bool], grace: float
    ) -> None:
        self.stopping = stopping
        self._grace = grace
        self._lines: list[_Line] = []
        self._cut = Event()
        pools.pool_classes_by_scheme = _pool_classes(self._lines)
        # as urllib3 does for the first handles of a client that nobody closes
        weakref.finalize(self, _drop, self._lines, lambda line: True)

    @contextmanager
    def until(self, end: float) -> Iterator[None]:
        """`Failure` where the block is not done at `end`, by the monotonic clock."""
        over, self._cut = Event(), Event()
        watch = Thread(target=self._watch, args=(end, over), name="deadline", daemon=True)
        watch.start()
        try:
            yield
        except Exception as error:
            if self._cut.is_set():
                raise self._late() from error
            raise
        finally:
            over.set()
            watch.join()
            _drop(self._lines, lambda line: line.connection.sock is None)
        self.check()

    def check(self) -> None:
        """`Failure` where the exchange was ended: a body without a length then ends without an
        error."""
        if self._cut.is_set():
            raise self._late()

    def _watch(self, end: float, over: Event) -> None:
        told = False
        while not over.wait(min(_TICK, max(0.0, end - time.monotonic()))):
            if self.stopping() and not told:
                told, end = True, min(end, time.monotonic() + self._grace)
            if time.monotonic() >= end:
                self._cut.set()
                for line in list(self._lines):
                    line.cut()
                # a connection that opens just now is cut at the next look
                end = time.monotonic() + _TICK

    def _late(self) -> Failure:
        if self.stopping():
            return Failure("no whole answer when the agent was to stop", lasting=True)
        return Failure("no whole answer in the time that one call may take", lasting=True)

    def close(self) -> None:
        """Forget all connections; call it when the pools are closed."""
        _drop(self._lines, lambda line: True)


class _Line:
    """A connection, and a second handle of its socket.

    The first one changes hands, from the connection to TLS and then to the response.
    """

    def __init__(self, connection: HTTPConnection, opened: socket.socket) -> None:
        self.connection = connection
        self.handle = opened.dup()

    def cut(self) -> None:
        with suppress(OSError):
            self.handle.shutdown(socket.SHUT_RDWR)


def _drop(lines: list[_Line], unused: Callable[[_Line], bool]) -> None:
    for line in [line for line in lines if unused(line)]:
        line.handle.close()
        lines.remove(line)


def _pool_classes(lines: list[_Line]) -> dict[str, Any]:
    """urllib3's pools, of connections that enter `lines` when they open."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            opened = super()._new_conn()
            lines.append(_Line(self, opened))
            return opened

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            opened = super()._new_conn()
            lines.append(_Line(self, opened))
            return opened

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
