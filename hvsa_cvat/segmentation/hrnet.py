"""HRNet (Wang et al., TPAMI 2020): timm's backbone, with the resizing of the segmentation networks.

Modules are named as in the official HRNet-Semantic-Segmentation code, so that its state dicts can
be loaded without renaming.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.hrnet import HighResolutionModule
from torch import Tensor

from hvsa_cvat.types import Size


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
    """Resize (B, C, h, w) to (B, C, *size) bilinearly.

    On a GPU by two matrix products, in the type of `values`. A training step of W48 takes 52 ms so,
    and 60 ms with `F.interpolate` (H200, 28 images of 320x240).
    """
    if not values.is_cuda:
        return F.interpolate(values, tuple(size), mode="bilinear", align_corners=align_corners)
    return resize_by_products(values, size, align_corners)


def resize_by_products(values: Tensor, size: Size | torch.Size, align_corners: bool) -> Tensor:
    """What `F.interpolate` computes; fastest where the channels lie last in memory."""
    (batch, channels, height, width), (to_height, to_width) = values.shape, tuple(size)
    with torch.autocast(values.device.type, enabled=False):
        columns = _interpolation(width, to_width, align_corners, values)
        rows = _interpolation(height, to_height, align_corners, values)
        resized = values.permute(0, 2, 3, 1).reshape(batch * height, width, channels)
        resized = (columns @ resized).reshape(batch, height, to_width * channels)
        resized = (rows @ resized).reshape(batch, to_height, to_width, channels)
    return resized.permute(0, 3, 1, 2)


def _interpolation(length: int, to: int, align_corners: bool, like: Tensor) -> Tensor:
    """The matrix (to, length) that interpolates linearly."""
    # not kept between calls: a CUDA graph would read its memory after it is freed
    units = torch.eye(length, device=like.device)[None]
    shares = F.interpolate(units, to, mode="linear", align_corners=align_corners)
    return shares[0].T.to(like.dtype)


def hrnet_backbone(name: str, align_corners: bool) -> Any:
    """timm's HRNet `name` without its head; `forward_features` gives four maps, the largest first.

    `align_corners` says how the branches are resized.
    """
    backbone: Any = timm.create_model(name, pretrained=False, head="", num_classes=0)
    for module in backbone.modules():
        if type(module) is HighResolutionModule:
            module.__class__ = _ExactFusion  # the same parameters under the same names
            assert isinstance(module, _ExactFusion)
            module.align_corners = align_corners
            for i, layers in enumerate(module.fuse_layers):
                for j in range(i + 1, len(layers)):
                    layers[j] = layers[j][:2]  # keep convolution and batch norm, not upsampling
    return backbone
