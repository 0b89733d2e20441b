"""Text as people's editors save it, paths as people write them, and numbers of things."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

_MARK = "\ufeff"


def decode_text(content: bytes) -> str:
    """UTF-8 with or without a byte order mark, or UTF-16 with one; `UnicodeDecodeError` else."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def without_mark(text: str) -> str:
    """Text that a shell has read from a file, without the byte order mark and line end of it."""
    return text.strip(f"{_MARK}\r\n")


def expand_home(path: str | Path) -> Path:
    """The path with a leading `~` replaced, which no shell does in files and variables."""
    return Path(os.path.expanduser(path))  # unlike Path.expanduser, it never raises


def plural(number: int, noun: str) -> str:
    """`1 frame`, `2 frames`, `2 classes`."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else ending}"
