"""Segment maps: how frames are divided into the samples that people annotate."""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.errors import ConfigError, MediaError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.plain_text import expand_home
from hvsa_cvat.ports import FrameSource, SegmentMaps
from hvsa_cvat.types import SegmentMap, Size
from hvsa_cvat.video.images import opened_image

if TYPE_CHECKING:
    from scipy import sparse

Features = Callable[[int], NDArray[np.float32]]
"""Gives the backbone's feature map of a frame, float32 (D, h, w). It covers the whole frame."""

_OVERSEGMENTATION = 4
"""Superpixels before merging, for each one after it."""

_FORMS = (
    "frame, rectangle:16, rectangle:20x30 (height x width), superpixel:300, "
    "superpixel-merged:300, maps:DIR or audit:3 (whole frames at random places, see docs/method.md)"
)


@dataclass(frozen=True)
class Granularity:
    """What a sample is: a frame, a rectangle, a superpixel, or a segment of the user's own maps."""

    kind: Literal["frame", "rectangle", "superpixel", "superpixel-merged", "maps", "audit"]
    size: Size | None = None
    """The size of a rectangle in pixels of the video."""
    number: int | None = None
    """The approximate number of superpixels in a frame."""
    folder: Path | None = None
    """The folder with the user's own maps."""
    frames: int | None = None
    """How many whole frames an audit asks for, whatever the budget."""

    @classmethod
    def parse(cls, text: str) -> Granularity:
        """The granularity that `str` writes as `text`."""
        kind, _, value = text.strip().partition(":")
        if kind == "frame" and text.strip() == "frame":
            return cls("frame")
        if kind == "rectangle" and (sides := re.fullmatch(r"(\d+)(?:x(\d+))?", value)):
            height, width = int(sides[1]), int(sides[2] or sides[1])
            if height and width:
                return cls("rectangle", size=(height, width))
        if kind in ("superpixel", "superpixel-merged") and re.fullmatch(r"\d+", value):
            merged = kind == "superpixel-merged"
            if number := int(value):
                return cls("superpixel-merged" if merged else "superpixel", number=number)
        if kind == "audit" and re.fullmatch(r"\d+", value) and int(value):
            return cls("audit", frames=int(value))
        if kind == "maps" and value:
            return cls("maps", folder=expand_home(value))
        raise ConfigError(f"granularity {text!r} is not one of {_FORMS}")

    @property
    def whole(self) -> bool:
        return self.kind in ("frame", "audit")

    def __str__(self) -> str:
        if self.size is not None:
            height, width = self.size
            return f"{self.kind}:{height}" + (f"x{width}" if width != height else "")
        if self.number is not None:
            return f"{self.kind}:{self.number}"
        if self.frames is not None:
            return f"{self.kind}:{self.frames}"
        return self.kind if self.folder is None else f"{self.kind}:{self.folder}"


def granularity_by_round(text: str, rounds: int) -> tuple[Granularity, ...]:
    """The granularity of each round.

    `rectangle:16,frame` means rectangles in the first round and whole frames in all later ones.
    """
    named = tuple(map(Granularity.parse, text.split(",")))
    if len(named) > rounds:
        raise ConfigError(
            f"granularity {text!r} is for {len(named)} rounds, but the number of rounds is "
            f"{rounds}; name at most one for each round, the last one is used for all later rounds"
        )
    return named + named[-1:] * (rounds - len(named))


def with_audits(
    text: str, budgets: tuple[float, ...], frames: int, each: bool = False
) -> tuple[str, tuple[float, ...]]:
    """The granularity and the budgets with one more round that audits `frames` frames, or with
    `each` one more after each round. `text` is for the rounds of `budgets`."""
    rounds = [
        (str(kind), total)
        for kind, total in zip(granularity_by_round(text, len(budgets)), budgets, strict=True)
    ]
    audited = [
        (f"audit:{frames}", total) if is_audit else (kind, total)
        for number, (kind, total) in enumerate(rounds, 1)
        for is_audit in ((False, True) if each or number == len(rounds) else (False,))
    ]
    kinds, totals = zip(*audited, strict=True)
    return ",".join(kinds), tuple(totals)


def check_granularity(granularity: Granularity, length: int, frames: Size) -> None:
    """`ConfigError` unless a video of `length` frames has such samples."""
    height, width = frames
    if granularity.size is not None:
        rows, cols = granularity.size
        if rows > height or cols > width:
            raise ConfigError(
                f"rectangles of {rows}x{cols} (height x width) do not fit into frames of "
                f"{height}x{width}; choose smaller ones or the granularity frame"
            )
    if granularity.number is not None and granularity.number > height * width:
        raise ConfigError(
            f"{granularity} asks for more superpixels than a frame of {height}x{width} "
            "(height x width) has pixels; choose fewer"
        )
    if granularity.frames is not None and granularity.frames > length:
        raise ConfigError(
            f"an audit of {granularity.frames} frames does not fit a video of {length}; audit fewer"
        )


