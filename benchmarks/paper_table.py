"""The paper's comparisons on one labelled video: every row and seed, then one table.

    python -m benchmarks.paper_table VIDEO --labels DIR --classes a,b,c --checkpoint FILE \\
        --size 192x256 --budget 2%,5%,10% --seeds 0,1,2 --out runs/table

Runs are resumed where they stand, so a stopped table goes on. Prints Markdown.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

ROWS = {
    "frames active, CE + TC": ("frame", "active", "paper"),
    "frames active, fine-tune only": ("frame", "active", "finetune-only"),
    "frames random, CE + TC": ("frame", "random", "paper"),
    "16-px rectangles active, CE + TC": ("rectangle:16", "active", "paper"),
    "16-px rectangles random, CE + TC": ("rectangle:16", "random", "paper"),
    "16-px rectangles active, fine-tune only": ("rectangle:16", "active", "finetune-only"),
    "30-px rectangles active, CE + TC": ("rectangle:30", "active", "paper"),
    "30-px rectangles random, CE + TC": ("rectangle:30", "random", "paper"),
    "superpixels active, CE + TC": ("superpixel:300", "active", "paper"),
    "frames active, paper-exact": ("frame", "active", "paper-exact"),
    "evenly spaced frames, hvsa": ("frame", "uniform", "hvsa"),
    "evenly spaced frames, label propagation": ("frame", "uniform", "label-propagation"),
    "frames active, label propagation": ("frame", "active", "label-propagation"),
}
"""Row -> granularity, strategy, method."""

PHASES = ("select", "request", "annotate", "finetune", "predict", "publish")


@click.command()
@click.argument("video")
@click.option("--labels", required=True)
@click.option("--classes", required=True)
@click.option("--checkpoint", required=True)
@click.option("--size", required=True)
@click.option("--budget", default="2%,5%,10%", show_default=True)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--rows", default="", help="Only rows whose name contains this.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--table-only", is_flag=True, help="Run nothing; make the table of what is there.")
def main(
    video: str,
    labels: str,
    classes: str,
    checkpoint: str,
    size: str,
    budget: str,
    seeds: str,
    rows: str,
    out: Path,
    table_only: bool,
) -> None:
    chosen = {name: row for name, row in ROWS.items() if rows in name}
    folders = {
        name: [out / f"{'-'.join(row).replace(':', '')}" / seed for seed in seeds.split(",")]
        for name, row in chosen.items()
    }
    if not table_only:
        # seed by seed, so that an unfinished table has every row
        for place, seed in enumerate(seeds.split(",")):
            for name, (granularity, strategy, method) in chosen.items():
                command = [sys.executable, "-m", "hvsa_cvat", "simulate", video]
                command += ["--labels", labels, "--classes", classes, "--checkpoint", checkpoint]
                command += ["--size", size, "--budget", budget, "--seed", seed]
                command += ["--granularity", granularity, "--strategy", strategy]
                command += ["--method", method, "--answers", "draw"]
                command += ["--out", str(folders[name][place])]
                click.echo(f"{name}, seed {seed}", err=True)
                subprocess.run(command, check=True)
    click.echo(table(folders))


def table(folders: dict[str, list[Path]]) -> str:
    """Markdown of the runs in `folders`, row -> one a seed; those without a round that has asked
    for something yet are left out."""
    runs = {
        name: [run for folder in places if (run := _read(folder))]
        for name, places in folders.items()
    }
    runs = {name: found for name, found in runs.items() if found}
    if not runs:
        return "Nothing has been measured yet."
    count = max(len(run["rounds"]) for found in runs.values() for run in found)
    lines = ["| | seeds |" + "".join(f" round {k} |" for k in range(count))]
    lines += ["| --- | ---: |" + " --- |" * count]
    for name, found in runs.items():
        cells = "".join(f" {_cell(found, k)} |" for k in range(count))
        lines.append(f"| {name} | {len(found)} |{cells}")
    lines += ["", "| seconds a round | " + " | ".join(PHASES) + " |"]
    lines += ["| --- |" + " ---: |" * len(PHASES)]
    for name, found in runs.items():
        lines.append(
            f"| {name} | "
            + " | ".join(
                _mean(found, lambda one, phase=phase: one["seconds"].get(phase, 0.0))
                for phase in PHASES
            )
            + " |"
        )
    return "\n".join(lines)


def _cell(found: list[dict[str, Any]], k: int) -> str:
    """% of clicks: mIoU (spread) / Boundary IoU / TC."""
    rounds = [run["rounds"][k] for run in found if len(run["rounds"]) > k]
    if not rounds:
        return ""

    def mean(key: str) -> float:
        return statistics.mean(100 * (one[key] or 0.0) for one in rounds)

    mious = [100 * one["miou"] for one in rounds]
    spread = f" ±{statistics.stdev(mious):.1f}" if len(mious) > 1 else ""
    clicks = statistics.mean(one["clicks_percent"] for one in rounds)
    return (
        f"{clicks:.1f} %: **{mean('miou'):.1f}**{spread} / {mean('boundary_iou'):.1f} / "
        f"{mean('temporal_consistency'):.1f}"
    )


def _mean(found: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> str:
    return f"{statistics.mean(value(one) for run in found for one in run['rounds'][1:]):.1f}"


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / "metrics.json"
    run: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rounds": []}
    return run if len(run["rounds"]) > 1 else None


if __name__ == "__main__":
    main()
