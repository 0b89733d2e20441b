"""A data set that comes as one zip file."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hvsa_cvat.errors import CapacityError, MediaError
from hvsa_cvat.files import scratch_directory
from hvsa_cvat.ports import Progress


@contextmanager
def unpacked(path: Path, room: Path, progress: Progress) -> Iterator[Path]:
    """The folder at `path`; of a zip file its content, in a folder below `room` that is gone
    afterwards."""
    if not (path.is_file() and path.suffix.lower() == ".zip"):
        yield path
        return
    with scratch_directory(room) as folder:
        _unpack(path, folder, progress)
        yield _inner(folder)


def _unpack(path: Path, folder: Path, progress: Progress) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            needed = sum(member.file_size for member in members)
            if needed > shutil.disk_usage(folder).free:
                raise CapacityError(
                    f"{path} takes {needed / 2**30:.1f} GiB when unpacked, and there is less room "
                    f"in {folder.parent}; free space or name another --out"
                )
            for done, member in enumerate(members, 1):
                archive.extract(member, folder)
                progress("unpacking", done, len(members))
    # zipfile raises RuntimeError for a password, and NotImplementedError for a compression that it
    # does not know
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise MediaError(f"cannot unpack {path}: {error}; download or export it again") from error


def _inner(folder: Path) -> Path:
    """The folder itself, or the only one in it: people zip a folder or what is in it."""
    inside = [p for p in folder.iterdir() if p.name != "__MACOSX"]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
