"""What people were asked about: samples by frame, and the pixels of earlier rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hvsa_cvat.session.context import AskContext
from hvsa_cvat.session.rounds import Round
from hvsa_cvat.types import Mask, Sample


def by_frame(samples: Sequence[Sample]) -> dict[int, list[int]]:
    """The places of the samples of each frame."""
    places: dict[int, list[int]] = {}
    for place, sample in enumerate(samples):
        places.setdefault(sample.frame, []).append(place)
    return places


def asked_pixels(rounds: Sequence[Round], context: AskContext) -> Iterator[tuple[int, Mask]]:
    """(frame, pixels that people were asked about in these rounds), for each frame with such."""
    asked: dict[int, dict[int, list[int]]] = {}
    for one in rounds:
        for sample in one.queried:
            asked.setdefault(sample.frame, {}).setdefault(one.number, []).append(sample.segment)
    for frame, by_round in sorted(asked.items()):
        pixels = np.zeros(context.source.size, np.bool_)
        for number, segments in by_round.items():
            pixels |= np.isin(context.segments_of(number)[frame], segments)
        yield frame, pixels
