"""`hvsa-agent demo`: the loop on the clip that comes with the package."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import click

from hvsa_cvat.class_lists import read_classes
from hvsa_cvat.cli.experiment import Clip, RunOptions, run, run_options
from hvsa_cvat.cli.options import PATH
from hvsa_cvat.config import StartOptions


@click.command()
@run_options
@click.option(
    "--out",
    default=Path("runs/demo"),
    show_default=True,
    type=PATH,
    help="Folder of the run. A run that is there goes on.",
)
def demo(out: Path, **options: Any) -> None:
    """Run the loop on the clip that comes with the package, on any machine, in a few minutes.

    \b
    Example:
      hvsa-agent demo --out runs/demo
    """
    with as_file(files("hvsa_cvat") / "data" / "demo") as folder:
        labels = read_classes(str(folder / "classes.txt"))
        start = StartOptions(checkpoint=folder / "pretrained.safetensors")
        clip = Clip(folder / "images", folder / "labels", labels, start)
        run(clip, RunOptions(**options), out)
