"""Test-time fine-tuning on one video (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from hvsa_cvat.config import TrainingConfig
from hvsa_cvat.errors import HvsaError, SessionError
from hvsa_cvat.files import atomic_write
from hvsa_cvat.ports import Progress, silent
from hvsa_cvat.segmentation.device import (
    autocast,
    fitting_memory,
    kept_memory,
    resident_bytes,
    searched_kernels,
)
from hvsa_cvat.segmentation.distributed import (
    ALONE,
    Team,
    Torchrun,
    current_leader,
    losing_a_process,
)
from hvsa_cvat.segmentation.losses import consistency_loss, labeled_cross_entropy
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.pairs import (
    Batch,
    Gathered,
    Pair,
    ResidentVideo,
    TrainingData,
    epoch_pairs,
    make_batch,
)
from hvsa_cvat.segmentation.replay import for_training
from hvsa_cvat.video.opencv import use_one_opencv_thread

_POLY_POWER = 0.9

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Items(Protocol[T_co]):
    """What an epoch goes through."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T_co]: ...


@dataclass(frozen=True)
class TrainingRun:
    """What a training leaves behind beside the weights."""

    losses: tuple[float, ...]
    """Mean loss of each epoch."""


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Poly decay, power 0.9, after a linear rise over the first `warmup` share of the steps."""
    rise = warmup * steps
    decay = (1 - step / steps) ** _POLY_POWER
    return float(decay * min(1.0, (step + 1) / rise)) if rise >= 1 else float(decay)


def make_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """SGD or AdamW; nothing with one dimension (biases, batch norm) decays under AdamW."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
    parameters = list(network.parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        config.learning_rate,
        fused=True,
    )


