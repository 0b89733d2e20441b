"""What holds on a GPU; `pytest -m gpu tests/test_gpu.py` where there is one."""

import copy
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hvsa_cvat.config import RunConfig, TrainingConfig
from hvsa_cvat.errors import CapacityError
from hvsa_cvat.segmentation.checkpoint import new_network
from hvsa_cvat.segmentation.device import fitting_memory
from hvsa_cvat.segmentation.finetune import TrainingRun, batch_loss, finetune, train
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
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.segmentation.replay import ReplayedNetwork, for_training
from hvsa_cvat.segmentation.scoring import score_segments
from hvsa_cvat.selection.diversity import cluster_members, farthest_members
from hvsa_cvat.session.demand import Demand
from hvsa_cvat.session.memory import bounds
from hvsa_cvat.types import Size
from hvsa_cvat.video.flow import OFFSETS, FlowStore
from hvsa_cvat.video.segments import Rectangles
from tests import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here"),
]

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SIZE = (64, 96)
QUICK = TrainingConfig(
    optimizer="adamw",
    learning_rate=3e-3,
    epochs=12,
    batch_pairs=3,
    sampling="half-labeled",
    warmup=0.1,
)


def video(length: int = 9, size: Size = SIZE) -> tuple[TrainingData, np.ndarray]:
    """The clip of `tiny`, its flow that of a picture that moves three pixels a frame, two frames
    with labels; and the truth."""
    truth = np.stack([tiny.truth(t % 6, size) for t in range(length)])
    noise = np.random.default_rng(0).integers(0, 40, (length, *size, 1))
    frames = (tiny.COLOURS[truth] + noise).astype(np.uint8)
    flow = np.zeros((length, len(OFFSETS), 2, *size), np.float16)
    flow[:, :, 0] = 3 * np.array(OFFSETS)[:, None, None]
    valid = np.random.default_rng(1).random((length, len(OFFSETS), *size)) < 0.9
    targets = {t: truth[t] for t in (1, 6) if t < length}
    return TrainingData(frames, targets, FlowStore(flow, valid)), truth


def network(classes: int = 3) -> SegmentationNetwork:
    return new_network("hrnet_w18_small", classes, seed=1)


def label_maps(
    learner: SegmentationNetwork, frames: np.ndarray, device: torch.device
) -> np.ndarray:
    found = predict(learner, frames, frames.shape[1:3], device=device)
    return np.stack([one.label_map for one in found])


@pytest.fixture(scope="module")
def learnt() -> tuple[SegmentationNetwork, TrainingRun]:
    """Trained on the CPU; nobody changes it."""
    learner = network()
    return learner, finetune(learner, video()[0], QUICK, seed=(0, 1), device=CPU)


def test_a_training_on_the_gpu_ends_near_the_one_on_the_cpu(
    learnt: tuple[SegmentationNetwork, TrainingRun],
) -> None:
    data, truth = video()
    one, here = learnt
    other = network()
    there = finetune(other, data, QUICK, seed=(0, 1), device=GPU)

    # bfloat16 keeps three digits, and every step builds on the one before
    assert there.losses[0] == pytest.approx(here.losses[0], rel=0.05)
    assert there.losses[-1] == pytest.approx(here.losses[-1], rel=0.3)
    maps = label_maps(one, data.frames, CPU), label_maps(other, data.frames, GPU)
    # the floor alone is 0.89
    assert (maps[0] == truth).mean() > 0.93
    assert (maps[1] == truth).mean() > 0.92
    assert (maps[0] == maps[1]).mean() > 0.95


def test_a_trained_network_answers_on_the_gpu_as_on_the_cpu(
    learnt: tuple[SegmentationNetwork, TrainingRun],
) -> None:
    data, _ = video()
    learner, _ = learnt
    other = copy.deepcopy(learner)
    segments = Rectangles(len(data.frames), SIZE, 16, 16)
    here, there = (
        list(predict(one, data.frames, SIZE, device=device, with_probabilities=True))
        for one, device in ((learner, CPU), (other, GPU))
    )

    for one, two in zip(here, there, strict=True):
        assert (one.label_map == two.label_map).mean() > 0.98
        assert one.probabilities is not None
        assert two.probabilities is not None
        assert np.abs(one.probabilities - two.probabilities).mean() < 0.02
        scored = [
            score_segments(which, segments[which.frame], segments.count(which.frame))
            for which in (one, two)
        ]
        assert np.allclose(scored[0].uncertainty, scored[1].uncertainty, rtol=0.1, atol=4)
        length = np.linalg.norm(scored[0].features)
        assert np.linalg.norm(scored[0].features - scored[1].features) < 0.05 * length


