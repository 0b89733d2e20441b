"""Weights of a backbone alone: from the model hub, or from a file. Nothing here unpickles code."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, Queue

import safetensors.torch
import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from torch import Tensor

from hvsa_cvat.errors import CheckpointError
from hvsa_cvat.segmentation.backbones import PyramidBackbone
from hvsa_cvat.segmentation.checkpoint_checks import check_weights
from hvsa_cvat.segmentation.network import SegmentationNetwork

_FILES = ("model.safetensors", "pytorch_model.bin")
"""What the weights are called in a repository of the hub; the first is preferred."""

_PATIENCE = 5.0
"""Seconds that the hub has to answer where there is something else to start from."""


def cached_weights(name: str) -> Path | None:
    """Where timm's weights of `name` lie in the cache of the model hub; None where they do not."""
    for repository, file in _on_hub(name):
        path = try_to_load_from_cache(repository, file)
        if isinstance(path, str):
            return Path(path)
    return None


def can_be_fetched(name: str, seconds: float = _PATIENCE) -> bool:
    """Whether the model hub answers, and has weights of `name`.

    Without a network the name of the hub may take half a minute to fail: that is not waited for.
    """
    answers: Queue[bool] = Queue()

    def ask() -> None:
        answers.put(any(_has(repository, file, seconds) for repository, file in _on_hub(name)))

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except Empty:
        return False


def _on_hub(name: str) -> list[tuple[str, str]]:
    """Repository and file of each form of the weights."""
    found = timm.get_pretrained_cfg(name)
    if found is None or not found.hf_hub_id:
        return []
    return [(str(found.hf_hub_id), file) for file in _FILES]


def _has(repository: str, file: str, seconds: float) -> bool:
    try:
        get_hf_file_metadata(hf_hub_url(repository, file), timeout=seconds)
    except Exception:  # the hub's client raises errors of many kinds
        return False
    return True


def load_imagenet_backbone(network: SegmentationNetwork) -> None:
    """Put timm's ImageNet weights into the backbone, from the cache of the model hub or the hub."""
    cached = cached_weights(network.name)
    # the file itself: with its name alone timm would ask the hub whether there is a newer one
    overlay = {} if cached is None else {"file": str(cached)}
    try:
        source = timm.create_model(network.name, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # the hub's client raises errors of many kinds
        raise CheckpointError(
            f"cannot get the ImageNet weights of {network.name} ({type(error).__name__}); bring "
            "the cache of a machine that reaches the model hub (`hvsa-agent networks fetch`), or "
            "start at random or from a file of weights"
        ) from error
    load_backbone(network, source.state_dict(), f"the ImageNet weights of {network.name}")


def load_weights(network: SegmentationNetwork, path: Path) -> None:
    """Put the weights of a file (.safetensors or .pth) into the backbone."""
    tensors = read_tensors(path) if path.suffix == ".safetensors" else read_state_dict(path)
    load_backbone(network, tensors, f"the weights of {path}")


def load_backbone(network: SegmentationNetwork, tensors: Mapping[str, Tensor], what: str) -> None:
    """Put a model's weights, by timm's names, into the backbone; the model's own head is left out.

    `CheckpointError` where they are those of another network; `what` says what they are.
    """
    backbone = network.backbone
    if isinstance(backbone, PyramidBackbone):
        tensors = backbone.renamed(tensors)
    own = backbone.state_dict()
    taken = {name: value for name, value in tensors.items() if name in own}
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    wrong = sorted(own.keys() - taken.keys() - counters)
    wrong += sorted(name for name, value in taken.items() if value.shape != own[name].shape)
    if wrong:
        raise CheckpointError(
            f"{what} are not those of {network.name}: {len(wrong)} of its {len(own)} tensors are "
            f"missing or have another shape, first {wrong[0]!r}; give the weights of this network, "
            "or choose another --network"
        )
    try:
        check_weights(taken)
    except ValueError as error:
        raise CheckpointError(f"{what}: {error}; take other weights") from error
    backbone.load_state_dict(taken, strict=False)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint {path}; check the path") from None
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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        return dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({error}); copy it again or make it anew"
        ) from error
