"""Files of sessions in a folder of the machine that computes, where they are kept in a bucket."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

from hvsa_cvat.agent.compute import Order
from hvsa_cvat.database import Place

CACHE = "HVSA_CACHE"
"""The variable that names the folder. Without it a machine has its cache where the agent's
workspace is."""


def in_cache(order: Order[Any], cache: Path) -> Order[Any]:
    """The order with its paths below `cache`. What has no place in a bucket and in PostgreSQL, or
    none at all, stays as it is: its files are nowhere else."""
    place = getattr(order, "place", None)
    if not is_dataclass(order) or not isinstance(place, Place):
        return order
    if place.artefacts is None or place.database is None:
        return order
    here = replace(place, folder=cache / place.name)
    changes: dict[str, Any] = {"place": here}
    checkpoint = getattr(order, "checkpoint", None)
    if isinstance(checkpoint, Path) and checkpoint.is_relative_to(place.folder):
        changes["checkpoint"] = here.folder / checkpoint.relative_to(place.folder)
    if hasattr(order, "disk"):
        changes["disk"] = cache
    moved: Any = replace(order, **changes)
    return moved
