"""One bucket, or a prefix in it, opened by fsspec: bounded retries, and errors in one line."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import tenacity

from hvsa_cvat.errors import ConfigError, SessionError
from hvsa_cvat.files import atomic_write

T = TypeVar("T")

_log = logging.getLogger(__name__)

_PATIENCE = 120.0
"""Seconds for which a bucket that was there before may be away."""

_LITTLE = 2**20
"""Bytes."""

_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_OPTIONS: dict[str, dict[str, Any]] = {
    # what others write must be seen at once
    "s3": {"use_listings_cache": False, "skip_instance_cache": True},
    "file": {"auto_mkdir": True},
}


class BucketError(SessionError):
    """A bucket does not do what is asked of it."""


class _CutError(OSError):
    """What has arrived is shorter than what was sent."""


@dataclass(frozen=True)
class Stored:
    """An object in a bucket."""

    name: str
    size: int
    """In bytes."""
    written: float | None = None
    """In seconds since 1970; None where the protocol does not say."""


class Bucket:
    """The objects below an address. Safe to use from several threads."""

    def __init__(
        self,
        address: str,
        *,
        patience: float = _PATIENCE,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`address`: such as s3://bucket/prefix, without a login."""
        self.address = address
        self._patience = patience
        self._sleep = sleep
        self._clock = clock
        self._reached = False
        protocol = address.partition("://")[0]
        try:
            import fsspec

            self._fs, root = fsspec.url_to_fs(address, **_OPTIONS.get(protocol, {}))
        except ImportError as error:
            raise ConfigError(
                f"artefacts: {protocol}:// needs a package that is not installed "
                f"({_line(error)}); run: pip install 'hvsa-cvat[cluster]'"
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"artefacts: fsspec knows no protocol {protocol!r}; write s3://bucket/hvsa, "
                "another protocol of fsspec, or a folder"
            ) from error
        self._root = str(root).rstrip("/")
        self._is_folder = protocol in ("file", "local")

    def __str__(self) -> str:
        return self.address

    def write(self, name: str, content: bytes) -> None:
        """Make a small object, or replace it."""

        def send() -> None:
            if self._is_folder:
                with atomic_write(Path(self._path(name))) as temporary:
                    temporary.write_bytes(content)
            else:
                self._fs.pipe_file(self._path(name), content)

        self._call(f"write {name}", send)

    def read(self, name: str) -> bytes | None:
        """A small object; None where there is none."""

        def receive() -> bytes | None:
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except FileNotFoundError as error:
                if _lacks_bucket(error):
                    raise
                return None

        return self._call(f"read {name}", receive)

    def upload(self, name: str, path: Path) -> None:
        """Make an object of a file, unless a whole one is there. It is whole or not there."""
        size = path.stat().st_size

        def send() -> None:
            # to ask costs as much as to send little
            if size > _LITTLE and self._size(name) == size:
                return
            if self._is_folder:
                with atomic_write(Path(self._path(name))) as temporary:
                    shutil.copyfile(path, temporary)
            else:
                self._fs.put_file(str(path), self._path(name))
            if self._size(name) != size:
                raise _CutError(f"{name} arrived cut")

        self._call(f"write {name}", send)

    def download(self, name: str, path: Path) -> bool:
        """Write an object to the file `path`. Returns whether there is one."""

        def receive() -> bool:
            try:
                told = self._fs.info(self._path(name))
                self._fs.get_file(self._path(name), str(path))
            except FileNotFoundError as error:
                if _lacks_bucket(error):
                    raise
                return False
            if path.stat().st_size != told["size"]:
                raise _CutError(f"{name} arrived cut")
            if (at := _written(told)) is not None:
                os.utime(path, (at, at))
            return True

        return self._call(f"read {name}", receive)

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""

        def send() -> None:
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError as error:
                if _lacks_bucket(error):
                    raise

        self._call(f"remove {name}", send)

    def stored(self, below: str = "") -> list[Stored]:
        """All objects, or those whose names begin with the folder `below`."""
        path = self._path(below) if below else self._root

        def receive() -> list[Stored]:
            try:
                found = self._fs.find(path, detail=True)
            except FileNotFoundError as error:
                if _lacks_bucket(error):
                    raise
                return []
            cut = len(self._root) + 1
            return [
                Stored(one[cut:], int(told["size"]), _written(told))
                for one, told in sorted(found.items())
                if told.get("type") != "directory"
            ]

        return self._call("list the objects", receive)

    def has(self, name: str) -> bool:
        return self._call(f"read {name}", lambda: self._size(name) is not None)

    def _size(self, name: str) -> int | None:
        try:
            return int(self._fs.info(self._path(name))["size"])
        except FileNotFoundError as error:
            if _lacks_bucket(error):
                raise
            return None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _call(self, what: str, work: Callable[[], T]) -> T:
        """What `work` gives; it is called again while the bucket is away, if it was there before:
        what is wrong from the start does not mend itself."""

        def tell(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            _log.warning("%s: cannot %s, trying again: %s", self, what, _line(error))

        begun = self._clock()
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: self._reached and _may_mend(error)),
            stop=lambda state: self._clock() - begun >= self._patience,
            wait=tenacity.wait_exponential(0.2, 4.0) + tenacity.wait_random(0, 1),
            sleep=self._sleep,
            before_sleep=tell,
            reraise=True,
        )
        with self._refusals(what):
            given = attempts(work)
        self._reached = True
        return given

    @contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        try:
            yield
        except (SessionError, ConfigError):
            raise
        except Exception as error:  # each protocol has errors of its own
            raise BucketError(f"{self}: cannot {what}: {self._told(error)}") from error

    def _told(self, error: Exception) -> str:
        text, name = _line(error), type(error).__name__
        if name in ("NoCredentialsError", "PartialCredentialsError"):
            return (
                "there is no login; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what your "
                "cloud gives in their place"
            )
        if _lacks_bucket(error):
            return "there is no such bucket; create it, or correct `artefacts`"
        if isinstance(error, PermissionError):
            if any(word in text for word in ("Access Key", "signature", "Signature", "token")):
                return (
                    "the login is not accepted; correct AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY in the environment"
                )
            return "this login has no right to; let it list, read, write and remove objects there"
        if isinstance(error, OSError) and error.errno == 28:
            return "there is no space left; free some"
        fix = "see whether it answers there, and lets this machine in"
        if self._reached:
            fix = f"it was tried for {self._patience:.0f} s; {fix}"
        return f"{text or name}; {fix}"


