"""The losses of test-time fine-tuning, Eq. 3 to 6."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hvsa_cvat.types import IGNORE

Total = Callable[[Tensor], Tensor]
"""Of a count of pixels: that of the whole batch, where several processes share it."""


def own_count(count: Tensor) -> Tensor:
    """Nobody shares the batch."""
    return count


def warp(values: Tensor, flow: Tensor) -> Tensor:
    """Bring frame t' to frame t: values at x + O_{t->t'}(x), bilinear, border repeated.

    values (B, C, H, W), flow (B, 2, H, W) dx, dy in pixels -> (B, C, H, W).
    """
    height, width = values.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=values.device, dtype=flow.dtype),
        torch.arange(width, device=values.device, dtype=flow.dtype),
        indexing="ij",
    )
    # align_corners: -1 and 1 are the centres of the first and the last pixel
    grid = torch.stack(
        [
            2 * (x + flow[:, 0]) / max(width - 1, 1) - 1,
            2 * (y + flow[:, 1]) / max(height - 1, 1) - 1,
        ],
        dim=-1,
    )
    return F.grid_sample(values, grid, padding_mode="border", align_corners=True)


def temporal_consistency(
    probs: Tensor, other: Tensor, flow: Tensor, valid: Tensor, total: Total = own_count
) -> Tensor:
    """Eq. 3 and 4: mean over the valid pixels of || q_t(x) - warp(q_t')(x) ||_2^2.

    probs, other: softmax (B, C, H, W) of frames t and t'; flow O_{t->t'} (B, 2, H, W); valid
    M_{t->t'} bool (B, H, W). Both frames get a gradient. 0 where no pixel is valid.
    """
    difference = (probs - warp(other, flow)).square().sum(dim=1)
    return (difference * valid).sum() / total(valid.sum()).clamp(min=1)


def labeled_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, total: Total = own_count
) -> Tensor:
    """Eq. 5: mean cross-entropy over the labelled pixels, 0 where there are none.

    logits (B, C, H, W), targets int64 (B, H, W) with `IGNORE` where there is no label. With
    weights, float (B, H, W), the mean is the weighted one.
    """
    if weights is None:
        summed = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
        return summed / total((targets != IGNORE).sum()).clamp(min=1)
    each = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    weights = weights * (targets != IGNORE)
    return (each * weights).sum() / total(weights.sum()).clamp(min=1)
