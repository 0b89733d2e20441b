"""Labels of people that count less than others."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.types import Packed


@dataclass(frozen=True)
class Doubted:
    """Labels of people that count less than others. They are shown all the same."""

    pixels: Mapping[int, Packed]
    """bool (H, W) by annotated frame."""
    weight: float
    """In 0..1: their confidence, in place of 1, when they are carried and when they teach."""

    def confidence(self, frame: int) -> NDArray[np.float32] | np.float32:
        """Of the labels in an annotated frame, float32 (H, W), or the same for all."""
        if frame not in self.pixels:
            return np.float32(1)
        return np.where(self.pixels[frame].array, np.float32(self.weight), np.float32(1))

    def described(self) -> list[Any]:
        """As JSON: the weight, the frames, and a checksum of the pixels."""
        pixels = zlib.crc32(b"".join(one.content for one in self.pixels.values()))
        return [self.weight, list(self.pixels), pixels]
