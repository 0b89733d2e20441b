import json
import random
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.http.errors import (
    Forbidden,
    NotFound,
    Refused,
    Unauthorized,
    Uncertain,
    Unreachable,
    Untrusted,
)
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.errors import ConfigError, HvsaError, MediaError, ServerError
from hvsa_cvat.ports import silent
from tests.certificates import self_signed
from tests.standin import Fault, Request, StandIn

CANARY = "canary-0123456789"


@pytest.fixture
def cvat() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


@dataclass
class Notes:
    """What a client logged and how long it slept."""

    lines: list[str] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)


@contextmanager
def connect(
    server: StandIn | str,
    credentials: Credentials | None = None,
    notes: Notes | None = None,
    organization: str | None = None,
    ca: Path | None = None,
    timeouts: tuple[float, float] = (5, 60),
    sleep: Callable[[float], None] | None = None,
) -> Iterator[CvatClient]:
    """A client that sleeps in no time; the administrator of a stand-in unless it says otherwise."""
    if isinstance(server, StandIn):
        credentials = credentials or Credentials(server.admin.token)
        server = server.url
    notes = notes or Notes()
    with CvatClient(
        Address(server, organization, ca),
        credentials or Credentials("token"),
        sleep=sleep or notes.pauses.append,
        rng=random.Random(7),
        log=notes.lines.append,
        timeouts=timeouts,
    ) as client:
        yield client


ANN = Credentials(user="ann", password="secret")


def by_password(cvat: StandIn) -> Credentials:
    return Credentials(user=cvat.admin.name, password=cvat.admin.password)


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Script:
    """A server that answers one request after the other with what the script says."""

    def __init__(self, *answers: tuple[int, dict[str, str], bytes]) -> None:
        self.asked: list[Asked] = []
        left = list(answers)
        ends = {"Connection": "close"}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

            def do_GET(handler) -> None:
                body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
                asked = Asked(handler.command, handler.path, dict(handler.headers), body)
                self.asked.append(asked)
                status, headers, content = left.pop(0) if len(left) > 1 else left[0]
                echo = (str(asked.headers) + asked.body.decode(errors="replace")).encode()
                content = content.replace(b"ECHO", echo)
                handler.send_response_only(status)
                for name, value in {**ends, "Content-Length": str(len(content)), **headers}.items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(content)

            do_POST = do_PATCH = do_DELETE = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> "Script":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def ok(body: object, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json", **headers}, json.dumps(body).encode()


def pictures(folder: Path, number: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"p{i:03d}.png" for i in range(number)]
    for i, file in enumerate(files):
        Image.fromarray(np.full((4, 6, 3), i, np.uint8)).save(file)
    return files


def new_task(client: CvatClient, name: str = "clip") -> int:
    row: Json = client.send("POST", "tasks", {"name": name, "labels": [{"name": "road"}]})
    return int(row["id"])


# Settings


@pytest.mark.parametrize("url", ["cvat.example.com", "localhost:8080"])
def test_an_address_needs_its_scheme(url: str) -> None:
    with pytest.raises(ConfigError, match=f"write https://{url} or http://{url}"):
        Address(url)


@pytest.mark.parametrize(
    "url",
    ["ftp://host", "http://", "https:///tasks", "http://host:x", "http://host:0", "http://h/?a=1"],
)
def test_an_address_that_cannot_be(url: str) -> None:
    with pytest.raises(ConfigError, match="write it like"):
        Address(url)


def test_an_address_with_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="user name or password") as caught:
        Address(f"https://me:{CANARY}@host")
    assert CANARY not in str(caught.value)


def test_an_address_loses_its_slash() -> None:
    assert Address("http://host:8080/").url == "http://host:8080"


def test_an_organisation_is_a_short_name() -> None:
    assert Address("http://host", "acme-2").organization == "acme-2"
    with pytest.raises(ConfigError, match=r"'Acme Inc\.' cannot be a short name"):
        Address("http://host", "Acme Inc.")


def test_certificates_are_read_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ca\.pem holds no certificates.*No such file"):
        Address("https://host", ca=tmp_path / "ca.pem")
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"ca\.pem holds no certificates"):
        Address("https://host", ca=tmp_path / "ca.pem")


def test_a_login_is_complete_and_never_shown() -> None:
    for nobody in (Credentials, lambda: Credentials(user="ann"), lambda: Credentials(token="")):
        with pytest.raises(ConfigError, match="CVAT_ACCESS_TOKEN"):
            nobody()
    for wrong in (f"{CANARY}\n", f"Bearer {CANARY}", f"{CANARY}é"):
        with pytest.raises(ConfigError, match="copy it again") as caught:
            Credentials(wrong)
        assert CANARY not in str(caught.value)
    assert repr(Credentials(CANARY, CANARY, CANARY)) == "Credentials()"


