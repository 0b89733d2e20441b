"""The samples that may be asked for, with what the network says of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.types import FramePrediction, Sample

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """Samples and what the network predicts for them, as the columns of a table."""

    frames: NDArray[np.int32]
    """int32 (N,)."""
    segments: NDArray[np.int32]
    """int32 (N,)."""
    uncertainty: NDArray[np.float32]
    """float32 (N,), Eq. 1."""
    features: NDArray[np.float32]
    """float32 (N, D), Eq. 2."""

    def __post_init__(self) -> None:
        count = len(self.frames)
        shapes = (self.frames.shape, self.segments.shape, self.uncertainty.shape)
        if shapes != ((count,),) * 3 or self.features.ndim != 2 or len(self.features) != count:
            raise ValueError(f"columns have different lengths: {shapes}, {self.features.shape}")

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(map(Sample, self.frames.tolist(), self.segments.tolist()))

    def take(self, keep: NDArray[np.bool_] | Indices) -> Pool:
        return Pool(
            self.frames[keep], self.segments[keep], self.uncertainty[keep], self.features[keep]
        )

    @classmethod
    def of(cls, predictions: Iterable[FramePrediction]) -> Pool:
        """All segments of the predicted frames. There must be at least one frame."""
        columns = [
            (
                np.full(len(p.uncertainty), p.frame, np.int32),
                np.arange(len(p.uncertainty), dtype=np.int32),
                p.uncertainty,
                p.features,
            )
            for p in predictions
        ]
        frames, segments, uncertainty, features = zip(*columns, strict=True)
        return cls(
            np.concatenate(frames),
            np.concatenate(segments),
            np.concatenate(uncertainty).astype(np.float32, copy=False),
            np.concatenate(features).astype(np.float32, copy=False),
        )
