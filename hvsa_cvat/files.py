"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
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


def _cannot_write(path: Path, error: OSError) -> HvsaError:
    reason = error.strerror or str(error)
    return HvsaError(f"cannot write {path}: {reason}; free space or choose another folder")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there on success, remove it on failure.

    An `OSError` inside (a full disk, a read-only folder) becomes an `HvsaError` naming `path`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}{_PARTIAL}", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
    except OSError as error:
        raise _cannot_write(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """The same for a folder; a folder already at `path` is replaced as a whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}{_PARTIAL}", dir=path.parent))
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            # aside first: a process killed here leaves the old folder or the new, never half
            old = temporary.with_name(f"{temporary.name}-old")
            path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A folder in `parent` that is gone afterwards. An `OSError` inside becomes an `HvsaError`."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".scratch{_PARTIAL}", dir=parent) as name:
            yield Path(name)
    except OSError as error:
        raise _cannot_write(parent, error) from error


def write_npz(path: Path, arrays: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """As `numpy.savez_compressed`, but one array at a time: all label maps of a long video at once
    would not fit the memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def remove_partial(folder: Path) -> None:
    """Remove what writers that were killed left below `folder`, where nobody else may write now."""
    for path in sorted(folder.rglob(f".*{_PARTIAL}*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Fail now, and not after hours of work, where the file `path` could not be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise _cannot_write(path, error) from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