# Who we are


def test_token_and_password_both_let_us_in(cvat: StandIn) -> None:
    for credentials in (Credentials(cvat.admin.token), by_password(cvat)):
        with connect(cvat, credentials) as client:
            assert client.me()["username"] == "admin"
            task = new_task(client)
            client.change("PATCH", f"tasks/{task}", {"name": "new"})
            assert cvat.task(task).name == "new"


def test_everything_is_said_where_it_happens(cvat: StandIn) -> None:
    cvat.add_organization("acme")
    for organization in (None, "acme"):
        cvat.requests.clear()
        with connect(cvat, organization=organization) as client:
            client.rows("projects")
            client.send("POST", "projects", {"name": "p"})
            assert client.me()["id"] == cvat.admin.id
        assert [r.headers["X-Organization"] for r in cvat.requests] == [
            organization or "",
            organization or "",
            "",
        ]
    with connect(cvat) as client, connect(cvat, organization="acme") as inside:
        assert [row["organization"] for row in client.rows("projects")] == [None]
        assert [row["organization"] for row in inside.rows("projects")] != [None]
    with connect(cvat, organization="nobody") as client:
        assert client.me()["id"] == cvat.admin.id
        with pytest.raises(NotFound, match="nobody organization does not exist"):
            client.rows("projects")


def test_an_expired_session_is_opened_again(cvat: StandIn) -> None:
    with connect(cvat, by_password(cvat)) as client:
        task = new_task(client)
        for call in (
            lambda: client.get(f"tasks/{task}"),
            lambda: client.change("PATCH", f"tasks/{task}", {"name": "a"}),
            lambda: new_task(client, "second"),
            lambda: client.rows("tasks"),
        ):
            cvat.world.sessions.clear()
            call()
        assert [row["name"] for row in client.rows("tasks")] == ["a", "second"]


def test_a_session_is_opened_again_only_once(cvat: StandIn) -> None:
    with connect(cvat, by_password(cvat)) as client:
        cvat.before_request = lambda request: cvat.world.sessions.clear()
        with pytest.raises(Unauthorized, match="not provided"):
            client.get("tasks")
    assert [r.path for r in cvat.requests] == ["/api/auth/login", "/api/tasks"] * 2


def test_a_wrong_password_is_tried_once(cvat: StandIn) -> None:
    with (
        connect(cvat, Credentials(user="admin", password=CANARY)) as client,
        pytest.raises(Unauthorized, match=r"Unable to log in.*check the user name and password"),
    ):
        client.get("tasks")
    assert len(cvat.requests) == 1


def test_a_token_that_ran_out_says_what_to_do(cvat: StandIn) -> None:
    with connect(cvat) as client:
        new_task(client)
        cvat.world.tokens.clear()
        cvat.requests.clear()
        with pytest.raises(Unauthorized, match=r"create a new token.*CVAT_ACCESS_TOKEN"):
            client.get("tasks")
        with pytest.raises(Unauthorized):
            new_task(client)
    assert len(cvat.requests) == 2


def test_a_server_without_sessions_asks_for_a_token() -> None:
    with (
        Script(ok({"key": "x"})) as server,
        connect(server.url, Credentials(user="a", password="b")) as client,
    ):
        with pytest.raises(Unauthorized, match=r"opens no session.*CVAT_ACCESS_TOKEN"):
            client.get("tasks")
        with pytest.raises(Unauthorized, match="opens no session"):
            client.get("tasks")


# The server


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.42.0", (2, 42)), ("2.54.1", (2, 54)), ("2.80.0-dev", (2, 80))]
)
def test_versions(version: str, numbers: tuple[int, int]) -> None:
    notes = Notes()
    with StandIn(version) as cvat, connect(cvat, Credentials("unknown"), notes) as client:
        assert client.version() == client.version() == numbers
        assert len(cvat.requests) == 1
        assert "Authorization" not in cvat.requests[0].headers
    assert notes.lines == []


@pytest.mark.parametrize("version", ["2.41.3", "2.81.0", "3.0.0"])
def test_other_versions_are_warned_of_once(version: str) -> None:
    notes = Notes()
    with StandIn(version) as cvat, connect(cvat, notes=notes) as client:
        client.version()
        client.version()
    assert len(notes.lines) == 1
    assert f"is CVAT {version}, this client is made for 2.42 to 2.80" in notes.lines[0]


@pytest.mark.parametrize("body", [{}, {"version": None}, [], {"version": "unknown"}])
def test_no_version(body: object) -> None:
    with (
        Script(ok(body)) as server,
        connect(server.url) as client,
        pytest.raises(Unreachable, match="does not say which version"),
    ):
        client.version()


