"""The dashboard beside an agent that watches: a process of its own, so that it slows no pass."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hvsa_cvat.errors import ConfigError

if TYPE_CHECKING:
    from hvsa_cvat.agent.settings import AgentSettings

UNTIL_STDIN_CLOSES = "--until-stdin-closes"
_STARTS, _LOOK, _ENDS = 60.0, 0.1, 10.0
"""Seconds until it answers, between two looks, and until it is killed."""
_LEFT_OUT = {
    f"{name}{ending}"
    for name in ("HVSA_NOTIFY_URLS", "HVSA_WEBHOOK_SECRET")
    for ending in ("", "_FILE")
}
"""The agent itself tells what is new, and receives webhooks."""


@contextmanager
def dashboard_beside(
    settings: AgentSettings, config: Path | None, address: str, log_format: str
) -> Iterator[None]:
    """The pages at `address`, until the block ends or this process dies. `config` is the settings
    file, where one was named. `ConfigError` where the pages cannot be served; the dashboard says
    why."""
    from hvsa_cvat.dashboard.serve import parse_address

    host, port = parse_address(address)
    if _answers(host, port):
        raise ConfigError(f"--dashboard {address}: the address is in use; choose another")
    process = subprocess.Popen(
        _command(settings, config, address, log_format),
        stdin=subprocess.PIPE,  # open as long as this process lives
        env={name: value for name, value in os.environ.items() if name not in _LEFT_OUT},
    )
    try:
        ends = time.monotonic() + _STARTS
        while process.poll() is None and time.monotonic() < ends and not _answers(host, port):
            time.sleep(_LOOK)
        if process.poll() is not None:
            raise ConfigError(f"--dashboard {address}: it did not start; the line above says why")
        yield
    finally:
        process.terminate()
        try:
            process.wait(_ENDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _command(
    settings: AgentSettings, config: Path | None, address: str, log_format: str
) -> list[str]:
    command = [sys.executable, "-m", "hvsa_cvat", "dashboard", UNTIL_STDIN_CLOSES]
    command += ["--listen", address, "--log-format", log_format]
    command += ["--server", settings.address.url, "--workspace", str(settings.workspace)]
    if settings.address.organization:
        command += ["--organization", settings.address.organization]
    return command if config is None else [*command, "--config", str(config)]


def _answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        with socket.create_connection((own, port), 1):
            return True
    except OSError:
        return False
