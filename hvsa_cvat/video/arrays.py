"""A video that is an array in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.types import Image, Size


class ArrayFrames:
    """A `FrameSource` of the array `video`, uint8 (N, H, W, 3) RGB.

    The frames are named 000000, 000001, ...
    """

    def __init__(self, video: NDArray[np.uint8]) -> None:
        if video.ndim != 4 or video.shape[3] != 3 or video.dtype != np.uint8 or not len(video):
            raise ValueError(f"a video must be uint8 (N, H, W, 3), not {video.dtype} {video.shape}")
        self._video = video
        self._names = tuple(f"{frame:06d}" for frame in range(len(video)))

    @property
    def names(self) -> Sequence[str]:
        return self._names

    @property
    def size(self) -> Size:
        height, width = self._video.shape[1:3]
        return height, width

    def __len__(self) -> int:
        return len(self._video)

    def __getitem__(self, frame: int) -> Image:
        image: Image = self._video[frame]
        return image
