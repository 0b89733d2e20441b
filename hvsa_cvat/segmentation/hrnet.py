"""HRNet for segmentation: timm's backbone and the HRNetV2 head of Wang et al. (TPAMI 2020).

Modules are named as in the official HRNet-Semantic-Segmentation code, so that its state dicts can
be loaded without renaming.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.hrnet import HighResolutionModule
from torch import Tensor, nn

from hvsa_cvat.config import NETWORKS
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.types import Size

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB, for values in 0..1."""


class _ExactFusion(HighResolutionModule):
    """A multi-resolution module that resizes each branch to the exact size of the other branch.

    timm has the variant for classification: it upsamples by a fixed factor, with the nearest
    neighbour. That gives other results, and fails if a side is not divisible by 32.
    """

    align_corners: bool

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        branches = [branch(values) for branch, values in zip(self.branches, x, strict=True)]
        fused = []
        for i, layers in enumerate(self.fuse_layers):
            total = branches[i]
            for j, layer in enumerate(layers):
                if j > i:
                    size = branches[i].shape[-2:]
                    total = total + resize(layer(branches[j]), size, self.align_corners)
                elif j < i:
                    total = total + layer(branches[j])
            fused.append(self.fuse_act(total))
        return fused


def resize(values: Tensor, size: Size | torch.Size, align_corners: bool) -> Tensor:
    """Resize (B, C, h, w) to (B, C, *size) bilinearly."""
    return F.interpolate(values, tuple(size), mode="bilinear", align_corners=align_corners)


class SegmentationNetwork(nn.Module):
    """Computes logits at a quarter of the image's size, rounded up. Images may have any size.

    The network normalises images itself: it takes RGB in 0..255.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, classes: int, *, align_corners: bool = False) -> None:
        super().__init__()
        if name not in NETWORKS:
            raise ConfigError(f"there is no network {name!r}; choose one of {', '.join(NETWORKS)}")
        self.name = name
        self.classes = classes
        self.align_corners = align_corners
        backbone: Any = timm.create_model(name, pretrained=False, head="", num_classes=0)
        for module in backbone.modules():
            if type(module) is HighResolutionModule:
                module.__class__ = _ExactFusion  # the same parameters under the same names
                assert isinstance(module, _ExactFusion)
                module.align_corners = align_corners
                for i, layers in enumerate(module.fuse_layers):
                    for j in range(i + 1, len(layers)):
                        layers[j] = layers[j][:2]  # keep convolution and batch norm, not upsampling
        self.backbone = backbone
        self.feature_channels: int = sum(backbone.stage4_cfg["num_channels"])
        classifier = nn.Conv2d(self.feature_channels, classes, 1)
        nn.init.normal_(classifier.weight, std=0.01)
        self.last_layer = nn.Sequential(
            nn.Conv2d(self.feature_channels, self.feature_channels, 1),
            nn.BatchNorm2d(self.feature_channels),
            nn.ReLU(inplace=True),
            classifier,
        )
        self.register_buffer("mean", 255 * torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(STD)[:, None, None], persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """The backbone's feature map, without the head.

        uint8 or float (B, 3, H, W) RGB in 0..255 -> (B, D, ceil(H/4), ceil(W/4)).
        """
        return torch.cat(self._at_the_largest(self._branches(images)), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 or float (B, 3, H, W) RGB in 0..255 -> logits (B, C, ceil(H/4), ceil(W/4)).

        This equals the head applied to `features`, with an eighth of the arithmetic: the head's
        first convolution is 1x1, so each branch passes its part of the weights before upsampling.
        """
        branches = self._branches(images)
        mix = self.last_layer[0]
        assert isinstance(mix, nn.Conv2d)
        assert mix.bias is not None
        shares = torch.split(mix.weight, [branch.shape[1] for branch in branches], dim=1)
        mixed = [F.conv2d(branch, share) for branch, share in zip(branches, shares, strict=True)]
        values, *others = self._at_the_largest(mixed)
        # in the type of `values`: a sum with float32 would leave bfloat16 from here on
        values = values + mix.bias.to(values.dtype)[:, None, None]
        for other in others:
            values = values + other
        logits: Tensor = self.last_layer[1:](values)
        return logits

    def _branches(self, images: Tensor) -> list[Tensor]:
        """The backbone's four feature maps, from the largest to the smallest."""
        x = (images.to(self.mean.dtype) - self.mean) / self.std
        branches: list[Tensor] = self.backbone.forward_features(x)
        return branches

    def _at_the_largest(self, branches: list[Tensor]) -> list[Tensor]:
        size = branches[0].shape[-2:]
        return [branches[0], *(resize(b, size, self.align_corners) for b in branches[1:])]

    def logits_at(self, logits: Tensor, size: Size) -> Tensor:
        """The logits of `forward`, resized to `size` in float32: (B, C, H, W)."""
        return resize(logits.float(), size, self.align_corners)
