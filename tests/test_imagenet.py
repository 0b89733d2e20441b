"""The ImageNet weights that need no model hub, which the benchmarks start from."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from benchmarks import backbones
from benchmarks.ablation import Clip
from benchmarks.imagenet import NETWORK, imagenet_weights, renamed_in_order
from hvsa_cvat.segmentation.backbones import input_statistics
from hvsa_cvat.segmentation.checkpoint import load_checkpoint, read_info
from hvsa_cvat.session.context import RunInputs
from tests import tiny

TENNIS_BALL = 852
"""A class of ImageNet."""


def ball_on_grass() -> np.ndarray:
    """uint8 (260, 260, 3) RGB."""
    image = np.full((260, 260, 3), (60, 130, 50), np.uint8)
    y, x = np.mgrid[:260, :260]
    image[(y - 130) ** 2 + (x - 130) ** 2 < 85**2] = (205, 225, 60)
    return image


def test_the_renamed_weights_know_what_imagenet_shows() -> None:
    network = timm.create_model(NETWORK, pretrained=False)
    network.load_state_dict(imagenet_weights())
    expected = input_statistics(NETWORK)
    image = (ball_on_grass() / 255 - expected.mean) / expected.std
    with torch.inference_mode():
        seen = network.eval()(torch.tensor(image).float().permute(2, 0, 1)[None])
    assert int(seen.argmax()) == TENNIS_BALL


def test_weights_in_another_order_are_refused() -> None:
    own = {"a.weight": torch.zeros(2), "a.bias": torch.zeros(2)}
    theirs = {"x.weight": torch.ones(2), "x.bias": torch.zeros(2)}
    assert renamed_in_order(theirs, own)["a.weight"].tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"'x.bias' \(2,\) is not 'a.weight' \(2,\)"):
        renamed_in_order(dict(reversed(theirs.items())), own)
    with pytest.raises(ValueError, match="1 tensors, and not 2"):
        renamed_in_order({"x.weight": torch.ones(2)}, own)
    with pytest.raises(ValueError, match=r"\(3,\) is not 'a.weight'"):
        renamed_in_order({**theirs, "x.weight": torch.ones(3)}, own)


def test_a_start_is_a_network_that_knows_no_classes(clip: tiny.Clip, tmp_path: Path) -> None:
    own = tiny.write_checkpoint(tmp_path / "own.safetensors")
    asked = Clip(
        video=clip.images,
        labels=clip.labels,
        classes=",".join(tiny.LABELS.names),
        checkpoint=own,
        size="48x64",
    )

    def started(row: str) -> RunInputs:
        start = backbones.STARTS[row]
        return backbones.experiment(start, asked, "1%,10%", 0, (32, 64), tmp_path / "starts").inputs

    small = started("W18-small, random weights")
    assert read_info(small.checkpoint).network == "hrnet_w18_small"
    frozen = started("EfficientNet-Lite2, ImageNet, frozen")
    assert (frozen.config.freeze, frozen.config.size) == ("backbone", (32, 64))
    assert frozen.config.granularity == "rectangle:16,frame"
    assert read_info(frozen.checkpoint).labels == ()
    stem = load_checkpoint(frozen.checkpoint, tiny.LABELS)[0].backbone.body.conv_stem.weight
    assert torch.equal(stem, imagenet_weights()["conv_stem.weight"])
    learning = started("EfficientNet-Lite2, ImageNet")
    assert (learning.config.freeze, learning.checkpoint) == ("nothing", frozen.checkpoint)
    assert started("W18-small, taught by other frames").checkpoint == own
