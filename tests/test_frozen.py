"""A backbone that does not learn: its features are computed once, and the head learns on them."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hvsa_cvat.config import RunConfig
from hvsa_cvat.segmentation.checkpoint import load_checkpoint, new_network
from hvsa_cvat.segmentation.finetune import batch_loss, finetune, train
from hvsa_cvat.segmentation.footprint import Step, footprint
from hvsa_cvat.segmentation.frozen import (
    VideoFeatures,
    compute_features,
    feature_bytes,
    freezes,
)
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.pairs import ResidentVideo, TrainingData, epoch_pairs, make_batch
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.session.memory import bounds
from tests import tiny
from tests.test_finetune import moving_stripe, settings
from tests.test_memory import demand

CPU = torch.device("cpu")
NETWORKS = ("hrnet_w18_small", "resnet18", "vit_tiny_patch16_224")


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> SegmentationNetwork:
    """With two classes; nobody changes it."""
    return new_network(request.param, 2, seed=1).eval()


@pytest.fixture(scope="module")
def data(network: SegmentationNetwork, tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """Eleven frames, two of them labelled, with the features of `network`."""
    video, _ = moving_stripe(11)
    folder = tmp_path_factory.mktemp("features") / network.name
    learner = copy.deepcopy(network)
    return replace(video, features=compute_features(learner, video.frames, folder, device=CPU))


def behind_frozen_backbone(network: SegmentationNetwork) -> Callable[[Tensor], Tensor]:
    """The network with a backbone that neither learns nor counts statistics."""
    network.backbone.requires_grad_(False)

    def run(images: Tensor) -> Tensor:
        network.backbone.eval()
        logits: Tensor = network(images)
        return logits

    return run


def test_the_head_learns_as_behind_a_frozen_backbone(
    network: SegmentationNetwork, data: TrainingData
) -> None:
    config, learner, plain = settings(epochs=2), copy.deepcopy(network), copy.deepcopy(network)
    run = finetune(learner, data, config, seed=(5, 1), device=CPU)
    model = behind_frozen_backbone(plain.to(memory_format=torch.channels_last))
    without = replace(data, features=None)

    def batches(epoch: int) -> list:
        rng = np.random.default_rng([5, 1, epoch])
        labelled = sorted(data.targets)
        pairs = epoch_pairs(11, labelled, config.sampling, config.batch_pairs, rng)
        return [make_batch(without, one) for one in pairs]

    again = train(
        plain,
        config,
        batches,
        lambda batch: batch_loss(plain, batch, config.consistency_weight, model),
    )
    assert run.losses == pytest.approx(again.losses, rel=1e-3)
    started, learnt, expected = (one.state_dict() for one in (network, learner, plain))
    for name, value in learnt.items():
        if name.startswith("last_layer"):
            assert torch.allclose(value, expected[name], rtol=1e-3, atol=1e-3), name
        else:
            assert torch.equal(value, started[name]), name
    assert not torch.equal(learnt["last_layer.3.weight"], started["last_layer.3.weight"])
    assert all(one.requires_grad for one in learner.parameters())


def test_prediction_by_known_features_is_prediction(
    network: SegmentationNetwork, data: TrainingData
) -> None:
    one = copy.deepcopy(network)
    found = list(predict(one, data.frames, (32, 64), device=CPU, known=data.features, only=[9, 2]))
    plain = list(predict(one, data.frames, (32, 64), device=CPU, only=[9, 2]))
    assert [dense.frame for dense in found] == [9, 2]
    for dense, expected in zip(found, plain, strict=True):
        assert torch.allclose(dense.feature_map, expected.feature_map, rtol=1e-3, atol=1e-4)
        assert torch.allclose(dense.uncertainty, expected.uncertainty, atol=1e-3)


def test_a_batch_that_lies_on_the_device_has_the_same_features(data: TrainingData) -> None:
    pairs = [(0, 1), (7, 5)]
    there, here = ResidentVideo(data, CPU).batch(pairs), make_batch(data, pairs)
    assert there.branches is not None
    assert here.branches is not None
    for one, other in zip(there.branches, here.branches, strict=True):
        assert torch.equal(one, other)
    assert data.features is not None
    plain = ResidentVideo.bytes(replace(data, features=None))
    assert ResidentVideo.bytes(data) - plain == data.features.nbytes


def test_features_take_what_was_told(network: SegmentationNetwork, data: TrainingData) -> None:
    assert data.features is not None
    assert data.features.nbytes == 11 * feature_bytes(network.name, (32, 64))


def test_features_are_computed_once(tmp_path: Path) -> None:
    frames, network = moving_stripe(3)[0].frames, new_network("resnet18", 2)
    calls: list[int] = []
    network.backbone.register_forward_hook(lambda *_: calls.append(1))

    def computed(of: np.ndarray = frames) -> VideoFeatures:
        return compute_features(network, of, tmp_path / "features", device=CPU)

    first = computed()
    assert all(np.array_equal(*two) for two in zip(first.maps, computed().maps, strict=True))
    assert len(calls) == 1
    (tmp_path / "features/1.npy").unlink()  # not cut: `first` is mapped
    assert all(np.array_equal(*two) for two in zip(first.maps, computed().maps, strict=True))
    assert len(calls) == 2
    computed(frames[:2])
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        ("vit_tiny_patch16_224", True),
        ("vit_small_patch14_dinov2", True),
        ("swin_tiny_patch4_window7_224", False),
        ("resnet18", False),
        ("hrnet_w48", False),
    ],
)
def test_vision_transformers_are_frozen_unless_told_otherwise(name: str, frozen: bool) -> None:
    assert freezes("auto", name) == frozen
    assert freezes("backbone", name)
    assert not freezes("nothing", name)


@pytest.mark.slow
def test_in_the_loop_the_backbone_stays_as_it_was(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    for method in ("paper", "hvsa"):
        out = tmp_path / method
        tiny.run(tiny.experiment(clip, checkpoint, method=method, freeze="backbone"), out)
        before, _ = load_checkpoint(checkpoint, tiny.LABELS)
        after, _ = load_checkpoint(out / "rounds/2/network.safetensors", tiny.LABELS)
        learnt = after.state_dict()
        changed = [n for n, one in before.state_dict().items() if not torch.equal(one, learnt[n])]
        assert changed
        assert all(name.startswith("last_layer.") for name in changed)
    carried = tiny.experiment(clip, checkpoint, method="label-propagation", freeze="backbone")
    tiny.run(carried, tmp_path / "carried")
    assert not (tmp_path / "carried/features").exists()  # no network learns


def test_a_frozen_backbone_takes_disk_and_saves_memory() -> None:
    learning, frozen = (bounds(demand(freeze=choice)) for choice in ("nothing", "backbone"))
    # maps of 16, 32, 64 and 128 channels, at a quarter and coarser
    bytes_a_frame = 4 * (16 * 8 * 16 + 32 * 4 * 8 + 64 * 2 * 4 + 128 * 1 * 2)
    assert frozen.disk["backbone features"] == 10 * bytes_a_frame
    assert "backbone features" not in learning.disk
    steps = [footprint("resnet18", 3, Step(True, False, one), False).pair for one in (False, True)]
    assert steps[1] < steps[0]


def test_a_run_of_before_the_setting_goes_on() -> None:
    config = RunConfig(budgets=(0.1,), size=(32, 32)).model_dump(mode="json")
    del config["freeze"]
    assert RunConfig.model_validate(config).freeze == "auto"
