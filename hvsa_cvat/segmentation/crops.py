"""What the refinement head learns from: squares of frames that lie near boundaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.types import IGNORE, Image, LabelMap, Mask, Size

CROP = 96
"""The side of the squares that the head learns from, in pixels."""

BATCH = 8
"""Crops in one optimizer step."""

LEAST = 1e-3
"""Probabilities are raised to this before their logarithm."""

_MOST_STEPS = 200
_PIXELS_OF_MOST_STEPS = 50 * 360 * 480
"""Pixels of a video for which all steps are taken; fewer for a smaller one."""

_FAR = 4.0
"""Pixels. What lies further from a boundary weighs `_FAR_WEIGHT`."""
_FAR_WEIGHT = 0.2

_FROM_ANSWERED = 0.2
"""The share of the crops that lie in frames with answers."""


@dataclass(frozen=True)
class Crops:
    """What the head learns from: squares of frames, in the order of the steps."""

    images: NDArray[np.uint8]
    """uint8 (K, s, s, 3) RGB."""
    log_probs: NDArray[np.float16]
    """float16 (K, C, s, s), raised to at least `LEAST`."""
    targets: NDArray[np.uint8]
    """uint8 (K, s, s); `IGNORE` where no label arrives."""
    weights: NDArray[np.float32]
    """float32 (K, s, s)."""

    @staticmethod
    def bytes(count: int, size: Size, classes: int) -> int:
        """What `count` crops of `size` take."""
        return count * size[0] * size[1] * (3 + 2 * classes + 1 + 4)

    @classmethod
    def in_files(cls, folder: Path, count: int, size: Size, classes: int) -> Crops:
        """`count` crops of `size` to be filled, mapped from files in `folder`."""

        def mapped(name: str, kind: type[np.generic], *shape: int) -> NDArray[Any]:
            path = folder / f"{name}.npy"
            return np.lib.format.open_memmap(path, "w+", kind, (count, *shape))

        return cls(
            mapped("images", np.uint8, *size, 3),
            mapped("log_probs", np.float16, classes, *size),
            mapped("targets", np.uint8, *size),
            mapped("weights", np.float32, *size),
        )

    def cut(
        self,
        row: int,
        corner: tuple[int, int],
        image: Image,
        probabilities: NDArray[np.float32],
        target: LabelMap,
        weights: NDArray[np.float32],
    ) -> None:
        """Put the part of a frame that begins at `corner` (top, left) into `row`.

        The frame: uint8 (H, W, 3) RGB, float32 (C, H, W), uint8 (H, W), float32 (H, W).
        """
        height, width = self.targets.shape[1:]
        here = slice(corner[0], corner[0] + height), slice(corner[1], corner[1] + width)
        self.images[row] = image[here]
        self.log_probs[row] = np.log(np.maximum(probabilities[:, *here], LEAST))
        self.targets[row] = target[here]
        self.weights[row] = weights[here]


def steps_for(length: int, size: Size) -> int:
    """The steps for a video of `length` frames of `size`."""
    pixels = length * size[0] * size[1]
    return max(1, round(_MOST_STEPS * math.sqrt(min(1.0, pixels / _PIXELS_OF_MOST_STEPS))))


def crop_size(size: Size) -> Size:
    """Height and width of the crops of frames of `size`: even, and inside the frame."""
    height, width = (min(CROP, side // 2 * 2) for side in size)
    return height, width


def choose_frames(
    length: int, answered: Sequence[int], count: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """intp (count,): the frame of each crop. A fifth are of `answered` frames."""
    frames = rng.integers(length, size=count)
    own = rng.random(count) < _FROM_ANSWERED
    frames[own] = rng.choice(np.asarray(answered, np.intp), size=int(own.sum()))
    return frames


def target_weights(target: LabelMap, confidence: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (H, W): the confidence, and a fifth of it more than 4 pixels from a boundary."""
    edges = boundaries(target)
    if not edges.any():
        return confidence * np.float32(_FAR_WEIGHT)
    distance = cv2.distanceTransform((~edges).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.where(distance > _FAR, confidence * np.float32(_FAR_WEIGHT), confidence)


def boundaries(target: LabelMap) -> Mask:
    """bool (H, W): pixels with a neighbour of another label to the right, left, above or below."""
    edges = np.zeros(target.shape, np.bool_)
    known = target != IGNORE
    for axis in (0, 1):
        here, there = (slice(None, -1), slice(1, None))
        first = (here, slice(None)) if axis == 0 else (slice(None), here)
        other = (there, slice(None)) if axis == 0 else (slice(None), there)
        differ = (target[first] != target[other]) & known[first] & known[other]
        edges[first] |= differ
        edges[other] |= differ
    return edges


def choose_corners(
    target: LabelMap, crop: Size, count: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """The top left pixels of `count` crops: each holds a boundary, if there is one.

    Corners are even, so that crops are cut as whole frames are.
    """
    rows, columns = np.nonzero(boundaries(target))
    if not len(rows):
        rows, columns = np.nonzero(np.ones(target.shape, np.bool_))
    chosen = rng.integers(len(rows), size=count)
    within = rng.random((count, 2))
    corners = []
    for k, (down, right) in zip(chosen.tolist(), within.tolist(), strict=True):
        top = _corner(int(rows[k]), down, crop[0], target.shape[0])
        left = _corner(int(columns[k]), right, crop[1], target.shape[1])
        corners.append((top, left))
    return corners


def _corner(pixel: int, within: float, side: int, length: int) -> int:
    """The start of a crop in which `pixel` lies at the share `within` of the side, if it can."""
    start = min(max(pixel - int(within * (side - 1)), 0), length - side)
    return start // 2 * 2
