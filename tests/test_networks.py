"""Networks beside the HRNets: backbones of timm, from their weights to the whole loop."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from click.testing import CliRunner, Result

from hvsa_cvat.cli import main
from hvsa_cvat.errors import CheckpointError, ConfigError
from hvsa_cvat.segmentation.backbones import check_network
from hvsa_cvat.segmentation.checkpoint import (
    describe,
    load_checkpoint,
    new_network,
    read_info,
    save_checkpoint,
)
from hvsa_cvat.segmentation.checkpoint_info import IMAGENET
from hvsa_cvat.segmentation.footprint import footprint
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.network_facts import TESTED, network_facts
from hvsa_cvat.segmentation.start import packaged_checkpoint
from hvsa_cvat.segmentation.weights import cached_weights, can_be_fetched, load_backbone
from hvsa_cvat.types import LabelSet
from tests import tiny

FAMILIES = (
    "resnet18",
    "convnext_atto",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    "pvt_v2_b0",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
)
LABELS = LabelSet(("floor", "box", "ball"))


def images(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module", params=FAMILIES)
def network(request: pytest.FixtureRequest) -> SegmentationNetwork:
    return new_network(request.param, 3, seed=1).eval()


def test_logits_are_those_of_the_head_on_the_features(network: SegmentationNetwork) -> None:
    for size in ((48, 64), (45, 67)):
        quarter = -(-size[0] // 4), -(-size[1] // 4)
        with torch.inference_mode():
            logits, features = network(images(*size)), network.features(images(*size))
            joined = network.last_layer(features)
        assert features.shape == (2, network.feature_channels, *quarter)
        assert logits.shape == (2, 3, *quarter)
        assert torch.allclose(logits, joined, rtol=1e-3, atol=1e-4)
        assert network.logits_at(logits, size).shape == (2, 3, *size)


def test_a_checkpoint_keeps_the_network(network: SegmentationNetwork, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(network, describe(network, LABELS.names, (48, 64), 2), path)
    info = read_info(path)
    assert (info.network, info.round) == (network.name, 2)
    assert info.mean == timm.get_pretrained_cfg(network.name).mean
    loaded, line = load_checkpoint(path, LABELS)
    assert line == f"a.safetensors: {network.name}, 3 classes, round 2"
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(images(48, 64)), network(images(48, 64)))


def test_the_weights_of_a_whole_model_become_the_backbone(network: SegmentationNetwork) -> None:
    whole = timm.create_model(network.name, pretrained=False).eval()
    other = new_network(network.name, 3, seed=2).eval()
    head = [value.clone() for value in other.last_layer.state_dict().values()]
    load_backbone(other, whole.state_dict(), "these weights")
    assert all(
        torch.equal(*pair)
        for pair in zip(head, other.last_layer.state_dict().values(), strict=True)
    )
    theirs = {value.sum().item() for value in whole.state_dict().values()}
    assert {value.sum().item() for value in other.backbone.state_dict().values()} <= theirs


def test_images_are_normalised_as_the_weights_expect() -> None:
    lite = new_network("tf_efficientnet_lite0", 2)
    assert lite.statistics.mean == (0.5, 0.5, 0.5)
    assert lite.mean.flatten().tolist() == [127.5] * 3
    assert (
        new_network("resnet18", 2).statistics == IMAGENET == new_network("hrnet_w18", 2).statistics
    )


def test_memory_is_counted_before_a_network_runs() -> None:
    small = footprint("resnet18", 3, None, False)
    assert small.features == new_network("resnet18", 3).feature_channels
    assert small.image > 0
    assert small.weights > 4 * 10**7


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hrnet_w84", r"there is no network 'hrnet_w84'; did you mean .*hrnet_w48"),
        ("convnext_tinny", r"no network 'convnext_tinny'; did you mean convnext_tiny"),
        ("", "there is no network ''"),
        (
            "mixer_b16_224",
            r"'mixer_b16_224' .*; choose another one, see `hvsa-agent networks list`",
        ),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        check_network(name)
    assert "\n" not in str(raised.value)


def test_weights_of_another_network_are_refused() -> None:
    learner = new_network("resnet18", 2)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    for other in ("resnet34", "convnext_atto"):
        tensors = timm.create_model(other, pretrained=False).state_dict()
        if other == "resnet34":
            tensors["layer1.0.conv1.weight"] = tensors["layer1.0.conv1.weight"][:8]
        with pytest.raises(CheckpointError, match="the weights of x are not those of resnet18: "):
            load_backbone(learner, tensors, "the weights of x")
    assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())


def run(*arguments: object) -> str:
    done = CliRunner().invoke(main, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
def test_the_table_names_size_and_licence() -> None:
    told = run("networks", "list", "resnet18", "hrnet_w18_small", "--time", "--size", "32x48")
    (line,) = [one for one in told.splitlines() if "resnet18" in one]
    assert "apache-2.0" in line
    assert " no " in line
    assert "hrnet_w18_small" in told
    assert len(TESTED) == len(set(TESTED))
    for name in TESTED:
        assert network_facts(name).parameters > 10**6


@pytest.mark.slow
def test_a_start_network_is_made_of_weights_and_runs_the_loop(
    clip: tiny.Clip, tmp_path: Path
) -> None:
    weights, start = whole_resnet(tmp_path / "weights.safetensors"), tmp_path / "start.safetensors"
    told = run("networks", "make", "resnet18", "--weights", weights, "--out", start)
    assert "resnet18, which knows no classes yet" in told
    loaded, line = load_checkpoint(start, LABELS)
    assert "it knows no classes, so the backbone is kept" in line
    conv1 = safetensors.torch.load_file(weights)["conv1.weight"]
    assert torch.equal(loaded.backbone.body.conv1.weight, conv1)

    metrics = tiny.run(tiny.experiment(clip, start, method="hvsa"), tmp_path / "out")
    assert len(metrics.rounds) == 3
    assert read_info(tmp_path / "out/rounds/2/network.safetensors").network == "resnet18"


def test_a_start_network_of_foreign_weights_is_not_written(tmp_path: Path) -> None:
    weights, start = tmp_path / "weights.safetensors", tmp_path / "start.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, weights)
    done = CliRunner().invoke(
        main, ["networks", "make", "resnet18", "--weights", str(weights), "--out", str(start)]
    )
    assert done.exit_code == 1
    assert "are not those of resnet18" in done.output
    assert not start.exists()


def whole_resnet(path: Path) -> Path:
    """Weights of a whole resnet18, its own head included."""
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = timm.create_model("resnet18", pretrained=False)
    safetensors.torch.save_file(whole.state_dict(), path)
    return path


def simulate(clip: tiny.Clip, out: Path, *more: object) -> Result:
    arguments = ["simulate", clip.images, "--labels", clip.labels, "--classes", "floor,box,ball"]
    arguments += ["--device", "cpu", "--method", "label-propagation", "--out", out, *more]
    return CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.mark.slow
def test_a_run_starts_from_a_named_network(clip: tiny.Clip, tmp_path: Path) -> None:
    weights, start = whole_resnet(tmp_path / "weights.safetensors"), tmp_path / "start.safetensors"
    run("networks", "make", "resnet18", "--weights", weights, "--size", "48x64", "--out", start)
    done = simulate(clip, tmp_path / "out", "--network", "resnet18", "--weights", weights)
    assert done.exit_code == 0, done.output
    assert f"resnet18 with the weights of {weights}; it knows no classes" in done.output
    # a run goes on with the same network only
    made = simulate(clip, tmp_path / "out", "--checkpoint", start)
    assert made.exit_code == 0, made.output


def test_without_a_word_a_run_starts_from_the_package(clip: tiny.Clip, tmp_path: Path) -> None:
    for more in ((), ("--init", "package")):
        done = simulate(clip, tmp_path / "out", *more)
        assert done.exit_code == 0, done.output
        assert "pretrained.safetensors: hrnet_w18_small" in done.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--network", "resnet81"), "no network 'resnet81'; did you mean resnet"),
        (
            ("--network", "resnet34", "--weights", "WEIGHTS"),
            "are not those of resnet34: .* are missing or have another shape",
        ),
        (("--network", "resnet18", "--weights", "gone.safetensors"), "gone.safetensors"),
        (
            ("--checkpoint", "a.safetensors", "--network", "x"),
            "--checkpoint and --network name two",
        ),
        (("--init", "package", "--weights", "w.pth"), "so --weights has no meaning"),
    ],
)
def test_a_start_that_cannot_be_used_is_told_in_a_line(
    options: tuple[str, ...], said: str, clip: tiny.Clip, tmp_path: Path
) -> None:
    weights = whole_resnet(tmp_path / "weights.safetensors")
    out = tmp_path / "out"
    done = simulate(clip, out, *(str(weights) if one == "WEIGHTS" else one for one in options))
    assert done.exit_code in (1, 2)
    (line,) = done.stderr.strip().splitlines()
    assert re.search(said, line)
    assert not out.exists()


@pytest.mark.slow
def test_on_a_gpu_the_start_is_w48_where_its_weights_can_be_had(tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads its settings when it is imported."""
    code = """
import sys
import time
from pathlib import Path

from hvsa_cvat.config import StartOptions
from hvsa_cvat.segmentation.start import Backbone, choose_start
from tests.test_networks import cached, whole_resnet

hub, start = Path(sys.argv[1]), Path(sys.argv[2])
begun = time.monotonic()
print(choose_start(StartOptions(), "cuda", print))
print(time.monotonic() - begun)
cached(hub, "hrnet_w48.ms_in1k").touch()
print(choose_start(StartOptions(), "cuda", print))
whole_resnet(cached(hub, "resnet18.a1_in1k"))
Backbone("resnet18").write(start, (48, 64))
"""
    start = tmp_path / "start.safetensors"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        hub = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "hub"), str(start)],
            env={**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub, "NO_PROXY": "*"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    lacking, package, waited, found, backbone = done.stdout.splitlines()
    assert "the ImageNet weights of hrnet_w48 are not on this machine" in lacking
    assert "`hvsa-agent networks fetch hrnet_w48` brings them" in lacking
    assert package == str(packaged_checkpoint())
    assert float(waited) < 30
    assert found.startswith("starts from hrnet_w48 with ImageNet weights, because there is a GPU; ")
    assert backbone == "hrnet_w48 with ImageNet weights"
    # weights in the cache need no hub
    loaded, _ = load_checkpoint(start, LABELS)
    kept = safetensors.torch.load_file(cached(tmp_path / "hub", "resnet18.a1_in1k"))
    assert torch.equal(loaded.backbone.body.conv1.weight, kept["conv1.weight"])


def cached(hub: Path, repository: str) -> Path:
    """Where the weights of a repository of timm lie in the cache of the hub."""
    folder = hub / f"models--timm--{repository}"
    (folder / "snapshots/a1").mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs/main").write_text("a1")
    return folder / "snapshots/a1/model.safetensors"


def test_a_network_without_weights_on_the_hub_cannot_be_fetched() -> None:
    assert cached_weights("a_network_of_nobody") is None
    assert not can_be_fetched("a_network_of_nobody", 5.0)
