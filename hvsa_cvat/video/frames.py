"""Frames of a video file or of a folder of images, as RGB arrays, and at the network's size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from hvsa_cvat.errors import MediaError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.ports import FrameSource, Progress, silent
from hvsa_cvat.types import Image, Size
from hvsa_cvat.video.film import Film
from hvsa_cvat.video.folder import ImageFolder, PageStack

Tell = Callable[[str], None]
"""Told what a person should know of the files, a line each."""


def untold(line: str) -> None:
    """The `Tell` of callers that do not want one."""


def open_frames(path: Path, progress: Progress = silent, tell: Tell = untold) -> FrameSource:
    """The frames of a video file, of the pages of a TIFF file, or of a folder of images in natural
    order of their names.

    All of it is decoded once from end to end, so that its length is exact and damage shows now and
    not in the middle of a round.
    """
    if path.is_dir():
        return ImageFolder(path, progress, tell, same_size=True)
    if path.is_file() and path.suffix.lower() in (".tif", ".tiff"):
        return PageStack(path, progress)
    if path.is_file():
        return Film(path, progress, tell)
    raise MediaError(f"no video and no folder of images at {path}; check the path")


def open_images(folder: Path, progress: Progress = silent, tell: Tell = untold) -> ImageFolder:
    """Images of any sizes, in natural order of their names: to train on, not a video."""
    if not folder.is_dir():
        raise MediaError(f"no folder of images at {folder}; check the path")
    return ImageFolder(folder, progress, tell, same_size=False)


def resize_image(image: Image, size: Size) -> Image:
    """RGB at `size`, averaged over areas when it shrinks."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method), dtype=np.uint8)


def resized_frames(
    source: FrameSource, size: Size, cache: Path, progress: Progress = silent
) -> NDArray[np.uint8]:
    """All frames at the network's size: uint8 (N, h, w, 3) RGB, a read-only memory map of the
    file `cache`, which is written once and belongs to this video and size."""
    shape = (len(source), *size, 3)
    cached = load_npy(cache, shape, np.uint8)
    if cached is not None:
        return cached
    with atomic_write(cache) as temporary, npy_writer(temporary, shape, np.uint8) as append:
        for i in range(len(source)):
            append(resize_image(source[i], size))
            progress("resizing frames", i + 1, len(source))
    resized: NDArray[np.uint8] = np.load(cache, mmap_mode="r")
    return resized


def load_npy(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any] | None:
    """A read-only memory map, or None where no whole file of this shape and type lies."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.dtype(dtype) else None


@contextmanager
def npy_writer(
    path: Path, shape: tuple[int, ...], dtype: DTypeLike
) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Write a .npy file one entry of its first axis at a time.

    Not through a memory map: on a full disk that kills the process instead of raising.
    """
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file,
            {
                "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
                "fortran_order": False,
                "shape": shape,
            },
        )

        def append(entry: NDArray[Any]) -> None:
            if entry.shape != shape[1:]:
                raise ValueError(f"an entry of shape {entry.shape} in an array of shape {shape}")
            file.write(np.ascontiguousarray(entry, dtype=dtype).tobytes())

        yield append
