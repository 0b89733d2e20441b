"""Official HRNet state dicts (.pth), and their conversion to checkpoints of ours.

They come from the HRNet-Semantic-Segmentation code, which stores the weights alone. Nothing here
unpickles code.
"""

from __future__ import annotations

from pathlib import Path

from hvsa_cvat.errors import CheckpointError
from hvsa_cvat.segmentation.checkpoint import (
    describe,
    load_tensors,
    new_network,
    save_checkpoint,
)
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.weights import read_state_dict
from hvsa_cvat.types import Size

_SUFFIXES = (".pth", ".pt", ".bin")

_BY_STAGE4_WIDTH = {16: "hrnet_w18_small", 18: "hrnet_w18", 32: "hrnet_w32", 48: "hrnet_w48"}


def is_official(path: Path) -> bool:
    """Whether a file is named like a PyTorch state dict, and not like a checkpoint of ours."""
    return path.suffix.lower() in _SUFFIXES


def convert_official(path: Path, target: Path, size: Size, *, align_corners: bool) -> str:
    """Write the state dict `path` as the checkpoint `target`, and say in one line what it was.

    `size` is the (height, width) in pixels at which the network will be trained. The checkpoint
    knows no classes: the file does not name them.
    """
    network, line = load_official(path, 1, align_corners=align_corners)
    save_checkpoint(network, describe(network, (), size, 0), target)
    return line


def load_official(
    path: Path, classes: int, *, align_corners: bool = True, seed: int = 0
) -> tuple[SegmentationNetwork, str]:
    """The network of an official state dict with a new head, and one line that says what it is.

    The file does not say how it was trained: there are official Cityscapes checkpoints for both
    values of `align_corners`.
    """
    tensors = read_state_dict(path)
    width = tensors.get("stage4.0.branches.0.0.conv1.weight")
    name = _BY_STAGE4_WIDTH.get(len(width)) if width is not None and width.ndim else None
    if name is None:
        raise CheckpointError(
            f"checkpoint {path} is not the state dict of an HRNet W48, W32, W18 or W18-small (v1); "
            "give one of these"
        )
    network = new_network(name, classes, align_corners=align_corners, seed=seed)
    renamed = {
        key if key.startswith("last_layer.") else f"backbone.{key}": value
        for key, value in tensors.items()
    }
    load_tensors(network, renamed, path, with_classifier=False)
    return network, (
        f"{path.name}: official {name}, align_corners {align_corners}; "
        "the backbone is kept and the head starts anew"
    )
