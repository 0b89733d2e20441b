"""Frames of a video file or of a folder of images, as RGB arrays."""

from __future__ import annotations

import bisect
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import av
import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image as PillowImage
from PIL import ImageOps

from hvsa_cvat.errors import MediaError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.ports import FrameSource, Progress, silent
from hvsa_cvat.types import Image, Size

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
_EXIF_ORIENTATION = 0x0112
_ROTATED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


def open_frames(path: Path, progress: Progress = silent) -> FrameSource:
    """The frames of a video file, or of a folder of images in natural order of their names.

    A video is decoded once from end to end, so that its length is exact and damage shows now and
    not in the middle of a round.
    """
    if path.is_dir():
        return ImageFolder(path, progress, same_size=True)
    if path.is_file():
        return _VideoFile(path, progress)
    raise MediaError(f"no video and no folder of images at {path}; check the path")


def open_images(folder: Path, progress: Progress = silent) -> ImageFolder:
    """Images of any sizes, in natural order of their names: to train on, not a video."""
    if not folder.is_dir():
        raise MediaError(f"no folder of images at {folder}; check the path")
    return ImageFolder(folder, progress, same_size=False)


def list_files(folder: Path) -> list[Path]:
    """The files in a folder, hidden ones left out, in natural order of their names."""
    try:
        found = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    except OSError as error:
        raise MediaError(
            f"cannot read the folder {folder}: {error.strerror}; check its permissions"
        ) from error
    return sorted(found, key=lambda p: natural_key(p.name))


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Sorts `frame2` before `frame10`."""
    parts = re.split(r"(\d+)", text.casefold())
    # Text and numbers alternate, so a number is never compared with a text.
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), text


class ImageFolder:
    """A `FrameSource` when all sizes are the same."""

    def __init__(self, folder: Path, progress: Progress, *, same_size: bool) -> None:
        self._paths = [p for p in list_files(folder) if p.suffix.lower() in IMAGE_SUFFIXES]
        if not self._paths:
            raise MediaError(
                f"no images in {folder}; expected files ending in "
                f"{', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        self._names = tuple(p.stem for p in self._paths)
        first_of: dict[str, Path] = {}
        for p in self._paths:
            if (first := first_of.setdefault(p.stem, p)) is not p:
                raise MediaError(
                    f"{folder}: {first.name} and {p.name} would both be frame {p.stem!r}; "
                    "rename or remove one"
                )
        sizes: list[Size] = []
        for done, p in enumerate(self._paths, 1):
            sizes.append(_image_size(p))
            if same_size:
                _check_size(p, sizes[-1], sizes[0], self._paths[0].name)
            progress("reading images", done, len(self._paths))
        self.sizes = tuple(sizes)

    @property
    def names(self) -> Sequence[str]:
        return self._names

    @property
    def size(self) -> Size:
        return self.sizes[0]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, frame: int) -> Image:
        path = self._paths[frame]
        image = read_image(path)
        if image.shape[:2] != self.sizes[frame]:
            raise MediaError(f"{path} changed while it was in use; start again")
        return image


class _VideoFile:
    """One decoder is kept at its place; a jump reopens the file at the nearest key frame."""

    def __init__(self, path: Path, progress: Progress) -> None:
        self._path = path
        stamps: list[int | None] = []
        keys: list[int] = []
        size: Size | None = None
        expected = 0
        for frame, expected in decode_video(path):
            here = (frame.height, frame.width)
            if frame.rotation % 180:
                here = here[::-1]
            size = size or here
            _check_size(path, here, size, "its first frame")
            if frame.key_frame:
                keys.append(len(stamps))
            stamps.append(frame.pts)
            progress("reading video", len(stamps), max(expected, len(stamps)))
        if size is None:
            raise MediaError(f"{path} holds no frames; export the video again")
        self._size = size
        self._names = tuple(f"frame_{i:06d}" for i in range(len(stamps)))
        self._stamps = [s for s in stamps if s is not None]
        ordered = all(a < b for a, b in itertools.pairwise(self._stamps))
        # Without a time stamp of its own a frame cannot be found again by seeking.
        seekable = ordered and len(self._stamps) == len(stamps)
        self._keys = sorted({0, *keys}) if seekable else [0]
        self._decoder: Iterator[av.VideoFrame] = iter(())
        self._next = len(stamps)
        self._last: tuple[int, Image] | None = None

    @property
    def names(self) -> Sequence[str]:
        return self._names

    @property
    def size(self) -> Size:
        return self._size

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, frame: int) -> Image:
        frame = range(len(self))[frame]
        if self._last is None or self._last[0] != frame:
            self._last = frame, self._read(frame)
        return self._last[1]

    def _read(self, frame: int) -> Image:
        key = self._keys[bisect.bisect_right(self._keys, frame) - 1]
        if not key <= self._next <= frame:
            self._open_at(key)
        for decoded in self._decoder:
            self._next += 1
            if self._next > frame:
                return upright_image(decoded)
        raise MediaError(f"{self._path} changed while it was in use; start again")

    def _open_at(self, key: int) -> None:
        """Let the decoder's next frame be the key frame `key`."""
        if key:
            decoder = (frame for frame, _ in decode_video(self._path, self._stamps[key]))
            for first in decoder:
                # What an open group shows before its key frame lacks its references: skip it.
                if first.pts is not None and first.pts >= self._stamps[key]:
                    break
            else:
                first = None
            if first is not None and first.pts == self._stamps[key]:
                self._decoder, self._next = itertools.chain((first,), decoder), key
                return
        self._decoder, self._next = (frame for frame, _ in decode_video(self._path)), 0


