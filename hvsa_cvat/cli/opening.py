"""Opens what a command works with: settings, client, workspace, agent."""

from __future__ import annotations

import getpass
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hvsa_cvat.cli.console import warn
from hvsa_cvat.cli.log_lines import LogLines, warnings_to
from hvsa_cvat.errors import ConfigError

if TYPE_CHECKING:
    from hvsa_cvat.agent.compute import Compute
    from hvsa_cvat.agent.context import AgentContext
    from hvsa_cvat.agent.monitor import Monitor
    from hvsa_cvat.agent.settings import AgentSettings, LocalSettings
    from hvsa_cvat.agent.watch import Watch
    from hvsa_cvat.agent.workspace import Workspace
    from hvsa_cvat.cvat.http.client import CvatClient


def open_settings(options: dict[str, Any]) -> AgentSettings:
    """The settings; takes the options of `settings_options` out of `options`."""
    from hvsa_cvat.agent.settings import load_settings

    return load_settings(options.pop("config_file"), **_given(options))


def open_local_settings(options: dict[str, Any]) -> LocalSettings:
    """The same for commands that ask nothing of the server, and so need no login."""
    from hvsa_cvat.agent.settings import load_local_settings

    return load_local_settings(options.pop("config_file"), **_given(options))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options.pop(name) for name in ("server", "organization", "workspace")}


@contextmanager
def open_client(
    settings: AgentSettings,
    log: Callable[[str], None] = warn,
    watch: Watch | None = None,
    monitor: Monitor | None = None,
) -> Iterator[CvatClient]:
    """The connection to the server, which is closed afterwards. Once `watch` is stopped, nothing
    waits for the server any longer. `monitor` counts the requests."""
    from hvsa_cvat.cvat.http.client import CvatClient

    with CvatClient(
        settings.address,
        settings.credentials,
        sleep=time.sleep if watch is None else watch.sleep,
        rng=random.Random(),
        log=log,
        stopping=lambda: watch is not None and watch.stopped,
        count=_ignore if monitor is None else monitor.request,
    ) as client:
        yield client


def _ignore(outcome: object) -> None:
    pass


def open_workspace(settings: LocalSettings) -> Workspace:
    """The workspace, for an agent whose name no other has."""
    from hvsa_cvat.agent.workspace import Workspace
    from hvsa_cvat.cvat.keys import server_key

    owner = f"{_user()}@{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    return Workspace(settings.place, server_key(settings.address.url), owner, time.time)


def open_present_workspace(settings: LocalSettings) -> Workspace:
    """The workspace, for commands that have nothing to do in a new one: it makes none."""
    from hvsa_cvat.agent.looking import is_workspace

    if not is_workspace(settings.place):
        raise ConfigError(
            f"there is no workspace at {settings.workspace}; name it by --workspace, "
            "HVSA_WORKSPACE or hvsa.toml"
        )
    return open_workspace(settings)


def _user() -> str:
    """Who runs the command; a container may have no name for its user."""
    try:
        return getpass.getuser().replace(":", "_")
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


@contextmanager
def open_agent(
    settings: AgentSettings,
    *,
    lines: LogLines | None = None,
    beat: Callable[[], None] = lambda: None,
    watch: Watch | None = None,
    monitor: Monitor | None = None,
    compute: Compute | None = None,
) -> Iterator[AgentContext]:
    """An agent whose log goes to `lines`, or to stdout.

    `beat` is called at each line of the log and at each step of progress, which may come from
    several threads. Once `watch` is stopped, nothing waits for the server any longer. `monitor`
    counts requests and phases. Without `compute` the agent computes in this process.
    """
    from hvsa_cvat.agent.compute import InProcess
    from hvsa_cvat.agent.context import AgentContext

    lines = lines or LogLines()
    one_at_a_time = threading.RLock()

    def log(line: str) -> None:
        beat()
        with one_at_a_time:
            lines.info(line)

    def warn_of_server(line: str) -> None:
        beat()
        with one_at_a_time:
            lines.warning(line)

    def progress(step: str, done: int, total: int) -> None:
        beat()
        with one_at_a_time:
            show(step, done, total)

    client = open_client(settings, warn_of_server, watch, monitor)
    with warnings_to(warn_of_server), client as connected, lines.progress() as show:
        agent = AgentContext(
            settings,
            open_workspace(settings),
            connected,
            time.time,
            log,
            progress,
            compute or InProcess(),
        )
        yield agent if monitor is None else replace(agent, finished=monitor.phase)
