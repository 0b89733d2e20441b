"""What Ray reads from the environment when it is imported."""

from __future__ import annotations

import os
from pathlib import Path

_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_TOKEN_FILE = "~/.ray/auth_token"


def prepare_ray(address: str) -> None:
    """Say to Ray, before it is imported, what it does not do by itself, unless people have said so.

    It sends the token that this machine has to a cluster that is named by an address, too. It
    writes nothing between the lines of our log, which says itself what becomes of workers. It tells
    its makers nothing.
    """
    known = any(os.environ.get(name) for name in _TOKENS) or Path(_TOKEN_FILE).expanduser().exists()
    if known and address not in ("local", "auto"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
