import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hvsa_cvat.cvat.doctor import Finding, examine
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.http.exchange import Json
from tests.certificates import self_signed
from tests.standin import Fault, StandIn

NOW = datetime(2026, 11, 23, 18, 0, tzinfo=UTC)

NAMES = [
    "server",
    "encryption",
    "version",
    "cvat-sdk",
    "clock",
    "login",
    "token",
    "organisation",
    "create tasks",
    "tasks of others",
    "guides",
    "webhooks",
    "assigning",
]


def findings(
    url: str, credentials: Credentials, organization: str | None = None, ca: Path | None = None
) -> dict[str, Finding]:
    address = Address(url, organization, ca)
    with CvatClient(address, credentials, sleep=lambda _: None, timeouts=(5, 60)) as client:
        found = list(examine(client, lambda: NOW))
    assert [finding.name for finding in found] == NAMES
    for finding in found:
        assert finding.text
        assert "\n" not in finding.text
        assert (finding.fix is None) == (finding.level == "ok")
    return {finding.name: finding for finding in found}


def levels(found: dict[str, Finding], *names: str) -> list[str]:
    return [found[name].level for name in names or NAMES]


@pytest.fixture
def cvat() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


class Fake:
    """Answers paths from a table, with a clock; what the table lacks is 404."""

    def __init__(self, answers: Json, date: str | None = "Mon, 23 Nov 2026 18:00:00 GMT") -> None:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

            def do_GET(self) -> None:
                path = self.path.removeprefix("/api/").partition("?")[0]
                content = json.dumps(answers.get(path, {"detail": "Not found."})).encode()
                self.send_response_only(200 if path in answers else 404)
                if date:
                    self.send_header("Date", date)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> "Fake":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


ABOUT = {"version": "2.54.1"}
ADMIN = {"id": 1, "username": "admin", "groups": ["admin"], "is_superuser": True}
TOKEN = {"read_only": False, "expiry_date": None}


def healthy(**others: Any) -> Json:
    return {
        "server/about": ABOUT,
        "users/self": ADMIN,
        "auth/access_tokens/self": TOKEN,
        **{name.replace("__", "/"): value for name, value in others.items()},
    }


def test_all_is_well() -> None:
    with Fake(healthy()) as server:
        found = findings(server.url, Credentials("token"))
    assert set(levels(found)) == {"ok"}
    assert found["server"].text == f"{server.url} answers: CVAT 2.54"
    assert found["login"].text == "logged in as admin (admin on this server) by an access token"


def test_an_examination_leaves_nothing_behind(cvat: StandIn) -> None:
    before = cvat.snapshot()
    findings(cvat.url, Credentials(cvat.admin.token))
    findings(cvat.url, Credentials(user=cvat.admin.name, password=cvat.admin.password))
    written = [r for r in cvat.requests if r.method != "GET"]
    assert [r.path for r in written] == ["/api/auth/login"]
    assert len(cvat.world.projects) == len(before.projects) == 0


# Rights: create tasks, tasks of others, guides, webhooks, assigning

RIGHTS = NAMES[-5:]
OK, WARNING, FAILURE = "ok", "warning", "failure"


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("admin", [OK, OK, OK, OK, OK]),
        ("business", [OK, WARNING, OK, OK, WARNING]),
        ("user", [OK, WARNING, OK, OK, WARNING]),
        ("worker", [FAILURE, WARNING, FAILURE, WARNING, WARNING]),
    ],
)
def test_rights_in_the_personal_space(cvat: StandIn, group: str, expected: list[str]) -> None:
    ann = cvat.add_user("ann", groups=[group])
    found = findings(cvat.url, Credentials(ann.token))
    assert levels(found, *RIGHTS) == expected
    assert found["organisation"].level == "ok"


@pytest.mark.parametrize(
    ("group", "role", "expected"),
    [
        ("user", "maintainer", [OK, OK, OK, OK, OK]),
        ("user", "supervisor", [OK, WARNING, OK, OK, OK]),
        ("user", "worker", [FAILURE, WARNING, OK, OK, OK]),
        ("worker", "maintainer", [FAILURE, WARNING, FAILURE, OK, OK]),
        ("admin", "worker", [OK, OK, OK, OK, OK]),
    ],
)
def test_rights_in_an_organisation(
    cvat: StandIn, group: str, role: str, expected: list[str]
) -> None:
    ann = cvat.add_user("ann", groups=[group])
    cvat.add_organization("acme", members={"ann": role})
    cvat.add_organization("other", members={"ann": "owner"})
    found = findings(cvat.url, Credentials(ann.token), "acme")
    assert levels(found, *RIGHTS) == expected
    assert found["organisation"].text == f"acme, as {role}"


