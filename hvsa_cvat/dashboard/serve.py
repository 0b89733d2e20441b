"""The socket at which the pages are served."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from hvsa_cvat.agent.settings import DASHBOARD_TOKEN
from hvsa_cvat.dashboard.access import is_loopback
from hvsa_cvat.errors import ConfigError

_SHORTEST_TOKEN = 16
_CONNECTIONS = 128
"""At once; more are told to come again."""


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`; the host may be an IPv6 address in brackets."""
    name, _, port = text.rpartition(":")
    if not name or not port.isdecimal() or not 0 <= int(port) < 65536:
        raise ConfigError(f"--listen {text!r}: write HOST:PORT, for example 127.0.0.1:8088")
    return name.strip("[]"), int(port)


def parse_prefix(text: str) -> str:
    """`hvsa`, `/hvsa` and `/hvsa/` are the same path below which the pages are."""
    path = text.strip("/")
    safe = all(part and part.isascii() and _is_plain(part) for part in path.split("/"))
    if path and not safe:
        raise ConfigError(
            f"--subpath {text!r}: letters, digits, and - _ . ~ between slashes, for example /hvsa"
        )
    return f"/{path}" if path else ""


def _is_plain(part: str) -> bool:
    return part not in (".", "..") and all(c.isalnum() or c in "-_.~" for c in part)


def check_token(host: str, token: str | None) -> None:
    """`ConfigError` where others could reach the pages without a token, or guess it."""
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"--listen {host}: others can reach that address, so a token is needed; set "
            f"{DASHBOARD_TOKEN}, for example to what `openssl rand -hex 32` prints"
        )
    if token is not None and len(token) < _SHORTEST_TOKEN:
        raise ConfigError(
            f"{DASHBOARD_TOKEN} has {len(token)} characters; take at least {_SHORTEST_TOKEN}, for "
            "example what `openssl rand -hex 32` prints"
        )


def serve(app: ASGIApp, address: tuple[str, int], ready: Callable[[str], None]) -> None:
    """Serve until Ctrl+C or SIGTERM. `ready` hears the address of the pages once they can be
    reached."""
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"--listen {host}:{port}: {reason}; choose another") from error
    with listening:
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listening.getsockname()[1]}")
        http_server(app).run(sockets=[listening])


def http_server(app: ASGIApp) -> uvicorn.Server:
    """Serves the pages over sockets that are listening already."""
    config = uvicorn.Config(
        app,
        ws="none",
        lifespan="off",
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=2**15,
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    return uvicorn.Server(config)
