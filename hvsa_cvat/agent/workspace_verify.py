"""Whether every recorded file of a workspace is there and undamaged."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hvsa_cvat.agent.workspace_sessions import title
from hvsa_cvat.database import Place
from hvsa_cvat.files import scratch_directory
from hvsa_cvat.objects import File, Objects, is_pack, objects_of
from hvsa_cvat.session.checksums import Checksums, file_checksum, is_local
from hvsa_cvat.session.store import Store


@dataclass(frozen=True)
class Verified:
    """What was found of one session."""

    title: str
    files: int
    damaged: tuple[str, ...]
    """Missing files, and those whose content has changed, wherever they are."""
    restored: tuple[str, ...]
    """Objects that were damaged, and were made again from what this machine has."""


def verify(places: Sequence[Place]) -> Iterator[Verified]:
    """Read every recorded file of sessions; where there is a bucket, what it has."""
    for place in places:
        checksums, objects = Store.peek_checksums(place), objects_of(place, file_checksum)
        names = [name for name in checksums.below(place.folder) if not is_pack(name)]
        if objects is None:
            # what each machine makes again may be missing
            there = [one for one in names if not is_local(one) or (place.folder / one).exists()]
            bad = [name for name in there if not checksums.holds(place.folder / name)]
            yield Verified(title(place), len(there), tuple(sorted(bad)), ())
            continue
        shared = [name for name in names if not is_local(name)]
        yield _in_bucket(place, checksums, objects, sorted(shared))


def _in_bucket(
    place: Place, checksums: Checksums, objects: Objects, names: Sequence[str]
) -> Verified:
    packed = _packed(place, checksums, objects)
    damaged, restored = [], []
    for name in names:
        known = checksums.of(name)
        if packed.get(name, set()) & known:
            continue
        # two while a file is being replaced: one of them is current
        if any(objects.is_sound(name, one, place.folder) for one in sorted(known)):
            continue
        path = place.folder / name
        if path.exists() and checksums.holds(path):
            one = file_checksum(path)
            objects.remove(name, one)
            objects.put([File(name, path, one)], place.folder)
            restored.append(name)
        else:
            damaged.append(name)
    return Verified(title(place), len(names), tuple(damaged), tuple(restored))


def _packed(place: Place, checksums: Checksums, objects: Objects) -> dict[str, set[str]]:
    """The checksums of the files in packs."""
    found: dict[str, set[str]] = {}
    for name in checksums.below(place.folder):
        if not is_pack(name):
            continue
        for checksum in checksums.of(name):
            with scratch_directory(place.folder) as room:
                for member, path in _members(objects, name, checksum, room):
                    found.setdefault(member, set()).add(file_checksum(path))
                    path.unlink()
    return found


def _members(objects: Objects, pack: str, checksum: str, room: Path) -> Iterator[tuple[str, Path]]:
    path = room / "pack"
    if not objects.bucket.download(objects.object_name(pack, checksum), path):
        return
    if file_checksum(path) != checksum:
        return
    folder = pack.rpartition("/")[0]
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            content = room / "member"
            content.write_bytes(archive.read(member))
            yield f"{folder}/{member}", content