def build_segments(
    granularity: Granularity,
    source: FrameSource,
    folder: Path,
    features: Features | None = None,
) -> SegmentMaps:
    """The segment maps of a video.

    Superpixels of a frame are computed when they are first needed, and kept in `folder`, so that
    a segment number means the same pixels in every round.
    """
    check_granularity(granularity, len(source), source.size)
    if granularity.size is not None:
        rows, cols = granularity.size
        return Rectangles(len(source), source.size, rows, cols)
    if granularity.number is not None:
        folder = folder / f"{granularity.kind}-{granularity.number}"
        if granularity.kind == "superpixel":
            return Superpixels(source, granularity.number, folder)
        if features is None:
            raise ValueError("superpixels can only be merged with the network's features")
        return MergedSuperpixels(source, granularity.number, folder, features)
    if granularity.folder is not None:
        return MapFiles(granularity.folder, source.names, source.size)
    return WholeFrames(len(source), source.size)


class _SameMap:
    """The same map for all frames."""

    def __init__(self, length: int, segment_map: SegmentMap) -> None:
        self._length = length
        self._map = segment_map
        self._map.flags.writeable = False
        self._count = int(segment_map.max()) + 1

    def __len__(self) -> int:
        return self._length

    def count(self, frame: int) -> int:
        return self._count

    def __getitem__(self, frame: int) -> SegmentMap:
        if not -self._length <= frame < self._length:
            raise IndexError(f"there is no frame {frame} among {self._length} frames")
        return self._map


class WholeFrames(_SameMap):
    """Every frame is one segment. Its border is the image's border, where vertices cost clicks."""

    border_is_free = False

    def __init__(self, length: int, size: Size) -> None:
        super().__init__(length, np.zeros(size, dtype=np.int32))


class Rectangles(_SameMap):
    """A grid of cells of `rows` x `cols` pixels, numbered in reading order.

    The cells at the right and at the bottom are smaller where the frame ends.
    """

    border_is_free = True

    def __init__(self, length: int, size: Size, rows: int, cols: int) -> None:
        height, width = size
        across = -(-width // cols)
        y, x = np.arange(height) // rows, np.arange(width) // cols
        super().__init__(length, (y[:, np.newaxis] * across + x).astype(np.int32))


class _MapsOnDemand(ABC):
    """Maps that are read or computed one at a time. The last one is kept in memory."""

    border_is_free = True

    def __init__(self, length: int) -> None:
        self._length = length
        self._counts: dict[int, int] = {}
        self._last: tuple[int, SegmentMap] | None = None

    def __len__(self) -> int:
        return self._length

    def count(self, frame: int) -> int:
        if frame not in self._counts:
            self._counts[frame] = int(self[frame].max()) + 1
        return self._counts[frame]

    def __getitem__(self, frame: int) -> SegmentMap:
        frame = range(self._length)[frame]
        if self._last is None or self._last[0] != frame:
            self._last = frame, self._make(frame)
        return self._last[1]

    @abstractmethod
    def _make(self, frame: int) -> SegmentMap: ...


class Superpixels(_MapsOnDemand):
    """About `number` SLIC superpixels in each frame (Achanta et al. 2012). Each is connected."""

    def __init__(self, source: FrameSource, number: int, folder: Path) -> None:
        super().__init__(len(source))
        self._source = source
        self._number = number
        self._folder = folder

    def _make(self, frame: int) -> SegmentMap:
        path = self._folder / f"{frame:06d}.npz"
        stored = _read_segments(path)
        if stored is None or stored.shape != self._source.size:
            stored = self._compute(frame)
            with atomic_write(path) as temporary:
                np.savez_compressed(temporary, segments=stored)
        return stored

    def _compute(self, frame: int) -> SegmentMap:
        return self._slic(frame, self._number)

    def _slic(self, frame: int, number: int) -> SegmentMap:
        # takes a second to import, and commands that only tell of tasks need none of it
        from skimage.segmentation import slic

        return _renumbered(slic(self._source[frame], n_segments=number, start_label=0))


class MergedSuperpixels(Superpixels):
    """Small SLIC superpixels, merged where the network's features are similar.

    Neighbours are merged by Ward's criterion on mean features of unit length, until `number` are
    left. The idea is that of DMMSS-FCN, which merges superpixels by a learned similarity.
    """

    def __init__(self, source: FrameSource, number: int, folder: Path, features: Features) -> None:
        super().__init__(source, number, folder)
        self._features = features

    def _compute(self, frame: int) -> SegmentMap:
        from sklearn.cluster import AgglomerativeClustering

        height, width = self._source.size
        fine = self._slic(frame, min(_OVERSEGMENTATION * self._number, height * width))
        if fine.max() < self._number:
            return fine
        # imported here, because it takes 70 MB that others need not hold

        means = _mean_features(fine, self._features(frame))
        clusters = AgglomerativeClustering(
            n_clusters=self._number, connectivity=_adjacency(fine), linkage="ward"
        ).fit_predict(means)
        return _renumbered(clusters[fine])


class MapFiles(_MapsOnDemand):
    """The user's own maps: one file for each frame, with the frame's name.

    A file is a .png of 8 or 16 bits, a .png of 24 bits with id = R + 256 G + 65536 B, or a .npy
    of integers. Any ids are allowed; they are renumbered.
    """

    def __init__(self, folder: Path, names: Sequence[str], size: Size) -> None:
        super().__init__(len(names))
        self._size = size
        self._paths = []
        for name in names:
            choices = [folder / f"{name}.png", folder / f"{name}.npy"]
            path = next((p for p in choices if p.is_file()), None)
            if path is None:
                raise MediaError(
                    f"there is no segment map {choices[0]} or {choices[1].name}; add one for every "
                    "frame"
                )
            self._paths.append(path)

    def _make(self, frame: int) -> SegmentMap:
        path = self._paths[frame]
        ids = _npy_ids(path) if path.suffix == ".npy" else _png_ids(path)
        if ids.shape != self._size:
            found, frames = ("x".join(map(str, shape)) for shape in (ids.shape, self._size))
            raise MediaError(
                f"{path} has the size {found}, but the frames have {frames} (height x width); "
                "save the map at the video's own size"
            )
        return _renumbered(ids)


def _renumbered(ids: NDArray[Any]) -> SegmentMap:
    """The same segments with the ids 0..n-1, in the order of the old ids."""
    return np.unique(ids, return_inverse=True)[1].reshape(ids.shape).astype(np.int32)


def _read_segments(path: Path) -> SegmentMap | None:
    try:
        with np.load(path) as archive:
            return np.asarray(archive["segments"], dtype=np.int32)
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, BadZipFile, zlib.error):
        return None


