"""`hvsa-agent pretrain`: train the network that round 1 starts from."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hvsa_cvat.class_lists import read_classes
from hvsa_cvat.cli.console import progress_bars, say
from hvsa_cvat.cli.frame_size import own_size
from hvsa_cvat.cli.options import PATH, classes_option, device_option, labels_option, size_option
from hvsa_cvat.config import NETWORKS, parse_size
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.files import check_writable
from hvsa_cvat.types import Image, LabelMap, LabelSet

if TYPE_CHECKING:
    from hvsa_cvat.segmentation.network import SegmentationNetwork

_CACHE_BYTES = 2**30
"""Decoded frames that are kept: decoding takes up to a quarter of the time of a training step."""


@click.command("pretrain")
@click.argument("frames_dir", type=PATH)
@labels_option
@classes_option
@click.option(
    "--network",
    default="hrnet_w18_small",
    show_default=True,
    help=f"{', '.join(NETWORKS)}, or a model of timm (`hvsa-agent networks list`).",
)
@size_option
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=120,
    show_default=True,
    help="Passes over all frames.",
)
@click.option(
    "--batch", type=click.IntRange(min=2), default=8, show_default=True, help="Frames per step."
)
@click.option(
    "--init",
    default="random",
    show_default=True,
    help="Where the weights start: random, imagenet (needs the model hub), or a checkpoint FILE.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of all random choices.",
)
@device_option
@click.option("--out", required=True, type=PATH, help="The checkpoint to write, *.safetensors.")
def pretrain_command(
    frames_dir: Path,
    labels_folder: Path,
    classes: str,
    network: str,
    size: str | None,
    epochs: int,
    batch: int,
    init: str,
    seed: int,
    device: str,
    out: Path,
) -> None:
    """Train the network that round 1 starts from, on labelled frames of any kind.

    \b
    Example:
      hvsa-agent pretrain frames/ --labels labels/ --classes road,car,sky \\
        --size 192x256 --out pretrained.safetensors
    """
    labels = read_classes(classes)
    asked = parse_size(size) if size else None
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {str(out)!r}: name a file that ends in .safetensors")

    from hvsa_cvat.segmentation import checkpoint, pretrain
    from hvsa_cvat.segmentation.backbones import check_network
    from hvsa_cvat.segmentation.device import choose_device
    from hvsa_cvat.simulation.datasets import check_labels, open_labels, tell_unseen
    from hvsa_cvat.video.frames import open_images

    chosen = choose_device(device)
    check_network(network)
    with progress_bars() as progress:
        frames = open_images(frames_dir, progress, say)
        if asked is None and len(set(frames.sizes)) > 1:
            raise ConfigError(
                f"the frames in {frames_dir} have several sizes; choose one by --size"
            )
        at = asked or own_size(frames.size)
        label_maps = open_labels(labels_folder, frames, labels, frames.sizes)
        tell_unseen(check_labels(label_maps, progress), labels, say)
        check_writable(out)
        net = _first_network(network, labels, init, seed)

        @lru_cache(maxsize=max(1, _CACHE_BYTES // max(4 * h * w for h, w in frames.sizes)))
        def read(frame: int) -> tuple[Image, LabelMap]:
            return frames[frame], label_maps[frame]

        run = pretrain.pretrain(
            net,
            read,
            len(frames),
            at,
            pretrain.pretraining(epochs, batch),
            seed=seed,
            device=chosen,
            progress=progress,
        )
        info = checkpoint.describe(net, labels.names, at, 0)
        checkpoint.save_checkpoint(net, info, out)
    say(
        f"{out}: {net.name}, {len(labels)} classes, {len(frames)} frames, "
        f"{epochs} epochs, mean loss of the last one {run.losses[-1]:.3f}"
    )


def _first_network(network: str, labels: LabelSet, init: str, seed: int) -> SegmentationNetwork:
    from hvsa_cvat.segmentation.checkpoint import (
        load_checkpoint,
        new_network,
    )
    from hvsa_cvat.segmentation.official import is_official, load_official
    from hvsa_cvat.segmentation.weights import load_imagenet_backbone

    if init in ("random", "imagenet"):
        net = new_network(network, len(labels), seed=seed)
        if init == "imagenet":
            load_imagenet_backbone(net)
        return net
    path = Path(init).expanduser()
    if is_official(path):
        net, line = load_official(path, len(labels), seed=seed)
    else:
        net, line = load_checkpoint(path, labels, seed=seed)
    say(line)
    return net