def test_what_is_granted_can_be_done(cvat: StandIn) -> None:
    """The rules here and those of the server agree."""
    cvat.add_user("bob")
    for group, role in (("user", "maintainer"), ("user", "supervisor"), ("user", "worker")):
        name = f"{group}-{role}"
        account = cvat.add_user(name, groups=[group])
        cvat.add_organization(f"of-{name}", members={name: role, "bob": "worker"})
        credentials = Credentials(account.token)
        found = findings(cvat.url, credentials, f"of-{name}")
        with CvatClient(Address(cvat.url, f"of-{name}"), credentials) as client:
            if found["create tasks"].level != "ok":
                with pytest.raises(Exception, match="may not"):
                    client.send("POST", "projects", {"name": "p"})
                continue
            project = client.send("POST", "projects", {"name": "p", "labels": [{"name": "road"}]})
            client.send("POST", "tasks", {"name": "t", "project_id": project["id"]})
            client.send("POST", "guides", {"project_id": project["id"], "markdown": "x"})
            hook = {"target_url": "http://localhost/", "type": "project", "events": ["update:job"]}
            client.send("POST", "webhooks", {**hook, "project_id": project["id"]})


def test_outside_the_organisation(cvat: StandIn) -> None:
    ann = cvat.add_user("ann")
    cvat.add_organization("acme")
    for slug, reason in (("acme", "active member"), ("nobody", "does not exist")):
        found = findings(cvat.url, Credentials(ann.token), slug)
        assert found["login"].level == "ok"
        assert found["organisation"].level == "failure"
        assert reason in found["organisation"].text
        assert {found[name].text for name in RIGHTS} == {
            f"not checked: no role in organisation {slug}"
        }
    nobody: Json = {"count": 0, "next": None, "results": []}
    ann_self = {"id": 2, "username": "ann", "groups": ["user"]}
    with Fake(healthy(users__self=ann_self, memberships=nobody)) as server:
        found = findings(server.url, Credentials("token"), "acme")
    assert found["organisation"].text == "ann is no member of organisation acme"
    assert set(levels(found, *RIGHTS)) == {"warning"}
    with Fake(healthy(memberships=nobody)) as server:
        found = findings(server.url, Credentials("token"), "acme")
    assert found["organisation"].text == "acme, as administrator of the server"
    assert set(levels(found, *RIGHTS)) == {"ok"}


# The server and the login


def test_a_dead_server(cvat: StandIn) -> None:
    cvat.down()
    found = findings(cvat.url, Credentials(cvat.admin.token))
    assert found["server"].level == "failure"
    assert "Connection refused" in found["server"].text
    assert {found[name].text for name in NAMES[2:]} == {
        "not checked: no usable answer from the server"
    }


def test_a_wrong_login_does_not_hide_the_rest(cvat: StandIn) -> None:
    for credentials, reason in (
        (Credentials("nonsense"), "Invalid token"),
        (Credentials(user="admin", password="nonsense"), "Unable to log in"),
    ):
        found = findings(cvat.url, credentials)
        assert levels(found, "server", "version", "cvat-sdk") == ["ok"] * 3
        assert found["login"].level == "failure"
        assert reason in found["login"].text
        assert {found[name].text for name in NAMES[6:]} == {"not checked: no login"}
        assert "nonsense" not in str(found)


@pytest.mark.parametrize("version", ["2.42.0", "2.54.1", "2.80.3"])
def test_known_versions(version: str) -> None:
    with Fake(healthy(server__about={"version": version})) as server:
        assert levels(findings(server.url, Credentials("t")), "version", "cvat-sdk") == ["ok"] * 2


