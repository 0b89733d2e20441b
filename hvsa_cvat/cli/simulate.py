"""`hvsa-agent simulate`: the whole loop with a simulated annotator, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from hvsa_cvat.class_lists import read_classes
from hvsa_cvat.cli.experiment import Clip, RunOptions, run, run_options
from hvsa_cvat.cli.options import PATH, classes_option, labels_option, size_option
from hvsa_cvat.config import Init, StartOptions, parse_size


@click.command()
@click.argument("video", type=PATH)
@labels_option
@classes_option
@click.option(
    "--checkpoint",
    type=PATH,
    help="The network of round 0: made by `hvsa-agent pretrain`, or an official HRNet .pth. "
    "Default: the small network of the package; on a GPU hrnet_w48 with ImageNet weights, where "
    "these are on this machine or the model hub answers.",
)
@click.option(
    "--init",
    type=click.Choice(get_args(Init)),
    help="In place of --checkpoint. imagenet: --network with the weights of --weights or of the "
    "model hub, and a new head. package: the small network of the package.",
)
@click.option(
    "--network",
    help="Network of --init imagenet, see `hvsa-agent networks list`. Default: hrnet_w18_small on "
    "a CPU, hrnet_w48 on a GPU.",
)
@click.option(
    "--weights",
    type=PATH,
    help="Weights of the backbone for --init imagenet, .safetensors or .pth. Default: the ImageNet "
    "weights of the model hub or its cache.",
)
@size_option
@click.option(
    "--align-corners/--no-align-corners",
    default=True,
    show_default=True,
    help="How an official .pth was trained. Other checkpoints say it themselves.",
)
@run_options
@click.option(
    "--out", required=True, type=PATH, help="Folder of the run. A run that is there goes on."
)
def simulate(
    video: Path,
    labels_folder: Path,
    classes: str,
    checkpoint: Path | None,
    init: Init | None,
    network: str | None,
    weights: Path | None,
    size: str | None,
    align_corners: bool,
    out: Path,
    **options: Any,
) -> None:
    """Run the whole loop on a labelled VIDEO (a file or a folder of frames), with a simulated
    annotator who draws polygons around the true labels.

    \b
    Example:
      hvsa-agent simulate frames/ --labels labels/ --classes road,car,sky \\
        --checkpoint pretrained.safetensors --granularity rectangle:16 \\
        --budget 2%,5%,10% --size 192x256 --out runs/first
    """
    own = parse_size(size) if size else None
    labels = read_classes(classes)
    start = StartOptions(checkpoint, init, network, weights)
    clip = Clip(video, labels_folder, labels, start, own, align_corners)
    run(clip, RunOptions(**options), out)
