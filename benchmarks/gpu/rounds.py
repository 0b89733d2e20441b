"""Flow by RAFT, and the rounds of `paper-exact` and `hvsa` beside the plain one."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torchvision.models import optical_flow

from benchmarks.gpu.ledger import Figures, Skipped
from benchmarks.parts import (
    SEED,
    Clip,
    Part,
    demo_clip,
    finetune_part,
    finished,
    hvsa_config,
    hvsa_part,
    network_of,
    predict_part,
    select_part,
    step_flops,
)
from hvsa_cvat.config import PAPER_EXACT, TrainingConfig
from hvsa_cvat.segmentation.finetune import finetune
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.pairs import TrainingData
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.types import Size
from hvsa_cvat.video.flow import FlowStore, compute_flow
from hvsa_cvat.video.flow_estimators import DisFlow, RaftFlow

_RESERVE = 20.0
"""Seconds that a training leaves for what follows it."""

_DIS_SIDE = 400
"""Pixels; flow of longer frames is computed at half their size, and doubled."""


@dataclass(frozen=True)
class Setting:
    """One of the sizes that are measured."""

    network: str
    frames: int
    size: Size
    epochs: int
    pairs: int
    side: int
    """Pixels, of the rectangles that are pooled and clustered."""
    clusters: int
    plain_frames: int
    """How many frames the plain round predicts; its seconds are scaled."""


@dataclass(frozen=True)
class Kept:
    """Flow by pair of frames, as the plain training asks for it."""

    store: FlowStore

    def __getitem__(self, pair: tuple[int, int]) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
        found = self.store.get(*pair)
        assert found is not None
        return found.flow, found.valid


class Scene:
    """A clip of one setting, what is measured on it, and what several parts share."""

    def __init__(
        self, setting: Setting, device: torch.device, work: Path, left: Callable[[], float]
    ) -> None:
        self.setting = setting
        self._device = device
        self._work = work
        self._left = left
        self._seconds: dict[str, float] = {}
        self._plain: dict[str, float] = {}
        epochs, pairs = setting.epochs, setting.pairs
        self.config = PAPER_EXACT.model_copy(update={"epochs": epochs, "batch_pairs": pairs})

    @cached_property
    def clip(self) -> Clip:
        return demo_clip(self.setting.frames, self.setting.size)

    @cached_property
    def network(self) -> SegmentationNetwork:
        return network_of(self.setting.network, self.clip)

    @cached_property
    def made(self) -> dict[str, Any]:
        flow = self._flow()
        return {"work": str(self._work), "flow": flow, "plain flow": Kept(flow)}

    def _flow(self) -> FlowStore:
        """By DIS. What it says does not change how long anything takes."""
        frames, (height, width) = self.clip.frames, self.setting.size
        twice = 2 if max(height, width) > _DIS_SIDE else 1
        folder = Path(tempfile.mkdtemp(dir=self._work)) / "flow"
        small = np.ascontiguousarray(frames[:, ::twice, ::twice])
        found = compute_flow(small, DisFlow(), folder, workers=os.cpu_count() or 1)
        if twice == 1:
            return found
        flow, valid = (
            array.repeat(2, axis=-1).repeat(2, axis=-2)[..., :height, :width]
            for array in found.arrays
        )
        return FlowStore(flow * np.float16(2), valid)

    def warm_up(self, config: TrainingConfig) -> tuple[float, float]:
        """Seconds of the first steps, and of each after that."""
        pairs = config.batch_pairs
        flow, valid = self.made["flow"].arrays
        few = min(4 * pairs, len(self.clip.frames))
        kept = FlowStore(flow[:few], valid[:few])
        targets = {t: target for t, target in self.clip.targets.items() if t < few}
        targets = targets or {0: next(iter(self.clip.targets.values()))}
        weights = {t: np.ones(target.shape, np.float32) for t, target in targets.items()}
        data = TrainingData(self.clip.frames[:few], targets, kept, weights)
        once = config.model_copy(update={"epochs": 1})
        laps = []
        for _ in range(2):
            begun = time.perf_counter()
            finetune(copy.deepcopy(self.network), data, once, seed=SEED, device=self._device)
            finished()
            laps.append(time.perf_counter() - begun)
        list(predict(self.network, self.clip.frames[:16], self.setting.size, device=self._device))
        finished()
        return laps[0], laps[1] / max(1, -(-few // pairs))

    def _affordable(self, config: TrainingConfig, step: float) -> TrainingConfig:
        """As many epochs as the seconds left allow."""
        epoch = step * -(-self.setting.frames // config.batch_pairs)
        epochs = min(config.epochs, int((self._left() - _RESERVE) / epoch))
        if epochs < 1:
            raise Skipped(f"an epoch would take {epoch:.0f} s, {self._left():.0f} s are left")
        return config.model_copy(update={"epochs": epochs})

    def paper(self) -> Figures:
        """Predict, select, fine-tune."""
        first, step = self.warm_up(self.config)
        config = self._affordable(self.config, step)
        predicts, learns, selects = self._parts(self.clip, config)
        predicts.measure("ours")
        select = selects()
        select.measure("ours")
        learns.measure("ours")
        share = self.config.epochs / config.epochs
        self._seconds = {
            "predict": predicts.best("ours"),
            "select": select.best("ours"),
            "fine-tune": share * learns.best("ours"),
        }
        steps = config.epochs * -(-self.setting.frames // config.batch_pairs)
        flops = step_flops(self.network, self.setting.size, config.batch_pairs)
        a_step = learns.best("ours") / steps
        return {
            "round": sum(self._seconds.values()),
            **self._seconds,
            "a step": a_step,
            "TFLOP/s of convolutions in training": flops / a_step / 1e12,
            "first steps": first,
            "loss": learns.values["ours"],
            "scaled": _scaled(self.config, config),
        }

    def hvsa(self) -> Figures:
        """The default method: carry, fine-tune, predict and fuse, select."""
        whole = hvsa_config(self.config)
        _, step = self.warm_up(whole)
        config = self._affordable(whole, step)
        setting = self.setting
        part = hvsa_part(
            self.clip, self.network, setting.size, setting.side, config, self.made, self._device
        )
        part.measure("ours")
        laps = dict(self.made["laps"])
        laps["fine-tune"] *= whole.epochs / config.epochs
        chosen = self._seconds.get("select", 0.0)
        return {
            "round": sum(laps.values()) + chosen,
            "select, as in paper-exact": chosen,
            **laps,
            "scaled": _scaled(whole, config),
        }

    def plain(self) -> Figures:
        """The plain round: a tenth of the epochs, some of the frames; seconds are scaled."""
        setting = self.setting
        epochs = max(1, round(self.config.epochs / 10))
        few = self.config.model_copy(update={"epochs": epochs})
        some = replace(self.clip, frames=self.clip.frames[: setting.plain_frames])
        predicts, learns, selects = self._parts(some, few)
        tiny = self.clip.frames[: 2 * setting.pairs]
        _warmed(self._parts(replace(self.clip, frames=tiny), few)[0], self._device)
        predicts.measure("plain")
        if "features" not in self.made:
            predicts.measure("ours")
        select = selects()
        select.measure("plain")
        learns.measure("plain")
        seconds = {
            "predict": predicts.best("plain") * setting.frames / len(some.frames),
            "select": select.best("plain"),
            "fine-tune": learns.best("plain") * self.config.epochs / epochs,
        }
        figures: Figures = {"round": sum(seconds.values()), **seconds}
        if self._seconds:
            ours = sum(self._seconds.values())
            figures["paper-exact is faster, times"] = figures["round"] / ours
            figures["times by piece"] = {
                piece: seconds[piece] / self._seconds[piece] for piece in seconds
            }
        return figures | {
            "scaled": f"{epochs} of {self.config.epochs} epochs, "
            f"{len(some.frames)} of {setting.frames} frames predicted"
        }

    def _parts(self, clip: Clip, config: TrainingConfig) -> tuple[Part, Part, Callable[[], Part]]:
        """Predict on `clip`, fine-tune on the whole clip, and select, once features are there."""
        setting, device, made = self.setting, self._device, self.made
        predicts = predict_part(clip, self.network, setting.size, setting.side, made, device)
        learns = finetune_part("", self.clip, self.network, config, config, made, device)

        def selects() -> Part:
            features = np.concatenate(made["features"])
            return select_part(features, min(setting.clusters, len(features)), device)

        return predicts, learns, selects


def _warmed(part: Part, device: torch.device) -> None:
    if device.type == "cuda":
        part.measure("plain")


def _scaled(whole: TrainingConfig, run: TrainingConfig) -> str:
    if run.epochs == whole.epochs:
        return "no"
    return f"fine-tune, from {run.epochs} of {whole.epochs} epochs"


def raft(
    variant: Literal["large", "small"], setting: Setting, device: torch.device, work: Path
) -> Figures:
    """Flow of all neighbours of all frames, with its check there and back, kept on disk."""
    clip = demo_clip(setting.frames, setting.size)
    estimator, weights = _raft(variant, device, work)
    begun = time.perf_counter()
    estimator.estimate(clip.frames[:1], clip.frames[1:2])
    finished()
    first = time.perf_counter() - begun
    folder = Path(tempfile.mkdtemp(dir=work)) / "flow"
    begun = time.perf_counter()
    store = compute_flow(clip.frames, estimator, folder, workers=os.cpu_count() or 1)
    finished()
    return {
        "flow": time.perf_counter() - begun,
        "first call": first,
        "weights": weights,
        "valid": store.valid_share(),
    }


def _raft(
    variant: Literal["large", "small"], device: torch.device, work: Path
) -> tuple[RaftFlow, str]:
    """With the published weights where they lie on this machine; random ones are as fast."""
    builders: Mapping[str, tuple[Callable[[], torch.nn.Module], Any]] = {
        "large": (optical_flow.raft_large, optical_flow.Raft_Large_Weights.DEFAULT),
        "small": (optical_flow.raft_small, optical_flow.Raft_Small_Weights.DEFAULT),
    }
    build, published = builders[variant]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
    if cached.exists():
        return RaftFlow(variant, None, str(device)), "published"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = build().state_dict()
    file = work / f"raft-{variant}.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, file)
    return RaftFlow(variant, file, str(device)), "random, which take as long"
