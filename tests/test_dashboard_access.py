"""Who may see the dashboard's pages and change something there, and how they are served."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from hvsa_cvat.cli import main
from hvsa_cvat.dashboard.access import COOKIE, is_loopback
from hvsa_cvat.dashboard.serve import check_token, parse_address, parse_prefix
from hvsa_cvat.dashboard.site import SiteOptions
from hvsa_cvat.errors import ConfigError
from tests.lead import DONE, Filled
from tests.test_dashboard import Clock, browsing, form_value, judged, page

TOKEN = "a token that nobody guesses"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def locked(filled: Filled, clock: Clock) -> Iterator[TestClient]:
    with browsing(filled, SiteOptions(patience=60, token=TOKEN), clock) as client:
        yield client


def log_in(client: TestClient, token: str = TOKEN, goal: str = "/") -> int:
    return client.post("/login", data={"token": token, "next": goal}).status_code


def test_without_the_token_nothing_is_shown(locked: TestClient) -> None:
    for path in ("/", f"/tasks/{DONE}", "/system", "/review", f"/tasks/{DONE}/report.csv"):
        answer = locked.get(path)
        assert answer.status_code == 303
        assert answer.headers["location"] == f"/login?next={path}"
        assert "clip" not in answer.text
    assert locked.get(f"/tasks/{DONE}/pictures/0/0/image").status_code == 401
    assert locked.post(f"/tasks/{DONE}/seen", data={}).status_code == 401
    assert locked.get("/health").text == "ok\n"


def test_the_token_opens_the_pages(locked: TestClient) -> None:
    assert "Token" in page(locked, "/login")
    answer = locked.post("/login", data={"token": TOKEN, "next": f"/tasks/{DONE}"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/tasks/{DONE}")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert "Secure" not in cookie
    assert "Log out" in page(locked, "/")
    assert locked.get("/login").status_code == 303


def test_behind_a_proxy_that_encrypts_the_cookie_is_secure(locked: TestClient) -> None:
    answer = locked.post("/login", data={"token": TOKEN}, headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in answer.headers["set-cookie"]


def test_a_wrong_token_is_refused_and_soon_not_looked_at(locked: TestClient, clock: Clock) -> None:
    for wrong in ("", "guess", TOKEN + "x", "\u00e9" * 20, *["again"] * 6):
        assert log_in(locked, wrong) == 403
    assert log_in(locked, TOKEN) == 429
    assert locked.get("/").status_code == 303
    clock.time += 61
    assert log_in(locked, TOKEN) == 303
    assert locked.get("/").status_code == 200


def test_a_login_ends(locked: TestClient, clock: Clock) -> None:
    assert log_in(locked) == 303
    clock.time += 11 * 3600
    assert locked.get("/").status_code == 200
    clock.time += 2 * 3600
    assert locked.get("/").status_code == 303


def test_a_login_outlives_a_restart_but_no_other_token(filled: Filled, clock: Clock) -> None:
    with browsing(filled, SiteOptions(patience=60, token=TOKEN), clock) as first:
        log_in(first)
        cookie = first.cookies[COOKIE]
    for token, status in ((TOKEN, 200), (TOKEN + " another", 303)):
        with browsing(filled, SiteOptions(patience=60, token=token), clock) as client:
            assert client.get("/", headers={"Cookie": f"{COOKIE}={cookie}"}).status_code == status


@pytest.mark.parametrize(
    "cookie", ["", "x", "1.2.3", "2000000000.aa.bb", "9" * 5000, "..", "é.é.é"]
)
def test_made_up_cookies_open_nothing(locked: TestClient, cookie: str) -> None:
    header = f"{COOKIE}={cookie}".encode()
    assert locked.get("/", headers={b"Cookie": header}).status_code == 303


def test_logging_out_takes_a_form_of_ours(locked: TestClient) -> None:
    log_in(locked)
    value = form_value(page(locked, "/"))
    locked.post("/logout", data={"csrf": "made up"})
    assert locked.get("/").status_code == 200
    locked.post("/logout", data={"csrf": value})
    assert locked.get("/").status_code == 303


@pytest.mark.parametrize("goal", ["https://evil.example", "//evil.example", "/\\evil", "x", "/\n"])
def test_a_login_leads_nowhere_else(locked: TestClient, goal: str) -> None:
    answer = locked.post("/login", data={"token": TOKEN, "next": goal})
    assert answer.headers["location"] == "/"


def test_forms_of_others_change_nothing(filled: Filled, clock: Clock) -> None:
    with browsing(filled, clock=clock) as client:
        value = form_value(judged(client))
        form = {"frame": "0", "round": "2", "seen": "1"}
        path = f"/tasks/{DONE}/seen"
        assert client.post(path, data=form).status_code == 403
        assert client.post(path, data={**form, "csrf": "x" * 64}).status_code == 403
        cross = {"Sec-Fetch-Site": "cross-site"}
        assert client.post(path, data={**form, "csrf": value}, headers=cross).status_code == 403
        client.cookies.clear()
        assert client.post(path, data={**form, "csrf": value}).status_code == 403
        assert client.post(path, content=b"a=" + b"x" * 20000).status_code == 413
        assert client.get(path).status_code == 405
    assert not (filled.workspace / "dashboard.db").exists()


def test_a_dashboard_that_only_shows_has_no_forms(filled: Filled) -> None:
    with browsing(filled, SiteOptions(patience=60, read_only=True)) as client:
        text = judged(client)
        assert "<form" not in text
        assert "read only" in text
        assert client.post(f"/tasks/{DONE}/seen", data={}).status_code == 403


def test_every_answer_has_the_headers(locked: TestClient) -> None:
    log_in(locked)
    for path in ("/", "/nothing", "/static/dashboard.css", "/health", f"/tasks/{DONE}/report.json"):
        headers = locked.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_pages_hold_no_script_and_no_style_of_their_own(filled: Filled) -> None:
    with browsing(filled) as client:
        for path in ("/", f"/tasks/{DONE}", f"/tasks/{DONE}/frames/1", "/review", "/system"):
            text = page(client, path)
            assert re.findall(r"<script(?![^>]* src=)", text) == []
            assert re.findall(r"<style|\sstyle=|\son\w+=\"", text) == []
            assert set(re.findall(r'(?:src|href)="(https?://[^/"]+)', text)) <= {filled.url}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8088", "localhost.evil.example", ""]
)
def test_without_a_token_only_names_of_this_machine_are_answered(filled: Filled, host: str) -> None:
    with browsing(filled) as client:
        answer = client.get("/", headers={"Host": host})
        assert answer.status_code == 421
        assert "HVSA_DASHBOARD_TOKEN" in answer.text
    with browsing(filled, SiteOptions(patience=60, token=TOKEN)) as client:
        assert client.get("/", headers={"Host": host}).status_code == 303


@pytest.mark.parametrize("host", ["localhost:8088", "127.0.0.1", "127.0.0.1:1", "[::1]:8088"])
def test_names_of_this_machine(filled: Filled, host: str) -> None:
    with browsing(filled) as client:
        assert client.get("/", headers={"Host": host}).status_code == 200


def test_below_a_path_of_a_proxy(filled: Filled) -> None:
    options = SiteOptions(patience=60, prefix=parse_prefix("hvsa"), token=TOKEN)
    with browsing(filled, options) as client:
        answer = client.get("/hvsa/")
        assert answer.headers["location"] == "/hvsa/login?next=/"
        assert client.get("/hvsa").headers["location"] == "/hvsa/"
        answer = client.post("/hvsa/login", data={"token": TOKEN, "next": "/system"})
        assert answer.headers["location"] == "/hvsa/system"
        assert "Path=/hvsa/" in answer.headers["set-cookie"]
        text = page(client, f"/hvsa/tasks/{DONE}")
        ours = re.findall(r'(?:href|src|action)="(/[^"]*)"', text)
        assert ours
        assert all(path.startswith("/hvsa/") for path in ours)
        # a proxy that takes the path off sends the cookie all the same
        cookie = {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
        assert client.get("/system", headers=cookie).status_code == 200
        assert client.get("/hvsa/static/dashboard.css").status_code == 200


@pytest.mark.parametrize("text", ["hvsa", "/hvsa", "/hvsa/", "hvsa/"])
def test_a_path_with_or_without_slashes(text: str) -> None:
    assert parse_prefix(text) == "/hvsa"
    assert parse_prefix("/") == parse_prefix("") == ""
    assert parse_prefix("/a/b") == "/a/b"


@pytest.mark.parametrize("text", ["/a b", "/../x", "/a//b", "https://x", '/"', "/a?b"])
def test_a_path_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--subpath"):
        parse_prefix(text)


def test_where_others_reach_it_a_token_is_needed() -> None:
    check_token("127.0.0.1", None)
    check_token("::1", None)
    check_token("localhost", None)
    check_token("0.0.0.0", TOKEN)
    for host in ("0.0.0.0", "::", "10.0.0.1", "agent.example.com"):
        with pytest.raises(ConfigError, match="HVSA_DASHBOARD_TOKEN"):
            check_token(host, None)
    with pytest.raises(ConfigError, match="at least 16"):
        check_token("127.0.0.1", "short")
    assert not is_loopback("127.0.0.1.example.com")


def test_addresses() -> None:
    assert parse_address("127.0.0.1:8088") == ("127.0.0.1", 8088)
    assert parse_address("[::1]:0") == ("::1", 0)
    for text in ("8088", "localhost", ":1", "a:b", "a:99999", "a:-1"):
        with pytest.raises(ConfigError, match="HOST:PORT"):
            parse_address(text)


def refused(filled: Filled, *args: str, **environment: str) -> str:
    names = ("CVAT_ACCESS_TOKEN", "HVSA_CONFIG", "HVSA_DASHBOARD_TOKEN")
    env = {**dict.fromkeys(names), **filled.environment(), **environment}
    result = CliRunner().invoke(main, ["dashboard", *args], env=env)
    assert result.exit_code == 2, (result.output, result.exception)
    (line,) = result.stderr.strip().splitlines()
    return line


def test_what_cannot_be_served_is_one_line(filled: Filled) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused(filled, "--listen", f"127.0.0.1:{port}")
    assert "HVSA_DASHBOARD_TOKEN" in refused(filled, "--listen", "0.0.0.0:0")
    assert "16" in refused(filled, HVSA_DASHBOARD_TOKEN="short")
    assert "--listen" in refused(
        filled, "--listen", "no.such.host.invalid:1", HVSA_DASHBOARD_TOKEN=TOKEN
    )
    assert "--subpath" in refused(filled, "--subpath", "/a b")


def test_the_command_serves_and_ends(filled: Filled, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hvsa_cvat", "dashboard", "--listen", "127.0.0.1:0"]
    environment = {**os.environ, **filled.environment()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://[\d.]+:\d+/", line)
        assert found is not None, line
        with urllib.request.urlopen(found[0]) as answer:
            assert "Tasks" in answer.read().decode()
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        process.wait(30)
        assert time.monotonic() - started < 20
