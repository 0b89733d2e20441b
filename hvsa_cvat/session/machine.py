"""What this machine has left for a run: memory, disk, and memory of its GPU."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hvsa_cvat.segmentation.device import resident_bytes


@dataclass(frozen=True)
class Machine:
    """What a machine has left, in bytes."""

    host: int
    disk: int
    """In the run's folder, with what lies there already."""
    device: int | None = None
    """None: the network runs in the host's memory."""
    resident: int = 0
    """The largest video, in bytes, that is kept on the device during training."""
    folder: Path = Path()
    """Where the disk was looked at."""


def this_machine(folder: Path, device: torch.device) -> Machine:
    """What is left here for a run in `folder`, which need not exist yet."""
    return Machine(
        host=free_memory(),
        disk=_free_disk(folder),
        device=torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None,
        resident=resident_bytes(device),
        folder=folder,
    )


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may have, with what it has: what the system has available, or what
    the limits of its control groups leave, as containers have them. `root` is `/`."""
    own = _field(root / "proc/self/status", "RssAnon:", 1024) or 0
    available = _field(root / "proc/meminfo", "MemAvailable:", 1024)
    if available is None:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = own + available
    for group, limit_file, used_name in _control_groups(root):
        try:
            limit = int((group / limit_file).read_text())
        except (OSError, ValueError):  # none, or `max`
            continue
        # pages of files can be dropped, so they do not count
        used = _field(group / "memory.stat", used_name, 1) or 0
        free = min(free, limit - max(0, used - own))
    return max(free, 0)


def _control_groups(root: Path) -> Iterator[tuple[Path, str, str]]:
    """The groups that this process is in, each with the file of its limit and what `memory.stat`
    calls anonymous memory: version 2, and version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    of_version_2 = (root / "sys/fs/cgroup", "memory.max", "anon")
    of_version_1 = (root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "total_rss")
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            base, limit, used = of_version_2 if number == "0" else of_version_1
            inner = base / path.strip("/")
            # a limit above holds too; where a container sees only its own, that is at the base
            for group in (inner, *inner.parents):
                yield group, limit, used
                if group == base:
                    break


def _field(path: Path, name: str, unit: int) -> int | None:
    """A number that follows `name` in a file of the kernel, times `unit`."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
        return next((int(line[1]) * unit for line in lines if line[:1] == [name]), None)
    except (OSError, ValueError, IndexError):
        return None


def _free_disk(folder: Path) -> int:
    there = next(one for one in (folder, *folder.resolve().parents) if one.exists())
    kept = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
    return shutil.disk_usage(there).free + kept
