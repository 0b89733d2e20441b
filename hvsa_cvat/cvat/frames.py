"""The frames of a task: whole chunks at original quality, kept in a cache on disk.

The cache holds the chunks as the server sent them, not decoded frames: a decoded film is 10 to 30
times larger, and most frames are read once, in order, which a decoder kept at its place does fast.
"""

from __future__ import annotations

import bisect
import io
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import quote, urlsplit

import av

from hvsa_cvat.cvat.http.client import Address, CvatClient, Forbidden, Json, NotFound
from hvsa_cvat.errors import MediaError
from hvsa_cvat.files import remove_partial
from hvsa_cvat.ports import FrameSource, Progress
from hvsa_cvat.types import Image, Size
from hvsa_cvat.video.film import decode_video, upright_image
from hvsa_cvat.video.frames import resize_image
from hvsa_cvat.video.images import read_image


@dataclass(frozen=True)
class Chunk:
    """Neighbouring frames of one job that the server sends as one file."""

    job: int
    index: int
    """Its place among the job's chunks."""
    start: int
    """Number of its first frame."""
    length: int
    """Frames in it, the deleted ones among them."""
    numbers: tuple[int, ...]
    """Frames in use that are read from it: where jobs overlap, each from one chunk only."""


@dataclass(frozen=True)
class TaskMedia:
    """What the server says of a task's frames.

    Frame numbers are the task's own, 0-based, as in shapes, jobs and issues: where the source
    starts and how many of its frames a step skips plays no part.
    """

    task: int
    kind: Literal["images", "video"]
    """What a chunk is: a zip of images, or an H.264 film."""
    size: Size
    numbers: tuple[int, ...]
    """Numbers of the frames in use, ascending."""
    deleted: frozenset[int]
    """Numbers of the frames that somebody has deleted, in use or not."""
    chunks: tuple[Chunk, ...]
    """In order of time; those without a frame in use are left out."""
    chunks_updated: str
    """When the server last changed what the chunks hold, as it wrote the time."""
    files: tuple[str, ...] = ()
    """Names of the images as they were uploaded, of those in use; none of a video."""

    @property
    def names(self) -> tuple[str, ...]:
        """One a frame in use, by its number: `frame_000012`."""
        return tuple(f"frame_{number:06d}" for number in self.numbers)

    def position(self, number: int) -> int | None:
        """Place in `numbers`, or None for a frame that is deleted or never was."""
        at = bisect.bisect_left(self.numbers, number)
        return at if at < len(self.numbers) and self.numbers[at] == number else None


def read_media(client: CvatClient, row: Json, in_use: Sequence[int] | None = None) -> TaskMedia:
    """The frames of a task, `row` being the server's description of it.

    `in_use` are the numbers of the frames that count, deleted or not; without it those that are not
    deleted now.

    `MediaError` where it holds no 2-D frames of one size, `NotFound` where its jobs are not listed.
    """
    task: int = row["id"]
    kind = row.get("media_type") or "image"
    if kind != "image" or row.get("dimension", "2d") != "2d":
        what = "audio" if kind == "audio" else "point clouds"
        raise MediaError(f"task {task} holds {what}; choose a task of images or of a 2-D video")
    if not row.get("size") or not row.get("mode") or (row.get("jobs") or {}).get("count") == 0:
        raise _without_frames(client, task)
    if row.get("validation_mode") == "gt_pool":
        raise MediaError(
            f"task {task} mixes honeypots into its jobs, so its frames are in no order of time; "
            "make a task without honeypots"
        )
    meta: Json = client.get(f"tasks/{task}/data/meta")
    deleted = frozenset(meta["deleted_frames"])
    numbers = tuple(in_use or (n for n in range(meta["size"]) if n not in deleted))
    if not numbers:
        raise MediaError(f"all frames of task {task} are deleted; restore some of them in CVAT")
    return TaskMedia(
        task=task,
        kind="video" if row["data_original_chunk_type"] == "video" else "images",
        size=_common_size(task, meta["frames"], numbers),
        numbers=numbers,
        deleted=deleted,
        chunks=_chunks(client, task, numbers, meta["chunk_size"]),
        chunks_updated=meta["chunks_updated_date"],
        files=_file_names(meta["frames"], numbers),
    )


def _file_names(frames: Sequence[Json], numbers: Sequence[int]) -> tuple[str, ...]:
    """Of a video the server describes one frame for all, and that only by the film's name."""
    return tuple(frames[number]["name"] for number in numbers) if len(frames) > 1 else ()


def elsewhere(address: Address, task: int) -> NotFound:
    """The error of a task that is not where we look.

    A task may be read from any organisation, but its jobs are listed only in its own.
    """
    place = f"organisation {address.organization!r}" if address.organization else "personal space"
    return NotFound(
        f"{address.url} has no task {task} in the {place}; check the number, and set the "
        "organisation that the task belongs to"
    )


