"""One pass of the network over a video: label maps, uncertainty, features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hvsa_cvat.ports import Progress, silent
from hvsa_cvat.segmentation.device import autocast, fitting_memory
from hvsa_cvat.segmentation.frozen import BATCH, VideoFeatures
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.types import LabelMap, Size
from hvsa_cvat.video.opencv import use_one_opencv_thread


@dataclass(frozen=True)
class DensePrediction:
    """What the network says of every pixel of one frame."""

    frame: int
    label_map: LabelMap
    """uint8 (H, W) at the frame's own size."""
    uncertainty: Tensor
    """float32 (H, W) at the frame's own size: 1 - (p_top1 - p_top2), 0 certain to 1 undecided. It
    stays on the device, as the features do: what is wanted of both is small."""
    feature_map: Tensor
    """float32 (D, ceil(h/4), ceil(w/4)): the backbone's features at network size (h, w)."""
    probabilities: NDArray[np.float32] | None = None
    """float32 (C, H, W) at the frame's own size, where they were asked for."""


def predict(
    network: SegmentationNetwork,
    frames: NDArray[np.uint8],
    size: Size,
    *,
    device: torch.device,
    only: Sequence[int] | None = None,
    with_probabilities: bool = False,
    known: VideoFeatures | None = None,
    progress: Progress = silent,
) -> Iterator[DensePrediction]:
    """Predict `frames` (uint8 (N, h, w, 3) RGB at network size), or the ones named in `only`.

    Results come at `size`, one frame at a time; memory holds one batch. `known` are the features
    of the video, where the backbone has not learnt since they were computed.
    """
    use_one_opencv_thread()
    wanted = list(range(len(frames))) if only is None else list(only)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.eval()
    asked = f"prediction of {size[0]}x{size[1]} pixels and {network.classes} classes"
    for start in range(0, len(wanted), BATCH):
        chosen = wanted[start : start + BATCH]
        images = torch.from_numpy(np.stack([frames[t] for t in chosen])).permute(0, 3, 1, 2)
        # no result leaves from inside: the modes would hold for whoever takes it
        with fitting_memory(asked, device), torch.inference_mode(), autocast(device):
            branches = None if known is None else [one.to(device) for one in known.of(chosen)]
            images = images.to(device, memory_format=torch.channels_last)
            features = network.features(images, branches)
            logits = network.last_layer(features)
        for k, frame in enumerate(chosen):
            # frame by frame: a batch of probabilities at 1080p would fill the memory
            with fitting_memory(asked, device), torch.inference_mode():
                probs = network.logits_at(logits[k : k + 1], size)[0].softmax(dim=0)
                values, classes = probs.topk(min(2, len(probs)), dim=0)
                second = values[1] if len(values) > 1 else torch.zeros_like(values[0])
                prediction = DensePrediction(
                    frame,
                    classes[0].to(torch.uint8).cpu().numpy(),
                    1 - (values[0] - second),
                    features[k].float(),
                    probs.cpu().numpy() if with_probabilities else None,
                )
            yield prediction
            progress("predict", start + k + 1, len(wanted))
