"""Two processes train as one does. They are started by `torchrun` and talk by gloo."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hvsa_cvat.segmentation.distributed import pack
from tests import distributed_trainings, tiny

ROOT = Path(tiny.__file__).parents[1]

ALIKE = (
    "uneven",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("weighted", "one-frame", "half-labeled", "frozen")
    ),
)


def torchrun(*command: object) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, "--nproc-per-node=2", "-m", *map(str, command)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(tiny.__file__).parents[1]),
        },
        timeout=250,
    )


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_train_as_one_does(name: str, tmp_path: Path) -> None:
    done = torchrun("tests.distributed_trainings", tmp_path, name)
    assert done.returncode == 0, done.stderr
    distributed_trainings.assert_as_alone(tmp_path, name)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_which_then_goes_on(tmp_path: Path) -> None:
    died = torchrun("tests.distributed_trainings", tmp_path, "deadly")

    assert died.returncode != 0
    assert not (tmp_path / "deadly.pt").exists()
    assert len(torch.load(tmp_path / "deadly-state.pt")["losses"]) == 1
    told = [line for line in died.stderr.splitlines() if "SessionError" in line]
    assert all("one of the processes" in line and "start" in line for line in told)

    again = torchrun("tests.distributed_trainings", tmp_path, "deadly")

    assert again.returncode == 0, again.stderr
    _, losses = distributed_trainings.train("deadly", distributed_trainings.video("deadly"))
    assert torch.load(tmp_path / "deadly.pt")["losses"] == pytest.approx(losses, rel=1e-4)


@pytest.mark.slow
def test_the_program_by_two_processes(tmp_path: Path, clip: tiny.Clip, checkpoint: Path) -> None:
    command = (
        *("simulate", clip.images, "--labels", clip.labels, "--classes", "floor,box,ball"),
        *("--checkpoint", checkpoint, "--method", "finetune-only", "--budget", "30%"),
        *("--rounds", 1, "--device", "cpu"),
    )

    done = torchrun("hvsa_cvat", *command, "--out", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("round 1:") == 1
    assert tiny.numbers(tmp_path / "out")["rounds"][1]["clicks"] > 0
    # a slow machine is told how far each step has come
    told = [line for line in done.stderr.splitlines() if not re.search(r": \d+ % \(", line)]
    assert not told


@pytest.mark.slow
def test_mistakes_are_told_once(tmp_path: Path) -> None:
    done = torchrun("hvsa_cvat", "simulate", tmp_path, "--labels", tmp_path, "--classes", "a")

    assert done.returncode != 0
    assert done.stderr.count("Missing option") == 1


def test_arrays_in_files_are_sent_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", np.arange(10**6).reshape(1000, 1000))
    mapped = np.load(tmp_path / "frames.npy", mmap_mode="r")

    packed = pack((mapped, mapped[3], mapped[::2, 1], np.ones(3)))
    frames, row, column, own = pickle.loads(packed)

    assert len(packed) < 20_000  # not 8,000,000: 8,000 for the row, 4,000 for half a column
    assert isinstance(frames, np.memmap)
    assert np.array_equal(frames, mapped)
    assert np.array_equal(row, mapped[3])
    assert np.array_equal(column, mapped[::2, 1])
    assert own.tolist() == [1, 1, 1]