def test_the_clock_of_the_server() -> None:
    date = "Mon, 23 Nov 2026 17:59:27 GMT"
    answers = ok({}, Date=date), ok({}), ok({}, Date="noon")
    with Script(*answers) as server, connect(server.url) as client:
        time = client.server_time()
        assert time is not None
        assert time.isoformat() == "2026-11-23T17:59:27+00:00"
        assert client.server_time() is None
        assert client.server_time() is None


def test_queries_are_spelt_as_the_server_reads_them() -> None:
    with Script(ok({})) as server, connect(server.url) as client:
        client.get("jobs", filter={"==": [{"var": "id"}, 5]}, flag=True, name="a b", none=None)
    assert server.asked[0].path == (
        "/api/jobs?filter=%7B%22%3D%3D%22%3A+%5B%7B%22var%22%3A+%22id%22%7D%2C+5%5D%7D"
        "&flag=true&name=a+b"
    )


def test_bodies_are_compact_json() -> None:
    with Script(ok({"points": [1.0]})) as server, connect(server.url) as client:
        assert client.send("PATCH", "anything/1", {"shapes": [1, 2]}, action="create") == {
            "points": [1.0]
        }
        with pytest.raises(ValueError, match="JSON compliant"):
            client.send("POST", "tasks", {"x": float("nan")})
    assert server.asked[0].body == b'{"shapes":[1,2]}'
    assert server.asked[0].headers["Content-Type"] == "application/json"
    assert server.asked[0].headers["Authorization"] == "Bearer token"
    assert server.asked[0].headers["User-Agent"].startswith("hvsa-cvat/")


# Refusals


def test_refusals_have_their_own_errors(cvat: StandIn) -> None:
    cvat.add_user("bob", groups=["worker"])
    with connect(cvat) as client:
        task = new_task(client)
        with pytest.raises(
            NotFound,
            match=rf"{cvat.url}: GET /api/tasks/99: not found: No Task matches the given query;",
        ):
            client.get("tasks/99")
        with pytest.raises(Refused, match=r"POST /api/projects: refused \(400\): name: This field"):
            client.send("POST", "projects", {})
        with pytest.raises(NotFound):
            client.change("PATCH", "tasks/99", {"name": "a"})
    with (
        connect(cvat, Credentials(cvat.token("bob"))) as client,
        pytest.raises(Forbidden, match=r"may not: You do not have permission.*hvsa-agent doctor"),
    ):
        client.get(f"tasks/{task}")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"detail": "No.\\nReally."}', "No. Really"),
        (b'{"name": ["Long.", "Ugly."], "non_field_errors": ["Bad."]}', "name: Long., Ugly.; Bad"),
        (b'["only", {"a": 1}]', "only, a: 1"),
        (b'"plain"', "plain"),
        (b"Adding more data is not supported", "Adding more data is not supported"),
        (b"<html><head><title>413 Too\nLarge</title></head><body>x</body></html>", "413 Too Large"),
        (b"<!DOCTYPE html><HTML><style>p {}</style><p>a &lt; b</p></HTML>", "a < b"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", "Teapot"),
        (b"x" * 5000, "x" * 297 + "..."),
    ],
)
def test_the_servers_own_words_in_one_line(body: bytes, said: str) -> None:
    answer = (418, {}, body)
    with (
        Script(answer) as server,
        connect(server.url) as client,
        pytest.raises(Refused) as caught,
    ):
        client.get("tasks", search=CANARY)
    message = str(caught.value)
    assert message.startswith(f"{server.url}: GET /api/tasks: refused (418): ")
    assert message.endswith(said) or (not body and message.endswith("I'm a Teapot"))
    assert "\n" not in message
    assert CANARY not in message


def test_redirections_are_not_followed() -> None:
    away = (302, {"Location": f"https://sso.example/login?next={CANARY}"}, b"")
    with Script(away) as server, connect(server.url) as client:
        for call in (lambda: client.get("tasks"), lambda: client.send("POST", "tasks", {})):
            with pytest.raises(Refused, match=r"'https://sso\.example/login'; set the"):
                call()
        with connect(server.url, ANN) as visitor, pytest.raises(Refused, match="set the"):
            visitor.get("tasks")
    assert len(server.asked) == 3


