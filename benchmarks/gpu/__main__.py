"""Measure everything that is measured on a GPU, and write DIR/gpu.json.

python -m benchmarks.gpu --out DIR
python -m benchmarks.gpu --out DIR --seconds 300
python -m benchmarks.gpu --out DIR --only raft,paper
python -m benchmarks.gpu --out DIR --smoke --device cpu
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import torch

from benchmarks.gpu.ledger import Figures, Ledger, Skipped, Work, run_all
from benchmarks.gpu.rounds import Scene, Setting, raft
from benchmarks.gpu.step import apart, compare
from benchmarks.gpu.trace import profiled
from benchmarks.parts import probe
from hvsa_cvat.segmentation.device import choose_device

SMALL = Setting("hrnet_w48", 300, (240, 320), 15, 14, 16, 60, 10)
LARGE = Setting("hrnet_w48", 200, (600, 800), 15, 2, 40, 60, 4)
SMOKE = Setting("hrnet_w18_small", 6, (32, 64), 1, 3, 16, 4, 2)

_TESTS_AT_MOST = 120.0
_COMPILES_AT_MOST = 150.0


def machine(device: torch.device) -> Figures:
    """What the figures were made on."""
    found: Figures = {
        "device": str(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "probe": probe(device),
    }
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        found |= {
            "card": torch.cuda.get_device_name(device),
            "memory": whole,
            "free": free,
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"
    return found.stdout.strip()


def device_tests(seconds: float) -> Figures:
    """`pytest -m gpu`, in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rA", "--tb=short", "-n", "0"]
    # warnings of other versions of the libraries are no failure of ours
    command += ["-W", "default", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    at = Path(__file__).parents[2]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=at)
    except subprocess.TimeoutExpired:
        raise Skipped(f"not ready after {seconds:.0f} s") from None
    lines = run.stdout.splitlines()
    if run.returncode:
        click.echo("\n".join([*lines[-60:], run.stderr[-2000:]]))
        raise RuntimeError(f"exit code {run.returncode}: {lines[-1] if lines else 'no word'}")
    return {"outcome": lines[-1], "tests": "; ".join(lines[-12:-1])}


def peak_memory(device: torch.device) -> Callable[[], Callable[[], Figures]]:
    """Around each part: the most that PyTorch's tensors took on the GPU."""

    def around() -> Callable[[], Figures]:
        if device.type != "cuda":
            return dict
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: {"peak bytes": torch.cuda.max_memory_allocated(device)}

    return around


def works(smoke: bool, device: torch.device, work: Path, ledger: Ledger) -> list[Work]:
    """In order of value. The profile and the graphs take seconds, so they come before the larger
    size, which takes minutes."""
    at, large = (SMOKE, SMOKE) if smoke else (SMALL, LARGE)
    scene = Scene(at, device, work, lambda: ledger.left)
    wide = Scene(large, device, work, lambda: ledger.left)
    flowing = replace(SMOKE, frames=2) if smoke else SMALL
    steps = 1 if smoke else 10

    def compiles(variant: str) -> Callable[[], Figures]:
        return lambda: apart(variant, at, device, min(ledger.left - 5, _COMPILES_AT_MOST))

    planned = [
        Work("tests", 60, lambda: device_tests(min(ledger.left, _TESTS_AT_MOST))),
        Work("raft-large", 20, lambda: raft("large", flowing, device, work)),
        Work("raft-small", 15, lambda: raft("small", flowing, device, work)),
        Work("paper-320", 35, scene.paper),
        Work("hvsa-320", 45, scene.hvsa),
        Work("plain-320", 50, scene.plain),
        Work("profile", 15, lambda: profiled(scene, device, work)),
        Work("graphs", 20, lambda: compare(at, device, steps)),
        Work("paper-800", 60, wide.paper),
        Work("plain-800", 60, wide.plain),
        Work("hvsa-800", 150, wide.hvsa),
        Work("compile", 60, compiles("compile")),
        Work("compile-graph", 60, compiles("compile and graph")),
    ]
    if not smoke:
        return planned
    # the larger size and the larger flow are the same code
    same = ("raft-large", "paper-800", "plain-800", "hvsa-800")
    return [Work(one.name, 0, one.run) for one in planned if one.name not in same]


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of gpu.json.")
@click.option("--smoke", is_flag=True, help="Tiny sizes, for a test on a CPU.")
@click.option("--seconds", default=450.0, show_default=True, help="For everything together.")
@click.option("--only", default="", help="Parts whose names begin so, comma separated.")
@click.option("--device", default="auto", type=click.Choice(["auto", "cuda", "cpu"]))
def main(out: Path, smoke: bool, seconds: float, only: str, device: str) -> None:
    """Measure on a GPU: tests, flow, rounds, profile, graphs, compiling."""
    where = choose_device(device)
    out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(out / "gpu.json", seconds)
    ledger.write("machine", machine(where))
    for key, value in ledger.content["machine"].items():
        click.echo(f"{key}: {value}")
    names = tuple(name for name in only.split(",") if name)
    with tempfile.TemporaryDirectory() as work:
        planned = works(smoke, where, Path(work), ledger)
        chosen = [one for one in planned if not names or one.name.startswith(names)]
        if not chosen:
            known = ", ".join(one.name for one in planned)
            raise click.UsageError(f"--only {only!r}: no part begins so; there are {known}")
        run_all(chosen, ledger, click.echo, peak_memory(where))
    click.echo(f"{ledger.seconds - ledger.left:.0f} s in all; figures in {ledger.path}")


if __name__ == "__main__":
    main()