def decode_video(path: Path, seek: int | None = None) -> Iterator[tuple[av.VideoFrame, int]]:
    """Frames with the container's own guess of how many there are, from the key frame at or
    before the time stamp `seek`."""
    try:
        # The whitelist keeps a playlist dressed up as a video from reaching into the network.
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            # FFmpeg draws plain text as a film of a terminal.
            if container.format.name == "tty" or not container.streams.video:
                raise MediaError(f"{path} holds no video; expected a video or a folder of images")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if seek is not None:
                container.seek(seek, stream=stream)
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise MediaError(_damaged(path, "a packet is cut short"))
                for frame in packet.decode():
                    yield frame, stream.frames
    except av.FFmpegError as error:
        raise MediaError(_damaged(path, error.strerror or str(error))) from error


def _damaged(path: Path, reason: str) -> str:
    return (
        f"cannot decode {path} as a video: {reason}; it may be cut short or damaged, "
        "copy it again or re-encode it with ffmpeg"
    )


def upright_image(frame: av.VideoFrame) -> Image:
    """A decoded frame as RGB, turned as the video says that it is to be shown."""
    # PyAV gives the angle counter-clockwise, as rot90 takes it.
    image = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    return np.ascontiguousarray(image, dtype=np.uint8)


@contextmanager
def opened_image(path: Path, content: IO[bytes] | None = None) -> Iterator[PillowImage.Image]:
    """A Pillow image; whatever goes wrong while it is in use is a `MediaError` of this file.

    An image inside another file comes as its `content`; `path` then only names it to people.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with PillowImage.open(content or path) as image:
                yield image
        except MediaError:
            raise
        except Exception as error:  # a damaged file makes Pillow raise nearly anything
            raise MediaError(
                f"cannot read the image {path}: {error or type(error).__name__}; "
                "export it again or remove it"
            ) from error


def _image_size(path: Path) -> Size:
    with opened_image(path) as image:
        width, height = image.size
        rotated = image.getexif().get(_EXIF_ORIENTATION) in _ROTATED
    return (width, height) if rotated else (height, width)


def read_image(path: Path, content: IO[bytes] | None = None, *, turn: bool = True) -> Image:
    """An image of any pixel format as RGB, turned upright by its EXIF tag if `turn`.

    An image inside another file comes as its `content`; `path` then only names it to people.
    """
    with opened_image(path, content) as image:
        return rgb_image(ImageOps.exif_transpose(image) if turn else image, path)


def rgb_image(image: PillowImage.Image, path: Path) -> Image:
    """A Pillow image of any pixel format as RGB; `path` only names it to people."""
    if image.mode == "F":
        raise MediaError(f"{path} holds floating-point pixels; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        wide = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
        grey = ((wide + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., np.newaxis], 3, axis=2)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _check_size(path: Path, size: Sequence[int], expected: Size, reference: str) -> None:
    if tuple(size) != expected:
        raise MediaError(
            f"{path} is {size[1]}x{size[0]} but {reference} is {expected[1]}x{expected[0]}; "
            "all frames of a video must have one size"
        )


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
