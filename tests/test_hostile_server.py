"""A server that is broken, or in other hands: no answer takes more than its share of memory or
time, and no answer of a wrong form gets further than the client."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.http.errors import Uncertain, Unreachable
from hvsa_cvat.cvat.http.limits import LARGEST_JSON, MOST_PAGES
from hvsa_cvat.errors import ServerError
from tests.certificates import self_signed

Talk = Callable[[socket.socket], None]


@contextmanager
def serving(talk: Talk) -> Iterator[str]:
    """A server of sockets: `talk` has each connection to itself after one request has come."""
    gate = socket.create_server(("127.0.0.1", 0))
    open_now: list[socket.socket] = []

    def one(line: socket.socket) -> None:
        with suppress(OSError), line:
            line.recv(2**16)
            talk(line)

    def accept() -> None:
        with suppress(OSError):
            while True:
                line, _ = gate.accept()
                open_now.append(line)
                threading.Thread(target=one, args=(line,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{gate.getsockname()[1]}"
    finally:
        gate.shutdown(socket.SHUT_RDWR)
        gate.close()
        for line in open_now:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        thread.join()


def client_of(url: str, **options: Any) -> CvatClient:
    return CvatClient(
        Address(url),
        Credentials("token"),
        sleep=lambda seconds: None,
        rng=random.Random(0),
        **options,
    )


def head(length: int | None, *more: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", "Content-Type: application/json", "Connection: close", *more]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def answering(body: bytes, *more: str) -> Talk:
    def talk(line: socket.socket) -> None:
        line.sendall(head(len(body), *more) + body)

    return talk


def dripping(start: bytes) -> Talk:
    """A byte every 20 ms, without end."""

    def talk(line: socket.socket) -> None:
        line.sendall(start)
        while True:
            line.sendall(b" ")
            time.sleep(0.02)

    return talk


def endless(line: socket.socket) -> None:
    line.sendall(head(None) + b"[")
    while True:
        line.sendall(b"1," * 2**15)


# Time


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX-Long: ", head(None), head(2**20)])
def test_a_byte_now_and_then_ends_in_time(start: bytes) -> None:
    """In the status line, in a header, in a body without and with a length."""
    with serving(dripping(start)) as url, client_of(url, longest=0.4) as client:
        begin = time.monotonic()
        with pytest.raises(Unreachable, match=r"GET /api/tasks/1: .*the time that one call may"):
            client.get("tasks/1")
        assert time.monotonic() - begin < 10
        with pytest.raises(Uncertain, match="it may have been carried out or not"):
            client.send("POST", "tasks", {})


def test_a_server_that_takes_no_body_ends_in_time() -> None:
    with (
        serving(lambda line: time.sleep(5)) as url,
        client_of(url, longest=0.4) as client,
        pytest.raises(Uncertain, match="the time that one call may take"),
    ):
        client.send("POST", "tasks", {"name": "x" * 2**24})


def test_tls_that_never_begins_ends_in_time() -> None:
    with (
        serving(dripping(b"\x16\x03\x03\x40\x00")) as url,
        client_of(url.replace("http:", "https:"), longest=0.4) as client,
        pytest.raises(Unreachable, match="the time that one call may take"),
    ):
        client.get("tasks/1")


def test_a_slow_download_over_tls_ends_in_time(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    gate = socket.create_server(("127.0.0.1", 0))

    def once() -> None:
        line, _ = gate.accept()
        with suppress(OSError), context.wrap_socket(line, server_side=True) as secure:
            secure.recv(2**16)
            dripping(head(None))(secure)

    threading.Thread(target=once, daemon=True).start()
    address = Address(f"https://localhost:{gate.getsockname()[1]}", ca=certificate)
    with (
        gate,
        CvatClient(address, Credentials("token"), sleep=lambda s: None, longest=1) as client,
        pytest.raises(Unreachable, match="the time that one call may take"),
    ):
        client.download("jobs/1/data", tmp_path / "chunk")
    assert not (tmp_path / "chunk").exists()


def test_a_stop_ends_a_slow_answer_and_all_repetition() -> None:
    stopped = threading.Event()
    with (
        serving(dripping(head(None))) as url,
        client_of(url, stopping=stopped.is_set) as client,
    ):
        threading.Timer(0.2, stopped.set).start()
        begin = time.monotonic()
        with pytest.raises(Unreachable, match="no whole answer when the agent was to stop"):
            client.get("tasks/1")
        assert time.monotonic() - begin < 15
    asked: list[bytes] = []
    with (
        serving(lambda line: asked.append(b"")) as url,
        client_of(url, stopping=stopped.is_set) as client,
        pytest.raises(Unreachable),
    ):
        client.get("tasks/1")
    assert len(asked) == 1


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_agent_while_it_waits_for_a_slow_server(
    number: signal.Signals, tmp_path: Path
) -> None:
    asked = threading.Event()

    def talk(line: socket.socket) -> None:
        asked.set()
        dripping(head(None))(line)

    with serving(talk) as url:
        process = subprocess.Popen(
            [sys.executable, "-m", "hvsa_cvat", "sync", "--watch"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            env={**os.environ, "CVAT_HOST": url, "CVAT_ACCESS_TOKEN": "token"},
        )
        try:
            assert asked.wait(60)
            process.send_signal(number)
            begin = time.monotonic()
            assert process.wait(60) == 0
            took = time.monotonic() - begin
        finally:
            process.kill()
            text = process.communicate()[0].decode()
    assert took < 30  # LONGEST_STOPPING and a busy machine
    assert text.rstrip().endswith("stopped")
    assert "Traceback" not in text


def test_the_calls_after_a_slow_one_work() -> None:
    slow = [dripping(head(None)), answering(b'{"id": 1}')]
    with (
        serving(lambda line: slow.pop(0)(line)) as url,
        client_of(url, longest=0.4) as client,
    ):
        with pytest.raises(Unreachable):
            client.get("anything")
        assert client.get("anything") == {"id": 1}


# Size


@contextmanager
def within(megabytes: int) -> Iterator[None]:
    """The block allocates no more than this at any moment."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes * 2**20, f"{peak / 2**20:.0f} MB"


