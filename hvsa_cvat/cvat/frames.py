"""The frames of a task: whole chunks at original quality, kept in a cache on disk.

The cache holds the chunks as the server sent them, not decoded frames: a decoded film is 10 to 30
times larger, and most frames are read once, in order, which is fast with a decoder that stays open.
"""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from hvsa_cvat.cvat.chunks import OpenChunk, largest_chunk, open_chunk
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.media import Chunk, TaskMedia
from hvsa_cvat.errors import MediaError
from hvsa_cvat.files import remove_partial
from hvsa_cvat.ports import FrameSource, Progress
from hvsa_cvat.types import Image, Size


def open_task_frames(
    client: CvatClient, media: TaskMedia, cache: Path, progress: Progress
) -> FrameSource:
    """The frames in use: position i is frame `media.numbers[i]`, and its name has that number.

    Chunks that are not in the folder `cache` are fetched now. Several servers and tasks may share
    the folder, but only one process may use it for a task. Each chunk is decoded once before it
    is kept; chunks of an earlier date are deleted. The client stays in use: a file that is found
    damaged later is fetched again.
    """
    files = _FetchedChunks(client, media, cache)
    files.fetch_missing(progress)
    return _TaskFrames(media, files)


def open_kept_frames(server: str, media: TaskMedia, cache: Path) -> FrameSource:
    """The same frames by what `open_task_frames` has left in `cache`: nothing is fetched.

    `server` is the address. A chunk that is missing or damaged is a `LackingFramesError`, also
    later; the next `open_task_frames` fetches it again.
    """
    files = _KeptChunks(server, media, cache)
    for chunk in files.missing():
        files.path(chunk)
    return _TaskFrames(media, files)


class LackingFramesError(MediaError):
    """Frames are not in the cache, or damaged there."""


class _TaskFrames:
    """One chunk is kept open, and the frame that was read last."""

    def __init__(self, media: TaskMedia, cache: _KeptChunks) -> None:
        self._media = media
        self._names = media.names
        self._chunks = {number: chunk for chunk in media.chunks for number in chunk.numbers}
        self._cache = cache
        self._open: tuple[Chunk, OpenChunk] | None = None
        self._last: tuple[int, Image] | None = None

    @property
    def names(self) -> Sequence[str]:
        return self._names

    @property
    def size(self) -> Size:
        return self._media.size

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, frame: int) -> Image:
        number = self._media.numbers[frame]
        if self._last is None or self._last[0] != number:
            chunk = self._chunks[number]
            if self._open is None or self._open[0] != chunk:
                path = self._cache.path(chunk)
                self._open = chunk, open_chunk(path, self._media, chunk)
            self._last = number, self._open[1].read(number)
        return self._last[1]


_STORED = re.compile(r"(?P<job>\d+)_(?P<index>\d+)-(?P<checksum>[0-9a-f]{8})\.(?:mp4|zip)")
"""The file of a chunk: job, position among the job's chunks, CRC-32 of the content."""


class _KeptChunks:
    """The verified chunks of one task and date, a file each."""

    def __init__(self, server: str, media: TaskMedia, cache: Path) -> None:
        self._media = media
        address = urlsplit(server)
        self._of_task = cache / _as_name(address.netloc + address.path) / f"task_{media.task}"
        self._folder = self._of_task / _as_name(media.chunks_updated)
        self._paths: dict[tuple[int, int], Path] = {}
        self._sound: set[Path] = set()
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if stored := _STORED.fullmatch(path.name):
                    self._paths[int(stored["job"]), int(stored["index"])] = path

    def missing(self) -> list[Chunk]:
        return [one for one in self._media.chunks if (one.job, one.index) not in self._paths]

    def path(self, chunk: Chunk) -> Path:
        """The file of a chunk, exactly as the server sent it."""
        path = self._paths.get((chunk.job, chunk.index))
        if path is None or (path not in self._sound and not _is_sound(path)):
            if path is not None:
                path.unlink(missing_ok=True)
            path = self._without(chunk)
        self._sound.add(path)
        return path

    def _without(self, chunk: Chunk) -> Path:
        """What to do about a chunk that is not there, or was damaged and is removed."""
        raise LackingFramesError(
            f"frames {chunk.start} to {chunk.start + chunk.length - 1} of task {self._media.task} "
            f"were missing or damaged in {self._folder}; the next pass fetches them again"
        )


class _FetchedChunks(_KeptChunks):
    """The same, fetched where they are missing."""

    def __init__(self, client: CvatClient, media: TaskMedia, cache: Path) -> None:
        super().__init__(client.address.url, media, cache)
        self._client = client
        self._suffix = ".mp4" if media.kind == "video" else ".zip"
        if self._of_task.is_dir():
            remove_partial(self._of_task)
            for other in self._of_task.iterdir():
                if other != self._folder:
                    shutil.rmtree(other, ignore_errors=True)

    def _without(self, chunk: Chunk) -> Path:
        return self._fetch(chunk)

    def fetch_missing(self, progress: Progress) -> None:
        missing = self.missing()
        total = len(self._media.numbers)
        done = total - sum(len(chunk.numbers) for chunk in missing)
        for chunk in missing:
            self._fetch(chunk)
            done += len(chunk.numbers)
            progress("fetching frames", done, total)

    def _fetch(self, chunk: Chunk) -> Path:
        arrived = self._folder / f"arrived{self._suffix}"
        try:
            headers = self._client.download(
                f"jobs/{chunk.job}/data",
                arrived,
                most=largest_chunk(self._media, chunk),
                type="chunk",
                quality="original",
                index=chunk.index,
            )
            self._check_date(headers.get("X-Updated-Date"))
            open_chunk(arrived, self._media, chunk).verify()
            # It is renamed last: a file counts only if its name holds the checksum of its content.
            name = f"{chunk.job}_{chunk.index}-{_checksum(arrived):08x}{self._suffix}"
            stored = arrived.replace(self._folder / name)
        finally:
            arrived.unlink(missing_ok=True)
        self._paths[chunk.job, chunk.index] = stored
        self._sound.add(stored)
        return stored

    def _check_date(self, updated: str | None) -> None:
        """`updated`: the date of the job's chunks. It is never later than that of the task's."""
        if updated is None:
            return
        try:
            is_newer = datetime.fromisoformat(updated) > datetime.fromisoformat(
                self._media.chunks_updated
            )
        except (TypeError, ValueError) as error:
            raise MediaError(
                f"task {self._media.task}: the server dates its frames {updated[:40]!r}, which is "
                "no date of CVAT; check the server address"
            ) from error
        if is_newer:
            raise MediaError(
                f"the frames of task {self._media.task} changed on the server while they were "
                "fetched; run again"
            )


def _as_name(text: str) -> str:
    """A text as the name of one folder that is not hidden."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text.strip("/")).lstrip(".")


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _is_sound(path: Path) -> bool:
    stored = _STORED.fullmatch(path.name)
    try:
        return stored is not None and _checksum(path) == int(stored["checksum"], 16)
    except OSError:
        return False
