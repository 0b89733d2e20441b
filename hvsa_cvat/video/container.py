"""Whether a video file ends before the end that it announces.

FFmpeg takes a file of these formats that was cut off for a shorter film, without an error. A cut
exactly between two frames of a transport stream, or of a raw stream, leaves no trace in the file. A
cut inside a frame shows when the frame is decoded.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import IO

from hvsa_cvat.errors import MediaError

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
"""Elements of Matroska that hold others; a live recorder leaves their sizes open."""
_SYNC = 0x47
_PACKETS = ((188, 0), (192, 4), (204, 0))
"""Sizes of packets of a transport stream, and where the sync byte lies in them."""


def is_cut_short(path: Path) -> bool:
    """For Matroska, WebM, MP4, AVI, GIF and transport streams; False for all others."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
            length = file.seek(0, io.SEEK_END)
            check = _check_of(head)
            return check is not None and check(file, length)
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror}; check its permissions") from error


def _check_of(head: bytes) -> Callable[[IO[bytes], int], bool] | None:
    if head.startswith(_EBML):
        return _cut_matroska
    if head[4:8] == b"ftyp":
        return _cut_boxes
    if head.startswith(b"RIFF"):
        return _cut_riff
    if head.startswith(b"GIF8"):
        return _cut_gif
    for size, sync in _PACKETS:
        if len(head) > 4 * size and all(head[sync + k * size] == _SYNC for k in range(4)):
            return lambda file, length: length % size != 0
    return None


def _cut_matroska(file: IO[bytes], length: int) -> bool:
    """Go from element to element, into those of open size, until one ends behind the file."""
    place = 0
    while place < length:
        file.seek(place)
        head = file.read(12)
        identity, a = _number(head, keep_marker=True)
        size, b = _number(head[a:], keep_marker=False)
        if not a or not b:
            return place + len(head) >= length  # cut within the head of an element
        place += a + b
        unknown = size == (1 << 7 * b) - 1
        if unknown and identity not in (_SEGMENT, _CLUSTER):
            return False  # nothing that we understand
        place += 0 if unknown else size
    return place > length


def _number(data: bytes, *, keep_marker: bool) -> tuple[int, int]:
    """A number of variable length and how many bytes it takes, which are 0 if it is cut off."""
    if not data or not data[0]:
        return 0, 0
    width = 9 - data[0].bit_length()
    if len(data) < width:
        return 0, 0
    value = int.from_bytes(data[:width], "big")
    return (value if keep_marker else value & ((1 << 7 * width) - 1)), width


def _cut_boxes(file: IO[bytes], length: int) -> bool:
    """Boxes of ISO media files: size, type, content; size 0 reaches to the end of the file."""
    place = 0
    while place + 8 <= length:
        file.seek(place)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if size < 8:
            return False
        place += size
    return place > length


def _cut_riff(file: IO[bytes], length: int) -> bool:
    """A recorder that lost its power leaves the size 0, with all frames in place."""
    file.seek(4)
    size = int.from_bytes(file.read(4), "little")
    return size + 8 > length


def _cut_gif(file: IO[bytes], length: int) -> bool:
    """Go from block to block until the trailer comes, or the file ends without one."""
    file.seek(10)
    file.seek(13 + _gif_colours(file.read(1)))
    while kind := file.read(1):
        if kind not in b"!,":  # neither an extension nor an image: the trailer, or no GIF at all
            return False
        if kind == b"!":
            file.seek(1, io.SEEK_CUR)
        else:
            file.seek(8, io.SEEK_CUR)
            file.seek(_gif_colours(file.read(1)) + 1, io.SEEK_CUR)
        while (size := file.read(1)) and size[0]:
            file.seek(size[0], io.SEEK_CUR)
    return True


def _gif_colours(flags: bytes) -> int:
    """Bytes of the table of colours that these flags announce."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0
