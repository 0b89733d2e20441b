"""What the pages of a lead take under load.

    python -m benchmarks.dashboard --tasks 200 --frames 3000 --rate 50 --seconds 60

Makes a workspace of many tasks of many frames: two rounds of one small task, whose files all others
share, with frames of 320x180 and masks of 1280x720. Starts `hvsa-agent dashboard` on it and sends
requests at a fixed rate, whether those before are answered or not. Prints Markdown.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.request import urlopen

import click
import cv2
import numpy as np

from hvsa_cvat.agent.looking import look_into
from hvsa_cvat.agent.workspace import enrollment_place
from hvsa_cvat.cvat.keys import server_key
from tests import tiny
from tests.lead import DONE, Filled, fill_workspace
from tests.team import LENGTH

_FRAME, _MASK = (180, 320), (720, 1280)
_THREADS = 64

_KINDS = {
    "list of tasks": (20, lambda task, frame: "/"),
    "page of a task": (30, lambda task, frame: f"/tasks/{task}"),
    "page of a frame": (20, lambda task, frame: f"/tasks/{task}/frames/{frame}"),
    "masks of a frame": (15, lambda task, frame: f"/tasks/{task}/pictures/2/{frame}/masks"),
    "small picture": (15, lambda task, frame: f"/tasks/{task}/pictures/2/{frame}/small"),
}
"""Weight and address of each kind of request."""


@click.command()
@click.option("--tasks", default=200, show_default=True)
@click.option("--frames", default=3000, show_default=True, help="Of each task.")
@click.option("--rate", default=50.0, show_default=True, help="Requests a second.")
@click.option("--seconds", default=60.0, show_default=True)
def main(tasks: int, frames: int, rate: float, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        filled = _workspace(Path(scratch), tasks, frames)
        with _served(filled) as (address, process):
            first = _seconds_of(f"{address}/")
            while 'http-equiv="refresh"' in _get(f"{address}/"):
                time.sleep(0.2)
            again = statistics.median(_seconds_of(f"{address}/") for _ in range(5))
            click.echo(f"{tasks} tasks of {frames} frames: the list takes {1000 * again:.0f} ms,")
            click.echo(f"the very first one {1000 * first:.0f} ms.\n")
            _load(address, tasks, frames, rate, seconds)
            click.echo(f"\nMemory of the dashboard, at most: {_most_memory(process):.0f} MiB")


def _workspace(root: Path, tasks: int, frames: int) -> Filled:
    filled = fill_workspace(root, tiny.write_checkpoint(root / "start.safetensors"))
    server = server_key(filled.url)
    (base,) = (
        one for one in look_into(filled.workspace, server, 0).enrollments if one.task == DONE
    )
    folder = enrollment_place(filled.workspace, server, base).folder
    _lengthen(folder, frames)
    database = filled.workspace / "workspace.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM tasks WHERE task != ?", (DONE,))
        rows = connection.execute("SELECT * FROM tasks")
        names = [column[0] for column in rows.description]
        row = dict(zip(names, rows.fetchone(), strict=True))
        marks = ", ".join("?" * len(names))
        for task in range(1, tasks + 1):
            if task != DONE:
                row["task"] = task
                connection.execute(f"INSERT INTO tasks VALUES ({marks})", list(row.values()))
    for one in look_into(filled.workspace, server, 0).enrollments:
        if one.task != DONE:
            _share(folder, enrollment_place(filled.workspace, server, one).folder)
    return filled


def _lengthen(folder: Path, frames: int) -> None:
    """Show the few frames of a task again and again, at a usual size."""
    small = np.load(folder / "frames.npy")
    shown = np.stack([cv2.resize(one, _FRAME[::-1]) for one in small])
    long = np.lib.format.open_memmap(
        folder / "frames.npy", "w+", np.uint8, (frames, *shown.shape[1:])
    )
    for frame in range(frames):
        long[frame] = shown[frame % LENGTH]
    long.flush()
    with closing(sqlite3.connect(folder / "cvat" / "cvat.db")) as connection, connection:
        connection.execute("DELETE FROM frames_in_use")
        connection.executemany(
            "INSERT INTO frames_in_use VALUES (?)", [(number,) for number in range(frames)]
        )
    for pictures in (folder / "rounds").glob("*/*/"):
        files = sorted(pictures.glob("frame_*.png"))
        for file in files:
            large = cv2.resize(
                cv2.imread(str(file), cv2.IMREAD_UNCHANGED),
                _MASK[::-1],
                interpolation=cv2.INTER_NEAREST_EXACT,
            )
            cv2.imwrite(str(file), large)
        for frame in range(LENGTH, frames if files else 0):
            os.link(files[frame % LENGTH], pictures / f"frame_{frame:06d}.png")


def _share(base: Path, folder: Path) -> None:
    """A task of its own databases, whose other files are those of another."""
    (folder / "cvat").mkdir(parents=True)
    for name in ("session.db", "cvat/cvat.db"):
        shutil.copy(base / name, folder / name)
    for name in ("frames.npy", "rounds"):
        (folder / name).symlink_to(base / name)


@contextmanager
def _served(filled: Filled) -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "hvsa_cvat", "dashboard", "--listen", place]
    process = subprocess.Popen(
        command, env={**os.environ, **filled.environment()}, stdout=subprocess.DEVNULL
    )
    try:
        while process.poll() is None:
            try:
                _get(f"http://{place}/health")
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://{place}", process.pid
    finally:
        process.terminate()
        process.wait()


def _get(address: str) -> str:
    with urlopen(address, timeout=60) as answer:
        return str(answer.read().decode("utf-8", "replace"))


def _seconds_of(address: str) -> float:
    begun = time.perf_counter()
    _get(address)
    return time.perf_counter() - begun


def _load(address: str, tasks: int, frames: int, rate: float, seconds: float) -> None:
    rng = random.Random(0)
    names, weights = list(_KINDS), [weight for weight, _ in _KINDS.values()]
    begun = time.perf_counter()

    def send(number: int, name: str, path: str) -> tuple[str, float | None]:
        due = begun + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        try:
            _get(address + path)
        except OSError:
            return name, None
        return name, time.perf_counter() - due

    with ThreadPoolExecutor(_THREADS) as pool:
        asked = []
        for number in range(int(rate * seconds)):
            (name,) = rng.choices(names, weights)
            path = _KINDS[name][1](rng.randint(1, tasks), rng.randrange(frames))
            asked.append(pool.submit(send, number, name, path))
        found = [one.result() for one in asked]
    took = time.perf_counter() - begun
    click.echo("| request | number | median, ms | p95, ms | failed |\n|---|---:|---:|---:|---:|")
    for name in (*names, "all"):
        mine = [seconds for one, seconds in found if name in ("all", one)]
        good = [1000 * seconds for seconds in mine if seconds is not None]
        if good:
            median, p95 = np.percentile(good, (50, 95))
            failed = len(mine) - len(good)
            click.echo(f"| {name} | {len(mine)} | {median:.0f} | {p95:.0f} | {failed} |")
    click.echo(f"\n{len(found) / took:.1f} requests a second were answered.")


def _most_memory(process: int) -> float:
    """MiB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    main()
