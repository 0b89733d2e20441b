import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hvsa_cvat.config import TrainingConfig
from hvsa_cvat.errors import HvsaError, SessionError
from hvsa_cvat.ports import Progress, silent
from hvsa_cvat.segmentation.checkpoint import new_network
from hvsa_cvat.segmentation.device import kept_memory
from hvsa_cvat.segmentation.finetune import (
    TrainingRun,
    finetune,
    learning_rate_factor,
    make_optimizer,
    train,
)
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.pairs import TrainingData
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.types import IGNORE, Correspondence
from hvsa_cvat.video.flow import OFFSETS, FlowStore

CPU = torch.device("cpu")
SIZE = (32, 64)
COLOURS = np.array([(40, 90, 160), (200, 60, 40)])


def moving_stripe(length: int = 6) -> tuple[TrainingData, np.ndarray]:
    """A stripe that moves four pixels a frame, two of the frames labelled, and the truth."""
    column = np.arange(SIZE[1]) - 4 * np.arange(length)[:, None]
    truth = (column % SIZE[1] < SIZE[1] // 2)[:, None, :].repeat(SIZE[0], axis=1).astype(np.uint8)
    noise = np.random.default_rng(0).integers(-20, 20, (length, *SIZE, 3))
    flow = np.zeros((length, len(OFFSETS), 2, *SIZE), np.float16)
    flow[:, :, 0] = 4 * np.array(OFFSETS)[:, None, None]
    valid = np.ones((length, len(OFFSETS), *SIZE), bool)
    frames = (COLOURS[truth] + noise).astype(np.uint8)
    labelled = {t: truth[t] for t in (0, 4) if t < length}
    return TrainingData(frames, labelled, FlowStore(flow, valid)), truth


def settings(**changes: object) -> TrainingConfig:
    quick = {"optimizer": "adamw", "learning_rate": 3e-3, "epochs": 1, "batch_pairs": 3}
    return TrainingConfig.model_validate(quick | changes)


def trained(
    config: TrainingConfig,
    data: TrainingData | None = None,
    *,
    seed: int = 1,
    weights: int = 1,
    state: Path | None = None,
    progress: Progress = silent,
) -> tuple[SegmentationNetwork, TrainingRun]:
    network = new_network("hrnet_w18_small", 2, seed=weights)
    data = moving_stripe(3)[0] if data is None else data
    run = finetune(
        network, data, config, seed=[seed, 0], device=CPU, state=state, progress=progress
    )
    return network, run


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


# The loop


@pytest.mark.parametrize(
    ("step", "warmup", "factor"),
    [
        (0, 0.0, 1.0),
        (5, 0.0, 0.5**0.9),
        (9, 0.0, 0.1**0.9),
        (0, 0.4, 0.25),
        (1, 0.4, 0.5 * 0.9**0.9),
        (3, 0.4, 0.7**0.9),
        (4, 0.4, 0.6**0.9),
        (0, 0.05, 1.0),  # half a step of warming up is none
    ],
)
def test_learning_rate_of_ten_steps(step: int, warmup: float, factor: float) -> None:
    assert learning_rate_factor(step, 10, warmup) == pytest.approx(factor)


class Scale(nn.Module):
    """One weight, and a bias for the optimizer's sake."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0]]))
        self.bias = nn.Parameter(torch.tensor([0.0]))


def test_steps_of_sgd_by_hand() -> None:
    scale = Scale()
    config = TrainingConfig(learning_rate=0.1, momentum=0.5, weight_decay=0, epochs=2)
    seen: list[tuple[int, float]] = []
    told: list[tuple[str, int, int]] = []

    def batches(epoch: int) -> list[float]:
        return [1.0, 2.0] if epoch == 0 else [4.0, 0.0]

    def loss(slope: float) -> Tensor:
        assert scale.training
        seen.append((len(seen), slope))
        return (slope * scale.weight).sum()

    run = train(scale, config, batches, loss, progress=lambda *step: told.append(step))  # type: ignore[arg-type]

    rates = [0.1 * (1 - k / 4) ** 0.9 for k in range(4)]
    pushes = [1.0, 0.5 + 2, 1.25 + 4, 2.625 + 0]  # gradient and half of the push before
    weights = 1 - np.cumsum([0, *np.multiply(rates, pushes)])
    assert scale.weight.item() == pytest.approx(weights[4])
    assert run.losses == pytest.approx(
        ((weights[0] + 2 * weights[1]) / 2, (4 * weights[2] + 0) / 2), rel=1e-5
    )
    assert told == [("train", k, 4) for k in (1, 2, 3, 4)]
    assert not scale.training


def test_biases_and_batch_norm_do_not_decay_under_adamw() -> None:
    decays = {
        parameter.ndim: group["weight_decay"]
        for group in make_optimizer(Scale(), settings(weight_decay=0.1)).param_groups
        for parameter in group["params"]
    }

    assert decays == {2: 0.1, 1: 0.0}


# Learning


def test_two_labelled_frames_teach_the_whole_video() -> None:
    data, truth = moving_stripe()

    network, run = trained(settings(epochs=6, batch_pairs=2, sampling="half-labeled"), data)

    right = [
        (p.label_map == truth[p.frame]).mean()
        for p in predict(network, data.frames, SIZE, device=CPU)
    ]
    assert np.mean(right) > 0.9
    assert len(run.losses) == 6
    assert run.losses[-1] < 0.3 * run.losses[0]
    assert not network.training


def test_the_seed_decides_the_weights() -> None:
    config = settings(epochs=2)

    network, run = trained(config)
    again, run_again = trained(config)
    other, _ = trained(config, seed=2)

    assert same(network, again)
    assert run == run_again
    assert not same(network, other)


def test_lambda_weighs_the_consistency() -> None:
    data, _ = moving_stripe(3)

    def first_loss(weight: float, data: TrainingData = data) -> float:
        return trained(settings(consistency_weight=weight), data)[1].losses[0]

    alone, once, twice = first_loss(0), first_loss(1), first_loss(2)

    assert once > alone
    assert twice - once == pytest.approx(once - alone, rel=1e-3)
    assert first_loss(1, TrainingData(data.frames, data.targets, None)) == alone


def test_consistency_alone_moves_the_weights() -> None:
    data, _ = moving_stripe(3)
    nothing = TrainingData(data.frames, {0: np.full(SIZE, IGNORE, np.uint8)}, data.flow)

    network, run = trained(settings(weight_decay=0), nothing)
    without, run_without = trained(settings(weight_decay=0, consistency_weight=0), nothing)

    untouched = new_network("hrnet_w18_small", 2, seed=1)
    assert run.losses[0] > 0
    assert not torch.equal(network.last_layer[3].weight, untouched.last_layer[3].weight)
    assert run_without.losses == (0.0,)
    assert torch.equal(without.last_layer[3].weight, untouched.last_layer[3].weight)


class Watched(FlowStore):
    """Remembers the pairs whose flow was asked for."""

    def __init__(self, size: tuple[int, int], length: int) -> None:
        super().__init__(
            np.zeros((length, len(OFFSETS), 2, *size), np.float16),
            np.ones((length, len(OFFSETS), *size), bool),
        )
        self.pairs: list[tuple[int, int]] = []

    def get(self, source: int, target: int) -> Correspondence | None:
        self.pairs.append((source, target))
        return super().get(source, target)


def test_every_epoch_sees_all_frames_in_other_pairs() -> None:
    data, _ = moving_stripe(6)
    watched = Watched(SIZE, 6)

    trained(settings(epochs=2), TrainingData(data.frames, data.targets, watched))

    first, second = watched.pairs[:6], watched.pairs[6:]
    assert sorted(t for t, _ in first) == sorted(t for t, _ in second) == list(range(6))
    assert sorted(first) != sorted(second)


@pytest.mark.parametrize(("sampling", "steps"), [("every-frame", 2), ("half-labeled", 3)])
def test_steps_of_an_epoch(sampling: str, steps: int) -> None:
    told: list[tuple[str, int, int]] = []
    data, _ = moving_stripe(6)

    trained(
        settings(sampling=sampling, batch_pairs=4), data, progress=lambda *step: told.append(step)
    )

    assert told == [("train", k, steps) for k in range(1, steps + 1)]


def test_a_video_of_one_frame() -> None:
    _, run = trained(settings(), moving_stripe(1)[0])

    assert np.isfinite(run.losses).all()


def test_nothing_labelled_is_a_mistake_of_the_caller() -> None:
    data, _ = moving_stripe(2)

    with pytest.raises(ValueError, match="no frame has a label"):
        trained(settings(), TrainingData(data.frames, {}, data.flow))


# Going on after a kill


class Killed(Exception):
    pass


def killed_at(last: int) -> Progress:
    def progress(step: str, done: int, total: int) -> None:
        if done == last:
            raise Killed

    return progress


@pytest.mark.parametrize(
    ("optimizer", "kill_at"), [("adamw", [2]), ("sgd", [3]), ("adamw", [1, 2, 4, 6])]
)
def test_a_killed_training_goes_on_to_the_same_weights(
    tmp_path: Path, optimizer: str, kill_at: list[int]
) -> None:
    # two steps an epoch
    config = settings(optimizer=optimizer, epochs=3, batch_pairs=2, warmup=0.5)
    state = tmp_path / "state.pt"
    expected, expected_run = trained(config)

    def start() -> int:
        return 9 if state.exists() else 1  # where there is a state, it alone matters

    for k in kill_at:
        with pytest.raises(Killed):
            trained(config, weights=start(), state=state, progress=killed_at(k))
        assert state.exists() == (k > 2)
    told: list[int] = []
    network, run = trained(
        config,
        weights=start(),
        state=state,
        progress=lambda step, done, total: told.append(done),
    )

    assert same(network, expected)
    assert run == expected_run
    assert told == list(range(2 * ((kill_at[-1] - 1) // 2) + 1, 7))


def one_scale(state: Path, module: nn.Module, config: TrainingConfig | None = None) -> TrainingRun:
    return train(
        module,  # type: ignore[arg-type]
        config or settings(epochs=3),
        lambda epoch: [1.0],
        lambda slope: slope * sum(p.sum() for p in module.parameters()),  # type: ignore[arg-type, return-value]
        state,
    )


def test_a_damaged_state_is_told(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    one_scale(state, Scale())
    whole = state.read_bytes()
    damaged = [b"", b"text", *(whole[:size] for size in range(1, len(whole), 97))]
    for content in damaged:
        state.write_bytes(content)

        with pytest.raises(SessionError) as raised:
            one_scale(state, Scale())

        message = str(raised.value)
        assert message == (
            f"the training state {state} cannot be read; delete it to train this round anew"
        )


@pytest.mark.parametrize("content", [[1], {}, {"network": {}, "optimizer": {}, "losses": []}])
def test_a_state_of_something_else_is_told(tmp_path: Path, content: object) -> None:
    state = tmp_path / "state.pt"
    torch.save(content, state)

    with pytest.raises(SessionError, match="delete it"):
        one_scale(state, Scale())


def test_a_state_of_another_network_or_optimizer_is_told(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    one_scale(state, Scale())

    with pytest.raises(SessionError, match="delete it"):
        one_scale(state, nn.Linear(2, 2))
    with pytest.raises(SessionError, match="delete it"):
        one_scale(state, Scale(), settings(optimizer="sgd", epochs=3))


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(HvsaError, match="cannot write") as raised:
            one_scale(state, Scale())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert str(state) in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_memory_kept_between_steps_is_the_same_training() -> None:
    data, _ = moving_stripe(3)
    with kept_memory(CPU):
        large = torch.ones(2**22)
    assert float(large.sum()) == 2**22  # what was made inside outlives it

    once, run = trained(settings(), data)
    again, run_again = trained(settings(), data)

    assert same(once, again)
    assert run == run_again
