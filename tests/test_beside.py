"""The dashboard beside an agent: a process of its own that ends with it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest

from hvsa_cvat.agent.settings import AgentSettings, load_settings
from hvsa_cvat.cli.beside import dashboard_beside
from hvsa_cvat.errors import ConfigError

ENVIRONMENT = {"CVAT_HOST": "http://127.0.0.1:9", "CVAT_ACCESS_TOKEN": "secret"}
AGENT = """
import sys
from pathlib import Path
from hvsa_cvat.agent.settings import load_settings
from hvsa_cvat.cli.beside import dashboard_beside

settings = load_settings(None, workspace=Path(sys.argv[1]))
with dashboard_beside(settings, None, sys.argv[2], "text"):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def settings(tmp_path: Path) -> AgentSettings:
    return load_settings(None, ENVIRONMENT, workspace=tmp_path / "workspace")


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def health(address: str) -> str | None:
    try:
        with urlopen(f"http://{address}/health", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_it_ends_with_its_agent_however_that_ends(tmp_path: Path) -> None:
    address = free_address()
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(tmp_path / "workspace"), address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
        text=True,
    )
    try:
        assert process.stdout is not None
        wait_for(lambda: "ready" in process.stdout.readline())  # type: ignore[union-attr]
        assert health(address) == "ok\n"
        process.kill()
        wait_for(lambda: health(address) is None)
    finally:
        process.kill()
        process.communicate()


def test_an_address_in_use_is_named(settings: AgentSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        beside = dashboard_beside(settings, None, address, "text")
        with pytest.raises(ConfigError, match="the address is in use"), beside:
            pass


def test_a_dashboard_that_cannot_start_stops_the_agent(
    settings: AgentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others could reach that address, and no token is set."""
    monkeypatch.delenv("HVSA_DASHBOARD_TOKEN", raising=False)
    address = free_address().replace("127.0.0.1", "0.0.0.0")
    beside = dashboard_beside(settings, None, address, "text")
    with pytest.raises(ConfigError, match="did not start; the line above says why"), beside:
        pass
