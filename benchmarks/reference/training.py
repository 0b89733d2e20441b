"""Fine-tuning: Eq. 3 to 6 over pairs of frames that a DataLoader gathers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.reference.network import ReferenceNetwork
from hvsa_cvat.config import TrainingConfig
from hvsa_cvat.segmentation.pairs import epoch_pairs
from hvsa_cvat.types import IGNORE

Flow = Mapping[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.bool_]]]
"""(t, t') -> flow float32 (2, h, w) and valid bool (h, w)."""


class Pairs(Dataset):
    """The pair (t, t'): two images, two label maps, flow and valid mask."""

    def __init__(
        self, frames: NDArray[np.uint8], targets: Mapping[int, NDArray[np.uint8]], flow: Flow
    ) -> None:
        self.frames, self.targets, self.flow = frames, targets, flow

    def __getitem__(self, pair: tuple[int, int]) -> tuple[Tensor, ...]:
        t, other = pair
        flow, valid = self.flow[pair]
        return (
            self._image(t),
            self._image(other),
            self._target(t),
            self._target(other),
            torch.from_numpy(flow.astype(np.float32)),
            torch.from_numpy(valid.copy()),
        )

    def _image(self, t: int) -> Tensor:
        return torch.from_numpy(self.frames[t]).permute(2, 0, 1).float() / 255

    def _target(self, t: int) -> Tensor:
        nothing = np.full(self.frames.shape[1:3], IGNORE, np.uint8)
        return torch.from_numpy(self.targets.get(t, nothing)).long()


def finetune(
    network: ReferenceNetwork,
    data: Pairs,
    config: TrainingConfig,
    seed: Sequence[int],
    device: str = "cpu",
) -> list[float]:
    """Fit `network` in place; the loss of every step."""
    network.to(device).train()
    optimizer = make_optimizer(network, config)
    labeled = sorted(data.targets)
    losses: list[float] = []
    for epoch in range(config.epochs):
        rng = np.random.default_rng([*seed, epoch])
        batches = epoch_pairs(len(data.frames), labeled, config.sampling, config.batch_pairs, rng)
        steps = config.epochs * len(batches)
        for batch in DataLoader(data, batch_sampler=batches):
            for group in optimizer.param_groups:
                warm = min(1.0, (len(losses) + 1) / max(1.0, config.warmup * steps))
                group["lr"] = config.learning_rate * warm * (1 - len(losses) / steps) ** 0.9
            loss = batch_loss(network, [part.to(device) for part in batch], config)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    network.eval()
    return losses


def make_optimizer(network: ReferenceNetwork, config: TrainingConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        config.learning_rate,
    )


def batch_loss(
    network: ReferenceNetwork, batch: Sequence[Tensor], config: TrainingConfig
) -> Tensor:
    """L = L_ce + lambda L_tc."""
    image, other_image, target, other_target, flow, valid = batch
    logits = network(torch.cat([image, other_image]))
    targets = torch.cat([target, other_target])
    loss = logits.sum() * 0
    if (targets != IGNORE).any():
        loss = loss + F.cross_entropy(logits, targets, ignore_index=IGNORE)
    probs, other = logits.softmax(dim=1).chunk(2)
    if config.consistency_weight > 0 and valid.any():
        error = (probs - warp(other, flow)).square().sum(dim=1)
        loss = loss + config.consistency_weight * error[valid].mean()
    return loss


def warp(values: Tensor, flow: Tensor) -> Tensor:
    """`values` (B, C, H, W) at x + flow(x), bilinear, the border repeated."""
    height, width = values.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=flow.device),
        torch.arange(width, device=flow.device),
        indexing="ij",
    )
    grid = torch.stack([x + flow[:, 0], y + flow[:, 1]], dim=-1)
    grid = 2 * grid / torch.tensor([width - 1, height - 1], device=flow.device) - 1
    return F.grid_sample(values, grid, padding_mode="border", align_corners=True)
