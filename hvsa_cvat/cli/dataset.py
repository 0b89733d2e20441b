"""`hvsa-agent dataset`: public data sets and old exports as frames, label maps and classes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hvsa_cvat.class_lists import read_classes
from hvsa_cvat.cli.console import progress_bars, say
from hvsa_cvat.cli.options import PATH
from hvsa_cvat.config import parse_size
from hvsa_cvat.datasets.kinds import KINDS, Extras, open_dataset
from hvsa_cvat.plain_text import plural

if TYPE_CHECKING:
    from hvsa_cvat.datasets.write import Imported


@click.group()
def dataset() -> None:
    """Bring labelled data to the form that pretrain and simulate take."""


@dataset.command("import")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("source", type=PATH, metavar="SRC")
@click.option(
    "--out",
    required=True,
    type=PATH,
    help="The folder to write: images/, labels/ and classes.txt. It must be new or empty.",
)
@click.option(
    "--palette",
    type=PATH,
    help="Colours of the classes, for palette: lines `name:r,g,b::`, as in CVAT's labelmap.txt, or "
    "`name r g b`. Default: labelmap.txt in SRC.",
)
@click.option(
    "--images",
    type=PATH,
    help="Folder of the frames, for palette and indices, where SRC holds only labels.",
)
@click.option(
    "--mapping",
    type=PATH,
    multiple=True,
    metavar="FILE",
    help="File that gives the classes. For indices: lines `value name`. For nyuv2: "
    "classMapping40.mat; a second one, class13Mapping.mat, goes on to 13. For scenenet: "
    "wnid_to_class.txt.",
)
@click.option(
    "--protobuf",
    type=PATH,
    metavar="FILE",
    help="What the instances are, for scenenet. Default: the *.pb file in SRC or beside it.",
)
@click.option(
    "--classes",
    help="Classes to take, by name, comma separated or a text file; pixels of the others are "
    "unlabelled. Default: all.",
)
@click.option(
    "--frames",
    default="*",
    show_default=True,
    metavar="PATTERN",
    help="Frames to take, by name; * stands for any text, as in 0016E5_*.",
)
@click.option(
    "--size", help="HEIGHTxWIDTH in pixels of what is written. Default: the frames' own size."
)
def import_command(
    kind: str,
    source: Path,
    out: Path,
    palette: Path | None,
    images: Path | None,
    mapping: tuple[Path, ...],
    protobuf: Path | None,
    classes: str | None,
    frames: str,
    size: str | None,
) -> None:
    """Read the data set or export at SRC and write it as frames, label maps and classes.

    SRC is a folder or a zip file of one; for nyuv2 it is the file nyu_depth_v2_labeled.mat.

    \b
    Example:
      hvsa-agent dataset import palette task_12_segmentation_mask.zip --out kitchen
    """
    chosen = read_classes(classes).names if classes is not None else None
    at = parse_size(size) if size else None

    from hvsa_cvat.datasets.archive import unpacked
    from hvsa_cvat.datasets.write import Choice, check_free, write_dataset

    check_free(out)
    with progress_bars() as progress, unpacked(source, out.absolute().parent, progress) as folder:
        found = open_dataset(kind, folder, Extras(palette, images, mapping, protobuf))
        for remark in found.remarks:
            say(remark)
        written = write_dataset(found, Choice(chosen, frames, at), out, progress)
    _tell(written, out)


def _tell(written: Imported, out: Path) -> None:
    say(
        f"{out}: {plural(written.frames, 'frame')}, {plural(len(written.labels), 'class')}, "
        f"{100 * written.unlabelled:.1f} % of the pixels are unlabelled"
    )
    if written.unseen:
        say(f"no frame shows {', '.join(written.unseen)}")
    size = " --size HEIGHTxWIDTH" if len(written.sizes) > 1 else ""
    images, labels, classes = (
        shlex.quote(str(out / name)) for name in ("images", "labels", "classes.txt")
    )
    say(
        f"next: hvsa-agent pretrain {images} --labels {labels} --classes {classes}{size} "
        "--out start.safetensors"
    )
