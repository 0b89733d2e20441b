"""Deliveries: signed ones wake the agent, all others do nothing."""

import json
import os
import random
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvsa_cvat.agent.listen import (
    LONGEST_CONNECTION,
    MOST_CONNECTIONS,
    Place,
    Seldom,
    listening,
)
from hvsa_cvat.agent.watch import Heartbeat, Watch
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.http.errors import Refused
from hvsa_cvat.cvat.saves import Save, Saves
from hvsa_cvat.cvat.webhook import EVENTS, Listener, install, matters, save_of, signature
from hvsa_cvat.errors import ConfigError
from tests.standin import StandIn

SECRET = "a long random text"
OWN = 3


def delivery(**changes: Any) -> dict[str, Any]:
    finished = {
        "event": "update:job",
        "job": {"id": 72, "state": "completed"},
        "before_update": {"state": "in progress", "updated_date": "2026-11-22T08:06:07Z"},
        "sender": {"id": 8, "username": "ann"},
        "webhook_id": 10,
    }
    return {**finished, **changes}


def test_the_signature_is_cvats() -> None:
    # from a delivery of CVAT 2.54: HMAC-SHA256 over the raw body, in hex
    assert signature("key", b"The quick brown fox jumps over the lazy dog") == (
        "sha256=f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8"
    )


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        (delivery(), True),
        (delivery(before_update={"stage": "annotation"}), True),
        (delivery(event="create:job", before_update=None), True),
        (delivery(sender=None), True),
        (delivery(before_update={"updated_date": "2026-11-22T08:06:07Z"}), False),
        (delivery(before_update={"assignee": None}), False),
        (delivery(sender={"id": OWN}), False),
        (delivery(event="update:task"), False),
        (delivery(event="ping"), False),
        ({}, False),
    ],
)
def test_only_what_others_change_of_jobs_matters(told: dict[str, Any], counts: bool) -> None:
    assert matters(told, OWN) is counts


SAVED = {"updated_date": "2026-11-22T08:06:07Z"}
JOB = {"id": 72, "state": "in progress", "updated_date": "2026-11-22T08:06:37Z"}


@pytest.mark.parametrize(
    ("told", "save"),
    [
        (delivery(job=JOB, before_update=SAVED), Save(72, "in progress", JOB["updated_date"])),
        (delivery(job=JOB), Save(72, "in progress", JOB["updated_date"])),
        (delivery(job=JOB, before_update=SAVED, sender={"id": OWN}), None),
        (delivery(job=JOB, before_update=SAVED, sender=None), None),
        (delivery(job=JOB, before_update={**SAVED, "assignee": None}), None),
        (delivery(job=JOB, before_update=SAVED, event="create:job"), None),
        (delivery(job={"id": "72", **SAVED}, before_update=SAVED), None),
        (delivery(job=None, before_update=SAVED), None),
        ({}, None),
    ],
)
def test_a_save_of_somebody_else_is_told(told: dict[str, Any], save: Save | None) -> None:
    assert save_of(told, OWN) == save


def test_saves_are_taken_once_by_their_dates() -> None:
    saves = Saves()
    first, second, other = (Save(job, "in progress", f"{n}") for job, n in ((1, 3), (1, 2), (2, 1)))
    for one in (first, second, other):
        saves.add(one)
    assert saves.take({1}) == [second, first]
    assert saves.take({1}) == []
    assert saves.take({1, 2}) == [other]


def quiet(line: str) -> None:
    pass


@contextmanager
def at_work(
    woken: list[int],
    log: Callable[[str], None] = quiet,
    longest: float = LONGEST_CONNECTION,
    saved: Callable[[Save], None] = lambda save: None,
) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    listener = Listener(SECRET, OWN, lambda: woken.append(1), log, saved)
    place = Place("--listen", f"127.0.0.1:{port}", "webhooks")
    with listening(place, {}, log, listener, longest):
        yield f"http://127.0.0.1:{port}/"


def post(url: str, body: bytes, sign: str | None) -> int:
    headers = {"Content-Type": "application/json"}
    if sign is not None:
        headers["X-Signature-256"] = sign
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


def wait_for(woken: list[int]) -> None:
    """The answer comes before the waking."""
    deadline = time.monotonic() + 10
    while not woken and time.monotonic() < deadline:
        time.sleep(0.005)
    assert woken == [1]


def test_only_signed_deliveries_wake() -> None:
    woken: list[int] = []
    told: list[Save] = []
    body = json.dumps(delivery()).encode()
    saved = json.dumps(delivery(job=JOB, before_update=SAVED)).encode()
    with at_work(woken, saved=told.append) as url:
        assert post(url, saved, signature("another secret", saved)) == 401
        assert told == []
        assert post(url, saved, signature(SECRET, saved)) == 200
        assert post(url, body, None) == 401
        assert post(url, body, "sha256=" + "0" * 64) == 401
        assert post(url, body + b" ", signature(SECRET, body)) == 401
        assert post(url, body, signature("another secret", body)) == 401
        assert woken == []
        assert post(url, body, signature(SECRET, body)) == 200
        wait_for(woken)
        harmless = json.dumps(delivery(event="ping")).encode()
        assert post(url, harmless, signature(SECRET, harmless)) == 200
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.status == 200
    assert woken == [1]
    assert told == [Save(72, "in progress", JOB["updated_date"])]