def train(
    network: SegmentationNetwork,
    config: TrainingConfig,
    batches: Callable[[int], Items[T]],
    loss: Callable[[T], Tensor],
    state: Path | None = None,
    progress: Progress = silent,
    team: Team = ALONE,
) -> TrainingRun:
    """Minimise `loss` over `batches(epoch)`, which must be equally many every epoch.

    With `state` the last finished epoch is kept there, and a training that was killed goes on
    after it, to the same result. In a `team` the losses of its processes add up to the batch's,
    and its leader writes.
    """
    use_one_opencv_thread()
    optimizer = make_optimizer(network, config)
    losses = _resume(network, optimizer, state)
    for epoch in range(len(losses), config.epochs):
        network.train()
        total: Tensor | float = 0.0
        items = batches(epoch)
        for k, item in enumerate(items):
            at, steps = epoch * len(items) + k, config.epochs * len(items)
            rate = config.learning_rate * learning_rate_factor(at, steps, config.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate
            value = loss(item)
            optimizer.zero_grad(set_to_none=True)
            # what a team takes is the mean of its gradients, and this makes it their sum
            (team.size * value).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total = total + value.detach()  # read once an epoch: reading waits for the device
            progress("train", at + 1, steps)
        losses.append(float(team.total(torch.as_tensor(total))) / len(items))
        if state is not None and team.rank == 0 and epoch + 1 < config.epochs:
            content = {
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "losses": losses,
            }
            with atomic_write(state) as temporary:
                try:
                    torch.save(content, temporary)
                except RuntimeError as error:  # what PyTorch makes of a full disk
                    raise OSError("PyTorch could not finish the file") from error
    network.eval()
    return TrainingRun(tuple(losses))


def _resume(
    network: SegmentationNetwork, optimizer: torch.optim.Optimizer, state: Path | None
) -> list[float]:
    if state is None or not state.exists():
        return []
    try:
        content = torch.load(state, map_location="cpu", weights_only=True)
        network.load_state_dict(content["network"])
        optimizer.load_state_dict(content["optimizer"])
        return [float(loss) for loss in content["losses"]]
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        raise SessionError(
            f"the training state {state} cannot be read; delete it to train this round anew"
        ) from error


def finetune(
    network: SegmentationNetwork,
    data: TrainingData,
    config: TrainingConfig,
    *,
    seed: Sequence[int],
    device: torch.device,
    state: Path | None = None,
    progress: Progress = silent,
) -> TrainingRun:
    """Fit `network` (in place) to the people's labels and to temporal consistency.

    L = lambda L_tc + L_ce (Eq. 6) over pairs of all frames, labeled or not. Where the data have
    features, the head alone learns on them. The same seed gives
    the same weights on a CPU, also when the training was interrupted. Where this process leads
    others (`distributed.py`), all of them take part.
    """
    if not data.targets:
        raise ValueError("nothing to learn from: no frame has a label")
    leader = current_leader()
    if leader is None:
        return _fit(network, data, config, seed, device, state, progress)
    made = network.name, network.classes, network.align_corners
    with leader.training((made, data, config, seed, device.type, state), device) as team:
        return _fit(network, data, config, seed, device, state, progress, team)


def help_out(processes: Torchrun) -> None:
    """Take part in the trainings of the leader until it has no more.

    The leader meets the same errors and reports them, so this process ends without a message.
    """
    try:
        with losing_a_process():
            for training in processes.trainings():
                take_part(training, processes.team)
    except (HvsaError, KeyboardInterrupt):
        raise SystemExit(1) from None


def take_part(training: Any, team: Team) -> None:
    """In a helper: the training that `finetune` has given to its leader."""
    (name, classes, aligned), data, config, seed, device, state = training
    network = SegmentationNetwork(name, classes, align_corners=aligned)
    _fit(network, data, config, seed, torch.device(device), state, silent, team)


def batch_loss(
    network: SegmentationNetwork,
    batch: Batch,
    consistency: float,
    model: Callable[..., Tensor] | None = None,
    team: Team = ALONE,
) -> Tensor:
    """Eq. 6 with `consistency` as lambda, of a batch on the device of `network`. `model` is what
    computes the logits, where that is not the network itself but something around it."""
    images = batch.images.to(memory_format=torch.channels_last)
    known = [one.to(memory_format=torch.channels_last) for one in batch.branches or ()]
    with autocast(images.device):
        logits = (network if model is None else model)(images, *([known] if known else []))
    height, width = images.shape[-2:]
    logits = network.logits_at(logits, (height, width))
    taught = batch.taught  # the others' cross-entropy is nothing, slowly computed
    weights = None if batch.weights is None else batch.weights[taught]
    value = labeled_cross_entropy(logits[taught], batch.targets[taught], weights, team.total)
    if consistency > 0:
        anchors, others = logits.softmax(dim=1).tensor_split(2)
        value = value + consistency * consistency_loss(
            anchors, others, batch.flow, batch.valid, team.total
        )
    return value


def _fit(
    network: SegmentationNetwork,
    data: TrainingData,
    config: TrainingConfig,
    seed: Sequence[int],
    device: torch.device,
    state: Path | None,
    progress: Progress,
    team: Team = ALONE,
) -> TrainingRun:
    height, width = data.frames.shape[1:3]
    with (
        fitting_memory(
            f"{config.batch_pairs} pairs of frames of {height}x{width} a training step",
            device,
        ),
        _learning_alone(network, data.features is not None),
    ):
        return _trained(network, data, config, seed, device, state, progress, team)


@contextmanager
def _learning_alone(network: SegmentationNetwork, head: bool) -> Iterator[None]:
    """With `head` the backbone has no gradients; several processes then exchange none of it."""
    weights = [one for one in network.backbone.parameters() if head and one.requires_grad]
    for one in weights:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in weights:
            one.requires_grad_(True)


def _trained(
    network: SegmentationNetwork,
    data: TrainingData,
    config: TrainingConfig,
    seed: Sequence[int],
    device: torch.device,
    state: Path | None,
    progress: Progress,
    team: Team,
) -> TrainingRun:
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    labeled = sorted(data.targets)
    fits = ResidentVideo.bytes(data) <= resident_bytes(device)
    resident = ResidentVideo(data, device) if fits else None

    def gather(pairs: Sequence[Pair]) -> Batch:
        if resident is not None:
            return resident.batch(pairs)
        batch = make_batch(data, pairs)
        return batch.pinned() if device.type == "cuda" else batch

    def steps(epoch: int) -> list[list[Pair]]:
        # seeded by the epoch, so that a resumed training sees the same pairs
        rng = np.random.default_rng([*seed, epoch])
        return epoch_pairs(len(data.frames), labeled, config.sampling, config.batch_pairs, rng)

    def batches(epoch: int) -> Gathered:
        mine = [team.share(pairs) for pairs in steps(epoch)]
        return Gathered(mine, gather, ahead=device.type == "cuda" and not fits)

    consistent = config.consistency_weight > 0 and data.flow is not None
    weight = config.consistency_weight if consistent else 0.0

    def loss(batch: Batch) -> Tensor:
        return batch_loss(network, batch.to(device), weight, model, team)

    first = steps(0)
    parallel: AbstractContextManager[Callable[..., Tensor]]
    if team.size > 1:
        parallel = team.parallel(network)
    else:
        # a thread that pins memory meanwhile would end the recording of a graph
        # a head alone has too few kernels for a graph to gain anything
        replayed = len(first) if fits and data.features is None else 0
        images, size = 2 * max(map(len, first), default=0), data.frames.shape[1:3]
        parallel = for_training(network, device, images, size, config.epochs * replayed)
    searched = searched_kernels(device, config.epochs * len(first))
    with kept_memory(device), searched, parallel as model:
        return train(network, config, batches, loss, state, progress, team)
