"""Checkpoints of others, or damaged ones, give one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hvsa_cvat.errors import CheckpointError
from hvsa_cvat.segmentation.checkpoint import load_checkpoint, read_info
from tests import tiny

INFO: dict[str, Any] = {
    "network": "hrnet_w18_small",
    "labels": ["floor", "box", "ball"],
    "size": [48, 64],
    "align_corners": False,
    "round": 0,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
}


def write(path: Path, info: str) -> Path:
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path, {"info": info})
    return path


def test_the_metadata_that_the_other_cases_change_are_right(tmp_path: Path) -> None:
    assert read_info(write(tmp_path / "net.safetensors", json.dumps(INFO))).size == (48, 64)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": [10**9, 10**9]}, "size 0: Input should be less than or equal to 8192"),
        ({"size": [-48, 64]}, "size 0: Input should be greater than or equal to 32"),
        ({"size": [48, 64, 3]}, "size: List should have at most 2 items"),
        ({"size": ["48", "64"]}, "size 0: Input should be a valid integer"),
        ({"labels": "floor"}, "labels: Input should be a valid list"),
        ({"labels": [1, 2]}, "labels 0: Input should be a valid string"),
        ({"labels": [f"class {k}" for k in range(300)]}, "labels: List should have at most 255"),
        ({"labels": ["x" * 10**6]}, "labels 0: String should have at most 256 characters"),
        ({"round": -1}, "round: Input should be greater than or equal to 0"),
        ({"round": "last"}, "round: Input should be a valid integer"),
        ({"align_corners": 7}, "align_corners: Input should be a valid boolean"),
        ({"mean": [float("nan"), 0.5, 0.5]}, "mean 0: Input should be a finite number"),
        ({"mean": [1e30, 0.5, 0.5]}, "mean 0: Input should be less than 10"),
        ({"std": [0.2]}, "std: List should have at least 3 items"),
        ({"author": "me"}, "author: Extra inputs are not permitted"),
    ],
)
def test_absurd_metadata(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = write(tmp_path / "net.safetensors", json.dumps(INFO | change))
    with pytest.raises(CheckpointError) as refused:
        read_info(path)
    message = str(refused.value)
    assert f"has broken metadata ({reason}" in message
    assert len(message) < 500
    assert "\n" not in message


@pytest.mark.parametrize("info", ["[" * 100_000, "[]", "null", "7", '"text"', "{"])
def test_metadata_that_are_no_object(tmp_path: Path, info: str) -> None:
    with pytest.raises(CheckpointError, match="has broken metadata"):
        read_info(write(tmp_path / "net.safetensors", info))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers(tmp_path: Path, value: float) -> None:
    path = tiny.write_checkpoint(tmp_path / "net.safetensors")
    info = read_info(path)
    tensors = safetensors.torch.load_file(path)
    tensors["last_layer.0.weight"][0, 0] = value
    metadata = {"info": json.dumps(INFO | {"labels": info.labels})}
    safetensors.torch.save_file(tensors, path, metadata)
    with pytest.raises(CheckpointError, match=r"'last_layer.0.weight' holds values .* no finite"):
        load_checkpoint(path, tiny.LABELS)
