import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from hvsa_cvat.errors import CheckpointError, HvsaError
from hvsa_cvat.segmentation.checkpoint import (
    load_checkpoint,
    new_network,
    read_info,
    save_checkpoint,
)
from hvsa_cvat.segmentation.checkpoint_info import IMAGENET, CheckpointInfo, known_classes
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.official import convert_official, is_official, load_official
from hvsa_cvat.types import LabelSet

LABELS = LabelSet(("wall", "floor", "door"))
INFO = CheckpointInfo("hrnet_w18_small", LABELS.names, (32, 48), align_corners=True, round=2)


@pytest.fixture(scope="module")
def network() -> SegmentationNetwork:
    return new_network("hrnet_w18_small", 3, align_corners=True, seed=7)


@pytest.fixture(scope="module")
def checkpoint(network: SegmentationNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "round2.safetensors"
    save_checkpoint(network, INFO, path)
    return path


def official_state(network: SegmentationNetwork) -> dict[str, Tensor]:
    return {name.removeprefix("backbone."): value for name, value in network.state_dict().items()}


def same(one: SegmentationNetwork, other: SegmentationNetwork, part: str = "") -> bool:
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a if name.startswith(part))


def refused(path: Path) -> str:
    """The one line with which `path` is refused."""
    with pytest.raises(CheckpointError) as raised:
        load_official(path, 3) if is_official(path) else load_checkpoint(path, LABELS)
    message = str(raised.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# Our own files


def test_weights_and_metadata_come_back(network: SegmentationNetwork, checkpoint: Path) -> None:
    loaded, line = load_checkpoint(checkpoint, LABELS, align_corners=False)

    assert same(loaded, network)
    assert loaded.align_corners is True
    assert line == "round2.safetensors: hrnet_w18_small, 3 classes, round 2"
    assert read_info(checkpoint) == INFO
    assert (INFO.mean, INFO.std) == (IMAGENET.mean, IMAGENET.std)


def test_equal_weights_give_equal_bytes(checkpoint: Path, tmp_path: Path) -> None:
    loaded, _ = load_checkpoint(checkpoint, LABELS)
    loaded.to(memory_format=torch.channels_last)  # as training leaves it
    for name in ("a", "b", "c"):
        save_checkpoint(loaded, INFO, tmp_path / name)

        assert (tmp_path / name).read_bytes() == checkpoint.read_bytes()


def test_with_other_classes_the_head_starts_anew(
    network: SegmentationNetwork, checkpoint: Path
) -> None:
    # as many classes as before, but others: their old weights would mean nothing
    labels = LabelSet(("sky", "road", "car"))

    loaded, line = load_checkpoint(checkpoint, labels, seed=3)
    again, _ = load_checkpoint(checkpoint, labels, seed=3)

    assert same(loaded, network, "backbone.")
    assert same(loaded, network, "last_layer.0")
    assert not same(loaded, network, "last_layer.3.weight")
    assert same(loaded, again)
    assert "(wall, floor, door) are not this run's" in line
    assert "the backbone is kept and the head starts anew" in line
    assert "\n" not in line

    larger, _ = load_checkpoint(checkpoint, LabelSet(("a", "b", "c", "d", "e")))
    assert larger.classes == 5
    assert same(larger, network, "backbone.")


def test_classes_are_known_by_name_in_any_order(
    network: SegmentationNetwork, checkpoint: Path
) -> None:
    labels = LabelSet(("door", "wall", "floor"))
    loaded, line = load_checkpoint(checkpoint, labels)

    classifier, before = loaded.last_layer[3], network.last_layer[3]
    assert torch.equal(classifier.weight, before.weight[[2, 0, 1]])
    assert torch.equal(classifier.bias, before.bias[[2, 0, 1]])
    assert known_classes(checkpoint, labels) == (0, 1, 2)
    assert line == "round2.safetensors: hrnet_w18_small, 3 classes, round 2"


def test_known_classes_are_kept_among_new_ones(
    network: SegmentationNetwork, checkpoint: Path
) -> None:
    labels = LabelSet(("sky", "floor", "lamp", "wall"))
    loaded, line = load_checkpoint(checkpoint, labels)
    image = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, before = loaded.eval()(image), network.eval()(image)

    assert same(loaded, network, "backbone.")
    assert torch.allclose(logits[:, [1, 3]], before[:, [1, 0]], atol=1e-5)
    # a class that nobody taught is nowhere the most likely
    assert set(logits.argmax(dim=1).unique().tolist()) <= {1, 3}
    assert known_classes(checkpoint, labels) == (1, 3)
    assert line == (
        "round2.safetensors: hrnet_w18_small, 2 of 4 classes, round 2; "
        "sky, lamp start as the mean of these"
    )


def test_one_known_class_of_several_tells_nothing(
    network: SegmentationNetwork, checkpoint: Path
) -> None:
    labels = LabelSet(("wall", "sky"))
    _, line = load_checkpoint(checkpoint, labels)

    assert known_classes(checkpoint, labels) == ()
    assert "the head starts anew" in line
    assert known_classes(checkpoint, LabelSet(("wall",))) == (0,)


def test_a_classifier_unlike_its_metadata_is_told(
    network: SegmentationNetwork, tmp_path: Path
) -> None:
    path = tmp_path / "odd.safetensors"
    save_checkpoint(network, replace(INFO, labels=("wall", "floor")), path)

    assert "the metadata name 2 classes" in refused(path)


@pytest.mark.parametrize("name", ["none.safetensors", "none.pth"])
def test_a_missing_file_is_told(tmp_path: Path, name: str) -> None:
    assert "no checkpoint" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["folder", "folder.safetensors", "folder.pth"])
