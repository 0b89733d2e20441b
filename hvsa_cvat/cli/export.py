"""`hvsa-agent export`: the masks of a round as files for other programs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from hvsa_cvat.cli.console import progress_bars, say
from hvsa_cvat.cli.opening import open_local_settings
from hvsa_cvat.cli.options import PATH, TASK, settings_options
from hvsa_cvat.plain_text import plural

_FORMS = ("png", "voc", "cityscapes", "coco", "cvat-xml")


@click.command()
@click.argument("task", type=TASK)
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(_FORMS),
    help="png: CVAT's Segmentation mask 1.1. voc: the same with palettes. cityscapes: gtFine/ with "
    "labelIds. coco: one mask in run lengths for each frame and class. cvat-xml: CVAT for images "
    "1.1.",
)
@click.option("--out", required=True, type=PATH, help="The folder to write; new or empty.")
@click.option(
    "--round",
    "number",
    type=click.IntRange(min=0),
    help="The round whose masks are taken; 0 is before people were asked. Default: the last one "
    "with masks.",
)
@settings_options
def export(task: int, form: str, out: Path, number: int | None, **options: Any) -> None:
    """Write the masks of TASK as they were published, and beside them where each pixel comes from:
    drawn or confirmed by a person, carried from another frame, or the network's, and how certain.

    The server is not asked; it must have been synced once.

    \b
    Example:
      hvsa-agent export 12 --format coco --out task_12
    """
    settings = open_local_settings(options)

    from hvsa_cvat.enrolled.runs import read_run
    from hvsa_cvat.enrolled.tasks import EnrolledTasks
    from hvsa_cvat.export.write import export_masks

    enrolled = EnrolledTasks(settings.place, settings.address.url, time.time).one(task)
    with progress_bars() as progress:
        done = export_masks(task, read_run(enrolled.place), number, form, out, progress)
    total = sum(done.pixels.values())
    shares = ", ".join(f"{kind} {100 * n / total:.1f} %" for kind, n in done.pixels.items())
    say(f"{out}: round {done.round}, {plural(done.frames, 'frame')}; pixels: {shares}")
