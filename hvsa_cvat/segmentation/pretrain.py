"""Training the network with which the first round starts, on any labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from hvsa_cvat.config import TrainingConfig
from hvsa_cvat.ports import Progress, silent
from hvsa_cvat.segmentation.device import autocast, kept_memory
from hvsa_cvat.segmentation.finetune import TrainingRun, train
from hvsa_cvat.segmentation.losses import labeled_cross_entropy
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.types import IGNORE, Image, LabelMap, Size

_SCALES = (0.6, 1.8)
"""The range of the random zoom. Zoom 1 fits the image into the network's size."""


def pretraining(epochs: int, batch: int = 8) -> TrainingConfig:
    """The settings of a pre-training with `batch` images in each step."""
    return TrainingConfig(
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.01,
        epochs=epochs,
        batch_pairs=batch,
        warmup=0.03,
    )


def augment(
    image: Image, label_map: LabelMap, size: Size, rng: np.random.Generator
) -> tuple[Image, LabelMap]:
    """The image and its label map at `size`, with random zoom, position, mirroring and light.

    Outside the image the label is `IGNORE`.
    """
    height, width = image.shape[:2]
    zoom = float(np.exp(rng.uniform(*np.log(_SCALES))))
    scale_y, scale_x = size[0] / height * zoom, size[1] / width * zoom
    slack_y, slack_x = height * scale_y - size[0], width * scale_x - size[1]
    # the slack is negative where the zoomed image is smaller than `size`
    top = rng.uniform(min(slack_y, 0), max(slack_y, 0))
    left = rng.uniform(min(slack_x, 0), max(slack_x, 0))
    # scaling keeps the corner of the first pixel, which lies half a pixel before its centre
    matrix = np.array(
        [[scale_x, 0, (scale_x - 1) / 2 - left], [0, scale_y, (scale_y - 1) / 2 - top]]
    )
    if rng.random() < 0.5:
        matrix = np.array([[-1, 0, size[1] - 1], [0, 1, 0]]) @ np.vstack([matrix, [0, 0, 1]])
    shape = (size[1], size[0])
    zoomed = cv2.warpAffine(
        image, matrix, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    moved = cv2.warpAffine(label_map, matrix, shape, flags=cv2.INTER_NEAREST, borderValue=(IGNORE,))
    return _change_light(np.asarray(zoomed, np.uint8), rng), np.asarray(moved, np.uint8)


def _change_light(image: Image, rng: np.random.Generator) -> Image:
    """Change brightness, contrast and saturation by up to 30 %, and the colour cast by 10 %."""
    values = image.astype(np.float32)
    grey = values.mean(axis=2, keepdims=True)
    values = grey + (values - grey) * rng.uniform(0.7, 1.3)
    values = grey.mean() + (values - grey.mean()) * rng.uniform(0.7, 1.3)
    values *= rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3).astype(np.float32)
    return np.asarray(values.clip(0, 255), np.uint8)


def pretrain(
    network: SegmentationNetwork,
    read: Callable[[int], tuple[Image, LabelMap]],
    length: int,
    size: Size,
    config: TrainingConfig,
    *,
    seed: int,
    device: torch.device,
    progress: Progress = silent,
) -> TrainingRun:
    """Train `network` (in place) on `length` images. Every epoch uses each image once.

    `read(k)` gives the k-th image and its label map, which have the same size.
    """
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def batches(epoch: int) -> Sequence[tuple[list[int], np.random.Generator]]:
        rng = np.random.default_rng([seed, epoch])
        # equal parts, because batch norm learns little from a last step with one image
        parts = np.array_split(rng.permutation(length), -(-length // config.batch_pairs))
        return [(part.tolist(), rng) for part in parts]

    def loss(item: tuple[list[int], np.random.Generator]) -> Tensor:
        chosen, rng = item
        drawn = [augment(*read(k), size, rng) for k in chosen]
        images = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2)
        targets = torch.from_numpy(np.stack([target for _, target in drawn])).long()
        with autocast(device):
            logits = network(images.to(device, memory_format=torch.channels_last))
        return labeled_cross_entropy(network.logits_at(logits, size), targets.to(device))

    with kept_memory(device):
        return train(network, config, batches, loss, progress=progress)