def test_a_folder_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()

    assert name in refused(tmp_path / name)


@pytest.mark.parametrize("keep", [0, 4, 8, 1000, 0.5, 0.999])
def test_a_truncated_file_is_told(checkpoint: Path, tmp_path: Path, keep: float) -> None:
    content = checkpoint.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content[: keep if keep > 1 else int(keep * len(content))])

    assert "truncated or not a safetensors file" in refused(path)


def test_files_of_others_are_told(tmp_path: Path) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("these are not the weights you are looking for")
    foreign = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(2)}, foreign)
    labelled = tmp_path / "labelled.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(2)}, labelled, {"info": "[1]"})

    assert "not a safetensors file" in refused(text)
    assert "was not written by hvsa-agent" in refused(foreign)
    assert "broken metadata" in refused(labelled)


def test_an_unknown_network_is_told(tmp_path: Path) -> None:
    small = new_network("hrnet_w18_small", 3)
    path = tmp_path / "x.safetensors"
    save_checkpoint(small, CheckpointInfo("hrnet_w99", LABELS.names, (32, 32), True, 0), path)

    assert "cannot be used: there is no network 'hrnet_w99'; did you mean hrnet_w" in refused(path)


def test_tensors_that_do_not_fit_are_told(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with safetensors.safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(checkpoint)

    safetensors.torch.save_file(tensors | {"backbone.conv1.weight": torch.zeros(2)}, path, metadata)
    assert (
        "'backbone.conv1.weight' has shape (2,), hrnet_w18_small with 3 classes needs (64, 3, 3, 3)"
    ) in refused(path)

    del tensors["last_layer.3.bias"]
    safetensors.torch.save_file(tensors, path, metadata)
    assert "lacks 1 of the tensors" in refused(path)
    load_checkpoint(path, LabelSet(("other",)))  # needs no classifier


def test_the_weights_of_another_network_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    info = CheckpointInfo("hrnet_w18", LABELS.names, (32, 48), True, 0)
    save_checkpoint(new_network("hrnet_w18_small", 3), info, path)

    message = refused(path)

    assert re.search(r"lacks \d+ of the tensors of hrnet_w18, first 'backbone\.", message)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """What a full disk is to those who write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_keeps_the_checkpoint_before(
    network: SegmentationNetwork, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text("before")

    with pytest.raises(HvsaError, match="cannot write") as raised, files_up_to(100_000):
        save_checkpoint(network, INFO, path)

    assert str(path) in str(raised.value)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


# Official state dicts


def test_official_weights_keep_the_backbone(network: SegmentationNetwork, tmp_path: Path) -> None:
    path = tmp_path / "hrnet.pth"
    torch.save(official_state(network), path)

    loaded, line = load_official(path, 2, align_corners=False)

    assert same(loaded, network, "backbone.")
    assert same(loaded, network, "last_layer.0")
    assert loaded.classes == 2
    assert loaded.align_corners is False
    assert line == (
        "hrnet.pth: official hrnet_w18_small, align_corners False; "
        "the backbone is kept and the head starts anew"
    )


@pytest.mark.parametrize("prefix", ["model.", "module.", "module.model."])
def test_wrapped_official_weights(
    network: SegmentationNetwork, tmp_path: Path, prefix: str
) -> None:
    state = {f"{prefix}{name}": value for name, value in official_state(network).items()}
    state |= {f"{prefix}aux_head.0.weight": torch.zeros(3), "loss.criterion.weight": torch.ones(3)}
    path = tmp_path / "best.pth"
    torch.save({"epoch": 484, "state_dict": state}, path)

    loaded, _ = load_official(path, 3)

    assert same(loaded, network, "backbone.")
    assert same(loaded, network, "last_layer.0")


@pytest.mark.parametrize("align_corners", [True, False])
def test_a_converted_file_starts_as_the_official_one(
    network: SegmentationNetwork, tmp_path: Path, align_corners: bool
) -> None:
    path, target = tmp_path / "hrnet.PTH", tmp_path / "start.safetensors"
    torch.save(official_state(network), path)
    official, line = load_official(path, len(LABELS), align_corners=align_corners, seed=3)

    assert convert_official(path, target, (96, 128), align_corners=align_corners) == line

    converted, told = load_checkpoint(target, LABELS, seed=3)
    assert same(converted, official)
    assert converted.align_corners is align_corners
    assert known_classes(target, LABELS) == ()
    assert read_info(target).size == (96, 128)
    assert told == (
        "start.safetensors: hrnet_w18_small; it knows no classes, so the backbone is kept and the "
        "head starts anew"
    )
    again = tmp_path / "again.safetensors"
    convert_official(path, again, (96, 128), align_corners=align_corners)
    assert again.read_bytes() == target.read_bytes()


class Payload:
    """Runs code in whoever unpickles it."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return Path.write_text, (self.proof, "executed")


@pytest.mark.parametrize("name", ["evil.pth", "evil.pt", "evil.bin", "evil.safetensors"])
def test_code_in_a_file_is_not_run(tmp_path: Path, name: str) -> None:
    proof = tmp_path / "proof"
    torch.save({"conv1.weight": torch.zeros(1), "x": Payload(proof)}, tmp_path / name)

    refused(tmp_path / name)

    assert not proof.exists()


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"layer1.0.conv1.weight": torch.zeros(2)},
        {"stage4.0.branches.0.0.conv1.weight": torch.zeros(24, 2)},
        {"stage4.0.branches.0.0.conv1.weight": torch.tensor(16.0)},
        {"stage4.0.branches.0.0.conv1.weight": torch.zeros(16, 2)},
        {"epoch": 3},
        {3: torch.zeros(2)},
        [torch.zeros(2)],
        torch.zeros(2),
        None,
    ],
)
def test_weights_of_other_models_are_told(tmp_path: Path, content: object) -> None:
    path = tmp_path / "resnet.pth"
    torch.save(content, path)

    assert path.name in refused(path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_damaged_state_dicts_are_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "hrnet.pth"
    torch.save({"stage4.0.branches.0.0.conv1.weight": torch.zeros(16, 2)}, path)
    whole = path.read_bytes()
    variants = {
        "cut": [whole[:size] for size in range(1, len(whole), 97)],
        "flipped": [
            whole[:k] + bytes([whole[k] ^ 0xFF]) + whole[k + 1 :] for k in range(0, len(whole), 61)
        ],
        "empty": [b""],
        "text": [b"weights"],
    }
    for content in variants[damage]:
        path.write_bytes(content)

        assert path.name in refused(path)


# ImageNet

LOADS_IMAGENET = """
import sys
from pathlib import Path
import safetensors.torch, timm, torch
from hvsa_cvat.errors import CheckpointError
from hvsa_cvat.segmentation.checkpoint import new_network
from hvsa_cvat.segmentation.weights import load_imagenet_backbone

network = new_network("hrnet_w18_small", 2, seed=1)
head = network.last_layer[3].weight.clone()
try:
    load_imagenet_backbone(network)
except CheckpointError as error:
    print(error)

published = timm.create_model(network.name)
folder = Path(sys.argv[1]) / f"models--{published.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
(folder / "refs").mkdir(parents=True)
(folder / "refs" / "main").write_text("0" * 40)
(folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
file = folder / "snapshots" / ("0" * 40) / "model.safetensors"
safetensors.torch.save_file(published.state_dict(), file)
load_imagenet_backbone(network)
print(torch.equal(network.backbone.conv1.weight, published.conv1.weight))
print(torch.equal(network.last_layer[3].weight, head))
"""


def test_imagenet_weights_come_from_the_hub_or_are_told_missing(tmp_path: Path) -> None:
    """In a process whose hub is a folder: first an empty one, then one with weights."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }

    done = subprocess.run(
        [sys.executable, "-c", LOADS_IMAGENET, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    message, *checks = done.stdout.splitlines()
    assert message.startswith("cannot get the ImageNet weights of hrnet_w18_small (")
    assert message.endswith("or start at random or from a file of weights")
    assert checks == ["True", "True"]
