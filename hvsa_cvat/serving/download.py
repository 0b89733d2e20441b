"""Fetching a checkpoint from a web address."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from hvsa_cvat.errors import CheckpointError, ConfigError
from hvsa_cvat.files import atomic_write

_AT_ONCE = 2**20
"""Bytes read at a time."""


@dataclass(frozen=True)
class DownloadLimits:
    """What a server may take before the download is given up."""

    size: int = 2 * 2**30
    """Bytes; the checkpoint of the largest network has 300 MB."""
    silence: float = 60
    """Seconds without a byte, or without a connection."""
    duration: float = 1800
    """Seconds for the whole file, so that a server that sends a byte a minute is given up too."""
    redirects: int = 5


DEFAULT_LIMITS = DownloadLimits()


def download(
    url: str,
    sha256: str,
    folder: Path,
    limits: DownloadLimits = DEFAULT_LIMITS,
    clock: Callable[[], float] = time.monotonic,
) -> Path:
    """The path of the file at `url`, which is kept in `folder` under its SHA-256.

    A kept file that is undamaged is not fetched again. `CheckpointError` where the file cannot be
    fetched or is another one. Proxies are those of the environment (HTTPS_PROXY, NO_PROXY).
    """
    check_address(url)
    path = folder / f"{sha256}.safetensors"
    if path.exists() and file_sha256(path) == sha256:
        return path
    with atomic_write(path) as temporary:
        _fetch(url, temporary, limits, clock)
        found = file_sha256(temporary)
        if found != sha256:
            raise CheckpointError(
                f"{_shown(url)} holds another file: its SHA-256 is {found} instead of {sha256}; "
                "put the right file there, or render the function again"
            )
    return path


def check_address(url: str) -> None:
    """`ConfigError` if `url` is no web address, or holds a password, which would be stored."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is no web address; give one like https://example.com/kitchen")
    if parts.username or parts.password:
        raise ConfigError(
            f"{_shown(url)} is given with a user or password; put the file where it can be fetched "
            "without them, or mount it"
        )


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shown(url: str) -> str:
    """The address without its user, password and query, which may be secret."""
    parts = urlsplit(url)
    host = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
    return f"{parts.scheme}://{host}{parts.path}"


class _Session(requests.Session):
    """Leaves redirects to us: requests itself would read the whole body of each into memory."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def _fetch(url: str, path: Path, limits: DownloadLimits, clock: Callable[[], float]) -> None:
    end = clock() + limits.duration
    address = url
    with _Session() as session, path.open("wb") as file:
        for _ in range(limits.redirects + 1):
            try:
                with session.get(
                    address,
                    stream=True,
                    timeout=limits.silence,
                    headers={"Accept-Encoding": "identity"},
                ) as answer:
                    if not answer.ok:
                        status = f"{answer.status_code} {answer.reason}"
                        raise _not_fetched(url, f"the server answers {status}")
                    if not answer.is_redirect:
                        _copy(answer.raw, file, url, limits, lambda: clock() > end)
                        return
                    address = _redirected(address, answer.headers["location"])
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                raise _not_fetched(url, _reason(error)) from error
    raise _not_fetched(url, f"it redirects more than {limits.redirects} times")


def _redirected(address: str, target: str) -> str:
    """Where a redirect leads, which must be https: everyone on the way can read plain http."""
    there = urljoin(address, target)
    if urlsplit(there).scheme != "https":
        raise CheckpointError(
            f"{_shown(address)} redirects to {_shown(there)}, which is not https; give the "
            "address of the file itself"
        )
    return there


def _copy(
    content: urllib3.HTTPResponse,
    file: BinaryIO,
    url: str,
    limits: DownloadLimits,
    late: Callable[[], bool],
) -> None:
    size = 0
    # read1 returns what has arrived; read would wait for all of its bytes, however slowly they come
    while piece := content.read1(_AT_ONCE, decode_content=True):
        size += len(piece)
        if size > limits.size:
            raise _not_fetched(url, f"it has more than {limits.size:,} bytes")
        if late():
            raise _not_fetched(url, f"it takes more than {limits.duration:,.0f} s")
        file.write(piece)


def _not_fetched(url: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"cannot fetch the checkpoint from {_shown(url)}: {reason}; check the address"
    )


def _reason(error: Exception) -> str:
    """The kind of error in words. Its own text may hold the whole address with its query."""
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate is not trusted"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "the server does not answer in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not answer"
    if isinstance(error, requests.ConnectionError):
        return "there is no connection to the server"
    return "the server breaks off"