def test_pooling_on_the_gpu_is_that_of_the_cpu() -> None:
    data, _ = video(2)
    segments = Rectangles(2, SIZE, 20, 28)
    for dense in predict(network(), data.frames, SIZE, device=GPU):
        moved = replace(
            dense, uncertainty=dense.uncertainty.cpu(), feature_map=dense.feature_map.cpu()
        )
        there, here = (
            score_segments(one, segments[one.frame], segments.count(one.frame))
            for one in (dense, moved)
        )
        assert np.allclose(there.uncertainty, here.uncertainty, rtol=1e-4)
        assert np.allclose(there.features, here.features, rtol=1e-3, atol=1e-4)


def test_a_resident_video_gives_the_batches_that_are_gathered_on_the_host() -> None:
    data, _ = video()
    weights = {t: np.full(SIZE, 0.5, np.float32) for t in data.targets}
    for taught in (data, replace(data, weights=weights), replace(data, flow=None)):
        pairs = [(1, 3), (6, 5), (8, 7), (2, 1)]
        resident = ResidentVideo(taught, GPU).batch(pairs)
        gathered = make_batch(taught, pairs).pinned().to(GPU)
        for name in Batch.__dataclass_fields__:
            one, other = getattr(resident, name), getattr(gathered, name)
            assert (one is None) == (other is None), name
            assert one is None or torch.equal(one, other), name


def test_a_streamed_video_trains_as_a_resident_one() -> None:
    data, _ = video()
    resident = ResidentVideo(data, GPU)

    def losses(gather: Callable[[Sequence[Pair]], Batch], ahead: bool) -> tuple[float, ...]:
        learner = network().to(GPU, memory_format=torch.channels_last)

        def batches(epoch: int) -> Gathered:
            rng = np.random.default_rng(epoch)
            return Gathered(epoch_pairs(9, [1, 6], "every-frame", 3, rng), gather, ahead)

        return train(learner, QUICK, batches, lambda b: batch_loss(learner, b.to(GPU), 1.0)).losses

    here = losses(resident.batch, ahead=False)
    streamed = losses(lambda pairs: make_batch(data, pairs).pinned(), ahead=True)

    # the same batches, and sums in any order
    assert streamed[0] == pytest.approx(here[0], rel=0.02)
    assert streamed[-1] == pytest.approx(here[-1], rel=0.3)


