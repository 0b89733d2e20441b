"""`hvsa-agent networks`: which networks there are, and start networks of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hvsa_cvat.cli.console import OUT, say
from hvsa_cvat.cli.options import PATH, device_option, size_option
from hvsa_cvat.config import parse_size
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.files import check_writable

if TYPE_CHECKING:
    from rich.table import Table

    from hvsa_cvat.segmentation.network_facts import NetworkFacts

_SIZE = "192x256"


@click.group()
def networks() -> None:
    """The networks that can be trained, and checkpoints to start from that know no classes."""


@networks.command("list")
@click.argument("names", nargs=-1)
@click.option(
    "--time", "timed", is_flag=True, help="Also measure the seconds of a frame on this machine."
)
@size_option
@device_option
def list_networks(names: tuple[str, ...], timed: bool, size: str | None, device: str) -> None:
    """A table of the networks NAMES; without names, of those that are tested.

    Any model of timm that gives feature maps can be used, by its name there.

    \b
    Example:
      hvsa-agent networks list convnext_small vit_base_patch14_dinov2 --time
    """
    at = parse_size(size or _SIZE)

    from hvsa_cvat.segmentation.device import choose_device
    from hvsa_cvat.segmentation.network_facts import TESTED, network_facts, seconds_a_frame

    where = choose_device(device)
    table = _table(timed)
    for name in names or TESTED:
        seconds = [f"{seconds_a_frame(name, at, where):.3f}"] if timed else []
        table.add_row(*_cells(network_facts(name)), *seconds)
    OUT.print(table)
    say(
        "Licences are those of timm's weights, as timm states them. `hvsa-agent networks fetch "
        "NAME` brings weights."
    )


def _table(timed: bool) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("network", no_wrap=True)
    for column in ("million\nparameters", "feature\nchannels"):
        table.add_column(column, justify="right")
    table.add_column("licence")
    table.add_column("weights\non disk")
    if timed:
        table.add_column("seconds\na frame", justify="right")
    return table


def _cells(facts: NetworkFacts) -> list[str]:
    return [
        facts.name,
        f"{facts.parameters / 1e6:.1f}",
        str(facts.features),
        facts.licence or "not stated",
        "yes" if facts.on_disk else "no",
    ]


@networks.command()
@click.argument("name")
def fetch(name: str) -> None:
    """Put the ImageNet weights of NAME into the cache of the model hub.

    The cache folder (HF_HOME, else ~/.cache/huggingface) can be carried to a machine that reaches
    no hub.
    """
    from hvsa_cvat.segmentation.network_facts import fetch_weights

    fetch_weights(name)
    say(f"{name}: its weights are on this machine")


@networks.command()
@click.argument("name")
@click.option(
    "--weights",
    type=PATH,
    help="Weights of the backbone, .safetensors or .pth, by timm's names or those of the official "
    "HRNet. Default: ImageNet weights from the model hub or its cache.",
)
@size_option
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the head.",
)
@click.option("--out", required=True, type=PATH, help="The checkpoint to write, *.safetensors.")
def make(name: str, weights: Path | None, size: str | None, seed: int, out: Path) -> None:
    """Make a checkpoint of NAME that knows no classes, to start from without labels.

    \b
    Example:
      hvsa-agent networks make convnext_tiny --out start.safetensors
      hvsa-agent enroll 12 --checkpoint start.safetensors

    `enroll` and `simulate` do the same by --network NAME.
    """
    at = parse_size(size or _SIZE)
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {str(out)!r}: name a file that ends in .safetensors")

    from hvsa_cvat.segmentation.start import Backbone

    check_writable(out)
    Backbone(name, weights).write(out, at, seed)
    say(f"{out}: {name}, which knows no classes yet; give it as --checkpoint")