def test_a_web_page_is_no_answer() -> None:
    page = (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>Welcome</html>")
    with Script(page) as server, connect(server.url) as client:
        with pytest.raises(Unreachable, match="web page in place of data"):
            client.get("tasks")
        with pytest.raises(Uncertain, match="web page"):
            client.send("POST", "tasks", {})
    assert len(server.asked) == 2


# What fails and is sent again

ALL = list(Fault)
BUSY, ERROR, SILENCE = Fault.BUSY, Fault.ERROR, Fault.SILENCE


def timeouts(fault: Fault) -> tuple[float, float]:
    """Short only where nobody will answer."""
    return (5, 0.3) if "SILENCE" in fault.name else (5, 60)


@pytest.mark.parametrize("password", [False, True], ids=["token", "password"])
@pytest.mark.parametrize(
    "fault", [f for f in ALL if f is SILENCE or not f.acts], ids=lambda fault: fault.name
)
def test_reading_outlives_every_fault(
    cvat: StandIn, fault: Fault, password: bool, tmp_path: Path
) -> None:
    frames = [np.full((4, 6, 3), i, np.uint8) for i in range(3)]
    task = cvat.add_task("clip", ["road"], frames)
    notes = Notes()
    data = {"type": "chunk", "number": 0, "quality": "original"}
    credentials = by_password(cvat) if password else None
    with connect(cvat, credentials, notes, timeouts=timeouts(fault)) as client:
        cvat.faults = lambda request: None if request.number % 2 else fault
        calls: list[Callable[[], object]] = [
            lambda: client.version(),
            lambda: client.me(),
            lambda: client.get(f"tasks/{task.id}"),
            lambda: client.rows("jobs", task_id=task.id),
            lambda: client.download(f"tasks/{task.id}/data", tmp_path / "chunk.zip", **data),
        ]
        for call in calls:
            before = len(cvat.requests)
            call()
            assert len(cvat.requests) - before in (2, 4)
    asked = 5 + password
    assert len(notes.lines) == len(notes.pauses) == asked
    assert all(line.startswith(f"{cvat.url}: ") and "(1 of 6)" in line for line in notes.lines)
    assert [file.name for file in tmp_path.iterdir()] == ["chunk.zip"]


@pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.name)
def test_changes_are_repeated(cvat: StandIn, fault: Fault) -> None:
    task = cvat.add_task("clip")
    with connect(cvat, timeouts=timeouts(fault)) as client:
        for method, body in (("PATCH", {"name": "new"}), ("DELETE", None)):
            cvat.faults = {len(cvat.requests): fault}
            if fault is ERROR:
                with pytest.raises(Unreachable, match="answered 500: a gateway speaks"):
                    client.change(method, f"tasks/{task.id}", body)
                continue
            client.change(method, f"tasks/{task.id}", body)
            if method == "PATCH":
                assert cvat.task(task.id).name == "new"
        assert (task.id in cvat.world.tasks) == (fault is ERROR)
        assert len(cvat.requests) == (2 if fault is ERROR else 4)


def test_what_is_gone_is_deleted(cvat: StandIn) -> None:
    with connect(cvat) as client:
        assert client.change("DELETE", "tasks/99") is None


@pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.name)
def test_a_write_is_sent_once(cvat: StandIn, fault: Fault) -> None:
    notes = Notes()
    with connect(cvat, notes=notes, timeouts=timeouts(fault)) as client:
        cvat.faults = {0: fault}
        if fault is BUSY:
            new_task(client)
        else:
            with pytest.raises(Uncertain, match="may have been carried out or not"):
                new_task(client)
    assert len(cvat.world.tasks) == (fault.acts or fault is BUSY)
    assert len(cvat.requests) == (2 if fault is BUSY else 1)
    assert len(notes.lines) == (fault is BUSY)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.name)
def test_what_is_created_is_there_once(cvat: StandIn, fault: Fault, number: int) -> None:
    """Whichever request fails: the lookup, the creation, the lookup after it, the next."""

    def find() -> Json | None:
        rows = client.rows("tasks", filter={"==": [{"var": "tracker_link"}, "key"]})
        return rows[0] if rows else None

    body = {"name": "child", "bug_tracker": "key", "labels": [{"name": "road"}]}
    with connect(cvat, timeouts=timeouts(fault)) as client:
        cvat.faults = {1: Fault.LATE, number: fault} if number > 1 else {number: fault}
        row = client.create("tasks", body, find)
        assert client.create("tasks", body, find)["id"] == row["id"]
    assert [task.bug_tracker for task in cvat.world.tasks.values()] == ["key"]


def test_a_creation_that_is_still_under_way_is_waited_for(cvat: StandIn) -> None:
    late: list[Json | None] = [None, None, None, {"id": 5}]
    notes = Notes()
    with connect(cvat, notes=notes) as client:
        cvat.faults = {0: Fault.LATE}
        assert client.create("tasks", {"name": "t"}, lambda: late.pop(0)) == {"id": 5}
    assert len(cvat.requests) == 1
    assert notes.pauses == [0.0, 2.0, 8.0]


