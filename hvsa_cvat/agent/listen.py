"""The sockets at which webhooks arrive and health checks ask. Whoever reaches one may hold neither
the agent nor its log.

uvicorn limits how long a connection may idle, but neither how long a request may take to arrive nor
how many connections are open: 1,100 half requests used up the files that a process may have. Both
are limited here.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from hvsa_cvat.errors import ConfigError

MOST_CONNECTIONS = 256
"""Open at once; a process may often have 1,024 files. CVAT has one open for the moment that a
delivery takes."""
_ACCEPTED_AT_ONCE = 64
"""Connections that are taken in before those that are open are read again. A delivery is read
after two such turns, so it is not among the oldest before it is answered."""
LONGEST_CONNECTION = 10.0
"""Seconds from its begin to its end, whatever is sent over it: CVAT gives a delivery as long."""
LARGEST_HEAD = 2**14
"""Bytes of a request before its body; a delivery has a handful of headers."""
_LOG_PAUSE = 60.0
"""Seconds between two lines of the same kind."""


class Seldom:
    """A log that passes one line a minute on, and says how many it has left out before."""

    def __init__(self, log: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._last: float | None = None
        self._left_out = 0

    def __call__(self, line: str) -> None:
        now = self._clock()
        if self._last is not None and now - self._last < _LOG_PAUSE:
            self._left_out += 1
            return
        more = f" ({self._left_out} such lines were left out before)" if self._left_out else ""
        self._last, self._left_out = now, 0
        self._log(f"{line}{more}")


@dataclass(frozen=True)
class Page:
    """What a GET is answered with."""

    status: int
    text: str
    kind: str = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Place:
    """Where a socket is, and who says so."""

    option: str
    """Of the command, with its dashes."""
    address: str
    """`HOST:PORT`."""
    purpose: str
    """In one word, for the log."""

    def parsed(self) -> tuple[str, int]:
        """Host and port; the host may be an IPv6 address in brackets."""
        name, _, port = self.address.rpartition(":")
        if not name or not port.isdecimal() or not 0 <= int(port) < 65536:
            raise ConfigError(
                f"{self.option} {self.address!r}: write HOST:PORT, for example 0.0.0.0:8080"
            )
        return name.strip("[]"), int(port)


class Gate:
    """The connections that are open, the oldest first, and how many were cut."""

    def __init__(self, purpose: str, log: Callable[[str], None]) -> None:
        self._open: dict[asyncio.Protocol, asyncio.Transport] = {}
        self._purpose = purpose
        self._log = log
        self.cut = 0

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._open)

    def enter(self, connection: asyncio.Protocol, transport: asyncio.Transport) -> None:
        """Where there are too many, the oldest gives way. If new ones were refused, an attack
        would shut out deliveries and health checks."""
        self._open[connection] = transport
        if len(self._open) > MOST_CONNECTIONS:
            self.end(next(iter(self._open)), f"more than {MOST_CONNECTIONS} connections at once")

    def leave(self, connection: asyncio.Protocol) -> None:
        self._open.pop(connection, None)

    def end(self, connection: asyncio.Protocol, reason: str) -> None:
        """Cut a connection if it is still open."""
        transport = self._open.pop(connection, None)
        if transport is not None:
            self.cut += 1
            self._log(f"{self._purpose}: a connection is cut ({reason})")
            transport.abort()

    def report(self) -> str:
        """What a health check is told."""
        return (
            f"hvsa-agent listens; {self.open} of {MOST_CONNECTIONS} connections are open, "
            f"{self.cut} were cut because there were too many or they took too long\n"
        )


def _protocol(gate: Gate, longest: float) -> type[asyncio.Protocol]:
    class Guarded(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            gate.enter(self, transport)
            reason = f"not done within {longest:g} s"
            self._end = self.loop.call_later(longest, gate.end, self, reason)

        def connection_lost(self, exc: Exception | None) -> None:
            self._end.cancel()
            gate.leave(self)
            super().connection_lost(exc)

    return Guarded


Pages = Mapping[str, Callable[[], Page]]
"""What makes the page of each path; called in threads of their own."""


@contextmanager
def listening(
    place: Place,
    pages: Pages,
    log: Callable[[str], None],
    deliveries: ASGIApp | None = None,
    longest: float = LONGEST_CONNECTION,
) -> Iterator[Gate]:
    """Answer requests while the block runs; yields what knows the connections.

    `GET` and `HEAD` of a path in `pages` are answered with that page, others with 200 and the
    state of the connections. All other requests go to `deliveries`. `longest`: seconds that a
    connection may stay open.
    """
    host, port = place.parsed()
    gate = Gate(place.purpose, Seldom(log, time.monotonic))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] in ("GET", "HEAD"):
            make = pages.get(scope["path"], lambda: Page(200, gate.report()))
            page = await asyncio.to_thread(make)
        elif deliveries is not None:
            await deliveries(scope, receive, send)
            return
        else:
            page = Page(405, "only GET is answered here\n")
        await Response(page.text, page.status, media_type=page.kind)(scope, receive, send)

    server = uvicorn.Server(_config(app, host, port, _protocol(gate, longest)))
    with _running(server, place):
        log(f"listening for {place.purpose} at {place.address}")
        yield gate


def _config(app: Any, host: str, port: int, protocol: type[asyncio.Protocol]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host,
        port,
        http=protocol,
        ws="none",
        lifespan="off",
        backlog=_ACCEPTED_AT_ONCE,
        h11_max_incomplete_event_size=LARGEST_HEAD,
        timeout_keep_alive=5,
        # strangers would write a line for each of their requests
        log_config=None,
        log_level="critical",
        access_log=False,
    )


@contextmanager
def _running(server: uvicorn.Server, place: Place) -> Iterator[None]:
    """Run a server in a thread of its own."""
    failed = threading.Event()

    def serve() -> None:
        try:
            server.run()
        except SystemExit:  # uvicorn raises it when it cannot bind the port
            failed.set()

    thread = threading.Thread(target=serve, name=place.purpose, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.01)
    if failed.is_set() or not server.started:
        raise ConfigError(f"{place.option} {place.address}: the port is not free; choose another")
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)
