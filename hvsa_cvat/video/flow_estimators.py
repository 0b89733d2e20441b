"""The estimators of optical flow: DIS by OpenCV, RAFT by torchvision and its weights."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.nn import functional
from torchvision.models import optical_flow

from hvsa_cvat.config import FLOW_NAMES
from hvsa_cvat.errors import CheckpointError, ConfigError
from hvsa_cvat.ports import FlowEstimator


class DisFlow:
    """Dense inverse search (DIS, Kroeger et al. 2016) by OpenCV, on brightness. Fast without a GPU.

    `fast` and `medium` are OpenCV's presets. `medium` stops at half the size of the frames; `fine`
    goes on to the full size, because thin objects in frames at the network's size need it.
    """

    _presets: dict[str, int] = {  # noqa: RUF012
        "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
        "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
        "fine": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
    }
    _smallest = 16
    """In pixels. Smaller images are padded, because OpenCV refuses sides below 12 pixels."""

    def __init__(self, preset: Literal["fast", "medium", "fine"] = "fine") -> None:
        self._preset = preset

    @property
    def name(self) -> str:
        return f"dis-{self._preset}"

    def estimate(
        self, sources: NDArray[np.uint8], targets: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        height, width = sources.shape[1:3]
        below, right = max(self._smallest - height, 0), max(self._smallest - width, 0)
        # A new instance for each call: two threads must not use one at the same time.
        method = cv2.DISOpticalFlow.create(self._presets[self._preset])
        if self._preset == "fine":
            method.setFinestScale(0)
            # Fewer patches take less time; less smoothing keeps the motion of thin objects.
            method.setPatchStride(4)
            method.setVariationalRefinementAlpha(10.0)

        def luma(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            padded = cv2.copyMakeBorder(grey, 0, below, 0, right, cv2.BORDER_REPLICATE)
            return np.asarray(padded, dtype=np.uint8)

        flows = np.empty((len(sources), 2, height, width), dtype=np.float32)
        for flow, source, target in zip(flows, sources, targets, strict=True):
            both = method.calc(luma(source), luma(target), None)  # type: ignore[call-overload]
            flow[...] = both[:height, :width].transpose(2, 0, 1)
        return flows


class RaftFlow:
    """RAFT (Teed and Deng 2020) by torchvision, with its published weights or a file's."""

    _models: dict[str, Any] = {  # noqa: RUF012
        "large": (optical_flow.raft_large, optical_flow.Raft_Large_Weights.DEFAULT),
        "small": (optical_flow.raft_small, optical_flow.Raft_Small_Weights.DEFAULT),
    }
    _stride = 8
    _smallest = 128
    """In pixels: the coarsest level of the correlation pyramid needs two cells of 64 pixels."""
    _correlation_bytes = 2**30
    """The memory that the correlation pyramids of one batch may use."""

    def __init__(
        self, variant: Literal["large", "small"], weights: Path | None, device: str
    ) -> None:
        build, registered = self._models[variant]
        if weights is None:
            state, version = _published_weights(registered), registered.name
        else:
            state, version = _read_state(weights), _digest(weights)
        model = build()
        try:
            model.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{weights or registered.url} holds no weights of torchvision's RAFT {variant}; "
                "choose the --flow of these weights, another --flow-weights FILE, or --flow dis"
            ) from error
        self._name = f"raft-{variant}-{version}"
        self._model: torch.nn.Module = model.eval().to(device)
        self._device = device
        self._turn = threading.Lock()
        """One thread uses the device at a time, so its memory must hold one batch only."""

    @property
    def name(self) -> str:
        return self._name

    @torch.inference_mode()
    def estimate(
        self, sources: NDArray[np.uint8], targets: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        height, width = sources.shape[1:3]
        # The pyramid has four levels of float32 for all pairs of cells: 4/3 of the finest level.
        cells = self._padded(height) * self._padded(width) // self._stride**2
        batch = max(1, self._correlation_bytes * 3 // (cells**2 * 16))
        flows = np.empty((len(sources), 2, height, width), dtype=np.float32)
        for i in range(0, len(sources), batch):
            part = slice(i, i + batch)
            with self._turn:
                flow = self._model(self._prepared(sources[part]), self._prepared(targets[part]))[-1]
                flows[part] = flow[..., :height, :width].float().cpu().numpy()
        return flows

    def _prepared(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """float32 (B, 3, h, w) in [-1, 1], padded at the right and below to sides RAFT accepts."""
        height, width = images.shape[1:3]
        margins = (0, self._padded(width) - width, 0, self._padded(height) - height)
        tensor = torch.from_numpy(np.array(images)).to(self._device).permute(0, 3, 1, 2)
        return functional.pad(tensor.float() / 127.5 - 1, margins, mode="replicate").contiguous()

    def _padded(self, side: int) -> int:
        return max(self._smallest, -(-side // self._stride) * self._stride)


def choose_flow(name: str, device: str, weights: Path | None) -> tuple[FlowEstimator, str]:
    """The estimator called `name`, and a sentence for the user that says which one and why.

    `auto` is RAFT large on a GPU or if a file of weights is given. Otherwise it is DIS, because
    RAFT takes seconds for a pair of frames on a CPU.
    """
    if name not in FLOW_NAMES:
        raise ConfigError(f"no flow named {name!r}; choose one of {', '.join(FLOW_NAMES)}")
    if name == "dis":
        if weights is not None:
            raise ConfigError("--flow dis uses no weights; leave out --flow-weights")
        return DisFlow(), "Optical flow by DIS, as asked for."
    if name == "raft-large":
        return RaftFlow("large", weights, device), "Optical flow by RAFT (large), as asked for."
    if name == "raft-small":
        return RaftFlow("small", weights, device), "Optical flow by RAFT (small), as asked for."
    if weights is not None:
        raft = RaftFlow("large", weights, device)
        return raft, f"Optical flow by RAFT (large), because weights are given in {weights}."
    if not device.startswith("cuda"):
        return DisFlow(), "Optical flow by DIS, because RAFT is slow without a GPU."
    try:
        raft = RaftFlow("large", None, device)
    except CheckpointError as error:
        return DisFlow(), f"Optical flow by DIS, because RAFT cannot be used: {error}."
    return raft, "Optical flow by RAFT (large), because there is a GPU."


def _published_weights(weights: Any) -> dict[str, Any]:
    try:
        state: dict[str, Any] = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # no network, no space, a damaged download
        raise CheckpointError(
            f"cannot download the published RAFT weights from {weights.url} into "
            f"{torch.hub.get_dir()}: {_one_line(error)}; give them with --flow-weights FILE, or "
            "use --flow dis"
        ) from error
    return state


def _read_state(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        raise CheckpointError(
            f"cannot read the flow weights {path}: {_one_line(error)}; give a state dict of "
            "torchvision's RAFT with --flow-weights FILE, or use --flow dis"
        ) from error
    return state


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