def _mean_features(segments: SegmentMap, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (n, D): the mean feature of each segment, scaled to length one.

    Each pixel has the features of the cell (of h x w) in which it lies.
    """
    from scipy import sparse

    depth, h, w = features.shape
    height, width = segments.shape
    y, x = np.arange(height) * h // height, np.arange(width) * w // width
    cells = y[:, np.newaxis] * w + x
    pixels = np.ones(segments.size, dtype=np.float32)
    pooling = sparse.coo_array(
        (pixels, (segments.ravel(), cells.ravel())), shape=(segments.max() + 1, h * w)
    ).tocsr()
    # The sum has the same direction as the mean.
    sums = pooling @ features.reshape(depth, -1).T
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.maximum(norms, 1e-12), dtype=np.float32)


def _adjacency(segments: SegmentMap) -> sparse.coo_array:
    """Symmetric (n, n): nonzero for segments that touch along the side of a pixel."""
    from scipy import sparse

    pairs = np.concatenate(
        [
            np.stack([segments[1:], segments[:-1]], axis=-1).reshape(-1, 2),
            np.stack([segments[:, 1:], segments[:, :-1]], axis=-1).reshape(-1, 2),
        ]
    )
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    n = int(segments.max()) + 1
    one_way = sparse.coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return one_way.maximum(one_way.T).tocoo()


def _npy_ids(path: Path) -> NDArray[Any]:
    try:
        ids: NDArray[Any] = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise MediaError(f"cannot read the segment map {path}: {error}; save it again") from error
    if ids.dtype.kind not in "iu":
        raise MediaError(f"{path} holds {ids.dtype} values; save segment ids as integers")
    return ids


def _png_ids(path: Path) -> NDArray[Any]:
    with opened_image(path) as image:
        if image.mode not in ("1", "L", "P", "RGB") and not image.mode.startswith("I"):
            raise MediaError(
                f"{path} is a {image.mode} image; save segment ids with 8, 16 or 24 bits (RGB)"
            )
        ids = np.asarray(image).astype(np.int64)
    return ids @ np.array([1, 256, 65536]) if ids.ndim == 3 else ids
