from collections.abc import Iterator

import numpy as np
import pytest
import torch

from hvsa_cvat.errors import ConfigError
from hvsa_cvat.segmentation import device
from hvsa_cvat.segmentation.checkpoint import new_network
from hvsa_cvat.segmentation.device import autocast, choose_device
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.predict import DensePrediction, predict
from tests.float32 import native

CPU = torch.device("cpu")
SIZE = (32, 48)


def frames(length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (length, *SIZE, 3), np.uint8)


def network(classes: int = 3) -> SegmentationNetwork:
    """Random, with a head that is sure of itself."""
    made = new_network("hrnet_w18_small", classes, seed=1)
    with torch.no_grad():
        made.last_layer[3].weight *= 100
    return made


class Recorded:
    """Frames that remember which of them were read."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, frame: int) -> np.ndarray:
        self.read.append(frame)
        return self.images[frame]


def test_every_frame_in_order_at_the_size_asked_for() -> None:
    told: list[tuple[str, int, int]] = []

    found = list(
        predict(
            network(), frames(10), (41, 60), device=CPU, progress=lambda *step: told.append(step)
        )
    )

    assert [p.frame for p in found] == list(range(10))
    assert told == [("predict", k, 10) for k in range(1, 11)]
    for p in found:
        assert (p.label_map.dtype, p.label_map.shape) == (np.uint8, (41, 60))
        assert (p.uncertainty.dtype, p.uncertainty.shape) == (torch.float32, (41, 60))
        assert (p.feature_map.dtype, p.feature_map.shape) == (torch.float32, (240, 8, 12))
        assert 0 <= p.uncertainty.min() < p.uncertainty.max() <= 1
    assert len({int(c) for p in found for c in np.unique(p.label_map)}) > 1


def test_uncertainty_is_one_minus_the_margin() -> None:
    made, images = network(), frames(2)

    found = list(predict(made, images, (64, 96), device=CPU))

    with torch.inference_mode():
        with autocast(CPU):
            batch = torch.from_numpy(images).permute(0, 3, 1, 2)
            logits = made(batch.to(memory_format=torch.channels_last))
        probs = made.logits_at(logits, (64, 96)).softmax(dim=1).sort(dim=1).values
    margin = (probs[:, -1] - probs[:, -2]).numpy()
    assert np.stack([p.uncertainty for p in found]) == pytest.approx(1 - margin, abs=1e-4)


def test_only_some_frames() -> None:
    made, images = network(), Recorded(frames(5))
    everything = list(predict(made, images.images, SIZE, device=CPU))

    some = list(predict(made, images, SIZE, device=CPU, only=[4, 1]))  # type: ignore[arg-type]

    assert images.read == [4, 1]
    assert [p.frame for p in some] == [4, 1]
    for p in some:
        assert (p.label_map == everything[p.frame].label_map).mean() > 0.99
    assert list(predict(made, images, SIZE, device=CPU, only=[])) == []  # type: ignore[arg-type]


def test_a_video_is_read_as_it_is_predicted() -> None:
    images = Recorded(frames(20))

    found = predict(network(), images, SIZE, device=CPU)  # type: ignore[arg-type]

    assert isinstance(found, Iterator)
    assert images.read == []
    assert isinstance(next(found), DensePrediction)
    assert len(images.read) < 20


def test_one_class_is_certain() -> None:
    (found,) = predict(network(classes=1), frames(1), SIZE, device=CPU)

    assert not found.label_map.any()
    assert not found.uncertainty.any()


def test_the_network_can_learn_between_and_after_the_results() -> None:
    made = network()
    for _ in predict(made, frames(2), SIZE, device=CPU):
        assert not torch.is_inference_mode_enabled()
        made.train()
        made(torch.zeros(2, 3, *SIZE)).sum().backward()

    assert made.last_layer[3].weight.grad is not None


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="device 'tpu': choose auto, cpu or cuda"):
        choose_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match="choose cpu"):
        choose_device("cuda")


@pytest.mark.skipif(not native(CPU), reason="the processor does not multiply in bfloat16")
def test_bfloat16_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    made = new_network("hrnet_w18_small", 3, seed=1)
    exact = list(predict(made, frames(2), SIZE, device=CPU, with_probabilities=True))
    monkeypatch.setattr(device, "computes_in_bfloat16", native)
    quick = list(predict(made, frames(2), SIZE, device=CPU, with_probabilities=True))
    for one, other in zip(exact, quick, strict=True):
        assert one.probabilities is not None
        assert other.probabilities is not None
        difference = np.abs(one.probabilities - other.probabilities)
        assert 0 < difference.max() < 0.05
        strayed = (one.feature_map - other.feature_map).abs().mean()
        assert strayed < 0.02 * one.feature_map.std()
