"""A small network that refines probabilities near boundaries, at half the frames' own size.

The segmentation network sees the frames at its own size and speaks at a quarter of that, so its
boundaries are coarse. The refinement head sees the frame itself and the network's probabilities. It
learns from the labels that were carried to all frames. It does not see the carried votes, because
it would copy its targets then.
"""

from __future__ import annotations

from pathlib import Path

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
from hvsa_cvat.segmentation.crops import BATCH, LEAST, Crops
from hvsa_cvat.segmentation.device import fitting_memory, kept_memory
from hvsa_cvat.segmentation.finetune import learning_rate_factor
from hvsa_cvat.segmentation.losses import labeled_cross_entropy
from hvsa_cvat.types import Image

_CHANNELS, _GROUPS = 32, 4
_DILATIONS = (1, 2, 1, 4, 1, 2)
_LEARNING_RATE, _WEIGHT_DECAY = 4e-3, 0.01
_WARMUP_STEPS = 15


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
    return probs.clamp(min=LEAST).log()


def refine(
    head: RefinementHead, image: Image, probabilities: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The refined probabilities of one frame, float32 (C, H, W), computed where `head` lies.

    `image` is the frame at its own size, uint8 (H, W, 3) RGB.
    """
    height, width = probabilities.shape[1:]
    device = head.scale.device
    with fitting_memory("the refinement of a frame", device), torch.inference_mode():
        pixels = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1)[None]
        seen = log_probabilities(torch.from_numpy(probabilities).to(device))[None]
        odd = (0, width % 2, 0, height % 2)
        if any(odd):
            pixels = F.pad(pixels.float(), odd, mode="replicate").to(torch.uint8)
            seen = F.pad(seen, odd, mode="replicate")
        logits = head(pixels, seen)[0, :, :height, :width]
        return np.asarray(logits.softmax(dim=0).cpu().numpy())


def fit(
    head: RefinementHead, crops: Crops, *, device: torch.device, progress: Progress = silent
) -> None:
    """Train `head` (in place) on all crops, in their order. It is left on `device`.

    Arithmetic is float32.
    """
    with fitting_memory("a training step of the refinement head", device), kept_memory(device):
        _fit(head.to(device).train(), crops, device, progress)
    head.eval()


def _fit(head: RefinementHead, crops: Crops, device: torch.device, progress: Progress) -> None:
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