def _lacks_bucket(error: BaseException) -> bool:
    """Whether it is not the object that is missing, but the bucket itself."""
    return isinstance(error, FileNotFoundError) and "bucket does not exist" in str(error)


def _may_mend(error: BaseException) -> bool:
    final = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
    if isinstance(error, final) or not isinstance(error, Exception):
        return False
    if isinstance(error, SessionError | ConfigError | TypeError | AttributeError):
        return False
    return "Credentials" not in type(error).__name__


def _written(told: dict[str, Any]) -> float | None:
    """When an object was made, in seconds since 1970; None where the protocol does not say."""
    for key in ("LastModified", "mtime", "created", "last_modified"):
        at = told.get(key)
        if isinstance(at, datetime):
            return at.timestamp()
        if isinstance(at, int | float):
            return float(at)
    return None


def _line(error: BaseException | None) -> str:
    """The text of an error, without anything of the login."""
    text = " ".join(str(error).split())[:300]
    for name in _SECRETS:
        secret = os.environ.get(name)
        text = text.replace(secret, "...") if secret else text
    return text


_buckets: dict[str, Bucket] = {}
_lock = threading.Lock()


def bucket_at(address: str) -> Bucket:
    """The connections of this process to the bucket at `address`."""
    with _lock:
        if address not in _buckets:
            _buckets[address] = Bucket(address)
        return _buckets[address]


def use_bucket(bucket: Bucket) -> None:
    """Let `bucket_at` give this one for its address."""
    with _lock:
        _buckets[bucket.address] = bucket


def forget_buckets() -> None:
    """Open all of them anew when they are next asked for."""
    with _lock:
        _buckets.clear()