def _chunks(
    client: CvatClient, task: int, numbers: Sequence[int], chunk_size: int
) -> tuple[Chunk, ...]:
    """The chunks of the task's jobs.

    Not those of the task: the server makes them of the jobs' chunks, so that a film is compressed
    once more, which takes it longer and changes the pixels that single frames have.
    """
    jobs = [job for job in client.rows("jobs", task_id=task) if job["type"] == "annotation"]
    if not jobs:
        raise elsewhere(client.address, task)
    unread = set(numbers)
    chunks = []
    for job in sorted(jobs, key=lambda job: (job["start_frame"], job["id"])):
        stop = job["stop_frame"] + 1
        for index, start in enumerate(range(job["start_frame"], stop, chunk_size)):
            length = min(chunk_size, stop - start)
            served = tuple(number for number in range(start, start + length) if number in unread)
            if served:
                chunks.append(Chunk(job["id"], index, start, length, served))
                unread.difference_update(served)
    if unread:
        raise MediaError(f"frame {min(unread)} of task {task} is in no job; make the task anew")
    return tuple(chunks)


def _without_frames(client: CvatClient, task: int) -> MediaError:
    """Why a task has no frames, as its import tells."""
    request: Json = {}
    # The server forgets imports after minutes and tells of them only to who started them.
    with suppress(NotFound, Forbidden):
        name = quote(f"action=create&target=task&target_id={task}", safe="")
        request = client.get(f"requests/{name}")
    # It may have finished since the task was read.
    if request.get("status") in ("queued", "started", "finished"):
        return MediaError(f"task {task} is still importing its frames; try again in a while")
    if request.get("status") == "failed":
        reason = (str(request.get("message") or "").strip().splitlines() or ["no reason given"])[-1]
        return MediaError(f"the import of task {task} failed ({reason}); delete it, make it anew")
    return MediaError(f"task {task} has no frames; upload images or a video to it in CVAT")


def _common_size(task: int, frames: Sequence[Json], numbers: Sequence[int]) -> Size:
    """The size of the frames in use. Of a video the server describes one frame for all."""
    if len(frames) == 1:
        return frames[0]["height"], frames[0]["width"]
    first = frames[numbers[0]]
    for number in numbers:
        other = frames[number]
        if (other["height"], other["width"]) != (first["height"], first["width"]):
            raise MediaError(
                f"frame {number} of task {task} ({other['name']}) is "
                f"{other['width']}x{other['height']} but frame {numbers[0]} is "
                f"{first['width']}x{first['height']}; all frames must have one size, so delete "
                "the others in CVAT"
            )
    return first["height"], first["width"]


def open_task_frames(
    client: CvatClient, media: TaskMedia, cache: Path, progress: Progress
) -> FrameSource:
    """The frames in use, position i being frame `media.numbers[i]`, each by its number's name.

    What the folder `cache` lacks is fetched now. It may serve several servers and tasks, but one
    process a task. Each chunk is decoded once before it counts; chunks of an earlier date are
    dropped. The client stays in use: a file that was damaged since is fetched again when read.
    """
    files = _ChunkCache(client, media, cache)
    files.fetch_missing(progress)
    return _TaskFrames(media, files)


class _TaskFrames:
    """One chunk is kept open, its decoder at its place."""

    def __init__(self, media: TaskMedia, cache: _ChunkCache) -> None:
        self._media = media
        self._names = media.names
        self._chunks = {number: chunk for chunk in media.chunks for number in chunk.numbers}
        self._cache = cache
        self._open: tuple[Chunk, _OpenChunk] | None = None
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
                self._open = chunk, _open_chunk(path, self._media, chunk)
            self._last = number, self._open[1].read(number)
        return self._last[1]


_STORED = re.compile(r"(?P<job>\d+)_(?P<index>\d+)-(?P<checksum>[0-9a-f]{8})\.(?:mp4|zip)")
"""A chunk's file: job, place among the job's chunks, CRC-32 of the content."""


