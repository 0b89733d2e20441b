"""What the start is worth: a small network from random weights against one with ImageNet weights.

    python -m benchmarks.backbones clips.toml --size 96x128 --out runs/backbones

`clips.toml` is that of `benchmarks/ablation.py`. Every start but the last knows no classes; the
last is the clip's own checkpoint. `hvsa` asks for 16-pixel rectangles, and in the last round for
whole frames. Runs are resumed where they stand, so a stopped table goes on. Prints Markdown.
"""

from __future__ import annotations

import re
import time
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import click
import safetensors.torch

from benchmarks.ablation import Clip
from benchmarks.imagenet import NETWORK, imagenet_weights
from benchmarks.paper_table import table
from hvsa_cvat.config import Freeze, parse_size
from hvsa_cvat.files import atomic_write
from hvsa_cvat.segmentation.checkpoint import describe, new_network, save_checkpoint
from hvsa_cvat.segmentation.start import Backbone
from hvsa_cvat.simulation.experiment import Experiment, run_experiment
from hvsa_cvat.types import Size

_ASKING = "`hvsa` with 16-px rectangles, at last frames"
"""The row of `benchmarks.ablation` that says how people are asked."""


@dataclass(frozen=True)
class Start:
    """What a run starts from; without a network it is the clip's checkpoint."""

    network: str | None = None
    imagenet: bool = False
    freeze: Freeze = "nothing"


STARTS = {
    "W18-small, random weights": Start("hrnet_w18_small"),
    "EfficientNet-Lite2, ImageNet": Start(NETWORK, imagenet=True),
    "EfficientNet-Lite2, ImageNet, frozen": Start(NETWORK, imagenet=True, freeze="backbone"),
    "W18-small, taught by other frames": Start(),
}


def checkpoint(start: Start, clip: Clip, size: Size, folder: Path) -> Path:
    """The checkpoint of a start, in `folder` if it has to be made."""
    if start.network is None:
        return clip.checkpoint
    kind = "imagenet" if start.imagenet else "random"
    made = folder / f"{start.network}-{kind}.safetensors"
    if made.exists():
        return made
    if start.imagenet:
        weights = folder / "weights.safetensors"
        with atomic_write(weights) as path:
            safetensors.torch.save_file(imagenet_weights(), path)
        Backbone(start.network, weights).write(made, size)
    else:
        network = new_network(start.network, 1)
        save_checkpoint(network, describe(network, (), size, 0), made)
    return made


def experiment(
    start: Start, clip: Clip, budget: str, seed: int, size: Size, folder: Path
) -> Experiment:
    asked = clip.experiment(_ASKING, budget, seed)
    config = asked.inputs.config.model_copy(update={"size": size, "freeze": start.freeze})
    made = checkpoint(start, clip, size, folder)
    return replace(asked, inputs=replace(asked.inputs, config=config, checkpoint=made))


@click.command()
@click.argument("clips", type=click.Path(path_type=Path, exists=True))
@click.option("--budget", default="1%,2%,4%,10%", show_default=True)
@click.option("--seeds", default="0", show_default=True)
@click.option("--size", help="Default: that of each clip.")
@click.option("--only", default="", help="Clips to run, comma separated; default: all.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--table-only", is_flag=True, help="Run nothing; make the table of what is there.")
def main(
    clips: Path, budget: str, seeds: str, size: str | None, only: str, out: Path, table_only: bool
) -> None:
    found = {
        name: Clip.model_validate({k: v for k, v in one.items() if k != "group"})
        for name, one in tomllib.loads(clips.read_text()).items()
        if not only or name in only.split(",")
    }
    numbers = [int(seed) for seed in seeds.split(",")]
    # seed by seed and start by start, so that an unfinished table compares what it has
    for seed in [] if table_only else numbers:
        for name, clip in found.items():
            for row, start in STARTS.items():
                click.echo(f"{name}, {row}, seed {seed}", err=True)
                at = parse_size(size or clip.size)
                run_experiment(
                    experiment(start, clip, budget, seed, at, out / "starts"),
                    _folder(out, name, row, seed),
                    clock=time.perf_counter,
                    progress=lambda what, done, total: None,
                    tell=lambda one: click.echo(f"  mIoU {100 * (one.miou or 0):.1f}", err=True),
                )
    for name in found:
        folders = {row: [_folder(out, name, row, seed) for seed in numbers] for row in STARTS}
        click.echo(f"### {name}\n\n{table(folders)}\n")


def _folder(out: Path, clip: str, row: str, seed: int) -> Path:
    return out / clip / re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-") / str(seed)


if __name__ == "__main__":
    main()