@pytest.fixture
def single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bfloat16 and no TF32, whose noise hides what differs."""
    for where in ("device", "replay"):
        monkeypatch.setattr(
            f"hvsa_cvat.segmentation.{where}.computes_in_bfloat16", lambda device: False
        )
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.usefixtures("single_precision")
def test_a_recorded_step_trains_as_one_that_runs_kernel_by_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, _ = video(10)  # so that the last batch of an epoch is smaller than the others
    gentle = QUICK.model_copy(update={"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 6})
    recorded, plain = network(), network()
    seen = []

    @contextmanager
    def watched(*arguments: Any) -> Iterator[Callable[[Tensor], Tensor]]:
        with for_training(*arguments) as forward:
            seen.append(type(forward))
            yield forward

    monkeypatch.setattr("hvsa_cvat.segmentation.finetune.for_training", watched)
    runs = [finetune(recorded, data, gentle, seed=(0, 1), device=GPU)]
    monkeypatch.setattr(
        "hvsa_cvat.segmentation.finetune.for_training", lambda network, *_: nullcontext(network)
    )
    runs.append(finetune(plain, data, gentle, seed=(0, 1), device=GPU))

    assert seen == [ReplayedNetwork]
    assert runs[0].losses == pytest.approx(runs[1].losses, rel=0.01)
    for name, one in recorded.named_buffers():  # the statistics of batch norm
        other = dict(plain.named_buffers())[name]
        assert torch.allclose(one.float(), other.float(), rtol=0.2, atol=0.1), name


@pytest.mark.usefixtures("single_precision")
def test_a_recorded_pass_gives_the_logits_and_the_gradients_of_the_network() -> None:
    learner = network().to(GPU).train()
    images = torch.randint(0, 256, (4, 3, *SIZE), dtype=torch.uint8, device=GPU)
    before = copy.deepcopy(learner.state_dict())
    with for_training(learner, GPU, 4, SIZE, 1000) as replayed:
        assert isinstance(replayed, ReplayedNetwork)
        assert all(torch.equal(before[name], one) for name, one in learner.state_dict().items())
        assert all(p.grad is None for p in learner.parameters())
        found = []
        for forward in (learner, replayed, replayed, learner):
            learner.zero_grad(set_to_none=True)
            logits = forward(images)
            logits.square().mean().backward()
            gradients = torch.cat(
                [p.grad.flatten() for p in learner.parameters() if p.grad is not None]
            )
            found.append((logits.detach().clone(), gradients))
        assert replayed(images[:2]).shape[0] == 2

    for logits, gradients in found[1:]:
        assert torch.allclose(logits, found[0][0], rtol=1e-3, atol=1e-3)
        assert (gradients - found[0][1]).norm() < 0.01 * found[0][1].norm()


def test_the_memory_of_a_graph_is_given_back() -> None:
    learner = network().to(GPU)
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    with for_training(learner, GPU, 4, (256, 320), 1000) as replayed:
        recorded = torch.cuda.memory_reserved() - before
    assert isinstance(replayed, ReplayedNetwork)
    kept = torch.cuda.memory_reserved() - before
    print(f"{recorded / 2**20:.0f} MiB recorded, {kept / 2**20:.0f} MiB kept")
    assert recorded > 100 * 2**20
    assert kept < 64 * 2**20  # what libraries work in, and the rest of what is in use


@pytest.mark.parametrize("method", ["paper-exact", "hvsa"])
def test_fine_tuning_and_prediction_stay_below_the_bound(method: str) -> None:
    size, length, pairs = (256, 320), 16, 4
    data, _ = video(length, size)
    config = RunConfig.model_validate({"method": method, "budgets": (0.1,), "size": size})
    assert config.training is not None
    training = config.training.model_copy(update={"epochs": 1, "batch_pairs": pairs})
    config = config.model_copy(update={"training": training})
    if config.carrying.taught:
        ones = {t: np.ones(size, np.float32) for t in data.targets}
        data = replace(data, weights=ones)
    demand = Demand(length, size, 3, "hrnet_w18_small", 4, config, "dis-fine", "cuda", half=True)
    found = bounds(demand, resident=2**40).device
    # what the driver and libraries take is no tensor of ours
    bound = {what: size - 768 * 2**20 for what, size in found.items()}
    learner = network()

    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    finetune(learner, data, training, seed=(0, 1), device=GPU)
    trained = torch.cuda.max_memory_allocated() - before
    torch.cuda.reset_peak_memory_stats()
    list(predict(learner, data.frames, size, device=GPU))
    predicted = torch.cuda.max_memory_allocated() - before

    print(f"fine-tune {trained / 2**20:.0f} of {bound['fine-tune'] / 2**20:.0f} MiB")
    print(f"predict {predicted / 2**20:.0f} of {bound['predict'] / 2**20:.0f} MiB")
    assert trained < bound["fine-tune"]
    assert predicted < bound["predict"]


def test_selection_on_the_gpu_finds_clusters_as_good() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(40, 48))[rng.integers(0, 40, 4000)]).astype(np.float32)
    features += 0.3 * rng.normal(size=features.shape).astype(np.float32)
    inertia = [
        float(cluster_members(features, 40, np.random.default_rng(1), device)[0].sum())
        for device in (CPU, GPU)
    ]
    # another order of sums may end in another local minimum, with two clusters in one
    assert inertia[1] < 1.25 * inertia[0]
    ones, nothing = np.ones(len(features), np.float32), features[:1]
    taken = farthest_members(features, ones, nothing, 30, np.random.default_rng(2), GPU)
    assert len(set(taken.tolist())) == 30


def test_memory_that_runs_out_is_told_in_a_line() -> None:
    _, whole = torch.cuda.mem_get_info()
    with (
        pytest.raises(CapacityError, match=r"GiB free\) ran out at a test; .* smaller --size"),
        fitting_memory("a test", GPU),
    ):
        torch.empty(2 * whole, dtype=torch.uint8, device=GPU)


def test_a_training_that_does_not_fit_is_told_in_a_line() -> None:
    data, _ = video(4)
    gc.collect()
    torch.cuda.empty_cache()
    _, whole = torch.cuda.mem_get_info()
    # less than the network's step takes, however little others have
    torch.cuda.set_per_process_memory_fraction(min(1.0, 64 * 2**20 / whole))
    try:
        with pytest.raises(CapacityError, match="3 pairs of frames of 64x96 a training step"):
            finetune(network(), data, QUICK, seed=(0, 1), device=GPU)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    finetune(network(), data, QUICK, seed=(0, 1), device=GPU)


def test_the_whole_loop_runs_on_the_gpu(clip: tiny.Clip, checkpoint: Path, tmp_path: Path) -> None:
    for method in ("paper", "hvsa"):
        what = tiny.experiment(clip, checkpoint, method=method)
        what = replace(what, inputs=replace(what.inputs, device=GPU))
        metrics = tiny.run(what, tmp_path / method)
        assert len(metrics.rounds) == 3
        assert metrics.rounds[-1].miou > 0.1


# the last one: PyTorch gives no cached memory back in a process in which a recording has failed
def test_a_recording_that_fails_leaves_the_network_as_it_was(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    learner = network().to(GPU)
    before = copy.deepcopy(learner.state_dict())

    def recorded(module: nn.Module, examples: tuple[Tensor], **_: Any) -> None:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            module(*examples)
            torch.cuda.synchronize()  # which a recording does not allow

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorded)

    with for_training(learner, GPU, 4, SIZE, 1000) as forward:
        assert forward is learner
    assert "no CUDA graph, so each step takes longer" in caplog.text
    assert all(torch.equal(before[name], one) for name, one in learner.state_dict().items())
    run = finetune(learner, video()[0], QUICK, seed=(0, 1), device=GPU)
    assert run.losses[-1] < run.losses[0]
