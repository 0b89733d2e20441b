"""The way to the server through a company's proxy, and addresses copied out of a browser."""

import http.server
import random
import threading
from typing import ClassVar

import pytest

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.http.errors import Unreachable
from hvsa_cvat.cvat.http.page_address import server_address
from hvsa_cvat.cvat.http.proxy import find_proxy, proxy_hint
from hvsa_cvat.errors import ConfigError

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
CVAT = "https://cvat.company.test"


@pytest.fixture(autouse=True)
def no_proxy_around_us(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_without_variables_there_is_no_proxy() -> None:
    assert find_proxy(CVAT) is None
    assert proxy_hint(CVAT) == ""


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_the_variable_of_the_scheme_counts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://proxy.company.test:3128")
    proxy = find_proxy(CVAT)
    assert proxy is not None
    assert proxy.url == "http://proxy.company.test:3128"
    assert "NO_PROXY=cvat.company.test" in proxy_hint(CVAT)
    if name != "ALL_PROXY":
        assert find_proxy("http://cvat.company.test") is None


@pytest.mark.parametrize("around", ["cvat.company.test", ".company.test", "company.test"])
def test_no_proxy_goes_around_it(monkeypatch: pytest.MonkeyPatch, around: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.company.test:3128")
    monkeypatch.setenv("NO_PROXY", f"localhost,{around}")
    assert find_proxy(CVAT) is None
    monkeypatch.setenv("NO_PROXY", "*")
    assert find_proxy("https://elsewhere.test") is None


def test_a_login_at_the_proxy_is_sent_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ann:s%40cret@proxy.company.test:3128")
    proxy = find_proxy(CVAT)
    assert proxy is not None
    assert proxy.url == "http://proxy.company.test:3128"
    assert proxy.headers == {"proxy-authorization": "Basic YW5uOnNAY3JldA=="}
    assert "cret" not in repr(proxy) + proxy_hint(CVAT)


def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.company.test:1080")
    with pytest.raises(ConfigError, match=r"its scheme is 'socks5'.*add cvat.company.test to NO_P"):
        find_proxy(CVAT)


@pytest.mark.parametrize(
    "page",
    [
        "/api",
        "/api/",
        "/tasks/1",
        "/tasks/1/jobs/2?frame=3&openGuide",
        "/projects?page=1",
        "/auth/login",
        "/jobs?filter=%7B%22and%22%3A%5B%5D%7D",
        "/",
        "",
    ],
)
@pytest.mark.parametrize("server", ["https://cvat.example.com", "http://host:8080/cvat"])
def test_pages_of_the_server_are_taken_for_its_address(server: str, page: str) -> None:
    assert Address(server + page).url == server


def test_a_folder_that_is_no_page_stays() -> None:
    assert server_address("https://host/my-tasks") == "https://host/my-tasks"
    assert server_address("https://tasks.example.com") == "https://tasks.example.com"


class _Seen(http.server.BaseHTTPRequestHandler):
    """A proxy that has no way on, and remembers who asked for what."""

    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Proxy-Authorization"]))
        self.send_error(502)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_requests_go_through_the_proxy_and_messages_name_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Seen)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("http_proxy", f"http://ann:pass@127.0.0.1:{server.server_port}")
        client = CvatClient(
            Address("http://cvat.company.test"),
            Credentials(token="t" * 40),
            sleep=lambda seconds: None,
            rng=random.Random(0),
            log=lambda line: None,
        )
        with client, pytest.raises(Unreachable, match=r"through the proxy http://127\.0\.0\.1"):
            client.get("tasks/1")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert _Seen.seen[0] == ("http://cvat.company.test/api/tasks/1", "Basic YW5uOnBhc3M=")
