"""The file of one chunk: a zip of images or an H.264 film, checked and decoded.

What the file announces is compared with the task before anything is inflated or decoded.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import av

from hvsa_cvat.cvat.media import Chunk, TaskMedia
from hvsa_cvat.errors import MediaError
from hvsa_cvat.types import Image
from hvsa_cvat.video.film import decode_video, upright_image
from hvsa_cvat.video.frames import resize_image
from hvsa_cvat.video.images import read_image

_BYTES_A_PIXEL = 16
_BYTES_BESIDE = 2**23
"""A file of 16 bits and four channels has 8 bytes a pixel, with previews and profiles beside."""
_DIRECTORY_ENTRY = 1024
"""Bytes of a zip's directory for each file in it; CVAT takes about 60."""
_PLAIN_TYPES = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Ways of packing that are inflated within a limit. CVAT uses the first."""
_GRAIN = 64
"""Pixels; codecs round the sides of what they decode up to as much."""


class OpenChunk(Protocol):
    def verify(self) -> None:
        """Decode all of it; `MediaError` if it is not what the server announced."""

    def read(self, number: int) -> Image:
        """The frame with this number; reading in ascending order is fast."""


def largest_chunk(media: TaskMedia, chunk: Chunk) -> int:
    """Bytes that the file of a chunk has at most."""
    return (chunk.length + 1) * _largest_frame(media)


def _largest_frame(media: TaskMedia) -> int:
    height, width = media.size
    return height * width * _BYTES_A_PIXEL + _BYTES_BESIDE


def open_chunk(path: Path, media: TaskMedia, chunk: Chunk) -> OpenChunk:
    return (_VideoChunk if media.kind == "video" else _ImageChunk)(path, media, chunk)


class _VideoChunk:
    """An H.264 film. One decoder stays open where the last frame was read."""

    def __init__(self, path: Path, media: TaskMedia, chunk: Chunk) -> None:
        self._path = path
        self._media = media
        self._chunk = chunk
        self._decoder: Iterator[av.VideoFrame] = iter(())
        self._next = chunk.start + chunk.length

    def verify(self) -> None:
        length = 0
        height, width = self._media.size
        # The codec takes even sizes only, so the server stretches odd ones by a pixel.
        stretched = (height + height % 2, width + width % 2)
        for frame in self._decode():
            if (frame.height, frame.width) not in (self._media.size, stretched):
                what = f"frames of {frame.width}x{frame.height}"
                raise _unexpected(self._media, self._chunk, what)
            length += 1
            if length > self._chunk.length:
                raise _unexpected(self._media, self._chunk, f"more than {length - 1} frames")
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
        height, width = (side + -side % _GRAIN for side in self._media.size)
        try:
            for frame, _ in decode_video(self._path, most_pixels=height * width, form="mp4"):
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
        # Only frames in use: people may have deleted a frame because it is damaged.
        for number in self._chunk.numbers:
            self.read(number)

    def read(self, number: int) -> Image:
        size = self._media.size
        with self._opened() as archive:
            members = sorted(archive.infolist(), key=lambda member: member.filename)
            content = io.BytesIO(self._inflate(archive, members[number - self._chunk.start]))
        name = Path(f"frame {number} of task {self._media.task}")
        image = read_image(name, content, expected=size)
        if image.shape[:2] != size:
            # If the server ignored the EXIF tag, people have drawn on the image without a rotation.
            image = read_image(name, content, turn=False, expected=size)
        if image.shape[:2] != size:
            raise MediaError(
                f"{name} is {image.shape[1]}x{image.shape[0]} but the server announces "
                f"{size[1]}x{size[0]}; save the image without an EXIF rotation and make the task "
                "anew"
            )
        return image

    def _inflate(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
        most = _largest_frame(self._media)
        if member.file_size > most:
            what = f"a file of {member.file_size / 2**20:.0f} MiB"
            raise _unexpected(self._media, self._chunk, what)
        if member.compress_type not in _PLAIN_TYPES or member.flag_bits & 1:
            raise zipfile.BadZipFile("packed in a way that CVAT does not use")
        return archive.read(member)

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            _check_directory(self._path, self._chunk.length)
            with zipfile.ZipFile(self._path) as archive:
                yield archive
        except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError) as error:
            raise _unexpected(self._media, self._chunk, "no sound zip") from error


def _check_directory(path: Path, files: int) -> None:
    """`BadZipFile` where the directory of a zip is too large for its files: Python takes all of it
    into memory, at ten times its bytes."""
    with path.open("rb") as file:
        length = file.seek(0, io.SEEK_END)
        file.seek(max(0, length - 2**16))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0 or b"PK\6\7" in tail:  # the second one begins a form for more files than CVAT sends
        raise zipfile.BadZipFile("no directory")
    (size,) = struct.unpack_from("<L", tail, end + 12)
    if size > files * _DIRECTORY_ENTRY:
        raise zipfile.BadZipFile("a directory of too many files")


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