def test_endless_bodies_are_cut_off() -> None:
    woken: list[int] = []
    body = json.dumps(delivery(filling=" " * (2 << 20))).encode()
    with at_work(woken) as url:
        with suppress(URLError):  # cut off before the client had sent it all
            assert post(url, body, signature(SECRET, body)) == 413
        assert post(url, b"", None) == 401
    assert woken == []


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"\xff",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b'{"event": 7}',
        b'{"event": "update:job", "sender": [8]}',
        b'{"event": "update:job", "sender": {"id": "eight"}}',
        b'{"event": "update:job", "before_update": 5}',
        b'{"event": "update:job", "before_update": [[]]}',
        DEEP,
        b'{"event": ' + DEEP + b"}",
    ],
)
def test_a_signed_request_of_an_odd_shape_is_refused_in_one_line(
    body: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    woken: list[int] = []
    lines: list[str] = []
    with at_work(woken, lines.append) as url:
        lines.clear()
        assert post(url, body, signature(SECRET, body)) == 400
        assert post(url, b"{}", None) == 401
    (line,) = lines
    assert line.startswith("webhooks: a signed request is no delivery of CVAT (")
    assert "\n" not in line
    assert woken == []
    assert capfd.readouterr() == ("", "")


def attack(url: str, number: int, begin: bytes, seconds: float) -> None:
    """Open connections that begin a request and hold them."""
    host, _, port = url.removeprefix("http://").strip("/").partition(":")
    lines: list[socket.socket] = []
    end = time.monotonic() + seconds
    with ExitStack() as stack:
        while len(lines) < number or time.monotonic() < end:
            with suppress(OSError):
                if len(lines) < number:
                    line = socket.create_connection((host, int(port)), 10)
                    lines.append(stack.enter_context(line))
                else:
                    time.sleep(0.01)
                lines[-1].sendall(begin if len(lines) < number else b"x")


HALF_HEAD = b"POST / HTTP/1.1\r\nHost: agent\r\nX-Filling: "
HALF_BODY = b"POST / HTTP/1.1\r\nHost: agent\r\nContent-Length: 1000\r\n\r\n{"


@pytest.mark.parametrize(
    ("number", "seconds"), [(40, 0.1), (400, 1), pytest.param(1100, 30, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("begin", [HALF_HEAD, HALF_BODY, b"", b"\x16\x03\x01 no http\r\n\r\n"])
def test_half_requests_hold_neither_the_agent_nor_its_log(
    number: int, seconds: float, begin: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    woken: list[int] = []
    lines: list[str] = []
    body = json.dumps(delivery()).encode()
    with at_work(woken, lines.append) as url:
        lines.clear()
        foe = threading.Thread(target=attack, args=(url, number, begin, seconds))
        foe.start()
        longest, lost, tried = 0.0, 0, 0
        while foe.is_alive():
            start = time.monotonic()
            try:
                assert post(url, body, signature(SECRET, body)) == 200
            except OSError:  # cut as the oldest one
                lost += 1
            tried += 1
            longest = max(longest, time.monotonic() - start)
            time.sleep(0.01)
        foe.join()
        assert post(url, body, signature(SECRET, body)) == 200
        with urllib.request.urlopen(url, timeout=10) as answer:
            report = answer.read().decode()
    assert longest < 5
    assert lost <= 1 + tried // 10
    assert woken
    assert len(lines) <= 1 + seconds / 60
    cut = int(report.partition("connections are open, ")[2].split()[0])
    if number > MOST_CONNECTIONS and begin in (b"", HALF_HEAD, HALF_BODY):
        assert cut > 0
        assert lines[0].startswith("webhooks: a connection is cut (more than 256 connections")
    assert capfd.readouterr() == ("", "")


def test_a_request_that_does_not_come_to_its_end_is_cut() -> None:
    lines: list[str] = []
    with at_work([], lines.append, longest=0.2) as url:
        lines.clear()
        host, _, port = url.removeprefix("http://").strip("/").partition(":")
        for begin in (HALF_HEAD, HALF_BODY, b""):
            with socket.create_connection((host, int(port)), 10) as line:
                line.sendall(begin)
                with suppress(ConnectionError):
                    assert line.recv(100) == b""
        assert lines == ["webhooks: a connection is cut (not done within 0.2 s)"]


def test_a_long_head_is_refused() -> None:
    with at_work([]) as url:
        host, _, port = url.removeprefix("http://").strip("/").partition(":")
        with socket.create_connection((host, int(port)), 10) as line:
            line.sendall(HALF_HEAD + b"x" * 2**15)
            answer = line.recv(100)
        assert answer.startswith(b"HTTP/1.1 4")


def test_a_seldom_log_says_how_much_it_left_out() -> None:
    lines: list[str] = []
    now = [0.0]
    log = Seldom(lines.append, lambda: now[0])
    for second in (0, 1, 59, 60, 61, 200):
        now[0] = second
        log(f"at {second}")
    assert lines == [
        "at 0",
        "at 60 (2 such lines were left out before)",
        "at 200 (1 such lines were left out before)",
    ]


@given(st.binary(max_size=200), st.binary(max_size=80))
def test_no_header_passes_by_chance(body: bytes, header: bytes) -> None:
    answers: list[int] = []
    woken: list[int] = []
    listener = Listener(SECRET, OWN, lambda: woken.append(1), print)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answers.append(message["status"])

    scope = {"type": "http", "method": "POST", "headers": [(b"x-signature-256", header)]}
    call = listener(scope, receive, send)
    with pytest.raises(StopIteration):
        call.send(None)
    assert answers == [401]
    assert woken == []


def test_an_empty_secret_is_refused() -> None:
    with pytest.raises(ConfigError, match="HVSA_WEBHOOK_SECRET"):
        Listener("", OWN, lambda: None, print)


@pytest.mark.parametrize("address", ["8080", "host:", "host:port", "host:70000"])
def test_where_to_listen_must_be_said(address: str) -> None:
    place = Place("--listen", address, "webhooks")
    with pytest.raises(ConfigError, match=r"--listen .*HOST:PORT"), listening(place, {}, print):
        pass


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = Place("--metrics", f"127.0.0.1:{taken.getsockname()[1]}", "metrics")
        with (
            pytest.raises(ConfigError, match=r"--metrics .*choose another"),
            listening(place, {}, lambda line: None),
        ):
            pass


def test_passes_come_at_intervals_and_when_woken() -> None:
    watch = Watch(1000, random.Random(0))
    passes = watch.passes()
    next(passes)
    watch.wake()
    next(passes)  # woken during the pass: at once
    threading.Timer(0.05, watch.wake).start()
    next(passes)
    threading.Timer(0.05, watch.stop).start()
    assert list(passes) == []
    assert watch.stopped
    short = Watch(0.001, random.Random(0)).passes()
    for _ in range(3):
        next(short)


def test_the_heart_beats_between_passes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvsa_cvat.agent.watch._BEAT", 0.01)
    beats = []

    def beat():
        beats.append(None)
        if len(beats) == 9:
            watch.stop()

    watch = Watch(1000, random.Random(0), beat)
    assert list(watch.passes()) == [None]  # one pass, then a wait in which the heart goes on
    assert len(beats) == 9


def test_a_heartbeat_is_the_age_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "heartbeat"
    with pytest.raises(ConfigError, match=r"--heartbeat .*No such file"):
        Heartbeat(file)
    file.parent.mkdir()
    heart = Heartbeat(file)
    assert file.exists()
    os.utime(file, (0, 0))
    heart.beat()
    assert file.stat().st_mtime > 0
    file.unlink()
    file.parent.rmdir()
    heart.beat()  # says nothing; who looks at the file finds none


def test_installing_twice_makes_one() -> None:
    with StandIn() as cvat:
        project = cvat.add_project("HVSA: clip", ["car"])
        client = CvatClient(
            Address(cvat.url), Credentials(token=cvat.admin.token), sleep=lambda s: None
        )
        with client:
            (first,) = install(client, "http://agent.example.com/", SECRET, [project.id])
            (second,) = install(client, "http://agent.example.com/", SECRET, [project.id])
            assert first["id"] == second["id"]
            assert sorted(first["events"]) == sorted(EVENTS)
            assert len(client.rows("webhooks")) == 1
            with pytest.raises(ConfigError, match="without webhooks"):
                install(client, "http://agent.example.com/", SECRET, [])


@pytest.mark.parametrize("target", ["agent.example.com", "http://hvsa_agent/"])
def test_an_address_that_the_server_would_refuse_is_explained(target: str) -> None:
    with StandIn() as cvat:
        project = cvat.add_project("HVSA: clip", ["car"])
        with CvatClient(Address(cvat.url), Credentials(token=cvat.admin.token)) as client:
            with pytest.raises(ConfigError, match="webhook address"):
                install(client, target, SECRET, [project.id])
            body = {"target_url": target, "type": "project", "project_id": project.id}
            with pytest.raises(Refused, match="valid URL"):
                client.send("POST", "webhooks", {**body, "events": list(EVENTS)})
        assert cvat.world.webhooks == {}
