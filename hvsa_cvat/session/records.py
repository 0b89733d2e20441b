"""What phases find out and keep as JSON in the folder of their round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from hvsa_cvat.types import Sample


@dataclass(frozen=True)
class Selection:
    """What SELECT found, kept in `rounds/K/selection.json`."""

    samples: tuple[Sample, ...]
    expected_clicks: tuple[float, ...]
    """One for each sample."""
    full_clicks: float
    """Clicks of annotating every frame of the video, as far as known then."""

    def to_json(self) -> dict[str, Any]:
        return {
            "samples": [[sample.frame, sample.segment] for sample in self.samples],
            "expected_clicks": list(self.expected_clicks),
            "full_clicks": self.full_clicks,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Selection:
        return cls(
            tuple(Sample(frame, segment) for frame, segment in content["samples"]),
            tuple(content["expected_clicks"]),
            content["full_clicks"],
        )


class Agreement(BaseModel):
    """How the masks of the round before agree with the answers of a round, before the network has
    seen them. Kept in `rounds/K/agreement.json`.

    Active selection asks where the network is unsure, so over the whole video the scores are
    higher.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixels: int
    """Answered pixels."""
    pixel_accuracy: float | None
    miou: float | None
    unseen: tuple[str, ...] = ()
    """Classes that no answer has shown up to this round, so that no mask can be expected to."""


class Propagation(BaseModel):
    """What label propagation reached. Kept in `rounds/K/propagation.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reached_percent: float
    """Pixels of the video that a carried label reached; the others show the network's class."""