def test_creating_ends(cvat: StandIn) -> None:
    with connect(cvat) as client:
        cvat.faults = lambda request: Fault.BAD_GATEWAY
        with pytest.raises(Uncertain):
            client.create("tasks", {"name": "t"}, lambda: None)
        assert len(cvat.requests) == 3
        cvat.faults = {}
        with pytest.raises(Refused):
            client.create("projects", {}, lambda: None)
        assert len(cvat.requests) == 4


def test_a_dead_server_is_given_up(cvat: StandIn) -> None:
    notes = Notes()
    with connect(cvat, notes=notes) as client:
        cvat.down()
        for call in (lambda: client.get("tasks"), lambda: new_task(client)):
            notes.lines.clear()
            notes.pauses.clear()
            with pytest.raises(Unreachable, match="no connection: Connection refused; check that"):
                call()
            assert len(notes.lines) == len(notes.pauses) == 5
            ceilings = (1, 2, 4, 8, 16)
            assert all(0 < p < top for p, top in zip(notes.pauses, ceilings, strict=True))
        assert notes.lines[0] == (
            f"{cvat.url}: POST /api/tasks: no connection: Connection refused; "
            f"again in {notes.pauses[0]:.1f} s (1 of 6)"
        )


def test_what_did_not_leave_is_sent_when_the_server_is_back(cvat: StandIn) -> None:
    with connect(cvat, sleep=lambda _: cvat.up()) as client:
        cvat.down()
        new_task(client)
    assert len(cvat.world.tasks) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "10"}, 10),
        ({"Retry-After": "86400"}, 60),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "soon"}, 0),
        ({}, 0),
        (
            {
                "Retry-After": "Mon, 23 Nov 2026 18:00:07 GMT",
                "Date": "Mon, 23 Nov 2026 18:00:00 GMT",
            },
            7,
        ),
        ({"Retry-After": "Mon, 23 Nov 2026 18:00:07 GMT"}, 0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_server_says_when_to_come_back(
    headers: dict[str, str], seconds: float, status: int
) -> None:
    notes = Notes()
    with (
        Script((status, headers, b""), ok([])) as server,
        connect(server.url, notes=notes) as client,
    ):
        assert client.get("tasks") == []
    assert seconds < notes.pauses[0] < seconds + 1


def test_a_write_waits_for_a_server_that_says_when(cvat: StandIn) -> None:
    later = (503, {"Retry-After": "3"}, b"")
    with Script(later, ok({"id": 1})) as server, connect(server.url) as client:
        assert client.send("POST", "tasks", {}) == {"id": 1}
    with (
        Script((503, {}, b""), ok({"id": 1})) as server,
        connect(server.url) as client,
        pytest.raises(Uncertain),
    ):
        client.send("POST", "tasks", {})


def test_repetitions_are_spread_at_random() -> None:
    def pauses(seed: int) -> list[float]:
        slept: list[float] = []
        with (
            Script((502, {}, b"")) as server,
            CvatClient(
                Address(server.url),
                Credentials("token"),
                sleep=slept.append,
                rng=random.Random(seed),
            ) as client,
            pytest.raises(Unreachable),
        ):
            client.get("tasks")
        return slept

    assert pauses(1) == pauses(1) != pauses(2)


def test_every_call_ends_in_time(tmp_path: Path) -> None:
    """Nobody answers: not while connecting by TLS, not to a login, an upload or a download."""
    [file] = pictures(tmp_path / "in", 1)
    with StandIn() as cvat:
        cvat.faults = lambda request: Fault.SILENCE
        for credentials in (Credentials("token"), by_password(cvat)):
            with connect(cvat, credentials, timeouts=(0.02, 0.02)) as client:
                reads: list[Callable[[], object]] = [
                    client.version,
                    client.me,
                    client.server_time,
                    lambda: client.get("tasks"),
                    lambda: client.rows("tasks"),
                    lambda: client.download("tasks/1/data", tmp_path / "out"),
                    lambda: client.change("PATCH", "tasks/1", {}),
                ]
                for call in reads:
                    with pytest.raises(Unreachable, match=r"no answer within 0\.02 s"):
                        call()
                writes: list[Callable[[], object]] = [
                    lambda: client.send("POST", "tasks", {}),
                    lambda: client.upload(1, [file], {"image_quality": 95}, silent, "upload"),
                ]
                unsure = Uncertain if credentials.token else Unreachable
                for call in writes:
                    with pytest.raises(unsure, match=r"no answer within 0\.02 s"):
                        call()


# Lists


def test_long_lists_are_read_page_by_page(cvat: StandIn) -> None:
    numbers = [cvat.add_project(f"p{i}").id for i in range(230)]
    with connect(cvat) as client:
        assert [row["id"] for row in client.rows("projects")] == numbers
        assert [r.query["page"] for r in cvat.requests] == ["1", "2", "3"]
        assert {(r.query["page_size"], r.query["sort"]) for r in cvat.requests} == {("100", "id")}
        assert client.rows("projects", name="nobody") == []


@pytest.mark.parametrize("page", ["2", "3"])
def test_a_list_that_moves_under_the_reader_is_read_again(cvat: StandIn, page: str) -> None:
    numbers = [cvat.add_project(f"p{i}").id for i in range(201)]
    notes = Notes()

    def somebody_deletes(request: Request) -> None:
        if request.query.get("page") == page and numbers[0] in cvat.world.projects:
            del cvat.world.projects[numbers[0]]

    with connect(cvat, notes=notes) as client:
        cvat.before_request = somebody_deletes
        assert [row["id"] for row in client.rows("projects")] == numbers[1:]
    assert len(notes.lines) == 1
    assert "changed while it was read" in notes.lines[0]


def test_a_row_that_moves_up_the_list_is_noticed() -> None:
    """One row leaves the filter, one enters before the page's end: the count stays."""

    def page(ids: range, last: bool) -> tuple[int, dict[str, str], bytes]:
        rows = [{"id": i} for i in ids]
        return ok({"count": 150, "next": None if last else "more", "results": rows})

    moved = page(range(100), False), page(range(99, 149), True)
    still = page(range(100), False), page(range(100, 150), True)
    with Script(*moved, *still) as server, connect(server.url) as client:
        assert [row["id"] for row in client.rows("anything")] == list(range(150))


def test_a_list_that_never_rests_is_given_up(cvat: StandIn) -> None:
    for i in range(101):
        cvat.add_project(f"p{i}")
    cvat.after_request = lambda request: cvat.add_project("more")
    with connect(cvat) as client, pytest.raises(Unreachable, match="during each of 5 readings"):
        client.rows("projects")


@pytest.mark.parametrize("body", [[], {}, {"results": [1]}, {"count": 0, "results": []}, "text"])
def test_what_is_no_list(body: object) -> None:
    with (
        Script(ok(body)) as server,
        connect(server.url) as client,
        pytest.raises(Unreachable, match="GET /api/tasks: an answer that no CVAT sends"),
    ):
        client.rows("tasks")


# Downloads


def test_a_truncated_body_is_fetched_again(tmp_path: Path) -> None:
    short = (200, {"Content-Length": "10"}, b"01234")
    whole = (200, {"X-Checksum": "7"}, b"0123456789")
    notes = Notes()
    with Script(short, whole) as server, connect(server.url, notes=notes) as client:
        headers = client.download("tasks/1/data", tmp_path / "deep" / "chunk")
        assert headers["x-checksum"] == "7"
    assert (tmp_path / "deep" / "chunk").read_bytes() == b"0123456789"
    assert len(list((tmp_path / "deep").iterdir())) == 1
    assert "the connection broke" in notes.lines[0]
    short = (200, {"Content-Length": "10", "Content-Type": "application/json"}, b"[1,2")
    with Script(short, ok([1])) as server, connect(server.url) as client:
        assert client.get("tasks") == [1]
    with Script((200, {}, b'{"id": 1'), ok({"id": 1})) as server, connect(server.url) as client:
        assert client.get("anything/1") == {"id": 1}
        assert len(server.asked) == 2
    with Script(short) as server, connect(server.url) as client, pytest.raises(Uncertain):
        client.send("POST", "tasks", {})


def test_a_failed_download_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "chunk"
    target.write_bytes(b"old")
    for answer in ((200, {"Content-Length": "10"}, b"01234"), (404, {}, b"")):
        with (
            Script(answer) as server,
            connect(server.url) as client,
            pytest.raises(ServerError),
        ):
            client.download("tasks/1/data", target)
        assert target.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [target]


def test_no_room_for_a_download_is_said_at_once(cvat: StandIn, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with connect(cvat) as client, pytest.raises(HvsaError, match="cannot write"):
        client.download("server/about", tmp_path / "file" / "chunk")
    assert len(cvat.requests) == 1


# Uploads


def test_files_become_frames(cvat: StandIn, tmp_path: Path) -> None:
    files = pictures(tmp_path, 230)
    names = [file.name for file in files]
    seen: list[tuple[str, int, int]] = []
    data = {"image_quality": 95, "job_file_mapping": [names[120:], names[:120]]}
    with connect(cvat, by_password(cvat)) as client:
        task = new_task(client)
        client.upload(task, files, data, lambda *step: seen.append(step), "upload")
        assert client.get(f"tasks/{task}")["size"] == 230
        assert [row["frame_count"] for row in client.rows("jobs", task_id=task)] == [110, 120]
        meta = client.get(f"tasks/{task}/data/meta")
    assert [frame["name"] for frame in meta["frames"]] == names[120:] + names[:120]
    assert meta["image_quality"] == 95
    assert seen == [("upload", done, 230) for done in (0, 100, 200, 230)]


def test_groups_are_bounded_by_size(
    cvat: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pictures(tmp_path, 7)
    size = max(file.stat().st_size for file in files)
    monkeypatch.setattr("hvsa_cvat.cvat.http.upload._GROUP_BYTES", 3 * size)
    with connect(cvat) as client:
        task = new_task(client)
        client.upload(task, files, {"image_quality": 70}, silent, "upload")
        sent = [r for r in cvat.requests if "Upload-Multiple" in r.headers]
        assert [r.body.count(b'filename="p') for r in sent] == [3, 3, 1]
    monkeypatch.setattr("hvsa_cvat.cvat.http.upload._GROUP_BYTES", 1)
    with connect(cvat) as client:
        client.upload(new_task(client), files[:2], {"image_quality": 70}, silent, "upload")
        assert cvat.task(2).media is not None


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.name)
def test_a_half_upload_is_never_continued(
    cvat: StandIn, tmp_path: Path, fault: Fault, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start, two groups, finish: whichever fails, nothing is sent twice into one task."""
    monkeypatch.setattr("hvsa_cvat.cvat.http.upload._GROUP_FILES", 2)
    files = pictures(tmp_path, 3)
    originals = {file.name: file.read_bytes() for file in files}
    with connect(cvat, timeouts=timeouts(fault)) as client:
        for round_ in range(2):
            task = new_task(client)
            cvat.faults = {1 + number: fault}
            if fault is BUSY or round_ == 1:
                client.upload(task, files, {"image_quality": 95}, silent, "upload")
                break
            mend = f"task {task} is half uploaded: delete it and make it anew"
            with pytest.raises(Uncertain, match=mend):
                client.upload(task, files, {"image_quality": 95}, silent, "upload")
            client.change("DELETE", f"tasks/{task}")
        assert cvat.task(task).uploads == originals
        assert client.get(f"tasks/{task}")["size"] == 3
    assert len(cvat.world.tasks) == 1


def test_a_failed_task_says_why(cvat: StandIn, tmp_path: Path) -> None:
    files = pictures(tmp_path, 1)
    with connect(cvat) as client:
        task = new_task(client)
        data = {"image_quality": 95, "job_file_mapping": [["absent.png"]]}
        with pytest.raises(Refused, match=rf"files of task {task}: .*absent\.png.*delete the task"):
            client.upload(task, files, data, silent, "upload")
        task = new_task(client)
        with pytest.raises(Refused, match=r"refused \(400\): job_file_mapping"):
            client.upload(task, files, {**data, "job_file_mapping": [[]]}, silent, "upload")


def test_the_task_tells_when_its_request_is_forgotten(cvat: StandIn, tmp_path: Path) -> None:
    files = pictures(tmp_path, 2)
    with connect(cvat) as client:
        task = new_task(client)

        def forget(request: Request) -> None:
            if request.path.startswith("/api/requests/"):
                cvat.world.backgrounds.clear()

        cvat.before_request = forget
        client.upload(task, files, {"image_quality": 95}, silent, "upload")
        assert client.get(f"tasks/{task}")["size"] == 2

        def lose(request: Request) -> None:
            if request.path.startswith("/api/requests/"):
                cvat.world.backgrounds.clear()
                cvat.world.tasks[second].media = None

        second = new_task(client)
        cvat.before_request = lose
        with pytest.raises(Uncertain, match=f"to task {second}: delete it and make it anew"):
            client.upload(second, files, {"image_quality": 95}, silent, "upload")


def test_a_request_that_is_there_already_is_waited_for(tmp_path: Path) -> None:
    files = pictures(tmp_path, 1)
    conflict = (409, {}, json.dumps({"rq_id": "a=b&c"}).encode())
    done = ok({"status": "finished"})
    answers = (202, {}, b""), ok(None), conflict, done
    with Script(*answers) as server, connect(server.url) as client:
        client.upload(5, files, {"image_quality": 95}, silent, "upload")
    assert server.asked[-1].path == "/api/requests/a%3Db%26c"
    for odd in ((409, {}, b'"busy"'), (202, {}, b""), ok({})):
        with (
            Script((202, {}, b""), ok(None), odd) as server,
            connect(server.url) as client,
            pytest.raises(Uncertain, match="task 5 is half uploaded"),
        ):
            client.upload(5, files, {"image_quality": 95}, silent, "upload")


def test_a_server_without_a_worker_is_not_waited_for_forever(tmp_path: Path) -> None:
    files = pictures(tmp_path, 1)
    accepted = ok({"rq_id": "x"})
    notes = Notes()
    with (
        Script((202, {}, b""), ok(None), accepted, ok({"status": "queued"})) as server,
        connect(server.url, notes=notes) as client,
        pytest.raises(Unreachable, match="task 5 within 60 minutes; check that its import worker"),
    ):
        client.upload(5, files, {"image_quality": 95}, silent, "upload")
    assert 3600 <= sum(notes.pauses) < 3610


def test_uploads_that_cannot_be(cvat: StandIn, tmp_path: Path) -> None:
    with connect(cvat) as client:
        [first] = pictures(tmp_path / "a", 1)
        [second] = pictures(tmp_path / "b", 1)
        with pytest.raises(ValueError, match="same name"):
            client.upload(1, [first, second], {"image_quality": 95}, silent, "upload")
        assert cvat.requests == []
        task = new_task(client)
        with pytest.raises(MediaError, match=r"cannot read .*absent\.png"):
            client.upload(task, [tmp_path / "absent.png"], {"image_quality": 95}, silent, "up")


# Certificates


def test_a_private_authority_is_trusted_when_named(tmp_path: Path) -> None:
    ca, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca, key)
    with StandIn(tls=context) as cvat:
        for credentials in (Credentials(cvat.admin.token), by_password(cvat)):
            with connect(cvat, credentials, ca=ca) as client:
                assert client.version() == (2, 54)
                assert new_task(client)
        notes = Notes()
        with connect(cvat, notes=notes) as client:
            with pytest.raises(Untrusted, match=r"not trusted.*give the file of its authority"):
                client.get("tasks")
            with pytest.raises(Untrusted):
                new_task(client)
        assert notes.lines == []
        by_number = cvat.url.replace("localhost", "127.0.0.1")
        with (
            connect(by_number, ca=ca) as client,
            pytest.raises(Untrusted, match="use the address that the certificate names"),
        ):
            client.version()


def test_https_where_there_is_none(cvat: StandIn) -> None:
    notes = Notes()
    with (
        connect(cvat.url.replace("http:", "https:"), notes=notes) as client,
        pytest.raises(Unreachable, match="no https there; write http://"),
    ):
        client.version()
    assert notes.lines == []


# Secrets


def chain_of(error: BaseException | None) -> Iterator[str]:
    yield from traceback.format_exception(error)
    while error is not None:
        yield f"{error} {error!r}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "answer",
    [
        *[(status, {}, b"ECHO") for status in (400, 401, 403, 404, 409, 429, 500, 502, 503)],
        (500, {"Content-Type": "text/html"}, b"<html><title>ECHO</title></html>"),
        (418, {"Content-Type": "application/json"}, b'{"detail": "{}'),
        (302, {"Location": f"http://elsewhere/{CANARY}"}, b""),
        (200, {"Content-Length": "1000000"}, b"ECHO"),
        (200, {"Content-Type": "text/html"}, b"ECHO"),
        (200, {}, b"ECHO"),
    ],
    ids=lambda answer: f"{answer[0]}",
)
@pytest.mark.parametrize("by", ["token", "password", "session"])
def test_nothing_shows_a_secret(
    answer: tuple[int, dict[str, str], bytes], by: str, tmp_path: Path
) -> None:
    """Through every failure of every call, even where the server repeats what we sent."""
    [file] = pictures(tmp_path / "in", 1)
    notes = Notes()
    cookies = f"sessionid={CANARY}; Path=/, csrftoken={CANARY}; Path=/"
    opened = [(200, {"Set-Cookie": c}, b"{}") for c in [cookies] if by == "session"]
    credentials = Credentials(CANARY) if by == "token" else Credentials(None, "ann", CANARY)
    with Script(*opened, answer) as server, connect(server.url, credentials, notes) as client:
        calls: list[Callable[[], object]] = [
            lambda: client.get("tasks"),
            lambda: client.rows("tasks"),
            lambda: client.download("tasks/1/data", tmp_path / "out"),
            lambda: client.change("PATCH", "tasks/1", {"name": "x"}),
            lambda: client.send("POST", "tasks", {"name": "x"}),
            lambda: client.create("tasks", {"name": "x"}, lambda: None),
            lambda: client.upload(1, [file], {"image_quality": 9}, silent, "upload"),
            client.me,
            client.version,
            client.login,
        ]
        seen = [repr(client), str(client), repr(credentials), repr(client.address)]
        for call in calls:
            try:
                call()
            except HvsaError as error:
                seen.extend(chain_of(error))
        seen.extend(notes.lines)
    assert not [text for text in seen if CANARY in text]
    assert not [line for line in notes.lines if "\n" in line]
    assert len(seen) > 4
