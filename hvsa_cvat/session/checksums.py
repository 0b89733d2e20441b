"""What each file of a session must contain, so that damage is found when the file is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from hvsa_cvat.errors import SessionError

FIX = "restore it from a copy or start again in another folder"


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
    ) -> None:
        """`recorded` are the checksums that each file may have, by its path below `root`.

        `expect(name, checksum)` must record one more for a file that is about to be replaced.
        """
        self._root = root
        self._recorded = {name: set(sums) for name, sums in (recorded or {}).items()}
        self._expect = expect
        self.written: dict[str, str] = {}
        """Files that are new since the last `settle`."""

    def note(self, path: Path, content: Path | None = None) -> None:
        """Remember what `path` contains, or will contain once `content` has been moved there."""
        name, checksum = self._name(path), file_checksum(content or path)
        known = self._recorded.setdefault(name, set())
        if known and checksum not in known:
            # a process killed right after the file is replaced finds it recorded
            self._expect(name, checksum)
        known.add(checksum)
        self.written[name] = checksum

    def forget(self, path: Path) -> None:
        """Take whatever is written to `path` next: it is about to be made again."""
        self._recorded.pop(self._name(path), None)

    def settle(self) -> None:
        """Everything in `written` is in the database now."""
        for name, checksum in self.written.items():
            self._recorded[name] = {checksum}
        self.written = {}

    def knows(self, path: Path) -> bool:
        return bool(self._recorded.get(self._name(path)))

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
        if self.knows(path) and not path.exists():
            raise SessionError(f"{path} is missing; {FIX}")
        if not self.holds(path):
            raise SessionError(f"{path} is damaged: its content has changed; {FIX}")
        return path

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def file_checksum(path: Path) -> str:
    """BLAKE2b of the content, 256 bits in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
