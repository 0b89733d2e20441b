"""The losses of test-time fine-tuning, Eq. 3 to 6."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hvsa_cvat.types import IGNORE

Total = Callable[[Tensor], Tensor]
"""Gives the sum of a number of pixels over all processes that share a batch."""


def unshared_total(count: Tensor) -> Tensor:
    """The number itself: one process has the whole batch."""
    return count


def warp_batch(values: Tensor, flow: Tensor) -> Tensor:
    """Warp frames t' to frames t: at each pixel x, the value at x + O_{t->t'}(x).

    `values` are (B, C, H, W), `flow` is (B, 2, H, W) with dx and dy in pixels. Values are sampled
    bilinearly; outside the frame they are those of its border.
    """
    height, width = values.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=values.device, dtype=flow.dtype),
        torch.arange(width, device=values.device, dtype=flow.dtype),
        indexing="ij",
    )
    # with align_corners, -1 and 1 are the centres of the first and the last pixel
    grid = torch.stack(
        [
            2 * (x + flow[:, 0]) / max(width - 1, 1) - 1,
            2 * (y + flow[:, 1]) / max(height - 1, 1) - 1,
        ],
        dim=-1,
    )
    return F.grid_sample(values, grid, padding_mode="border", align_corners=True)


def consistency_loss(
    probs: Tensor, other: Tensor, flow: Tensor, valid: Tensor, total: Total = unshared_total
) -> Tensor:
    """Eq. 3 and 4: mean over the valid pixels of || q_t(x) - warp_batch(q_t')(x) ||_2^2.

    `probs` and `other` are the softmax (B, C, H, W) of frames t and t', `flow` is O_{t->t'}
    (B, 2, H, W), `valid` is M_{t->t'}, bool (B, H, W). Gradients flow into both frames. The loss is
    0 if no pixel is valid.
    """
    difference = (probs - warp_batch(other, flow)).square().sum(dim=1)
    return (difference * valid).sum() / total(valid.sum()).clamp(min=1)


def labeled_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, total: Total = unshared_total
) -> Tensor:
    """Eq. 5: mean cross-entropy over the labelled pixels; 0 if there are none.

    `logits` are (B, C, H, W), `targets` int64 (B, H, W) with `IGNORE` where there is no label. With
    `weights`, float (B, H, W), it is the weighted mean.
    """
    if weights is None:
        summed = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
        return summed / total((targets != IGNORE).sum()).clamp(min=1)
    each = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    weights = weights * (targets != IGNORE)
    return (each * weights).sum() / total(weights.sum()).clamp(min=1)