@pytest.mark.parametrize(
    ("version", "expected"),
    [("2.41.0", ["failure", "ok"]), ("2.99.0", ["warning", "warning"]), ("3.0.0", ["warning"] * 2)],
)
def test_other_versions(version: str, expected: list[str]) -> None:
    with Fake(healthy(server__about={"version": version})) as server:
        assert levels(findings(server.url, Credentials("t")), "version", "cvat-sdk") == expected


@pytest.mark.parametrize(
    ("minutes", "seconds", "level", "text"),
    [
        (0, 29, "ok", "differ by less than 30 s"),
        (0, 31, "warning", "31 s ahead of"),
        (-1, 0, "warning", "60 s behind"),
        (-11, 0, "failure", "660 s behind"),
    ],
)
def test_clocks(minutes: int, seconds: int, level: str, text: str) -> None:
    date = NOW - timedelta(minutes=minutes, seconds=seconds)
    with Fake(healthy(), f"{date:%a, %d %b %Y %H:%M:%S} GMT") as server:
        clock = findings(server.url, Credentials("t"))["clock"]
    assert clock.level == level
    assert text in clock.text


def test_a_server_without_a_clock() -> None:
    with Fake(healthy(), date=None) as server:
        assert findings(server.url, Credentials("t"))["clock"].level == "warning"


@pytest.mark.parametrize(
    ("token", "level", "text"),
    [
        ({"read_only": True, "expiry_date": None}, "failure", "can only read"),
        ({"read_only": False, "expiry_date": None}, "ok", "does not expire"),
        (
            {"read_only": False, "expiry_date": "2027-06-01T00:00:00.5Z"},
            "ok",
            "expires on 2027-06-01",
        ),
        (
            {"read_only": False, "expiry_date": "2026-12-01T00:00:00Z"},
            "warning",
            "expires on 2026-12-01",
        ),
    ],
)
def test_tokens(token: Json, level: str, text: str) -> None:
    with Fake(healthy(auth__access_tokens__self=token)) as server:
        found = findings(server.url, Credentials("t"))["token"]
    assert found.level == level
    assert text in found.text


def test_a_server_that_knows_nothing_of_its_tokens() -> None:
    answers = healthy()
    del answers["auth/access_tokens/self"]
    with Fake(answers) as server:
        assert findings(server.url, Credentials("t"))["token"].level == "warning"


def test_no_token_is_none_to_judge(cvat: StandIn) -> None:
    found = findings(cvat.url, Credentials(user=cvat.admin.name, password=cvat.admin.password))
    assert found["token"].text == "none in use"
    assert "by user name and password" in found["login"].text


@pytest.mark.parametrize("path", ["users/self", "auth/access_tokens/self", "memberships"])
@pytest.mark.parametrize("answer", [[], {}, None, "text", {"groups": 3}])
def test_odd_answers_do_not_stop_the_others(path: str, answer: Any) -> None:
    with Fake({**healthy(), path: answer}) as server:
        found = findings(server.url, Credentials("t"), "acme")
    assert levels(found, "server", "version", "clock") == ["ok"] * 3
    assert "failure" in levels(found)


def test_every_request_fails_once_in_turn(cvat: StandIn) -> None:
    well = findings(cvat.url, Credentials(cvat.admin.token))
    for number in range(len(cvat.requests)):
        cvat.requests.clear()
        cvat.faults = {number: Fault.ERROR}
        assert findings(cvat.url, Credentials(cvat.admin.token)) == well


# Encryption


def test_plain_http_stays_on_this_machine() -> None:
    with Fake(healthy()) as server:
        assert findings(server.url, Credentials("t"))["encryption"].level == "ok"
    found = findings("http://host.invalid", Credentials("t"))
    assert found["encryption"].level == "warning"
    assert "not encrypted" in found["encryption"].text
    found = findings("https://host.invalid", Credentials("t"))
    assert found["encryption"].text == "not checked: no connection"


def test_certificates(tmp_path: Path) -> None:
    ca, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca, key)
    with StandIn(tls=context) as cvat:
        credentials = Credentials(cvat.admin.token)
        found = findings(cvat.url, credentials, ca=ca)
        assert found["encryption"].level == "ok"
        assert "ca.pem" in found["encryption"].text
        found = findings(cvat.url, credentials)
        assert levels(found, "server", "encryption") == ["failure", "failure"]
        assert "not trusted" in found["encryption"].text
