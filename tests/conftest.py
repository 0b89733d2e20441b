from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

import tests.float32  # noqa: F401  # before anything asks for it by name
from hvsa_cvat.database import Place, Where
from tests import tiny

if TYPE_CHECKING:
    from tests.lead import Filled
    from tests.postgres import LocalServer

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


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Filled:
    """A workspace of four tasks; nobody writes to it."""
    from tests.lead import fill_workspace  # other tests need none of what it imports

    return fill_workspace(tmp_path_factory.mktemp("lead"), checkpoint)


@pytest.fixture
def copied(filled: Filled, tmp_path: Path) -> Filled:
    """The same, to be changed."""
    from tests.lead import Filled

    shutil.copytree(filled.workspace, tmp_path / "copy")
    return Filled(tmp_path / "copy", filled.url)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[LocalServer]:
    """A PostgreSQL server."""
    from tests.postgres import LocalServer

    with LocalServer() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty database in it; its password is in the environment."""
    from hvsa_cvat.database.postgres import close_all
    from tests.postgres import PASSWORD

    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    yield postgres_server.new_database()
    close_all()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.cluster)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    """An empty place, with files of SQLite or in PostgreSQL."""
    if request.param == "sqlite":
        return tmp_path
    return Place(tmp_path, request.getfixturevalue("postgres"))
