"""What a round does beside training: flow, prediction, selection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from benchmarks.reference.network import ReferenceNetwork
from hvsa_cvat.types import Size

Estimate = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]
"""Two RGB images uint8 (h, w, 3) -> flow float32 (2, h, w)."""


def dis(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.float32]:
    """DIS with the product's settings."""
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    method.setFinestScale(0)
    method.setPatchStride(4)
    method.setVariationalRefinementAlpha(10.0)
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (source, target)]
    return np.asarray(method.calc(grey[0], grey[1], None)).transpose(2, 0, 1)


def raft(model: torch.nn.Module, device: str) -> Estimate:
    """RAFT of torchvision; sides of the images divisible by 8."""

    @torch.no_grad()
    def estimate(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.float32]:
        one, other = (
            torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
            for image in (source, target)
        )
        return model(one, other)[-1][0].cpu().numpy()

    return estimate


def compute_flow(
    frames: NDArray[np.uint8], estimate: Estimate
) -> dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Flow and valid mask (Eq. 4) of every pair of frames less than three apart."""
    flows = {
        (t, other): estimate(frames[t], frames[other])
        for t in range(len(frames))
        for other in range(max(t - 2, 0), min(t + 3, len(frames)))
        if other != t
    }
    return {(t, other): (flow, valid(flow, flows[other, t])) for (t, other), flow in flows.items()}


def valid(there: NDArray[np.float32], back: NDArray[np.float32]) -> NDArray[np.bool_]:
    height, width = there.shape[1:]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x + there[0], y + there[1]
    returned = there + np.stack(
        [cv2.remap(part, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for part in back]
    )
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    return (np.linalg.norm(returned, axis=0) < 1) & inside


@dataclass(frozen=True)
class Predicted:
    label_map: NDArray[np.uint8]
    """uint8 (H, W)."""
    uncertainty: NDArray[np.float32]
    """float32 (n,), Eq. 1 summed over each segment."""
    features: NDArray[np.float32]
    """float32 (n, D), Eq. 2."""


@torch.no_grad()
def predict(
    network: ReferenceNetwork,
    frames: NDArray[np.uint8],
    size: Size,
    segments: Callable[[int], NDArray[np.int32]],
    device: str = "cpu",
) -> Iterator[Predicted]:
    """Frame by frame, label map and scores at `size`; `segments(t)` int32 (H, W)."""
    network.to(device).eval()
    for t, frame in enumerate(frames):
        image = torch.from_numpy(frame).to(device).permute(2, 0, 1)[None].float() / 255
        features = network.features(image)
        probs = network.resize(network.last_layer(features), size)[0].softmax(dim=0)
        best = probs.sort(dim=0, descending=True).values
        unsure = 1 - (best[0] - best[1])
        yield Predicted(
            probs.argmax(dim=0).to(torch.uint8).cpu().numpy(),
            *pool(unsure.cpu().numpy(), features[0].cpu().numpy(), segments(t)),
        )


def pool(
    unsure: NDArray[np.float32], features: NDArray[np.float32], segments: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Per segment the sum of `unsure` (H, W), and the mean of `features` (D, h, w) brought to the
    frame's size by the nearest cell."""
    height, width = segments.shape
    rows = np.arange(height) * features.shape[1] // height
    columns = np.arange(width) * features.shape[2] // width
    full = features[:, rows][:, :, columns]
    inside = [segments == n for n in range(int(segments.max()) + 1)]
    return (
        np.array([unsure[mask].sum() for mask in inside], np.float32),
        np.array([full[:, mask].mean(axis=1) for mask in inside], np.float32),
    )


def nearest_members(features: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.int64]:
    """For each cluster of k-means the member nearest to its centre."""
    means = KMeans(clusters, random_state=seed).fit(features)
    distances = means.transform(features)
    return np.unique(distances.argmin(axis=0))
