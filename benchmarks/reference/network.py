"""HRNet with the HRNetV2 head, computed step by step from the modules of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


class ReferenceNetwork(nn.Module):
    """Shares its parameters with the `SegmentationNetwork` that it is made from."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.last_layer = network.last_layer
        self.align_corners: bool = network.align_corners

    def features(self, images: Tensor) -> Tensor:
        """float32 (B, 3, H, W) RGB in 0..1 -> (B, D, ceil(H/4), ceil(W/4))."""
        net = self.backbone
        x = (images - MEAN.to(images)) / STD.to(images)
        x = F.relu(net.bn1(net.conv1(x)))
        x = F.relu(net.bn2(net.conv2(x)))
        branches = [net.layer1(x)]
        for transition, stage in (
            (net.transition1, net.stage2),
            (net.transition2, net.stage3),
            (net.transition3, net.stage4),
        ):
            branches = self._stage(transition, stage, branches)
        size = branches[0].shape[-2:]
        return torch.cat([self.resize(branch, size) for branch in branches], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits at the input's size, (B, C, H, W)."""
        logits = self.last_layer(self.features(images))
        return self.resize(logits, images.shape[-2:])

    def resize(self, values: Tensor, size: Sequence[int]) -> Tensor:
        return F.interpolate(values, tuple(size), mode="bilinear", align_corners=self.align_corners)

    def _stage(self, transition: nn.Module, stage: nn.Module, x: list[Tensor]) -> list[Tensor]:
        # a new branch starts from the last one
        x = [layer(x[i] if i < len(x) else x[-1]) for i, layer in enumerate(transition)]
        for module in stage:
            x = [branch(values) for branch, values in zip(module.branches, x, strict=True)]
            fused = []
            for i, layers in enumerate(module.fuse_layers):
                total = 0
                for j, layer in enumerate(layers):
                    moved = x[j] if i == j else layer(x[j])
                    total = total + (self.resize(moved, x[i].shape[-2:]) if j > i else moved)
                fused.append(F.relu(total))
            x = fused
        return x
