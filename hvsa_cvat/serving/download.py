"""Weights from a URL."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from hvsa_cvat.errors import CheckpointError, ConfigError
from hvsa_cvat.files import atomic_write

_TIMEOUT = 60
"""Seconds without a byte."""

_PIECE = 2**20


def download(url: str, sha256: str, folder: Path) -> Path:
    """The file at `url` in `folder`, where it is kept under its SHA-256 for the next time.

    `CheckpointError` when it cannot be had or is another one.
    """
    check_address(url)
    path = folder / f"{sha256}.safetensors"
    if path.exists() and file_sha256(path) == sha256:
        return path
    with atomic_write(path) as temporary:
        _fetch(url, temporary)
        found = file_sha256(temporary)
        if found != sha256:
            raise CheckpointError(
                f"{_shown(url)} holds another file: SHA-256 {found} instead of {sha256}; put the "
                "right one there, or render the function anew"
            )
    return path


def check_address(url: str) -> None:
    """`ConfigError` for what is no web address, or carries a password, which would be stored."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is no web address; give one like https://example.com/kitchen")
    if parts.username or parts.password:
        raise ConfigError(
            f"{_shown(url)} is given with a user or password; put the file where it can be fetched "
            "without, or mount it"
        )


def _shown(url: str) -> str:
    """Without what may be secret: user, password, query."""
    parts = urlsplit(url)
    host = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
    return f"{parts.scheme}://{host}{parts.path}"


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, path: Path) -> None:
    with path.open("wb") as file:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
                while piece := answer.read(_PIECE):
                    file.write(piece)
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise CheckpointError(
                f"cannot fetch the checkpoint from {_shown(url)}: {error}; check the address"
            ) from error
