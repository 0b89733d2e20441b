"""Where the output goes: terminals that know no letters beyond ASCII, and devices without room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.standin import StandIn

FULL = Path("/dev/full")
CLASSES = ("küche", "箱", "“ball”")
PLAIN = {"PYTHONIOENCODING": "ascii"}
OLD = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""What cron, minimal containers and old machines give a program."""

needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


@pytest.fixture
def server() -> Iterator[StandIn]:
    """With a task whose name and labels are not ASCII."""
    with StandIn() as cvat:
        frames = [tiny.COLOURS[tiny.truth(t)] for t in range(4)]
        cvat.add_task("kitchen – 台所", list(CLASSES), frames=frames)
        yield cvat


def run(
    *args: object,
    setting: dict[str, str] | None = None,
    server: StandIn | None = None,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> subprocess.CompletedProcess[bytes]:
    where = {}
    if server is not None:
        where = {"CVAT_HOST": server.url, "CVAT_ACCESS_TOKEN": server.admin.token}
    command = [sys.executable, "-m", "hvsa_cvat", *map(str, args)]
    env = {**os.environ, **where, **(setting or {})}
    return subprocess.run(command, env=env, stdout=stdout, stderr=stderr, timeout=200)


def simulate(clip: tiny.Clip, checkpoint: Path, out: Path) -> tuple[object, ...]:
    classes = out.parent / "classes.txt"
    classes.write_text("\n".join(CLASSES), encoding="utf-8")
    return (
        *("simulate", clip.images, "--labels", clip.labels, "--classes", classes),
        *("--checkpoint", checkpoint, "--method", "label-propagation", "--budget", "30%"),
        *("--rounds", 1, "--device", "cpu", "--out", out),
    )


@pytest.mark.parametrize("setting", [OLD, pytest.param(PLAIN, marks=pytest.mark.slow)])
def test_ascii_is_enough_for_what_others_named(
    setting: dict[str, str], checkpoint: Path, server: StandIn, tmp_path: Path
) -> None:
    enroll = ("enroll", 1, "--checkpoint", checkpoint, "--new-classes", "--device", "cpu")
    place = ("--workspace", tmp_path / "workspace")
    for command in ((*enroll, *place), ("status", *place)):
        ended = run(*command, setting=setting, server=server)
        assert ended.returncode == 0, ended.stderr.decode()
        assert (ended.stdout + ended.stderr).isascii()
    assert rb"\u53f0" in ended.stdout


@pytest.mark.parametrize("setting", [OLD])
def test_ascii_is_enough_for_a_run_and_its_report(
    setting: dict[str, str], clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    for command in (("--help",), simulate(clip, checkpoint, tmp_path / "run")):
        ended = run(*command, setting=setting)
        assert ended.returncode == 0, ended.stderr.decode()
        assert (ended.stdout + ended.stderr).isascii()
    assert "küche" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("setting", [OLD])
def test_arguments_beyond_ascii_are_understood(
    setting: dict[str, str], clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    """Names of folders and of classes."""
    images = Path(shutil.copytree(clip.images, tmp_path / "küche" / "bilder"))
    out = tmp_path / "küche" / "箱"
    ended = run(
        *("simulate", images, "--labels", clip.labels, "--classes", ",".join(CLASSES)),
        *("--checkpoint", checkpoint, "--method", "label-propagation", "--budget", "30%"),
        *("--rounds", 1, "--device", "cpu", "--out", out),
        setting=setting,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    assert (ended.stdout + ended.stderr).isascii()
    assert "küche" in (out / "report.html").read_text(encoding="utf-8")
    unknown = run("küche", setting=setting)
    assert unknown.returncode == 2
    assert unknown.stderr.decode().splitlines()[-1] == "Error: No such command 'küche'."


@needs_full
@pytest.mark.parametrize(
    "command",
    [
        ("--help",),
        pytest.param(("status",), marks=pytest.mark.slow),
        pytest.param(("doctor",), marks=pytest.mark.slow),
    ],
)
def test_a_full_device_is_one_line(
    command: tuple[str, ...], server: StandIn, tmp_path: Path
) -> None:
    place = ("--workspace", tmp_path / "workspace") if command[0] in ("status", "doctor") else ()
    with FULL.open("wb") as full:
        ended = run(*command, *place, server=server, stdout=full.fileno())
    (line,) = ended.stderr.decode().splitlines()
    assert line == "Error: cannot write: No space left on device; free space and try again"
    assert ended.returncode == 1


@needs_full
def test_a_full_device_ends_a_run_in_one_line(
    clip: tiny.Clip, checkpoint: Path, tmp_path: Path
) -> None:
    with FULL.open("wb") as full:
        ended = run(*simulate(clip, checkpoint, tmp_path / "run"), stdout=full.fileno())
        silent = run("nonsense", stdout=full.fileno(), stderr=full.fileno())
    assert ended.stderr.decode().splitlines()[-1].startswith("Error: cannot write: No space left")
    assert b"Traceback" not in ended.stderr
    assert ended.returncode == 1
    assert silent.returncode != 0
