"""What a run asks of a machine: frames, classes, samples, network and settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from hvsa_cvat.config import RunConfig
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.segmentation.device import computes_in_bfloat16
from hvsa_cvat.segmentation.distributed import team_size
from hvsa_cvat.threads import processors
from hvsa_cvat.types import Size
from hvsa_cvat.video.segments import (
    Granularity,
    MapFiles,
    check_granularity,
    granularity_by_round,
)


@dataclass(frozen=True)
class Demand:
    """What a run asks of a machine."""

    length: int
    """Frames of the video."""
    frames: Size
    """Their own size."""
    classes: int
    network: str
    samples: int
    """A frame, at most."""
    config: RunConfig
    flow: str
    """The estimator's name."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    half: bool = False
    """Whether convolutions are computed in bfloat16."""
    threads: int = 1
    """Threads that estimate flow."""
    video_bytes: int = 0
    """What the video takes in the run's folder."""
    processes: int = 1
    """That train together, on this machine."""


def at_size(demand: Demand, size: Size) -> Demand:
    """The same run with the network at another size."""
    return replace(demand, config=demand.config.model_copy(update={"size": size}))


def demand_of(
    names: Sequence[str],
    frames: Size,
    classes: int,
    network: str,
    config: RunConfig,
    flow: str,
    device: torch.device,
    video_bytes: int = 0,
) -> Demand:
    """What a run asks of this machine; `names` are those of the frames, `frames` is their size."""
    kinds = granularity_by_round(config.granularity, len(config.budgets))
    for kind in kinds:
        check_granularity(kind, len(names), frames)
    if kinds[0].frames is not None:
        raise ConfigError(
            "round 1 cannot be an audit, because the masks before it have learnt nothing of the "
            "video; name the audit for a later round"
        )
    return Demand(
        length=len(names),
        frames=frames,
        classes=classes,
        network=network,
        samples=max(most_samples(kind, frames, names) for kind in kinds),
        config=config,
        flow=flow,
        device=device.type,
        half=computes_in_bfloat16(device),
        threads=processors(),
        video_bytes=video_bytes,
        processes=team_size(),
    )


def most_samples(granularity: Granularity, frames: Size, names: Sequence[str]) -> int:
    """The most samples that a frame has; for given maps a guess by three of them."""
    if granularity.size is not None:
        (height, width), (rows, columns) = frames, granularity.size
        return -(-height // rows) * -(-width // columns)
    if granularity.number is not None:
        return granularity.number * 3 // 2  # SLIC may make a few more than it is asked for
    if granularity.folder is not None:
        maps = MapFiles(granularity.folder, names, frames)
        return 2 * max(maps.count(frame) for frame in {0, len(names) // 2, len(names) - 1})
    return 1
