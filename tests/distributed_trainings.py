"""What `torchrun` starts in test_distributed: trainings on which several processes work.

torchrun --standalone --nproc-per-node 2 -m tests.distributed_trainings FOLDER NAME ...
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from hvsa_cvat.segmentation.checkpoint import new_network
from hvsa_cvat.segmentation.distributed import joined
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
}


class Deadly(FlowStore):
    """Kills the second process in its second epoch, which sees two pairs in each. It waits for the
    first one, which keeps the state of the first epoch."""

    asked = 0
    state: Path

    def get(self, source: int, target: int) -> Correspondence | None:
        self.asked += 1
        if self.asked > 2 and os.environ.get("RANK") == "1":
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


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    with joined() as team:
        if team.rank > 0:
            help_out(team)
            return
        for name in names:
            state = folder / f"{name}-state.pt"
            dies = name == "deadly" and not state.exists()
            made, losses = train(name, video(name, state if dies else None), state)
            torch.save({"network": made.state_dict(), "losses": losses}, folder / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
