"""Which pixels of the samples of a frame still have no class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hvsa_cvat.types import IGNORE, LabelMap, Sample

Numbers = NDArray[np.int32]
"""int32: at each pixel the number of its region, 0 outside all regions."""


@dataclass(frozen=True)
class Gap:
    """Samples of one frame that were left without a class in part or in whole."""

    frame: int
    """Number in the child task."""
    samples: int
    """How many."""
    share: float
    """Share of the pixels of these samples that have no class, 0 to 1."""
    box: tuple[int, int, int, int]
    """The largest connected part of the gap: left, top, right, bottom, half-open."""


def uncovered_shares(
    numbers: Numbers, label_map: LabelMap, sample_of: Mapping[int, Sample]
) -> dict[Sample, float]:
    """Share of the pixels of each sample that have no class, 0 to 1.

    `sample_of` is number of a region -> its sample.
    """
    missing = pixels_by_sample(numbers[label_map == IGNORE], sample_of)
    pixels = pixels_by_sample(numbers, sample_of)
    return {sample: missing[sample] / count for sample, count in pixels.items()}


def find_gap(
    frame: int,
    samples: Container[Sample],
    numbers: Numbers,
    label_map: LabelMap,
    sample_of: Mapping[int, Sample],
) -> Gap:
    """The gap that these samples, each of which lacks pixels, leave on a frame."""
    wanted = [number for number, sample in sample_of.items() if sample in samples]
    asked = np.isin(numbers, wanted)
    missing = asked & (label_map == IGNORE)
    parts, _ = ndimage.label(missing)
    rows, columns = ndimage.find_objects(parts)[np.bincount(parts[missing])[1:].argmax()]
    return Gap(
        frame,
        len({sample_of[number] for number in wanted}),
        float(missing.sum() / asked.sum()),
        (columns.start, rows.start, columns.stop, rows.stop),
    )


def main_sample(numbers: Numbers, sample_of: Mapping[int, Sample]) -> Sample | None:
    """The sample to which most of the pixels with these region numbers belong."""
    pixels = pixels_by_sample(numbers, sample_of)
    return max(sorted(pixels), key=lambda sample: pixels[sample], default=None)


def pixels_by_sample(numbers: Numbers, sample_of: Mapping[int, Sample]) -> Counter[Sample]:
    """How many of these region numbers belong to each sample."""
    pixels: Counter[Sample] = Counter()
    counts = np.bincount(numbers.ravel())
    for number in np.flatnonzero(counts).tolist():
        if number:
            pixels[sample_of[number]] += int(counts[number])
    return pixels
