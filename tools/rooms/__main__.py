"""`python -m tools.rooms`: write clips of furnished rooms with dense truth."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.types import Size
from tools.rooms.generate import Request, write
from tools.rooms.render import connect
from tools.rooms.style import STYLES


def _size(text: str) -> Size:
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise ConfigError(f"--size {text!r} is not HEIGHTxWIDTH; write for example 240x320")
    size = int(height), int(width)
    if min(size) < 16 or max(size) > 2048:
        raise ConfigError(f"--size {text!r} must lie between 16 and 2048 pixels a side")
    return size


def _report(step: str, done: int, total: int) -> None:
    click.echo(f"\r{step} {done}/{total}", nl=done == total, err=True)


@click.command()
@click.option(
    "--distribution",
    type=click.Choice(sorted(STYLES)),
    required=True,
    help="pretrain: many plain rooms; test: other looks, light and sensor.",
)
@click.option("--clips", type=click.IntRange(1), help="Number of clips, each a room of its own.")
@click.option(
    "--frames", type=click.IntRange(1), default=60, show_default=True, help="Frames a clip."
)
@click.option("--views", type=click.IntRange(1), help="Single views instead of clips.")
@click.option("--size", default="240x320", show_default=True, help="HEIGHTxWIDTH in pixels.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="The same seed gives the same bytes.",
)
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["png", "jpg"]),
    default="png",
    show_default=True,
    help="Of the images; label maps are PNG.",
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write to; new or empty.",
)
def main(
    distribution: str,
    clips: int | None,
    frames: int,
    views: int | None,
    size: str,
    seed: int,
    suffix: str,
    workers: int,
    out: Path,
) -> None:
    """Write rendered rooms: pictures, and label maps of the 13 NYU class indices.

    Example: python -m tools.rooms --distribution test --clips 1 --out rooms
    """
    try:
        if (clips is None) == (views is None):
            raise ConfigError("give either --clips or --views")
        if out.exists() and any(out.iterdir()):
            raise ConfigError(f"--out {out} is not empty; name a new folder or empty it")
        count = frames if views is None else views
        request = Request(STYLES[distribution], clips or 0, count, _size(size), seed, out, suffix)
        connect()
        write(request, workers, _report)
    except HvsaError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
