"""Pictures as the browser gets them, in a cache that is bounded in bytes."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from hvsa_cvat.enrolled import pictures
from hvsa_cvat.enrolled.class_quality import changed_pixels
from hvsa_cvat.enrolled.runs import Run
from hvsa_cvat.report import overlay
from hvsa_cvat.report.pictures import shrink_image, shrink_map
from hvsa_cvat.types import IGNORE

CACHE_BYTES = 64 * 2**20

_WIDEST = 1280
"""Pixels; wider pictures are shrunk."""
_THUMBNAIL = 320
_DOUBT = np.array([255, 140, 0], np.uint8)
"""Orange."""
_CHANGED = np.array([230, 0, 150], np.uint8)
"""Magenta."""


@dataclass(frozen=True)
class Encoded:
    content: bytes
    kind: str
    """Media type."""


class PictureCache:
    """Keeps what was encoded last; several threads may ask."""

    def __init__(self, most: int = CACHE_BYTES) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], Encoded] = OrderedDict()
        self.size = 0
        """Bytes."""

    def get(self, key: tuple[object, ...], make: Callable[[], Encoded]) -> Encoded:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self.size += len(made.content)
            while self.size > self._most:
                _, dropped = self._kept.popitem(last=False)
                self.size -= len(dropped.content)
        return made


def image_picture(run: Run, frame: int) -> Encoded:
    """The frame."""
    return _encoded(shrink_image(pictures.frame_image(run, frame), _WIDEST))


def mask_picture(run: Run, number: int, frame: int) -> Encoded:
    """What a round shows, opaque where it shows a class, to be laid over the frame."""
    shown = shrink_map(pictures.frame_masks(run, number, frame), _WIDEST)
    known = np.arange(256) < min(len(run.colours), IGNORE)
    colours = np.zeros((256, 3), np.uint8)
    colours[known] = run.colours[:IGNORE]
    return _painted(shown, colours, 255 * known)


def doubt_picture(run: Run, number: int, frame: int) -> Encoded:
    """Orange where the masks of a round are uncertain, to be laid over the frame."""
    doubt = shrink_map(pictures.frame_doubt(run, number, frame), _WIDEST)
    return _painted(np.rint(255 * np.clip(doubt, 0, 1)), _DOUBT, np.arange(256))


def changed_picture(run: Run, number: int, frame: int) -> Encoded:
    """Magenta where people changed the masks in a round, to be laid over the frame."""
    changed = shrink_map(changed_pixels(run, number, frame).astype(np.uint8), _WIDEST)
    return _painted(255 * changed, _CHANGED, np.arange(256))


def thumbnail(run: Run, number: int, frame: int, doubtful: bool) -> Encoded:
    """A small picture of a frame under its masks, or under orange where they are uncertain."""
    image = shrink_image(pictures.frame_image(run, frame), _THUMBNAIL)
    size = image.shape[0], image.shape[1]
    if doubtful:
        doubt = 0.7 * pictures.resized(pictures.frame_doubt(run, number, frame), size)[..., None]
        mixed = np.rint((1 - doubt) * image * 0.85 + doubt * _DOUBT).astype(np.uint8)
    else:
        shown = pictures.resized(pictures.frame_masks(run, number, frame), size)
        shown[shown >= len(run.colours)] = IGNORE
        mixed = overlay(image, shown, run.colours, 0.5)
    return _encoded(mixed)


def _painted(values: NDArray[Any], colours: NDArray[np.uint8], opacity: NDArray[Any]) -> Encoded:
    """A PNG with a palette, which is made several times as fast as one with four channels.

    `values` (H, W) are 0..255; of each value `colours` uint8 (256, 3), or (3,) for all, has the
    colour, and `opacity` (256,) says how little of the frame shines through, 0..255.
    """
    picture = PilImage.fromarray(values.astype(np.uint8))
    picture.putpalette(np.broadcast_to(colours, (256, 3)).tobytes())
    buffer = io.BytesIO()
    transparency = opacity.astype(np.uint8).tobytes()
    picture.save(buffer, "png", compress_level=3, transparency=transparency)
    return Encoded(buffer.getvalue(), "image/png")


def _encoded(picture: NDArray[np.uint8]) -> Encoded:
    """A JPEG: a third larger than WebP, and made in a twentieth of the time."""
    buffer = io.BytesIO()
    PilImage.fromarray(picture).save(buffer, "jpeg", quality=85)
    return Encoded(buffer.getvalue(), "image/jpeg")
