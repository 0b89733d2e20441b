"""Weights on disk: safetensors with their metadata, official HRNet state dicts, ImageNet.

Nothing here unpickles code.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor

from hvsa_cvat.config import NETWORKS
from hvsa_cvat.errors import CheckpointError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.segmentation.hrnet import MEAN, STD, SegmentationNetwork
from hvsa_cvat.types import LabelSet, Size

_BY_STAGE4_WIDTH = {16: "hrnet_w18_small", 18: "hrnet_w18", 32: "hrnet_w32", 48: "hrnet_w48"}


@dataclass(frozen=True)
class CheckpointInfo:
    """What is stored beside the weights."""

    network: str
    labels: tuple[str, ...]
    size: Size
    """(height, width) in pixels that the network was last trained at."""
    align_corners: bool
    round: int
    """0 for a pre-trained network, k after k rounds."""
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    """RGB normalisation, of values in 0..1."""


def save_checkpoint(network: SegmentationNetwork, info: CheckpointInfo, path: Path) -> None:
    """Write `path` (safetensors), whole or not at all."""
    # one memory layout, so that equal weights give equal bytes
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()
    }
    # one entry, because safetensors writes several in any order
    metadata = {"info": json.dumps(asdict(info))}
    with atomic_write(path) as temporary:
        try:
            safetensors.torch.save_file(tensors, temporary, metadata=metadata)
        except safetensors.SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from error


def read_info(path: Path) -> CheckpointInfo:
    """The metadata of one of our checkpoints."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(
            f"no checkpoint {path}; make one with `hvsa-agent pretrain`"
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
        for name in ("labels", "size", "mean", "std"):
            fields[name] = tuple(fields[name])
        info = CheckpointInfo(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} has broken metadata ({error}); copy it again or make it anew"
        ) from error
    if info.network not in NETWORKS:
        raise CheckpointError(
            f"checkpoint {path} holds network {info.network!r}; this version knows "
            f"{', '.join(NETWORKS)}"
        )
    return info


def knows_classes(path: Path, labels: LabelSet) -> bool:
    """Whether `load_checkpoint` keeps the head, because it is for these classes."""
    return path.suffix == ".safetensors" and read_info(path).labels == labels.names


def new_network(
    name: str, classes: int, *, align_corners: bool = False, seed: int = 0
) -> SegmentationNetwork:
    """A network with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SegmentationNetwork(name, classes, align_corners=align_corners)


def load_checkpoint(
    path: Path, labels: LabelSet, *, align_corners: bool = True, seed: int = 0
) -> tuple[SegmentationNetwork, str]:
    """The network of `path` for `labels`, and one line that says what was loaded.

    With another class set the backbone is kept and the head starts anew, from `seed`.
    `align_corners` is asked only of official state dicts, which do not say; ours do.
    """
    if path.suffix.lower() in (".pth", ".pt", ".bin"):
        return load_official(path, labels, align_corners=align_corners, seed=seed)
    info = read_info(path)
    network = new_network(info.network, len(labels), align_corners=info.align_corners, seed=seed)
    tensors = _read_tensors(path)
    same_head = info.labels == labels.names
    _load(network, tensors, path, with_classifier=same_head)
    if same_head:
        return network, f"{path.name}: {info.network}, {len(labels)} classes, round {info.round}"
    return network, (
        f"{path.name}: {info.network}; its classes ({', '.join(info.labels)}) are not this run's, "
        "so the backbone is kept and the head starts anew"
    )


def load_official(
    path: Path,
    labels: LabelSet,
    *,
    align_corners: bool = True,
    keep_head: bool = False,
    seed: int = 0,
) -> tuple[SegmentationNetwork, str]:
    """A state dict of the official HRNet-Semantic-Segmentation code (.pth).

    `keep_head` takes its classifier too, which must then have as many classes as `labels`.
    Published Cityscapes checkpoints exist for both values of `align_corners`.
    """
    tensors = _read_state_dict(path)
    width = tensors.get("stage4.0.branches.0.0.conv1.weight")
    name = _BY_STAGE4_WIDTH.get(len(width)) if width is not None and width.ndim else None
    if name is None:
        raise CheckpointError(
            f"checkpoint {path} is not the state dict of an HRNet W48, W32, W18 or W18-small (v1); "
            "give one of these"
        )
    network = new_network(name, len(labels), align_corners=align_corners, seed=seed)
    renamed = {
        key if key.startswith("last_layer.") else f"backbone.{key}": value
        for key, value in tensors.items()
    }
    _load(network, renamed, path, with_classifier=keep_head)
    kept = "head kept" if keep_head else "the backbone is kept and the head starts anew"
    return network, f"{path.name}: official {name}, align_corners {align_corners}; {kept}"


def load_imagenet_backbone(network: SegmentationNetwork) -> None:
    """Put timm's ImageNet weights into the backbone; needs the model hub."""
    try:
        source = timm.create_model(network.name, pretrained=True)
    except Exception as error:  # the hub's client raises errors of many kinds
        raise CheckpointError(
            f"the ImageNet weights of {network.name} cannot be had ({type(error).__name__}); "
            "connect to the model hub, or start from random weights with --init random"
        ) from error
    own = network.backbone.state_dict()
    network.backbone.load_state_dict(
        {key: value for key, value in source.state_dict().items() if key in own}
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({error}); copy it again or make it anew"
        ) from error


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint {path}; check the name") from None
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        raise CheckpointError(
            f"checkpoint {path} is truncated, or holds more than weights; give a plain state dict"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise CheckpointError(f"checkpoint {path} holds more than weights; give a plain state dict")
    # training wrappers put their own name in front
    return {
        key.removeprefix("module.").removeprefix("model."): value for key, value in content.items()
    }


def _load(
    network: SegmentationNetwork, tensors: dict[str, Tensor], path: Path, *, with_classifier: bool
) -> None:
    own = network.state_dict()
    head = {"last_layer.3.weight", "last_layer.3.bias"}
    wanted = set(own) if with_classifier else set(own) - head
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(wanted - set(tensors) - counters)
    if missing:
        raise CheckpointError(
            f"checkpoint {path} lacks {len(missing)} of the tensors of {network.name}, "
            f"first {missing[0]!r}; it was made for another network"
        )
    for name in sorted(wanted & set(tensors)):
        if tensors[name].shape != own[name].shape:
            raise CheckpointError(
                f"checkpoint {path}: {name!r} has shape {tuple(tensors[name].shape)}, "
                f"{network.name} with {network.classes} classes needs {tuple(own[name].shape)}"
            )
    network.load_state_dict({name: tensors[name] for name in wanted & set(tensors)}, strict=False)
