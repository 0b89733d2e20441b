"""What is known of a network before it is used: its size, its licence, where its weights are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch

from hvsa_cvat.config import NETWORKS
from hvsa_cvat.errors import CheckpointError
from hvsa_cvat.segmentation.backbones import check_network
from hvsa_cvat.segmentation.checkpoint import new_network
from hvsa_cvat.segmentation.checkpoint_info import InputStatistics
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.weights import cached_weights
from hvsa_cvat.types import Size

TESTED = (
    *NETWORKS,
    "resnet18",
    "resnet50",
    "convnext_tiny",
    "tf_efficientnet_lite2",
    "mobilenetv3_large_100",
    "pvt_v2_b1",
    "swin_tiny_patch4_window7_224",
    "vit_small_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3",
)
"""The HRNets, and one or two of each of timm's families that the tests run."""


@dataclass(frozen=True)
class NetworkFacts:
    """One network, before it is used."""

    name: str
    parameters: int
    """Of the backbone and a head for two classes."""
    features: int
    """Channels of its feature map."""
    statistics: InputStatistics
    licence: str
    """Of timm's weights, as timm states it; empty where timm has none or states none."""
    on_disk: bool
    """Whether timm's weights lie in the cache of the model hub on this machine."""


def network_facts(name: str) -> NetworkFacts:
    """`ConfigError` where the network is unknown or cannot be used."""
    check_network(name)
    with torch.device("meta"):
        network = SegmentationNetwork(name, 2)
    found = timm.get_pretrained_cfg(name)
    return NetworkFacts(
        name,
        sum(value.numel() for value in network.parameters()),
        network.feature_channels,
        network.statistics,
        (found.license or "") if found is not None else "",
        cached_weights(name) is not None,
    )


def fetch_weights(name: str) -> None:
    """Put timm's weights into the cache of the model hub; `CheckpointError` where that fails."""
    check_network(name)
    try:
        timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub's client raises errors of many kinds
        raise CheckpointError(
            f"cannot fetch the weights of {name} ({type(error).__name__}); run this on a machine "
            "that reaches the model hub, and carry its cache folder here (HF_HOME)"
        ) from error


def seconds_a_frame(
    name: str, size: Size, device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The median of three predictions of one frame of `size`, after a first one."""
    network = new_network(name, 2).to(device).eval()
    image = torch.zeros(1, 3, *size, dtype=torch.uint8, device=device)
    laps = []
    with torch.inference_mode():
        for _ in range(4):
            begun = clock()
            network.logits_at(network(image), size).argmax(dim=1).cpu()
            laps.append(clock() - begun)
    return sorted(laps[1:])[1]
