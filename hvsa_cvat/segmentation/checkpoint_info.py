"""What a checkpoint says of itself, read without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors

from hvsa_cvat.errors import CheckpointError
from hvsa_cvat.segmentation.checkpoint_checks import check_metadata
from hvsa_cvat.types import LabelSet, Size


@dataclass(frozen=True)
class InputStatistics:
    """What a backbone's weights expect of its input, RGB in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = InputStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Those of most weights that were trained on ImageNet."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What is stored beside the weights."""

    network: str
    labels: tuple[str, ...]
    """Class names in the order of the head's rows; empty where only the backbone is of use."""
    size: Size
    """(height, width) in pixels at which the network was last trained, or is to be trained."""
    align_corners: bool
    round: int
    """0 for a pre-trained network, k after k rounds."""
    mean: tuple[float, float, float] = IMAGENET.mean
    std: tuple[float, float, float] = IMAGENET.std
    """RGB normalisation of values from 0 to 1."""


def stored_info(path: Path) -> CheckpointInfo:
    """The metadata of one of our checkpoints."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(
            f"no checkpoint {path}; check the path, or make one with `hvsa-agent pretrain`"
        ) from None
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path} is truncated or not a safetensors file ({error}); "
            "copy it again or make it anew"
        ) from error
    if "info" not in metadata:
        raise CheckpointError(
            f"checkpoint {path} was not written by hvsa-agent; "
            "give an official HRNet state dict as .pth, or make one with `hvsa-agent pretrain`"
        )
    try:
        fields = json.loads(metadata["info"])
        check_metadata(fields)
        for name in ("labels", "size", "mean", "std"):
            fields[name] = tuple(fields[name])
        return CheckpointInfo(**fields)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"checkpoint {path} has broken metadata ({error}); copy it again or make it anew"
        ) from error


def known_classes(path: Path, labels: LabelSet) -> tuple[int, ...]:
    """Indices of the labels whose names the checkpoint knows.

    Empty where `load_checkpoint` starts the head anew.
    """
    return known_among(stored_info(path).labels, labels)


def known_among(theirs: Sequence[str], labels: LabelSet) -> tuple[int, ...]:
    """Indices of the labels that a checkpoint for the classes `theirs` knows."""
    known = tuple(k for k, name in enumerate(labels.names) if name in theirs)
    # one known class among several cannot be told from the others
    return known if len(known) > 1 or len(known) == len(labels) else ()
