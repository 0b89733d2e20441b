"""Prediction for single images with the network of a checkpoint."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hvsa_cvat.errors import CheckpointError
from hvsa_cvat.segmentation.checkpoint import load_checkpoint, read_info
from hvsa_cvat.segmentation.device import autocast, choose_device
from hvsa_cvat.segmentation.hrnet import resize
from hvsa_cvat.types import IGNORE, Image, LabelMap, LabelSet, Size
from hvsa_cvat.video.frames import resize_image
from hvsa_cvat.video.opencv import use_one_opencv_thread

_BAND = 2**23
"""Probabilities held at the same time: 32 MiB. A 4K image with 20 classes has 660 MB of them."""


@dataclass(frozen=True)
class Prediction:
    """The class of every pixel of an image."""

    label_map: LabelMap
    """uint8 (H, W) at the image's own size. Every pixel has a class."""
    confidence: NDArray[np.float32]
    """float32 (H, W): the probability of the pixel's class."""

    def above(self, threshold: float) -> LabelMap:
        """The label map, with `IGNORE` where the confidence is below `threshold`."""
        if threshold <= 0:
            return self.label_map
        kept: LabelMap = np.where(self.confidence >= threshold, self.label_map, np.uint8(IGNORE))
        return kept


class SegmentationModel:
    """The network of one of our checkpoints, ready to predict. Threads may share it."""

    def __init__(self, checkpoint: Path, device: str = "auto") -> None:
        """`device` is auto, cpu or cuda. `ConfigError` if the machine has no such device."""
        if checkpoint.suffix.lower() in (".pth", ".pt", ".bin"):
            raise CheckpointError(
                f"checkpoint {checkpoint} is a plain state dict without the names of classes; give "
                "a .safetensors file that hvsa-agent wrote"
            )
        use_one_opencv_thread()
        self.device = choose_device(device)
        info = read_info(checkpoint)
        self.labels = LabelSet(info.labels)
        self.size: Size = info.size
        """(height, width) in pixels. The network was trained at this size; images are resized."""
        network, self.description = load_checkpoint(checkpoint, self.labels)
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = network.eval()
        # Two images at the same time would take twice the memory and no less time.
        self._turn = threading.Lock()

    def predict(self, image: Image) -> Prediction:
        """Predict an image of any size. The network sees it resized to `size`."""
        small = torch.from_numpy(resize_image(image, self.size)).permute(2, 0, 1)[None]
        small = small.to(self.device, memory_format=torch.channels_last)
        with self._turn, torch.inference_mode():
            with autocast(self.device):
                logits = self._network(small)
            return self._decide(logits, (image.shape[0], image.shape[1]))

    def _decide(self, logits: Tensor, size: Size) -> Prediction:
        """Class and confidence at `size`, from logits (1, C, h, w) of the smaller image."""
        label_map = np.empty(size, dtype=np.uint8)
        confidence = np.empty(size, dtype=np.float32)
        rows = max(1, _BAND // (logits.shape[1] * size[1]))
        for top in range(0, size[0], rows):
            band = slice(top, min(top + rows, size[0]))
            probs = _band_at(logits.float(), size, band, self._network.align_corners).softmax(dim=0)
            values, classes = probs.max(dim=0)
            label_map[band] = classes.to(torch.uint8).cpu().numpy()
            confidence[band] = values.cpu().numpy()
        return Prediction(label_map, confidence)


def _band_at(logits: Tensor, size: Size, band: slice, align_corners: bool) -> Tensor:
    """The rows `band` of logits (1, C, h, w) resized to `size` bilinearly: (C, rows, W)."""
    (height, width), given = size, logits.shape[2]
    row = torch.arange(band.start, band.stop, device=logits.device)
    if align_corners:
        place = row * ((given - 1) / max(1, height - 1))
    else:
        place = ((row + 0.5) * (given / height) - 0.5).clamp(min=0)
    above = place.floor().long().clamp(max=given - 1)
    below = (above + 1).clamp(max=given - 1)
    weight = (place - above)[:, None]
    lines = logits[:, :, above].lerp(logits[:, :, below], weight)
    return resize(lines, (len(row), width), align_corners)[0]
