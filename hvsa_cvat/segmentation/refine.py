"""A small network that refines probabilities near boundaries, at half the frames' own size.

The segmentation network sees the frames at its own size and speaks at a quarter of that, so its
boundaries are coarse. The refinement head sees the frame itself and the network's probabilities. It
learns from the labels that were carried to all frames. It does not see the carried votes, because
it would copy its targets then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hvsa_cvat.errors import SessionError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.ports import Progress, silent
from hvsa_cvat.segmentation.device import kept_memory
from hvsa_cvat.segmentation.finetune import learning_rate_factor
from hvsa_cvat.segmentation.losses import labeled_cross_entropy
from hvsa_cvat.types import IGNORE, Image, LabelMap, Size

CROP = 96
"""The side of the squares that the head learns from, in pixels."""

BATCH = 8
"""Crops in one optimizer step."""

_CHANNELS, _GROUPS = 32, 4
_DILATIONS = (1, 2, 1, 4, 1, 2)
_LEAST = 1e-3
"""Probabilities are raised to this before their logarithm."""

_MOST_STEPS = 200
_PIXELS_OF_MOST_STEPS = 50 * 360 * 480
"""Pixels of a video for which all steps are taken; fewer for a smaller one."""

_LEARNING_RATE, _WEIGHT_DECAY = 4e-3, 0.01
_WARMUP_STEPS = 15

_FAR = 4.0
"""Pixels. What lies further from a boundary weighs `_FAR_WEIGHT`."""
_FAR_WEIGHT = 0.2

_FROM_ANSWERED = 0.2
"""The share of the crops that lie in frames with answers."""


class _Block(nn.Module):
    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=dilation, dilation=dilation)
        self.norm = nn.GroupNorm(_GROUPS, _CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu_(self.norm(self.conv(x)))


class RefinementHead(nn.Module):
    """Logits of refined probabilities. A new head gives the probabilities back as they were."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.first = nn.Conv2d(4 * 3 + classes, _CHANNELS, 3, padding=1)
        self.blocks = nn.Sequential(*(_Block(dilation) for dilation in _DILATIONS))
        self.last = nn.Conv2d(_CHANNELS, 4 * classes, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor, log_probs: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) RGB, and (B, C, H, W) from `log_probabilities` -> (B, C, H, W).

        Height and width are even.
        """
        pixels = F.pixel_unshuffle(images, 2).float().sub_(110).div_(60)
        seen = torch.cat([pixels, F.avg_pool2d(log_probs, 2)], dim=1)
        del pixels  # frames may be large
        added = F.pixel_shuffle(self.last(self.blocks(self.first(seen))), 2)
        refined: Tensor = self.scale * log_probs + added
        return refined


def new_head(classes: int, seed: int) -> RefinementHead:
    """A head that changes nothing yet; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RefinementHead(classes)


def log_probabilities(probs: Tensor) -> Tensor:
    """The logarithms of probabilities, which are first raised to at least 0.001."""
    return probs.clamp(min=_LEAST).log()


def refine(head: RefinementHead, image: Image, probs: Tensor) -> Tensor:
    """The refined probabilities of one frame, float32 (C, H, W), on the device of `probs`.

    `image` is the frame at its own size, uint8 (H, W, 3) RGB.
    """
    height, width = probs.shape[-2:]
    odd = (0, width % 2, 0, height % 2)
    with torch.inference_mode():
        pixels = torch.from_numpy(np.array(image)).to(probs.device).permute(2, 0, 1)[None]
        seen = log_probabilities(probs)[None]
        if any(odd):
            pixels = F.pad(pixels.float(), odd, mode="replicate").to(torch.uint8)
            seen = F.pad(seen, odd, mode="replicate")
        logits: Tensor = head(pixels, seen)[0, :, :height, :width]
        return logits.softmax(dim=0)


@dataclass(frozen=True)
class Crops:
    """What the head learns from: squares of frames, in the order of the steps."""

    images: NDArray[np.uint8]
    """uint8 (K, s, s, 3) RGB."""
    log_probs: NDArray[np.float16]
    """float16 (K, C, s, s), by `log_probabilities`."""
    targets: NDArray[np.uint8]
    """uint8 (K, s, s); `IGNORE` where no label arrives."""
    weights: NDArray[np.float32]
    """float32 (K, s, s)."""

    @staticmethod
    def bytes(count: int, size: Size, classes: int) -> int:
        """What `count` crops of `size` take."""
        return count * size[0] * size[1] * (3 + 2 * classes + 1 + 4)

    @classmethod
    def in_files(cls, folder: Path, count: int, size: Size, classes: int) -> Crops:
        """`count` crops of `size` to be filled, mapped from files in `folder`."""

        def mapped(name: str, kind: type[np.generic], *shape: int) -> NDArray[Any]:
            path = folder / f"{name}.npy"
            return np.lib.format.open_memmap(path, "w+", kind, (count, *shape))

        return cls(
            mapped("images", np.uint8, *size, 3),
            mapped("log_probs", np.float16, classes, *size),
            mapped("targets", np.uint8, *size),
            mapped("weights", np.float32, *size),
        )


