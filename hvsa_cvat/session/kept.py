"""Which files of a session are kept in a bucket, and which on each machine by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hvsa_cvat.database import Place
from hvsa_cvat.errors import SessionError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.objects import File, Objects, is_pack, objects_of
from hvsa_cvat.session.checksums import FIX, Checksums, file_checksum, is_local

_OF_MACHINE = "machine.json"
"""Holds the checksums of these files, which are not those of other machines."""

_SHARED = ("segments", "cvat/chunks", "cvat/requests", "start.safetensors")
_UNWANTED = (".", "training.pt")


@dataclass(frozen=True)
class KeptFiles:
    """The files of a session whose folder is held."""

    root: Path
    objects: Objects

    @classmethod
    def of(cls, place: Place) -> KeptFiles | None:
        """None where the files are in the folder only."""
        objects = objects_of(place, file_checksum)
        return None if objects is None else cls(place.folder, objects)

    def with_local(self, recorded: Mapping[str, set[str]]) -> dict[str, set[str]]:
        """What the database has recorded, and this machine of its own files."""
        shared = {name: set(known) for name, known in recorded.items() if not is_local(name)}
        try:
            mine: dict[str, str] = json.loads((self.root / _OF_MACHINE).read_text())
            return {**shared, **{name: {str(known)} for name, known in mine.items()}}
        except FileNotFoundError:  # they were made before there was a bucket
            return {name: set(known) for name, known in recorded.items()}
        except (OSError, ValueError, AttributeError):  # then its files are taken as they are
            return shared

    def upload(self, checksums: Checksums) -> tuple[dict[str, str], list[str]]:
        """Put into the bucket what was written since. Names and checksums to record in the
        database, and names of packs that nothing needs any longer."""
        mine = {name: one for name, one in checksums.written.items() if is_local(name)}
        shared = {name: one for name, one in checksums.written.items() if not is_local(name)}
        if mine:
            self._write_local(mine)
        here = {name: one for name, one in shared.items() if (self.root / name).exists()}
        for name in shared.keys() - here.keys():
            if not self.objects.has(name, shared[name]):
                raise SessionError(f"{self.root / name} is missing; {FIX}")
        files = [File(name, self.root / name, one) for name, one in here.items()]
        made = self.objects.put(files, self.root)
        return {**shared, **made}, self._replaced(checksums, shared, made)

    def note_new(self, checksums: Checksums, folder: Path) -> list[str]:
        """Note the files at or below `folder` that are not recorded. Returns the names of those
        that are recorded and no longer there."""
        here = {path for path in _files(folder) if not path.name.startswith(_UNWANTED)}
        for path in sorted(here):
            if not checksums.knows(path):
                checksums.note(path)
        recorded = checksums.below(folder)
        return [name for name in recorded if not is_pack(name) and self.root / name not in here]

    def note_all(self, checksums: Checksums) -> None:
        """Note all recorded files that are here, and those that only a bucket has recorded:
        superpixels, frames as the server sent them, contents of cards and the first network."""
        for name in checksums.below(self.root):
            if not is_pack(name) and not is_local(name):
                checksums.expect(self.root / name, file_checksum(checksums.check(self.root / name)))
        for name in _SHARED:
            self.note_new(checksums, self.root / name)

    def _replaced(
        self, checksums: Checksums, shared: Mapping[str, str], made: Mapping[str, str]
    ) -> list[str]:
        """Packs of those folders all of whose files were written anew."""
        gone: list[str] = []
        for folder in {name.rpartition("/")[0] for name in made}:
            recorded = checksums.below(self.root / folder)
            if all(is_pack(name) or name in shared for name in recorded):
                gone += [name for name in recorded if is_pack(name) and name not in made]
        return gone

    def _write_local(self, mine: Mapping[str, str]) -> None:
        known = {name: next(iter(sums)) for name, sums in self.with_local({}).items()}
        with atomic_write(self.root / _OF_MACHINE) as path:
            path.write_text(json.dumps({**known, **mine}))


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    return [path for path in folder.rglob("*") if path.is_file()]
