"""What each file of a session must contain, so that damage is found when the file is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from hvsa_cvat.errors import SessionError
from hvsa_cvat.objects import AT_ONCE, is_pack
from hvsa_cvat.threads import map_ahead

FIX = "restore it from a copy or start again in another folder"

_LOCAL = ("frames.npy", "flow", "carrying", "features")
"""What is mapped into the memory: each machine makes it again from the frames, and a GPU of another
kind need not make the same bytes."""


class Elsewhere(Protocol):
    """Where the files of a session are kept beside its folder."""

    def fetch(
        self,
        name: str,
        checksums: Collection[str],
        target: Path,
        packs: Mapping[str, Collection[str]],
        wanted: Mapping[str, Collection[str]],
    ) -> bool:
        """See `hvsa_cvat.objects.Objects`."""


class Checksums:
    """The checksums of the files below `root`, as the session's database has recorded them.

    A file without one was written by an older version, or by a phase that was killed before it
    ended; it is taken as it is.
    """

    def __init__(
        self,
        root: Path,
        recorded: Mapping[str, set[str]] | None = None,
        expect: Callable[[str, str], None] = lambda name, checksum: None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """`recorded` are the checksums that each file may have, by its path below `root`.

        `expect(name, checksum)` must record one more for a file that is about to be replaced. What
        is missing here, or differs, is fetched from `elsewhere`.
        """
        self._root = root
        self._recorded = {name: set(sums) for name, sums in (recorded or {}).items()}
        self._expect = expect
        self._elsewhere = elsewhere
        self.written: dict[str, str] = {}
        """Files that are new since the last `settle`."""

    def note(self, path: Path, content: Path | None = None) -> None:
        """Remember what `path` contains, or will contain once `content` has been moved there."""
        self.expect(path, file_checksum(content or path))

    def expect(self, path: Path, checksum: str) -> None:
        """The same for a file whose checksum is known; it need not be in the folder."""
        name = self._name(path)
        known = self._recorded.setdefault(name, set())
        if known and checksum not in known:
            # a process killed right after the file is replaced finds it recorded
            self._expect(name, checksum)
        known.add(checksum)
        self.written[name] = checksum

    def forget(self, path: Path) -> None:
        """Take whatever is written to `path` next: it is about to be made again."""
        self._recorded.pop(self._name(path), None)

    def settle(self, gone: Iterable[str] = ()) -> None:
        """Everything in `written` is in the database now, and nothing of what is `gone`."""
        for name, checksum in self.written.items():
            self._recorded[name] = {checksum}
        for name in gone:
            self._recorded.pop(name, None)
        self.written = {}

    def knows(self, path: Path) -> bool:
        return bool(self._recorded.get(self._name(path)))

    def of(self, name: str) -> set[str]:
        """Those that a file may have, by its path below the folder."""
        return set(self._recorded.get(name, ()))

    def below(self, folder: Path) -> dict[str, set[str]]:
        """The names that are recorded below a folder, and their checksums."""
        start = "" if folder == self._root else f"{self._name(folder)}/"
        return {
            name: set(known) for name, known in self._recorded.items() if name.startswith(start)
        }

    def holds(self, path: Path) -> bool:
        """Whether the file is as it was recorded; True for a file that was never recorded."""
        known = self._recorded.get(self._name(path))
        if not known:
            return True
        try:
            return file_checksum(path) in known
        except OSError:
            return False

    def check(self, path: Path) -> Path:
        """`path`, if the file is as it was recorded; a `SessionError` that names it otherwise."""
        if self.holds(path):
            return path
        name = self._name(path)
        if self._elsewhere is not None:
            siblings = self._siblings(name)
            packs = {one: siblings[one] for one in siblings if is_pack(one)}
            if self._elsewhere.fetch(name, self._recorded[name], path, packs, siblings):
                return path
        where = "" if self._elsewhere is None else f", also in {self._elsewhere}"
        if not path.exists():
            raise SessionError(f"{path} is missing{where}; {FIX}")
        raise SessionError(f"{path} is damaged{where}: its content has changed; {FIX}")

    def bring(self, folder: Path) -> None:
        """Fetch the files at or below `folder` that are recorded and not here, where they are kept
        elsewhere."""
        if self._elsewhere is None:
            return
        names = [*self.below(folder), *([] if folder == self._root else [self._name(folder)])]
        paths = [self._root / name for name in names if not (is_pack(name) or is_local(name))]
        lacking = [path for path in paths if self.knows(path) and not path.exists()]
        for first in {path.parent: path for path in lacking}.values():
            self.check(first)  # a pack brings the others of its folder
        others = [path for path in lacking if not path.exists()]
        for _ in map_ahead(self.check, others, AT_ONCE):
            pass

    def _siblings(self, name: str) -> dict[str, set[str]]:
        """What is recorded of the files beside it, and of itself."""
        start = f"{name.rpartition('/')[0]}/" if "/" in name else ""
        return {
            one: known
            for one, known in self._recorded.items()
            if one.startswith(start) and "/" not in one[len(start) :]
        }

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def file_checksum(path: Path) -> str:
    """BLAKE2b of the content, 256 bits in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def is_local(name: str) -> bool:
    """Whether a file stays on the machine that made it; `name` is its path below the session's
    folder."""
    return name.partition("/")[0] in _LOCAL
