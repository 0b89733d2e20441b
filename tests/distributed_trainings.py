"""Trainings on which several processes work, started by `torchrun` or on a Ray cluster.

torchrun --standalone --nproc-per-node 2 -m tests.distributed_trainings FOLDER NAME ...
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from hvsa_cvat.agent.compute import Computed, Contact
from hvsa_cvat.segmentation.checkpoint import new_network
from hvsa_cvat.segmentation.distributed import joined, team_size
from hvsa_cvat.segmentation.finetune import finetune, help_out
from hvsa_cvat.segmentation.frozen import VideoFeatures
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.pairs import TrainingData
from hvsa_cvat.types import IGNORE, Correspondence
from hvsa_cvat.video.flow import OFFSETS, FlowStore
from tests import float32  # noqa: F401
from tests.test_finetune import settings

SIZE = (128, 160)

SGD = {"optimizer": "sgd", "learning_rate": 0.001, "batch_pairs": 3, "epochs": 2}

SETTINGS = {
    "uneven": settings(**SGD),  # the halves of three pairs
    "weighted": settings(**SGD),
    "one-frame": settings(**SGD),  # a single pair: the second process has nothing
    "frozen": settings(**SGD),  # the head alone learns
    "half-labeled": settings(**{**SGD, "epochs": 1}, sampling="half-labeled"),
    "deadly": settings(**{**SGD, "epochs": 3}),
    "doomed": settings(**{**SGD, "epochs": 3}),  # whenever it is begun
}


class Deadly(FlowStore):
    """Kills the second process in its second epoch, which sees two pairs in each. It waits for the
    first one, which keeps the state of the first epoch."""

    asked = 0
    state: Path

    def get(self, source: int, target: int) -> Correspondence | None:
        self.asked += 1
        if self.asked > 2 and dist.is_initialized() and dist.get_rank() == 1:
            while not self.state.exists():
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().get(source, target)


def video(name: str, dies_after: Path | None = None) -> TrainingData:
    """Larger than elsewhere: where the coarsest maps have few cells, batch norm makes so much of
    rounding that soon no two trainings are alike."""
    frames, flow, truth = moving_squares(1 if name == "one-frame" else 5)
    targets = {t: truth[t].copy() for t in (0, 4) if t < len(frames)}
    for t, target in targets.items():  # unlike many labels in each
        target[: 20 + 10 * t] = IGNORE
    weights = None
    if name == "weighted":
        rng = np.random.default_rng(0)
        weights = {t: rng.random(SIZE, np.float32) for t in targets}
    if dies_after is not None:
        flow = Deadly(*flow.arrays)
        flow.state = dies_after
    features = backbone_features(frames) if name == "frozen" else None
    return TrainingData(frames, targets, flow, weights, features)


def backbone_features(frames: np.ndarray) -> VideoFeatures:
    with torch.inference_mode():
        maps = network().eval().branches(torch.from_numpy(frames).permute(0, 3, 1, 2))
    return VideoFeatures(tuple(one.numpy() for one in maps))


def moving_squares(length: int) -> tuple[np.ndarray, FlowStore, np.ndarray]:
    """A picture of coloured squares that moves four pixels to the right a frame."""
    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8 + 4, 3)).astype(np.uint8)
    picture = np.kron(squares, np.ones((8, 8, 1), np.uint8))
    frames = np.stack([picture[:, 32 - 4 * t :][:, : SIZE[1]] for t in range(length)])
    flow = np.zeros((length, len(OFFSETS), 2, *SIZE), np.float16)
    flow[:, :, 0] = 4 * np.array(OFFSETS)[:, None, None]
    valid = rng.random((length, len(OFFSETS), *SIZE)) < 0.7
    return frames, FlowStore(flow, valid), (frames[..., 0] > 127).astype(np.uint8)


def network() -> SegmentationNetwork:
    return new_network("hrnet_w18_small", 2, seed=1)


def train(
    name: str, data: TrainingData, state: Path | None = None
) -> tuple[SegmentationNetwork, list[float]]:
    made = network()
    run = finetune(made, data, SETTINGS[name], seed=[0], device=torch.device("cpu"), state=state)
    return made, list(run.losses)


def keep(folder: Path, name: str) -> None:
    """Train, and keep the result in the folder."""
    state = folder / f"{name}-state.pt"
    dies = name == "doomed" or (name == "deadly" and not state.exists())
    made, losses = train(name, video(name, state if dies else None), state)
    torch.save({"network": made.state_dict(), "losses": losses}, folder / f"{name}.pt")


def weights(state: dict[str, Any]) -> torch.Tensor:
    """All of them in a row; the statistics of batch norm are no part."""
    names = [name for name, _ in network().named_parameters()]
    return torch.cat([state[name].flatten() for name in names])


def assert_as_alone(folder: Path, name: str) -> None:
    """What was kept is what one process finds."""
    found = torch.load(folder / f"{name}.pt")
    alone, losses = train(name, video(name))
    assert found["losses"] == pytest.approx(losses, rel=1e-4)
    start, end = weights(network().state_dict()), weights(alone.state_dict())
    # one process that takes the pairs of a batch in another order strays by 1.5 %
    assert (weights(found["network"]) - end).norm() < 0.03 * (end - start).norm()
    for key, value in alone.state_dict().items():
        if "running" in key:
            assert torch.allclose(found["network"][key], value, rtol=0.01, atol=1e-3), key


@dataclass(frozen=True)
class Training:
    """One of them as an order."""

    training: str
    folder: Path
    task: int = 7
    name: str = "a task"
    step: str = "round 9: finetune"

    def carry_out(self, contact: Contact) -> Computed:
        contact.log(f"leader {os.getpid()} of {team_size()}")
        keep(self.folder, self.training)
        return Computed((self.step,))


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    with joined() as processes:
        if processes.team.rank > 0:
            help_out(processes)
            return
        for name in names:
            keep(folder, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
