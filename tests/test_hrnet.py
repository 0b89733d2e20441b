import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hvsa_cvat.errors import ConfigError
from hvsa_cvat.segmentation.checkpoint import new_network
from hvsa_cvat.segmentation.checkpoint_info import IMAGENET
from hvsa_cvat.segmentation.hrnet import resize_by_products
from hvsa_cvat.segmentation.network import SegmentationNetwork

PARITY = Path(__file__).parent / "data" / "hrnet_parity.npz"
"""Logits of the official network, whose weights follow from the names of its entries."""


def official_names(network: SegmentationNetwork) -> dict[str, Tensor]:
    return {name.removeprefix("backbone."): value for name, value in network.state_dict().items()}


def named_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    noise = rng.standard_normal(shape).astype(np.float32)
    if len(shape) == 4:
        value = noise * np.float32(0.4 * np.sqrt(2 / np.prod(shape[1:])))
    elif name.endswith("running_var"):
        value = 1 + 0.1 * np.abs(noise)
    elif name.endswith("weight"):
        value = 1 + 0.1 * noise
    else:
        value = 0.1 * noise
    return torch.from_numpy(value.astype(np.float32))


@pytest.fixture(scope="module")
def official() -> SegmentationNetwork:
    network = SegmentationNetwork("hrnet_w18_small", 19)
    for name, value in official_names(network).items():
        if not name.endswith("num_batches_tracked"):
            value.copy_(named_weight(name, tuple(value.shape)))
    return network.eval()


def with_align_corners(network: SegmentationNetwork, align_corners: bool) -> SegmentationNetwork:
    other = SegmentationNetwork(network.name, network.classes, align_corners=align_corners)
    other.load_state_dict(network.state_dict())
    return other.eval()


@pytest.mark.parametrize("align_corners", [True, False])
def test_logits_are_those_of_the_official_network(
    official: SegmentationNetwork, align_corners: bool
) -> None:
    network = with_align_corners(official, align_corners)
    references: Mapping[str, np.ndarray] = np.load(PARITY)
    for size in ("64x96", "70x101"):
        reference = references[f"w18_small_v1.align_{str(align_corners).lower()}.{size}"]
        height, width = map(int, size.split("x"))
        normalised = np.random.default_rng(7).standard_normal((1, 3, height, width))
        normalised = torch.from_numpy(normalised.astype(np.float32))
        mean, std = (
            255 * torch.tensor(value)[:, None, None] for value in (IMAGENET.mean, IMAGENET.std)
        )

        with torch.inference_mode():
            logits = network(normalised * std + mean).numpy()

        assert logits.shape == reference.shape
        assert np.abs(logits - reference).max() < 1e-4 * np.abs(reference).max()


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("hrnet_w18_small", "e835e29d8e38c73c72854bb2519ff13092e057f3da281f1bd72dade5ece6da11"),
        ("hrnet_w48", "6f1ec27081388e90e53f5af017fef1ec61401a8740c82ebfbfd3789568a6ab22"),
    ],
)
def test_names_and_shapes_are_the_official_ones(name: str, digest: str) -> None:
    """The digest is of the sorted lines `name 64x3x3x3` of the official state dict."""
    with torch.device("meta"):
        network = SegmentationNetwork(name, 19)

    lines = [
        f"{name} {'x'.join(map(str, value.shape))}"
        for name, value in official_names(network).items()
    ]

    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == digest


@pytest.mark.parametrize("size", [(33, 47), (70, 101), (32, 48), (5, 300)])
def test_any_input_size(size: tuple[int, int], official: SegmentationNetwork) -> None:
    images = torch.zeros(1, 3, *size, dtype=torch.uint8)

    with torch.inference_mode():
        features = official.features(images)
        logits = official(images)
        full = official.logits_at(logits, size)

    quarter = (-(-size[0] // 4), -(-size[1] // 4))
    assert features.shape == (1, official.feature_channels, *quarter)
    assert logits.shape == (1, 19, *quarter)
    assert full.shape == (1, 19, *size)
    assert torch.isfinite(full).all()


def test_bytes_and_floats_are_the_same_image(official: SegmentationNetwork) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 32, 48), np.uint8))

    with torch.inference_mode():
        assert torch.equal(official(images), official(images.float()))


def test_width_of_the_features() -> None:
    for name, channels in (("hrnet_w18_small", 240), ("hrnet_w48", 720)):
        with torch.device("meta"):
            assert SegmentationNetwork(name, 2).feature_channels == channels


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(ConfigError, match="there is no network 'hrnet_w84'; did you mean hrnet"):
        SegmentationNetwork("hrnet_w84", 2)


def test_the_seed_decides_the_weights_and_nothing_else_does() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = new_network("hrnet_w18_small", 2, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone

    torch.manual_seed(6)
    again = new_network("hrnet_w18_small", 2, seed=1).state_dict()
    other = new_network("hrnet_w18_small", 2, seed=2).state_dict()

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])
    assert not torch.equal(first["last_layer.3.weight"], other["last_layer.3.weight"])


@given(
    sizes=st.tuples(*[st.integers(1, 9)] * 4),
    align_corners=st.booleans(),
    channels_last=st.booleans(),
)
def test_products_interpolate_as_pytorch_does(
    sizes: tuple[int, int, int, int], align_corners: bool, channels_last: bool
) -> None:
    height, width, to_height, to_width = sizes
    layout = torch.channels_last if channels_last else torch.contiguous_format
    values = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    values = values.contiguous(memory_format=layout).requires_grad_()
    to = (to_height, to_width)
    by_pytorch = F.interpolate(values, to, mode="bilinear", align_corners=align_corners)
    by_products = resize_by_products(values, to, align_corners)
    torch.testing.assert_close(by_products, by_pytorch)
    weights = torch.randn(by_pytorch.shape, generator=torch.Generator().manual_seed(1))
    (expected,) = torch.autograd.grad(by_pytorch, values, weights)
    (found,) = torch.autograd.grad(by_products, values, weights)
    torch.testing.assert_close(found, expected)


def test_products_keep_the_type_of_the_values_under_autocast() -> None:
    values = torch.rand(1, 2, 3, 4).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        resized = resize_by_products(values, (6, 8), align_corners=False)
    expected = F.interpolate(values.float(), (6, 8), mode="bilinear")
    assert resized.dtype == torch.bfloat16
    assert (resized.float() - expected).abs().max() < 0.01
