"""The network that a run starts from: a checkpoint, or a backbone with weights and a new head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from hvsa_cvat.config import StartOptions
from hvsa_cvat.segmentation.backbones import check_network
from hvsa_cvat.segmentation.checkpoint import describe, new_network, save_checkpoint
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.weights import (
    cached_weights,
    can_be_fetched,
    load_imagenet_backbone,
    load_weights,
)
from hvsa_cvat.types import Size

_DEFAULT_NETWORK = {"cpu": "hrnet_w18_small", "cuda": "hrnet_w48"}
"""The network of `--init imagenet` that is not named; on a GPU the paper's."""

_HOW = "choose another start by --init, --network or --checkpoint"


@dataclass(frozen=True)
class Backbone:
    """What a network is made of that knows no classes."""

    network: str
    weights: Path | None = None
    """A file; None takes timm's ImageNet weights."""

    def make(self, seed: int = 0) -> SegmentationNetwork:
        """The network; `seed` decides its head."""
        check_network(self.network)
        network = new_network(self.network, 1, seed=seed)
        if self.weights is None:
            load_imagenet_backbone(network)
        else:
            load_weights(network, self.weights)
        return network

    def write(self, path: Path, size: Size, seed: int = 0) -> None:
        """Write the network as a checkpoint. `size` is the (height, width) in pixels at which it
        will be trained."""
        network = self.make(seed)
        save_checkpoint(network, describe(network, (), size, 0), path)

    def __str__(self) -> str:
        weights = "ImageNet weights" if self.weights is None else f"the weights of {self.weights}"
        return f"{self.network} with {weights}"


def packaged_checkpoint() -> Path:
    """The small network that comes with the package."""
    return Path(str(files("hvsa_cvat") / "data/demo/pretrained.safetensors"))


def choose_start(asked: StartOptions, device: str, tell: Callable[[str], None]) -> Path | Backbone:
    """The checkpoint, or what to make one of, on a device that is `cpu` or `cuda`. On the latter
    `tell` hears what is taken, and why, where the user has said nothing."""
    if asked.checkpoint is not None:
        return asked.checkpoint
    if asked.init == "package":
        return packaged_checkpoint()
    named = asked.init, asked.network, asked.weights
    chosen = Backbone(asked.network or _DEFAULT_NETWORK[device], asked.weights)
    if any(one is not None for one in named):
        return chosen
    if device == "cpu":
        return packaged_checkpoint()
    if cached_weights(chosen.network) is None and not can_be_fetched(chosen.network):
        tell(
            "starts from the small network of the package: the ImageNet weights of "
            f"{chosen.network} are not on this machine, and the model hub does not answer; "
            f"`hvsa-agent networks fetch {chosen.network}` brings them, or {_HOW}"
        )
        return packaged_checkpoint()
    tell(f"starts from {chosen}, because there is a GPU; {_HOW}")
    return chosen
