"""Files and folders that are either whole or not there, also after a loss of power.

What is written is flushed to the disk before it gets its name, and so is the folder that then holds
the name. Each flush is announced as the audit event `hvsa_cvat.flush`, so that a test can record
the order of flushes and renames.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.errors import HvsaError

_PARTIAL = "-partial-"
"""In the names of files and folders that are still being written."""

_OLD = "-old"
"""Ends the name of a folder that was moved aside while a new one takes its place."""


def _cannot_write(path: Path, error: OSError) -> HvsaError:
    reason = error.strerror or str(error)
    return HvsaError(f"cannot write {path}: {reason}; free space or choose another folder")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there on success, remove it on failure.

    An `OSError` inside (a full disk, a read-only folder) becomes an `HvsaError` naming `path`.
    """
    try:
        make_folder(path.parent)
        temporary = path.with_name(f".{path.stem}{_token()}{path.suffix}")
        # the system applies the umask: changing it here would change it for other threads, too
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = temporary.stat().st_mode
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        temporary.chmod(mode)  # a library may have put a file of its own there
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """The same for a folder; a folder already at `path` is replaced as a whole.

    To replace it takes two renames: the old folder goes aside, the new one comes. A process that is
    killed between them leaves no folder at `path`; the next writer of `path`, or `remove_partial`,
    moves the old one back.
    """
    try:
        make_folder(path.parent)
        for aside in path.parent.glob(f".{path.name}{_PARTIAL}*{_OLD}"):
            _move_back(aside)
        temporary = path.with_name(f".{path.name}{_token()}")
        temporary.mkdir()
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        _flush_tree(temporary)
        if path.exists():
            old = temporary.with_name(f"{temporary.name}{_OLD}")
            path.replace(old)
            temporary.replace(path)
            flush(path.parent)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
            flush(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A folder in `parent` that is gone afterwards. An `OSError` inside becomes an `HvsaError`."""
    try:
        make_folder(parent)
        with tempfile.TemporaryDirectory(prefix=f".scratch{_PARTIAL}", dir=parent) as name:
            yield Path(name)
    except OSError as error:
        raise _cannot_write(parent, error) from error


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing, and flush their names."""
    if path.is_dir():
        return
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        flush(folder.parent)


def flush(path: Path) -> None:
    """Return when the content of a file, or the names in a folder, have reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot flush folders
            raise
    finally:
        os.close(handle)
    sys.audit("hvsa_cvat.flush", str(path))


def _flush_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)


def write_npz(path: Path, arrays: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """As `numpy.savez_compressed`, but one array at a time: all label maps of a long video at once
    would not fit the memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def remove_partial(folder: Path) -> None:
    """Remove what writers that were killed left below `folder`, where nobody else may write now.

    A folder that was about to be replaced, and has no successor yet, gets its name back.
    """
    for path in sorted(folder.rglob(f".*{_PARTIAL}*")):
        if path.name.endswith(_OLD):
            _move_back(path)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _move_back(aside: Path) -> None:
    """Give a folder that was moved aside its name back, or remove it if its successor is there."""
    path = aside.with_name(aside.name[1:].rpartition(_PARTIAL)[0])
    if path.exists():
        shutil.rmtree(aside, ignore_errors=True)
    elif aside.exists():
        aside.replace(path)
        flush(path.parent)


def check_writable(path: Path) -> None:
    """Fail now, and not after hours of work, where the file `path` could not be written."""
    try:
        make_folder(path.parent)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise _cannot_write(path, error) from error


def _token() -> str:
    return f"{_PARTIAL}{secrets.token_hex(6)}"