@pytest.mark.parametrize("call", ["json", "headers", "file"])
def test_an_answer_that_announces_too_much_is_not_read(call: str, tmp_path: Path) -> None:
    def talk(line: socket.socket) -> None:
        line.sendall(head(2**40) + b"[" * 100)
        line.recv(1)

    with (
        serving(talk) as url,
        client_of(url) as client,
        within(100),
        pytest.raises(Unreachable, match=r"an answer of more than \d+ MiB"),
    ):
        ask(client, call, tmp_path)
    assert list(tmp_path.iterdir()) == []


def ask(client: CvatClient, call: str, folder: Path) -> object:
    if call == "json":
        return client.get("tasks/1")
    if call == "headers":
        return client.server_time()
    return client.download("jobs/1/data", folder / "chunk", most=2**20)


def test_an_endless_file_is_cut_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        serving(endless) as url,
        client_of(url) as client,
        within(100),
        pytest.raises(Unreachable, match="an answer of more than 1 MiB"),
    ):
        client.download("jobs/1/data", tmp_path / "chunk", most=2**20)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encodings", [1, 2])
def test_a_bomb_is_cut_while_it_is_inflated(encodings: int, tmp_path: Path) -> None:
    bomb = b" " * 2**20
    whole = gzip.compress(bomb, 9) * 1024  # members of a gigabyte in all
    name = "gzip"
    if encodings == 2:
        whole, name = gzip.compress(whole, 9), "gzip, gzip"
    talk = answering(whole, f"Content-Encoding: {name}")
    with (
        serving(talk) as url,
        client_of(url) as client,
        within(100),
        pytest.raises(Unreachable, match="an answer of more than 4 MiB"),
    ):
        client.download("jobs/1/data", tmp_path / "chunk", most=2**22)
    assert list(tmp_path.iterdir()) == []


def test_the_json_limit_holds_for_bombs() -> None:
    whole = gzip.compress(b" " * 2**20, 9) * (LARGEST_JSON // 2**20 + 1)
    with (
        serving(answering(whole, "Content-Encoding: gzip")) as url,
        client_of(url) as client,
        pytest.raises(Unreachable, match="an answer of more than 128 MiB"),
    ):
        client.get("tasks/1")


# Form


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"{}",
        b'{"id": "seven"}',
        b'{"id": 1.5, "name": "n", "project_id": null}',
        b'{"id": 1, "name": null, "project_id": null}',
        b'{"id": 1, "name": "n", "project_id": "p"}',
        b'{"id": 1, "name": "n", "project_id": null, "size": 99999999999}',
        b'{"id": 1, "name": "n", "project_id": null, "jobs": [1]}',
        b'{"id": ' + b"9" * 5000 + b"}",
        DEEP,
        b'{"id": ' + DEEP + b"}",
        b"\xff\xfe",
    ],
)
def test_a_row_of_a_wrong_form_is_one_line_that_names_the_request(body: bytes) -> None:
    with serving(answering(body)) as url, client_of(url) as client:
        for call in (lambda: client.get("tasks/1"), lambda: client.rows("tasks"), client.me):
            with pytest.raises(Unreachable, match=r"GET /api/(tasks|tasks/1|users/self): ") as seen:
                call()
            assert "\n" not in str(seen.value)
            assert len(str(seen.value)) < 500


@pytest.mark.parametrize("status", [200, 400, 403, 404, 409, 500])
def test_nesting_in_a_refusal_is_told_in_short(status: int) -> None:
    deep: Any = "end"
    for _ in range(300):
        deep = {"x": [deep]}
    for body in (json.dumps(deep).encode(), DEEP[:50_000], b"[" * 900 + b"]" * 900):
        start = head(len(body)).replace(b"200 OK", f"{status} Said".encode())
        with (
            serving(lambda line, all=start + body: line.sendall(all)) as url,
            client_of(url) as client,
            pytest.raises(ServerError) as seen,
        ):
            client.get("tasks/1")
        assert "\n" not in str(seen.value)
        assert len(str(seen.value)) < 600


def test_a_write_whose_answer_has_a_wrong_form_is_looked_up() -> None:
    with (
        serving(answering(b'{"id": "seven"}')) as url,
        client_of(url) as client,
    ):
        with pytest.raises(Uncertain, match="POST /api/tasks: an answer that no CVAT sends"):
            client.send("POST", "tasks", {})
        found = {"id": 7}
        looks = [None, found]
        assert client.create("tasks", {}, lambda: looks.pop(0)) == found


def test_a_list_without_end_is_given_up() -> None:
    pages = iter(range(10**9))

    def talk(line: socket.socket) -> None:
        page = {"count": 10**6, "next": "more", "results": [{"id": next(pages)}]}
        answering(json.dumps(page).encode())(line)

    with (
        serving(talk) as url,
        client_of(url) as client,
        pytest.raises(Unreachable, match=r"GET /api/anything: the list has more than 1000"),
    ):
        client.rows("anything")
    assert next(pages) == MOST_PAGES


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 -1400", "soon", "\xff"])
def test_an_impossible_date_is_no_date(date: str) -> None:
    body = b'{"version": "2.73.0"}'
    talk = answering(body, f"Date: {date}", f"Retry-After: {date}")
    with serving(talk) as url, client_of(url) as client:
        assert client.server_time() is None
