"""The files of one place as objects, each under a name that ends in the checksum of its content.

An object never changes, so no reader meets half of one, and nothing has to be renamed. Which one
is current is what a database says. Many small files of a folder travel as one object, a pack: an
uncompressed zip.
"""

from __future__ import annotations

import shutil
import zipfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hvsa_cvat.database import Place
from hvsa_cvat.files import scratch_directory
from hvsa_cvat.objects.bucket import Bucket, bucket_at
from hvsa_cvat.threads import map_ahead

PACK = "pack-"
"""Begins the name of a pack, which is in the folder of its members."""

_MANY = 16
"""So many files of one folder are packed."""
_SMALL = 2**20
"""Bytes; larger files are objects of their own."""
_PACKED = (".png", ".npz")
"""How names of files end that are packed: what is read alone stays alone."""
AT_ONCE = 8
"""Objects that are sent or received at the same time."""

Checksum = Callable[[Path], str]


@dataclass(frozen=True)
class File:
    """A file to be kept."""

    name: str
    """Its path below the folder of the place."""
    path: Path
    """Where its content is."""
    checksum: str


@dataclass(frozen=True)
class Objects:
    """The objects of one place, below the folder `name` of a bucket."""

    bucket: Bucket
    name: str
    checksum: Checksum

    def put(self, files: Iterable[File], scratch: Path) -> dict[str, str]:
        """Upload files; those that are there already cost a question only. Returns name and
        checksum of the packs that were made. `scratch`: a folder for them, until they are sent."""
        folders = defaultdict[str, list[File]](list)
        single: list[File] = []
        for file in files:
            small = file.name.endswith(_PACKED) and file.path.stat().st_size <= _SMALL
            (folders[_folder(file.name)] if small else single).append(file)
        made: dict[str, str] = {}
        with scratch_directory(scratch) as room:
            for number, (folder, members) in enumerate(sorted(folders.items())):
                if len(members) < _MANY:
                    single += members
                    continue
                path = room / f"{number}.zip"
                _pack(path, members)
                checksum = self.checksum(path)
                name = f"{folder}/{PACK}{checksum[:16]}.zip"
                made[name] = checksum
                self._send(File(name, path, checksum))
                path.unlink()
            for _ in map_ahead(self._send, single, AT_ONCE):
                pass
        return made

    def fetch(
        self,
        name: str,
        checksums: Collection[str],
        target: Path,
        packs: Mapping[str, Collection[str]],
        wanted: Mapping[str, Collection[str]],
    ) -> bool:
        """Bring a file that has one of these checksums to `target`; False where nobody has it, or
        only damaged. `packs` are those of its folder. What else is `wanted` of a pack, by name, is
        put beside it, where it is not there or has changed."""
        for checksum in sorted(checksums):
            if self._receive(name, checksum, target):
                return True
        return any(
            self._unpack(pack, checksum, name, target, wanted)
            for pack, known in packs.items()
            for checksum in sorted(known)
        )

    def __str__(self) -> str:
        return str(self.bucket)

    def object_name(self, name: str, checksum: str) -> str:
        return f"{self.name}/{name}.{checksum}"

    def remove(self, name: str, checksum: str) -> None:
        self.bucket.remove(self.object_name(name, checksum))

    def has(self, name: str, checksum: str) -> bool:
        return self.bucket.has(self.object_name(name, checksum))

    def is_sound(self, name: str, checksum: str, scratch: Path) -> bool | None:
        """Whether an object has its content; None where it is not there."""
        with scratch_directory(scratch) as room:
            path = room / "object"
            if not self.bucket.download(self.object_name(name, checksum), path):
                return None
            return self.checksum(path) == checksum

    def _send(self, file: File) -> None:
        self.bucket.upload(self.object_name(file.name, file.checksum), file.path)

    def _receive(self, name: str, checksum: str, target: Path) -> bool:
        with scratch_directory(target.parent) as room:
            path = room / "object"
            if not self.bucket.download(self.object_name(name, checksum), path):
                return False
            if self.checksum(path) != checksum:
                return False
            path.replace(target)  # not flushed: what a loss of power damages is fetched again
            return True

    def _is_current(self, path: Path, checksums: Collection[str]) -> bool:
        return path.exists() and self.checksum(path) in checksums

    def _unpack(
        self,
        pack: str,
        checksum: str,
        name: str,
        target: Path,
        wanted: Mapping[str, Collection[str]],
    ) -> bool:
        folder, found = target.parent, False
        with scratch_directory(folder) as room:
            path = room / "pack.zip"
            if not self.bucket.download(self.object_name(pack, checksum), path):
                return False
            try:
                with zipfile.ZipFile(path) as archive:
                    for member in archive.namelist():
                        full = f"{_folder(name)}/{member}"
                        beside = folder / member
                        if "/" in member or full not in wanted:
                            continue
                        if full != name and self._is_current(beside, wanted[full]):
                            continue
                        content = room / "member"
                        content.write_bytes(archive.read(member))
                        if self.checksum(content) in wanted[full]:
                            shutil.copystat(path, content)
                            content.replace(beside)
                            found = found or full == name
            except (zipfile.BadZipFile, EOFError, ValueError):  # it is damaged
                return False
        return found


def objects_of(place: Place, checksum: Checksum) -> Objects | None:
    """Those of a place; None where its files are in its folder only."""
    if place.artefacts is None:
        return None
    return Objects(bucket_at(place.artefacts), place.name, checksum)


def is_pack(name: str) -> bool:
    return PurePosixPath(name).name.startswith(PACK)


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.as_posix()


def _pack(path: Path, members: Iterable[File]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for member in members:
            archive.write(member.path, PurePosixPath(member.name).name)
