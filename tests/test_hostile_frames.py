"""Chunks that claim to be far more than the task: they are refused before memory is spent on them.

The attacks run in a process of their own, because codecs take memory that Python does not count.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.standin.media import encode

SIZE = (48, 64)
LENGTH = 3
MOST_GROWTH = 100
"""MB that refusing a chunk may take; without the checks the large picture takes 1,767."""

VICTIM = f"""
import sys
from pathlib import Path
from hvsa_cvat.cvat.chunks import open_chunk
from hvsa_cvat.cvat.media import Chunk, TaskMedia
from hvsa_cvat.errors import MediaError

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) // 1024

kind, path = sys.argv[1], Path(sys.argv[2])
numbers = tuple(range({LENGTH}))
chunk = Chunk(7, 0, 0, {LENGTH}, numbers)
media = TaskMedia(5, kind, {SIZE}, numbers, frozenset(), (chunk,), "2026-01-01T00:00:00Z")
before = status("VmRSS")
try:
    open_chunk(path, media, chunk).verify()
    print("taken")
except MediaError as error:
    print(error)
print(status("VmHWM") - before)
"""


def frame() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((*SIZE, 3), 99, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(first: bytes, kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index, content in enumerate((first, *[frame()] * (LENGTH - 1))):
            packing = kind if index == 0 else zipfile.ZIP_STORED
            archive.writestr(f"{index:06d}.png", content, packing, 1)
    return buffer.getvalue()


def large_member() -> bytes:
    return zipped(frame() + bytes(2**28))


def large_png() -> bytes:
    """A small file of 132 million pixels of one bit each."""
    width, height = 11_000, 12_000

    def part(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">L", len(content)) + checked + struct.pack(">L", zlib.crc32(checked))

    pixels = zlib.compress(bytes((1 + width // 8) * height), 1)
    start = part(b"IHDR", struct.pack(">LLBBBBB", width, height, 1, 0, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + start + part(b"IDAT", pixels) + part(b"IEND", b"")
    return zipped(png)


def large_tile() -> bytes:
    """A TIFF image of the right size, whose one tile has 268 million pixels."""
    side = 2**14
    tile = zlib.compress(bytes(side * side), 1)
    height, width = SIZE
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    tags |= {324: 8 + 2 + 12 * 10 + 4, 325: len(tile)}
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags.items())
    return zipped(
        b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + struct.pack("<L", 0) + tile
    )


def many_members() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(150_000):
            archive.writestr(zipfile.ZipInfo(f"{index:06d}.png"), b"")
    return buffer.getvalue()


def postscript() -> bytes:
    return zipped(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n")


def large_film() -> bytes:
    return encode([np.full((4096, 4096, 3), 99, np.uint8)] * LENGTH)


def long_film() -> bytes:
    return encode([np.full((*SIZE, 3), 99, np.uint8)] * 500)


def playlist() -> bytes:
    return b"#EXTM3U\n#EXTINF:1,\nfile:///dev/zero\n"


@pytest.mark.parametrize(
    ("kind", "attack", "reason"),
    [
        ("images", large_member, "sent a file of 256 MiB as chunk 0, not 3 frames of 64x48"),
        ("images", lambda: zipped(bytes(2**22), zipfile.ZIP_BZIP2), "sent no sound zip"),
        ("images", lambda: zipped(bytes(2**22), zipfile.ZIP_LZMA), "sent no sound zip"),
        ("images", large_png, "frame 0 of task 5 is 11000x12000 but the server announces 64x48"),
        ("images", large_tile, "claims 16384x16384 pixels"),
        ("images", many_members, "sent no sound zip"),
        ("images", postscript, "in none of the formats"),
        ("video", large_film, "sent no sound film as chunk 0, not 3 frames of 64x48"),
        ("video", long_film, "sent more than 3 frames as chunk 0"),
        ("video", playlist, "sent no sound film"),
    ],
)
def test_a_chunk_that_claims_too_much_is_refused_in_little_memory(
    tmp_path: Path, kind: str, attack: Callable[[], bytes], reason: str
) -> None:
    path = tmp_path / "chunk"
    path.write_bytes(attack())
    run = subprocess.run(
        [sys.executable, "-c", VICTIM, kind, path], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    line, growth = run.stdout.splitlines()
    assert reason in line
    assert int(growth) < MOST_GROWTH


def test_a_sound_chunk_is_taken(tmp_path: Path) -> None:
    """The same process, so that the refusals above mean something."""
    for kind, content in (
        ("images", zipped(frame())),
        ("video", encode([np.full((*SIZE, 3), 99, np.uint8)] * LENGTH)),
    ):
        path = tmp_path / "chunk"
        path.write_bytes(content)
        run = subprocess.run(
            [sys.executable, "-c", VICTIM, kind, path], capture_output=True, text=True, timeout=120
        )
        assert run.stdout.splitlines()[0] == "taken", run
