"""The size at which a network works on frames, where none is asked for."""

from __future__ import annotations

from hvsa_cvat.types import Size

_SMALLEST = 32
"""Pixels; the stride of the network."""


def own_size(frames: Size) -> Size:
    """The frames' own size, enlarged where the network could not take it."""
    height, width = frames
    return max(height, _SMALLEST), max(width, _SMALLEST)
