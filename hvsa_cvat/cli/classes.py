"""What `simulate` and `pretrain` read out of class names and frame sizes."""

from __future__ import annotations

from pathlib import Path

from hvsa_cvat.errors import ConfigError
from hvsa_cvat.types import LabelSet, Size

_SMALLEST = 32
"""Pixels; the stride of the network."""


def parse_classes(text: str) -> LabelSet:
    """Comma separated names, or the names in a text file with one per line."""
    path = Path(text).expanduser()
    if "," not in text and path.suffix == ".txt":
        try:
            names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--classes {text!r}: the file cannot be read; give a text file with one class "
                "a line, or names separated by commas"
            ) from error
    else:
        names = [name.strip() for name in text.split(",")]
    return LabelSet(tuple(names))


def own_size(frames: Size) -> Size:
    """The frames' own size, enlarged where the network could not take it."""
    height, width = frames
    return max(height, _SMALLEST), max(width, _SMALLEST)
