"""Moves a workspace between folders and buckets, as a whole or not at all."""

from __future__ import annotations

import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from hvsa_cvat.agent.workspace_sessions import check_idle, places_of
from hvsa_cvat.agent.workspace_verify import verify
from hvsa_cvat.database import Place
from hvsa_cvat.errors import ConfigError, HvsaError, SessionError
from hvsa_cvat.files import atomic_directory, scratch_directory
from hvsa_cvat.objects import IDENTITY, bucket_at, claim, copied_databases, note_databases
from hvsa_cvat.session.checksums import file_checksum
from hvsa_cvat.session.store import Store

_PARTIAL = "-partial-"
_SIDE_FILES = ("-wal", "-shm", "-journal")


def copy(source: str, target: str, clock: Callable[[], float], tell: Callable[[str], None]) -> None:
    """Copy a workspace with SQLite files from a folder to a folder or a bucket, or from a bucket to
    a folder. Buckets are addresses as `checked_artefacts` gives them; what has no protocol is a
    folder."""
    if "://" in source and "://" in target:
        raise ConfigError("copy the workspace to a folder first, and from there to the bucket")
    if "://" in target:
        _upload(Path(source), target, clock, tell)
        return
    folder = Path(target)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; name a new folder")
    if folder.exists():
        folder.rmdir()
    with atomic_directory(folder) as room:
        if "://" in source:
            _download(source, room)
        else:
            check_idle(Place(Path(source)), clock)
            _copy_folder(Path(source), room)
        _check(Place(room))
    tell(f"{target} holds the workspace now, and every recorded file in it was checked")


def _copy_folder(source: Path, room: Path) -> None:
    for path in sorted(source.rglob("*")):
        target = room / path.relative_to(source)
        if _PARTIAL in str(path.relative_to(source)) or path.name == IDENTITY:
            continue
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif path.suffix == ".db":
            copy_database(path, target)
        elif path.name != ".lock" and not path.name.endswith(_SIDE_FILES):
            shutil.copy2(path, target)


def copy_database(source: Path, target: Path) -> None:
    """A SQLite database as one transaction has left it, also while others write to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as one,
            closing(sqlite3.connect(target)) as other,
        ):
            one.backup(other)
    except sqlite3.Error as error:
        raise SessionError(f"cannot copy {source}: {error}; restore it from a copy") from error


def _upload(
    folder: Path, address: str, clock: Callable[[], float], tell: Callable[[str], None]
) -> None:
    workspace = Place(folder, artefacts=address)
    check_idle(workspace, clock)
    _check(Place(folder))
    claim(workspace)
    for place in places_of(workspace):
        with Store(place) as store:
            store.keep_all()
    with scratch_directory(folder) as room:
        packed = room / "databases.zip"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*.db")):
                if _PARTIAL not in str(path.relative_to(folder)):
                    copy_database(path, room / "one.db")
                    archive.write(room / "one.db", path.relative_to(folder).as_posix())
                    (room / "one.db").unlink()
        note_databases(bucket_at(address), packed, file_checksum(packed))
    tell(
        f"{address} holds every file of {folder} and a copy of its databases; to work with it, "
        f'write artefacts = "{address}" into hvsa.toml, and keep {folder} as the workspace'
    )


def _download(address: str, room: Path) -> None:
    bucket = bucket_at(address)
    with scratch_directory(room) as scratch:
        packed = scratch / "databases.zip"
        checksum = copied_databases(bucket, packed)
        if checksum is None or file_checksum(packed) != checksum:
            raise SessionError(
                f"{bucket} holds no sound copy of the databases; copy the workspace that works "
                "with it there again: hvsa-agent workspace copy FOLDER ADDRESS"
            )
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(room)
    workspace = Place(room, artefacts=address)
    for place in places_of(workspace):
        with Store(place) as store:
            store.bring(store.root)
    (room / IDENTITY).unlink(missing_ok=True)


def _check(workspace: Place) -> None:
    """`HvsaError` where the files of a folder are not those that are recorded."""
    for found in verify(places_of(workspace)):
        if found.damaged:
            raise HvsaError(
                f"{found.title}: {len(found.damaged)} of {found.files} files are missing or "
                f"damaged, such as {found.damaged[0]}; see `hvsa-agent workspace verify`; nothing "
                "was copied"
            )
