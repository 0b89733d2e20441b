from pathlib import Path

import pytest
import torch
from hypothesis import settings

import tests.float32  # noqa: F401  # before anything asks for it by name
from tests import tiny

# arrays this small gain nothing from threads, which on a busy machine wait for each other
torch.set_num_threads(1)

# the same cases in every run; a slow machine is not a failure
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tiny.Clip:
    """Six frames of 48x64 pixels with three classes; nobody writes to it."""
    return tiny.write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights for the clip; nobody writes to it."""
    return tiny.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors")
