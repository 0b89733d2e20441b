"""The socket: connections, faults, the log of requests, deliveries of webhooks."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import queue
import socket
import socketserver
import ssl
import struct
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from . import api
from .model import Json, Webhook, stamp

if TYPE_CHECKING:
    from .cvat import StandIn


class Fault(StrEnum):
    """What may go wrong with one request."""

    ERROR = "500, nothing done"
    BAD_GATEWAY = "502, nothing done"
    UNAVAILABLE = "503, nothing done"
    BUSY = "429 with Retry-After, nothing done"
    LATE = "504, but the work is done"
    RESET = "connection reset, nothing done"
    RESET_AFTER = "connection reset, but the work is done"
    SILENCE = "no answer, nothing done"
    SILENCE_AFTER = "no answer, but the work is done"

    @property
    def acts(self) -> bool:
        return self in (Fault.LATE, Fault.RESET_AFTER, Fault.SILENCE_AFTER)


STATUS = {Fault.ERROR: 500, Fault.BAD_GATEWAY: 502, Fault.UNAVAILABLE: 503, Fault.BUSY: 429}
STATUS |= {Fault.LATE: 504}


@dataclass
class Request:
    """One line of the log. `number` counts from 0 since the start or `requests.clear()`."""

    number: int
    method: str
    path: str
    query: dict[str, str]
    size: int
    headers: Any = field(repr=False)
    body: bytes = field(repr=False)
    user: str | None = None
    status: int | None = None
    """None when no answer was sent."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


Faults = Callable[[Request], Fault | None] | Mapping[int, Fault]
"""By request, or by the number of the request."""


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with connections kept open; an answer leaves in one piece and at once."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def setup(self) -> None:
        if self.server.cvat.tls:
            self.request = self.server.cvat.tls.wrap_socket(self.request, server_side=True)
        self.server.connections.add(self.request)
        super().setup()

    def finish(self) -> None:
        self.server.connections.discard(self.request)
        super().finish()
        self.request.close()

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def do_GET(self) -> None:
        self.dispatch()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET

    def dispatch(self) -> None:
        try:
            self.act()
        except OSError:  # the client hung up
            self.close_connection = True
        except Exception as error:  # of a hook or a plan: not lost with the thread
            self.server.cvat.errors.append(error)
            self.reply(api.Answer(500, traceback.format_exc()))

    def act(self) -> None:
        body, cvat = self.read_body(), self.server.cvat
        place = urlsplit(self.path)
        query = dict(parse_qsl(place.query, keep_blank_values=True))
        with cvat.lock:
            request = Request(
                len(cvat.requests),
                self.command,
                unquote(place.path),
                query,
                len(body),
                self.headers,
                body,
            )
            cvat.requests.append(request)
        if cvat.before_request:
            cvat.before_request(request)
        plan = cvat.faults
        fault = plan(request) if callable(plan) else plan.get(request.number)
        result = api.Answer(HTTPStatus.OK)
        if fault is None or fault.acts:
            result = cvat.serve(request)
        if cvat.twist and (twisted := cvat.twist(request)) is not None:
            result = api.Answer(result.status, twisted, result.headers)
        if cvat.after_request:
            cvat.after_request(request)
        if fault in (Fault.RESET, Fault.RESET_AFTER):
            self.reset()
        elif fault in (Fault.SILENCE, Fault.SILENCE_AFTER):
            self.connection.recv(1)  # returns when the client hangs up or the server goes down
            self.close_connection = True
        else:
            if fault:
                wait = {"Retry-After": str(cvat.retry_after)} if fault is Fault.BUSY else {}
                result = api.Answer(STATUS[fault], "<html>a gateway speaks</html>", wait)
            request.status = result.status
            self.reply(result)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, result: api.Answer) -> None:
        body, kind = b"", result.headers.pop("Content-Type", None)
        if isinstance(result.body, bytes):
            body = result.body
        elif result.body is not None:
            body, kind = json.dumps(result.body).encode(), kind or "application/vnd.cvat+json"
        self.send_response_only(result.status)
        clock = self.server.cvat.world.clock
        now = clock() if clock else datetime.now(UTC)
        self.send_header("Date", format_datetime(now, usegmt=True))
        if kind:
            self.send_header("Content-Type", kind)
        for name, value in result.headers.items():
            for line in value.splitlines():
                self.send_header(name, line)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reset(self) -> None:
        """No goodbye: the client sees a connection reset by its peer."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, cvat: StandIn, port: int) -> None:
        self.cvat = cvat
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    def server_bind(self) -> None:
        """Without asking for the name of the host, which may take seconds."""
        socketserver.TCPServer.server_bind(self)

    def serve_forever(self, poll_interval: float = 0) -> None:
        """Until the socket is shut down; no polling, so that closing takes no time."""
        while True:
            try:
                self.process_request(*self.get_request())
            except OSError:
                return

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up, or refuses our certificate, is no news."""

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Postman:
    """Brings events to the targets of webhooks, one after the other, signed, without retry."""

    def __init__(self, cvat: StandIn) -> None:
        self.cvat = cvat
        self.letters: queue.SimpleQueue[tuple[Webhook, Json] | None] = queue.SimpleQueue()
        self.pending = 0
        self.thread: threading.Thread | None = None
        self.idle = threading.Condition()

    def send(self, letters: list[tuple[Webhook, Json]]) -> None:
        if letters and self.thread is None:
            self.thread = threading.Thread(target=self.work, daemon=True)
            self.thread.start()
        for letter in letters:
            with self.idle:
                self.pending += 1
            self.letters.put(letter)

    def work(self) -> None:
        while letter := self.letters.get():
            deliver(self.cvat, *letter)
            with self.idle:
                self.pending -= 1
                self.idle.notify_all()

    def wait(self, timeout: float) -> bool:
        with self.idle:
            return self.idle.wait_for(lambda: self.pending == 0, timeout)

    def close(self) -> None:
        if self.thread:
            self.letters.put(None)
            self.thread.join(timeout=10)


def deliver(cvat: StandIn, hook: Webhook, payload: Json) -> Json:
    """One POST; the signature is over the very bytes that are sent. Down is recorded as 502."""
    body = json.dumps(payload).encode()
    headers = {"User-Agent": f"CVAT/{cvat.world.version}", "Content-Type": "application/json"}
    if hook.secret:
        sign = hmac.new(hook.secret.encode(), body, hashlib.sha256).hexdigest()
        headers["X-Signature-256"] = f"sha256={sign}"
    target = urlsplit(hook.target_url)
    secure = target.scheme == "https"
    kind: Any = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    options = {"context": ssl._create_unverified_context()} if secure else {}
    connection = kind(target.hostname, target.port, timeout=10, **options)
    try:
        connection.request("POST", target.path or "/", body, headers)
        with connection.getresponse() as response:
            status, text = response.status, response.read(1 << 20).decode(errors="replace")
    except OSError:
        status, text = HTTPStatus.BAD_GATEWAY.value, ""
    finally:
        connection.close()
    with cvat.lock:
        now, number = stamp(cvat.world.now()), cvat.world.new_id("delivery")
        record: Json = {"id": number, "webhook_id": hook.id, "event": payload["event"]}
        record |= {"status_code": status, "redelivery": False, "response": text}
        record |= {"created_date": now, "updated_date": now, "request": payload}
        record |= {"changed_fields": ",".join(payload.get("before_update", {}))}
        hook.deliveries.append(record)
    return record