def steps_for(length: int, size: Size) -> int:
    """The steps for a video of `length` frames of `size`."""
    pixels = length * size[0] * size[1]
    return max(1, round(_MOST_STEPS * math.sqrt(min(1.0, pixels / _PIXELS_OF_MOST_STEPS))))


def crop_size(size: Size) -> Size:
    """Height and width of the crops of frames of `size`: even, and inside the frame."""
    height, width = (min(CROP, side // 2 * 2) for side in size)
    return height, width


def choose_frames(
    length: int, answered: Sequence[int], count: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """intp (count,): the frame of each crop. A fifth are of `answered` frames."""
    frames = rng.integers(length, size=count)
    own = rng.random(count) < _FROM_ANSWERED
    frames[own] = rng.choice(np.asarray(answered, np.intp), size=int(own.sum()))
    return frames


def target_weights(target: LabelMap, confidence: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (H, W): the confidence, and a fifth of it more than 4 pixels from a boundary."""
    edges = boundaries(target)
    if not edges.any():
        return confidence * np.float32(_FAR_WEIGHT)
    distance = cv2.distanceTransform((~edges).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.where(distance > _FAR, confidence * np.float32(_FAR_WEIGHT), confidence)


def boundaries(target: LabelMap) -> NDArray[np.bool_]:
    """bool (H, W): pixels with a neighbour of another label to the right, left, above or below."""
    edges = np.zeros(target.shape, np.bool_)
    known = target != IGNORE
    for axis in (0, 1):
        here, there = (slice(None, -1), slice(1, None))
        first = (here, slice(None)) if axis == 0 else (slice(None), here)
        other = (there, slice(None)) if axis == 0 else (slice(None), there)
        differ = (target[first] != target[other]) & known[first] & known[other]
        edges[first] |= differ
        edges[other] |= differ
    return edges


def choose_corners(
    target: LabelMap, crop: Size, count: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """The top left pixels of `count` crops: each holds a boundary, if there is one.

    Corners are even, so that crops are cut as whole frames are.
    """
    rows, columns = np.nonzero(boundaries(target))
    if not len(rows):
        rows, columns = np.nonzero(np.ones(target.shape, np.bool_))
    chosen = rng.integers(len(rows), size=count)
    within = rng.random((count, 2))
    corners = []
    for k, (down, right) in zip(chosen.tolist(), within.tolist(), strict=True):
        top = _corner(int(rows[k]), down, crop[0], target.shape[0])
        left = _corner(int(columns[k]), right, crop[1], target.shape[1])
        corners.append((top, left))
    return corners


def _corner(pixel: int, within: float, side: int, length: int) -> int:
    """The start of a crop in which `pixel` lies at the share `within` of the side, if it can."""
    start = min(max(pixel - int(within * (side - 1)), 0), length - side)
    return start // 2 * 2


def fit(
    head: RefinementHead, crops: Crops, *, device: torch.device, progress: Progress = silent
) -> None:
    """Train `head` (in place) on all crops, in their order. It is left on `device`.

    Arithmetic is float32.
    """
    head.to(device).train()
    steps = len(crops.images) // BATCH
    matrices = [p for p in head.parameters() if p.ndim > 1]
    others = [p for p in head.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": _WEIGHT_DECAY},
            {"params": others, "weight_decay": 0.0},
        ],
        _LEARNING_RATE,
    )
    with kept_memory(device):
        for step in range(steps):
            for group in optimizer.param_groups:
                factor = learning_rate_factor(step, steps, min(_WARMUP_STEPS / steps, 0.5))
                group["lr"] = _LEARNING_RATE * factor
            rows = slice(step * BATCH, (step + 1) * BATCH)
            images = torch.from_numpy(crops.images[rows]).to(device).permute(0, 3, 1, 2)
            log_probs = torch.from_numpy(crops.log_probs[rows]).to(device).float()
            targets = torch.from_numpy(crops.targets[rows]).to(device).long()
            weights = torch.from_numpy(crops.weights[rows]).to(device)
            loss = labeled_cross_entropy(head(images, log_probs), targets, weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            progress("refine", step + 1, steps)
    head.eval()


def save_head(head: RefinementHead, path: Path) -> None:
    """Write `path` (safetensors) as a whole, or not at all."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    with atomic_write(path) as temporary:
        try:
            safetensors.torch.save_file(tensors, temporary)
        except safetensors.SafetensorError as error:  # it raises this when the disk is full
            raise OSError(str(error)) from error


def load_head(path: Path, classes: int) -> RefinementHead:
    """The head in `path`."""
    head = new_head(classes, seed=0)
    try:
        head.load_state_dict(safetensors.torch.load_file(path))
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise SessionError(f"{path} is missing or damaged ({error})") from error
    return head.eval()
