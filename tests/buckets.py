"""A bucket in the memory that fails as a test tells it, and folders of several machines."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from hvsa_cvat.objects import Bucket

PROTOCOL = "faulty"


class Killed(BaseException):
    """The process ends here; nobody catches it."""


class FaultyFileSystem(MemoryFileSystem):
    """`before` and `after` are called around each call with its name and its number, from 1."""

    protocol = PROTOCOL
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    calls: ClassVar[list[str]] = []
    before: ClassVar[Callable[[str, int], None]] = staticmethod(lambda name, number: None)
    after: ClassVar[Callable[[str, int], None]] = staticmethod(lambda name, number: None)

    @classmethod
    def reset(cls) -> None:
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.heal()

    @classmethod
    def heal(cls) -> None:
        cls.calls.clear()
        cls.before = staticmethod(lambda name, number: None)
        cls.after = staticmethod(lambda name, number: None)

    def _around(self, name: str, work: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        self.calls.append(name)
        number = len(self.calls)
        type(self).before(name, number)
        given = work(*arguments, **more)
        type(self).after(name, number)
        return given

    def info(self, path: str, **more: Any) -> Any:
        return self._around("info", super().info, path, **more)

    def find(self, path: str, *arguments: Any, **more: Any) -> Any:
        return self._around("find", super().find, path, *arguments, **more)

    def put_file(self, local: str, path: str, **more: Any) -> None:
        self._around("put", super().pipe_file, path, Path(local).read_bytes())

    def get_file(self, path: str, local: str, **more: Any) -> None:
        content = self.store[self._strip_protocol(path)].getvalue()
        self._around("get", Path(local).write_bytes, content)

    def pipe_file(self, path: str, value: bytes, *arguments: Any, **more: Any) -> Any:
        return self._around("pipe", super().pipe_file, path, value, *arguments, **more)

    def cat_file(self, path: str, *arguments: Any, **more: Any) -> Any:
        return self._around("cat", super().cat_file, path, *arguments, **more)

    def rm_file(self, path: str) -> None:
        self._around("rm", super().rm_file, path)


fsspec.register_implementation(PROTOCOL, FaultyFileSystem, clobber=True)


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def patient_bucket(address: str, time: Time) -> Bucket:
    """One whose waiting takes no time."""
    return Bucket(address, sleep=time.sleep, clock=lambda: time.now)


def another_machine(folder: Path, other: Path) -> None:
    """Make `other` a folder without files, on the databases of `folder`."""
    for database in folder.rglob("*.db"):
        link = other / database.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(database)


def without_files(folder: Path) -> None:
    """Remove everything but databases."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".db":
            path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            shutil.rmtree(path)
