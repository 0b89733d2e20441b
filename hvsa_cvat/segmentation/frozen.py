"""The features of a video by a backbone that does not learn: computed once, read in every round.

The backbone's own maps are kept, as files that are mapped. They take an eighth of the feature map
at a quarter of the frame to which they are brought (HRNet-W48: 22 bytes a pixel, about as much as
the optical flow). They are float32, so a training on them is the same as one that runs the frozen
backbone each time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hvsa_cvat.config import NETWORKS, Freeze
from hvsa_cvat.files import atomic_directory
from hvsa_cvat.ports import Progress, silent
from hvsa_cvat.segmentation.backbones import PyramidBackbone
from hvsa_cvat.segmentation.device import autocast, fitting_memory
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.types import Size
from hvsa_cvat.video.frames import load_npy, npy_writer

BATCH = 8
"""Frames that the network sees at a time."""

_DESCRIPTION = "features.json"


@dataclass(frozen=True)
class VideoFeatures:
    """What a backbone gives for the frames of a video."""

    maps: tuple[NDArray[np.float32], ...]
    """float32 (N, c, h, w) for each map of the backbone, from the largest to the smallest."""

    def of(self, frames: Sequence[int]) -> tuple[Tensor, ...]:
        """float32 (B, c, h, w) of each map."""
        return tuple(torch.from_numpy(one[list(frames)]) for one in self.maps)

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in self.maps)


@lru_cache
def freezes(choice: Freeze, network: str) -> bool:
    """Whether the backbone of a network stays as it is while the head learns.

    By default those of vision transformers do, which are told by their maps: all have one size.
    """
    if choice != "auto" or network in NETWORKS:
        return choice == "backbone"
    with torch.device("meta"):
        return PyramidBackbone(network).plain


@lru_cache
def feature_bytes(network: str, size: Size) -> int:
    """Bytes of `VideoFeatures` for one frame of `size`."""
    with torch.device("meta"), torch.no_grad():
        maps = SegmentationNetwork(network, 1).eval().branches(torch.zeros(1, 3, *size))
    return sum(4 * one.numel() for one in maps)


def compute_features(
    network: SegmentationNetwork,
    frames: NDArray[np.uint8],
    folder: Path,
    *,
    device: torch.device,
    progress: Progress = silent,
) -> VideoFeatures:
    """The features of `frames`, uint8 (N, h, w, 3) RGB at network size.

    They are written to `folder`, which is replaced as a whole, or taken from there if it holds
    those of this network for as many frames of this size.
    """
    told: dict[str, object] = {"network": network.name, "frames": list(frames.shape)}
    if (kept := _load(folder, told)) is not None:
        return kept
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.eval()
    with atomic_directory(folder) as temporary:
        shapes = _write(_batches(network, frames, device, progress), len(frames), temporary)
        (temporary / _DESCRIPTION).write_text(json.dumps({**told, "shapes": shapes}))
    found = _load(folder, told)
    if found is None:
        raise ValueError(f"{folder} was changed while features were written to it")
    return found


_Maps = list[NDArray[np.float32]]
"""float32 (B, c, h, w) of each map of the backbone, for a batch of frames."""


def _write(batches: Iterator[_Maps], length: int, folder: Path) -> list[tuple[int, ...]]:
    """Write a file for each map, and return the shapes of the files."""
    first = next(batches)
    shapes = [(length, *one.shape[1:]) for one in first]
    with ExitStack() as files:
        appends = [
            files.enter_context(npy_writer(folder / f"{k}.npy", shape, np.float32))
            for k, shape in enumerate(shapes)
        ]
        for maps in chain([first], batches):
            for append, values in zip(appends, maps, strict=True):
                for one in values:
                    append(one)
    return shapes


def _batches(
    network: SegmentationNetwork,
    frames: NDArray[np.uint8],
    device: torch.device,
    progress: Progress,
) -> Iterator[_Maps]:
    height, width = frames.shape[1:3]
    asked = f"the features of {BATCH} frames of {height}x{width}"
    for start in range(0, len(frames), BATCH):
        chosen = np.array(frames[start : start + BATCH])
        images = torch.from_numpy(chosen).permute(0, 3, 1, 2)
        with fitting_memory(asked, device), torch.inference_mode(), autocast(device):
            maps = network.branches(images.to(device, memory_format=torch.channels_last))
            kept = [one.float().cpu().numpy() for one in maps]
        yield kept
        progress("computing features", start + len(chosen), len(frames))


def _load(folder: Path, told: Mapping[str, object]) -> VideoFeatures | None:
    try:
        found = json.loads((folder / _DESCRIPTION).read_text())
        shapes = [tuple(shape) for shape in found.pop("shapes")]
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    maps = [load_npy(folder / f"{k}.npy", shape, np.float32) for k, shape in enumerate(shapes)]
    whole = [one for one in maps if one is not None]
    return VideoFeatures(tuple(whole)) if found == told and len(whole) == len(maps) else None
