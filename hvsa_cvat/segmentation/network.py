"""The network that is trained: feature maps of a backbone, and a head that names classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hvsa_cvat.config import NETWORKS
from hvsa_cvat.segmentation.backbones import PyramidBackbone, input_statistics
from hvsa_cvat.segmentation.checkpoint_info import InputStatistics
from hvsa_cvat.segmentation.hrnet import hrnet_backbone, resize
from hvsa_cvat.types import Size


class SegmentationNetwork(nn.Module):
    """A backbone, and the head of HRNetV2 (Wang et al., TPAMI 2020) on its joined feature maps.

    Computes logits at a quarter of the image's size, rounded up. Images may have any size. The
    network normalises images itself: it takes RGB in 0..255.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        classes: int,
        *,
        align_corners: bool = False,
        statistics: InputStatistics | None = None,
    ) -> None:
        """`name` is one of `NETWORKS` or of timm's models; `align_corners` is for the former.
        `statistics`: None takes those of timm's weights."""
        super().__init__()
        self.name = name
        self.classes = classes
        self.align_corners = align_corners
        self.statistics = statistics or input_statistics(name)
        self.backbone: Any
        if name in NETWORKS:
            self.backbone = hrnet_backbone(name, align_corners)
            channels = list(self.backbone.stage4_cfg["num_channels"])
        else:
            self.backbone = PyramidBackbone(name)
            channels = self.backbone.channels
        self.feature_channels: int = sum(channels)
        classifier = nn.Conv2d(self.feature_channels, classes, 1)
        nn.init.normal_(classifier.weight, std=0.01)
        self.last_layer = nn.Sequential(
            nn.Conv2d(self.feature_channels, self.feature_channels, 1),
            nn.BatchNorm2d(self.feature_channels),
            nn.ReLU(inplace=True),
            classifier,
        )
        for part in ("mean", "std"):
            values = 255 * torch.tensor(getattr(self.statistics, part))[:, None, None]
            self.register_buffer(part, values, persistent=False)

    def features(self, images: Tensor, branches: Sequence[Tensor] | None = None) -> Tensor:
        """The backbone's feature map, without the head.

        uint8 or float (B, 3, H, W) RGB in 0..255 -> (B, D, ceil(H/4), ceil(W/4)). `branches` is
        what `branches` gives for the images, where that is known already.
        """
        known = self.branches(images) if branches is None else branches
        return torch.cat(self._at_a_quarter(known, images), dim=1)

    def forward(self, images: Tensor, branches: Sequence[Tensor] | None = None) -> Tensor:
        """uint8 or float (B, 3, H, W) RGB in 0..255 -> logits (B, C, ceil(H/4), ceil(W/4)).

        This equals the head applied to `features`, with an eighth of the arithmetic: the head's
        first convolution is 1x1, so each branch passes its part of the weights before upsampling.
        """
        branches = self.branches(images) if branches is None else branches
        mix = self.last_layer[0]
        assert isinstance(mix, nn.Conv2d)
        assert mix.bias is not None
        shares = torch.split(mix.weight, [branch.shape[1] for branch in branches], dim=1)
        mixed = [F.conv2d(branch, share) for branch, share in zip(branches, shares, strict=True)]
        values, *others = self._at_a_quarter(mixed, images)
        # in the type of `values`: a sum with float32 would leave bfloat16 from here on
        values = values + mix.bias.to(values.dtype)[:, None, None]
        for other in others:
            values = values + other
        logits: Tensor = self.last_layer[1:](values)
        return logits

    def branches(self, images: Tensor) -> list[Tensor]:
        """The backbone's own feature maps, from the largest to the smallest."""
        x = (images.to(self.mean.dtype) - self.mean) / self.std
        if isinstance(self.backbone, PyramidBackbone):
            branches: list[Tensor] = self.backbone(x)
        else:
            branches = self.backbone.forward_features(x)
        return branches

    def _at_a_quarter(self, branches: Sequence[Tensor], images: Tensor) -> list[Tensor]:
        if isinstance(self.backbone, PyramidBackbone):
            height, width = images.shape[-2:]
            return self.backbone.at_a_quarter(branches, (height, width))
        size = branches[0].shape[-2:]
        return [branches[0], *(resize(b, size, self.align_corners) for b in branches[1:])]

    def logits_at(self, logits: Tensor, size: Size) -> Tensor:
        """The logits of `forward`, resized to `size` in float32: (B, C, H, W)."""
        return resize(logits.float(), size, self.align_corners)