class _ChunkCache:
    """The verified chunks of one task and date, a file each."""

    def __init__(self, client: CvatClient, media: TaskMedia, cache: Path) -> None:
        self._client = client
        self._media = media
        self._suffix = ".mp4" if media.kind == "video" else ".zip"
        address = urlsplit(client.address.url)
        of_task = cache / _as_name(address.netloc + address.path) / f"task_{media.task}"
        self._folder = of_task / _as_name(media.chunks_updated)
        self._paths: dict[tuple[int, int], Path] = {}
        self._sound: set[Path] = set()
        if of_task.is_dir():
            remove_partial(of_task)
            for other in of_task.iterdir():
                if other != self._folder:
                    shutil.rmtree(other, ignore_errors=True)
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if stored := _STORED.fullmatch(path.name):
                    self._paths[int(stored["job"]), int(stored["index"])] = path

    def fetch_missing(self, progress: Progress) -> None:
        missing = [c for c in self._media.chunks if (c.job, c.index) not in self._paths]
        total = len(self._media.numbers)
        done = total - sum(len(chunk.numbers) for chunk in missing)
        for chunk in missing:
            self._fetch(chunk)
            done += len(chunk.numbers)
            progress("fetching frames", done, total)

    def path(self, chunk: Chunk) -> Path:
        """The file of a chunk, whole as it came."""
        path = self._paths[chunk.job, chunk.index]
        if path not in self._sound and not _is_sound(path):
            path.unlink(missing_ok=True)
            path = self._fetch(chunk)
        self._sound.add(path)
        return path

    def _fetch(self, chunk: Chunk) -> Path:
        arrived = self._folder / f"arrived{self._suffix}"
        path, query = f"jobs/{chunk.job}/data", {"type": "chunk", "quality": "original"}
        try:
            headers = self._client.download(path, arrived, index=chunk.index, **query)
            self._check_date(headers.get("X-Updated-Date"))
            _open_chunk(arrived, self._media, chunk).verify()
            # Named last: only a name that tells the content's checksum counts.
            name = f"{chunk.job}_{chunk.index}-{_checksum(arrived):08x}{self._suffix}"
            stored = arrived.replace(self._folder / name)
        finally:
            arrived.unlink(missing_ok=True)
        self._paths[chunk.job, chunk.index] = stored
        self._sound.add(stored)
        return stored

    def _check_date(self, updated: str | None) -> None:
        """Of a job's chunks, which is at most that of the whole task."""
        announced = datetime.fromisoformat(self._media.chunks_updated)
        if updated and datetime.fromisoformat(updated) > announced:
            raise MediaError(
                f"the frames of task {self._media.task} changed on the server while they were "
                "fetched; run again"
            )


def _as_name(text: str) -> str:
    """Something that may be the name of one folder, and never of a hidden one."""
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


class _OpenChunk(Protocol):
    def verify(self) -> None:
        """Decode it from end to end; `MediaError` where it is not what the server announced."""

    def read(self, number: int) -> Image:
        """The frame of this number; forward order is fast."""


def _open_chunk(path: Path, media: TaskMedia, chunk: Chunk) -> _OpenChunk:
    return (_VideoChunk if media.kind == "video" else _ImageChunk)(path, media, chunk)


class _VideoChunk:
    """An H.264 film; one decoder is kept at its place."""

    def __init__(self, path: Path, media: TaskMedia, chunk: Chunk) -> None:
        self._path = path
        self._media = media
        self._chunk = chunk
        self._decoder: Iterator[av.VideoFrame] = iter(())
        self._next = chunk.start + chunk.length

    def verify(self) -> None:
        length = 0
        height, width = self._media.size
        # The codec takes even sizes only: the server stretches odd ones by a pixel.
        stretched = (height + height % 2, width + width % 2)
        for frame in self._decode():
            if (frame.height, frame.width) not in (self._media.size, stretched):
                what = f"frames of {frame.width}x{frame.height}"
                raise _unexpected(self._media, self._chunk, what)
            length += 1
        _check_length(self._media, self._chunk, length)

    def read(self, number: int) -> Image:
        if number < self._next:
            self._decoder, self._next = self._decode(), self._chunk.start
        for frame in self._decoder:
            self._next += 1
            if self._next > number:
                return resize_image(upright_image(frame), self._media.size)
        raise MediaError(f"{self._path} changed while it was in use; start again")

    def _decode(self) -> Iterator[av.VideoFrame]:
        try:
            for frame, _ in decode_video(self._path):
                yield frame
        except MediaError as error:
            raise _unexpected(self._media, self._chunk, "no sound film") from error


class _ImageChunk:
    """A zip of image files, in the order of their names."""

    def __init__(self, path: Path, media: TaskMedia, chunk: Chunk) -> None:
        self._path = path
        self._media = media
        self._chunk = chunk

    def verify(self) -> None:
        with self._opened() as archive:
            _check_length(self._media, self._chunk, len(archive.namelist()))
        # Only frames in use: a person may have deleted one because it is damaged.
        for number in self._chunk.numbers:
            self.read(number)

    def read(self, number: int) -> Image:
        size = self._media.size
        with self._opened() as archive:
            member = sorted(archive.namelist())[number - self._chunk.start]
            content = io.BytesIO(archive.read(member))
        name = Path(f"frame {number} of task {self._media.task}")
        image = read_image(name, content)
        if image.shape[:2] != size:
            # Where the server has not heeded the EXIF tag, people have drawn on the image as it is.
            image = read_image(name, content, turn=False)
        if image.shape[:2] != size:
            raise MediaError(
                f"{name} is {image.shape[1]}x{image.shape[0]} but the server announces "
                f"{size[1]}x{size[0]}; save the image without an EXIF rotation and make the task "
                "anew"
            )
        return image

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self._path) as archive:
                yield archive
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise _unexpected(self._media, self._chunk, "no sound zip") from error


def _check_length(media: TaskMedia, chunk: Chunk, length: int) -> None:
    if length != chunk.length:
        raise _unexpected(media, chunk, f"{length} frames")


def _unexpected(media: TaskMedia, chunk: Chunk, what: str) -> MediaError:
    height, width = media.size
    return MediaError(
        f"task {media.task}, job {chunk.job}: the server sent {what} as chunk {chunk.index}, not "
        f"{chunk.length} frames of {width}x{height}; try again, and if it stays so make the task "
        "anew"
    )
