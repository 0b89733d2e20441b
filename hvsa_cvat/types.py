"""The values that modules hand to each other. All are frozen, and nobody writes into their arrays.

Coordinates are pixels of the video's own size unless a name says otherwise: x points right, y
points down, and pixel (0, 0) covers the square [0, 1] x [0, 1]. Sizes are (height, width).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.errors import ConfigError

IGNORE = 255
"""Label-map value of a pixel without a label. Training and scores leave such pixels out."""

Size = tuple[int, int]
"""(height, width) in pixels."""

Image = NDArray[np.uint8]
"""uint8 (H, W, 3), RGB."""

LabelMap = NDArray[np.uint8]
"""uint8 (H, W): class indices, and `IGNORE` where nothing is known."""

SegmentMap = NDArray[np.int32]
"""int32 (H, W): the segment of each pixel of one frame. All ids 0..n-1 occur."""

Mask = NDArray[np.bool_]
"""bool (H, W)."""


@dataclass(frozen=True)
class LabelSet:
    """The classes of one project. A class index is a position in `names`."""

    names: tuple[str, ...]
    ignore_index: int = IGNORE

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError("a label set needs at least one class")
        if len(self.names) > IGNORE:
            raise ConfigError(f"at most {IGNORE} classes fit a label map, not {len(self.names)}")
        for name in self.names:
            if not name.strip():
                raise ConfigError("a class name is empty; check the commas of --classes")
            if self.names.count(name) > 1:
                raise ConfigError(f"class {name!r} is named twice")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)


@dataclass(frozen=True, order=True)
class Sample:
    """s_t^n: segment n of frame t. People are asked to annotate one sample at a time."""

    frame: int
    segment: int


@dataclass(frozen=True)
class Polygon:
    """One drawn outline. A pixel belongs to it if its centre lies inside (even-odd rule)."""

    label: int
    points: NDArray[np.float64]
    """float64 (N, 2): x and y in frame pixels. The last point does not repeat the first."""
    z_order: int = 0
    """Polygons with a higher number are drawn later and lie on top."""


@dataclass(frozen=True)
class Clicks:
    """What an annotation cost, in mouse clicks (paper, section 4)."""

    boundary: int = 0
    """Clicks that place a vertex."""
    classes: int = 0
    """Clicks that choose a class: one for each polygon, or one for a sample of a single class."""
    polygons: int = field(default=0, compare=False)
    """Outlines that were drawn. They cost time, and no clicks beside those above."""

    def __add__(self, other: Clicks) -> Clicks:
        return Clicks(
            self.boundary + other.boundary,
            self.classes + other.classes,
            self.polygons + other.polygons,
        )

    @property
    def total(self) -> int:
        return self.boundary + self.classes


class AnswerKind(StrEnum):
    """How a person answered a sample."""

    DRAWN = "drawn"
    """From nothing."""
    CORRECTED = "corrected"
    """The masks that were shown, with changes."""
    CONFIRMED = "confirmed"
    """The masks that were shown, as they were."""


@dataclass(frozen=True)
class Packed:
    """An array that is kept compressed by zlib.

    The label maps of all frames of a long video would not fit into memory otherwise; they compress
    well, because most pixels equal the pixel before.
    """

    shape: tuple[int, ...]
    dtype: str
    content: bytes

    @classmethod
    def of(cls, array: NDArray[Any]) -> Packed:
        content = zlib.compress(np.ascontiguousarray(array).tobytes(), 1)
        return cls(array.shape, array.dtype.str, content)

    @property
    def array(self) -> NDArray[Any]:
        """Read-only; each access decompresses it again."""
        return np.frombuffer(zlib.decompress(self.content), self.dtype).reshape(self.shape)


@dataclass(frozen=True, init=False)
class FrameAnnotation:
    """What people drew in one frame: their labels inside `segments`, `IGNORE` outside them."""

    frame: int
    segments: tuple[int, ...]
    packed: Packed
    """The label map, compressed."""

    def __init__(self, frame: int, segments: tuple[int, ...], label_map: LabelMap | Packed) -> None:
        packed = label_map if isinstance(label_map, Packed) else Packed.of(label_map)
        object.__setattr__(self, "frame", frame)
        object.__setattr__(self, "segments", segments)
        object.__setattr__(self, "packed", packed)

    @property
    def label_map(self) -> LabelMap:
        """Read-only; each access decompresses it again."""
        return self.packed.array


@dataclass(frozen=True)
class TimedJob:
    """The samples that a person answered in one go, and how long that took."""

    samples: tuple[Sample, ...]
    seconds: float
    """Of work; pauses are left out."""


@dataclass(frozen=True)
class Answers:
    """The answers to one request."""

    annotations: tuple[FrameAnnotation, ...]
    """At most one for each frame, in order of frames."""
    clicks: dict[Sample, Clicks] = field(default_factory=dict)
    """The clicks that each requested sample took."""
    kinds: dict[Sample, AnswerKind] = field(default_factory=dict)
    """How each requested sample was answered; those without an entry were drawn."""
    timed: tuple[TimedJob, ...] = ()
    """The jobs whose time is known."""

    def kind(self, sample: Sample) -> AnswerKind:
        """How a requested sample was answered."""
        return self.kinds.get(sample, AnswerKind.DRAWN)

    def by_kind(self) -> dict[AnswerKind, tuple[int, int]]:
        """(samples, their clicks) of each kind of answer that occurs."""
        found: dict[AnswerKind, tuple[int, int]] = {}
        for sample, spent in self.clicks.items():
            samples, clicks = found.get(self.kind(sample), (0, 0))
            found[self.kind(sample)] = samples + 1, clicks + spent.total
        return dict(sorted(found.items()))

    @property
    def total_clicks(self) -> int:
        return sum(c.total for c in self.clicks.values())


@dataclass(frozen=True)
class Correspondence:
    """O_{t->t'} and M_{t->t'}: where the pixels of frame `source` lie in frame `target`."""

    source: int
    target: int
    flow: NDArray[np.float16]
    """float16 (2, H, W): dx, dy in pixels of the map's own size."""
    valid: Mask
    """True where the flow passes the forward-backward check and ends inside the target frame."""


@dataclass(frozen=True)
class FramePrediction:
    """What the network predicts for one frame."""

    frame: int
    label_map: LabelMap
    """At the frame's own size."""
    uncertainty: NDArray[np.float32]
    """float32 (N,): for each segment the sum over its pixels of 1 - (p_top1 - p_top2), Eq. 1."""
    features: NDArray[np.float32]
    """float32 (N, D): for each segment the mean of the backbone's feature map, Eq. 2."""
