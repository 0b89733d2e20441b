"""A checkpoint from the web: what the server may do to us, over real sockets."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from hvsa_cvat.errors import CheckpointError
from hvsa_cvat.serving.download import DownloadLimits, download
from tests.certificates import self_signed

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 7000\r\nConnection: close\r\n\r\n" + CONTENT

Reply = Callable[[str, socket.socket], None]
"""Answers a request of this path over this connection."""


@contextmanager
def serving(reply: Reply, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a server that answers one connection after the other by `reply`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            try:
                if context is not None:
                    connection = context.wrap_socket(connection, server_side=True)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(4096)
                reply(head.split()[1].decode(), connection)
            except OSError:  # the client has gone, as some tests want it to
                pass
            finally:
                connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    scheme, name = ("http", "127.0.0.1") if context is None else ("https", "localhost")
    try:
        yield f"{scheme}://{name}:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def sends(*parts: bytes) -> Reply:
    """Sends the same to everyone."""

    def reply(path: str, connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)

    return reply


def endless(head: bytes) -> Reply:
    """Sends a head, and then zeros until the client goes."""

    def reply(path: str, connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(bytes(2**16))

    return reply


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server of this machine needs for https, trusted by the environment."""
    certificate, key = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def test_a_redirect_to_plain_http_is_refused(tmp_path: Path, secure: ssl.SSLContext) -> None:
    with serving(sends(WHOLE)) as plain:
        moved = f"HTTP/1.1 302 Found\r\nLocation: {plain}/net?key=secret\r\n\r\n".encode()
        with (
            serving(sends(moved), secure) as url,
            pytest.raises(CheckpointError, match=r"redirects to http://.*not https") as refused,
        ):
            download(f"{url}/net", SHA256, tmp_path / "cache")
    assert "secret" not in str(refused.value)


def test_a_redirect_to_https_is_followed(tmp_path: Path, secure: ssl.SSLContext) -> None:
    def reply(path: str, connection: socket.socket) -> None:
        moved = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nConnection: close\r\n\r\n"
        connection.sendall(WHOLE if path == "/there" else moved)

    with serving(reply, secure) as url:
        assert download(f"{url}/net", SHA256, tmp_path / "cache").read_bytes() == CONTENT


def test_redirects_in_a_circle_end(tmp_path: Path, secure: ssl.SSLContext) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: /net\r\nConnection: close\r\n\r\n"
    with (
        serving(sends(moved), secure) as url,
        pytest.raises(CheckpointError, match="redirects more than 5 times"),
    ):
        download(f"{url}/net", SHA256, tmp_path / "cache")


def test_the_body_of_a_redirect_is_not_read(tmp_path: Path, secure: ssl.SSLContext) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: /net\r\nConnection: close\r\n\r\n"
    with (
        serving(endless(moved), secure) as url,
        pytest.raises(CheckpointError, match="redirects more than 5 times"),
    ):
        download(f"{url}/net", SHA256, tmp_path / "cache")


def test_an_untrusted_certificate_is_refused(
    tmp_path: Path, secure: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with (
        serving(sends(WHOLE), secure) as url,
        pytest.raises(CheckpointError, match="certificate is not trusted"),
    ):
        download(f"{url}/net", SHA256, tmp_path / "cache")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", id="no length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", id="a length"),
    ],
)
def test_a_file_that_is_too_large_is_given_up_while_reading(tmp_path: Path, head: bytes) -> None:
    with (
        serving(endless(head)) as url,
        pytest.raises(CheckpointError, match="more than 100,000 bytes"),
    ):
        download(f"{url}/net", SHA256, tmp_path / "cache", DownloadLimits(size=100_000))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_server_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    over = threading.Event()

    def reply(path: str, connection: socket.socket) -> None:
        connection.sendall(WHOLE[:200])
        over.wait(30)

    with serving(reply) as url:
        with pytest.raises(CheckpointError, match="does not answer in time"):
            download(f"{url}/net", SHA256, tmp_path / "cache", DownloadLimits(silence=0.2))
        over.set()


def test_a_server_that_sends_byte_by_byte_is_given_up(tmp_path: Path) -> None:
    over = threading.Event()

    def reply(path: str, connection: socket.socket) -> None:
        connection.sendall(WHOLE[:200])
        while not over.wait(0.01):
            connection.sendall(b"w")

    seconds = count(step=20)
    with serving(reply) as url:
        with pytest.raises(CheckpointError, match="takes more than 100 s"):
            download(
                f"{url}/net",
                SHA256,
                tmp_path / "cache",
                DownloadLimits(duration=100),
                clock=lambda: float(next(seconds)),
            )
        over.set()


def test_a_file_that_breaks_off_is_not_kept(tmp_path: Path) -> None:
    with serving(sends(WHOLE[:3000])) as url, pytest.raises(CheckpointError):
        download(f"{url}/net", SHA256, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_proxy_of_the_environment_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def reply(path: str, connection: socket.socket) -> None:
        asked.append(path)
        connection.sendall(WHOLE)

    with serving(reply) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "")
        url = "http://weights.invalid/net"
        assert download(url, SHA256, tmp_path / "cache").read_bytes() == CONTENT
    assert asked == [url]
