"""Colour-coded label maps: plain folders, or CVAT's export "Segmentation mask 1.1"."""

from __future__ import annotations

from pathlib import Path

from hvsa_cvat.datasets.colours import Palette, read_palette
from hvsa_cvat.datasets.labelled import Dataset
from hvsa_cvat.datasets.pairs import (
    find_images,
    find_labels,
    pair_names,
    pair_reader,
    pair_up,
    plain_pairs,
)
from hvsa_cvat.errors import ConfigError, MediaError

CVAT_TABLE = "labelmap.txt"
_CVAT_LABELS = "SegmentationClass"
_CVAT_IMAGES = "JPEGImages"
_BACKGROUND = "background"
"""The class that CVAT adds, in black, for pixels on which nothing was drawn. A label of this name
that people made has a colour of its own."""


def open_palette(folder: Path, table: Path | None, images: Path | None) -> Dataset:
    """Images and colour-coded PNGs of the same names, in images/ and labels/ or as CVAT exports
    them. The colours are those of `table`, or of labelmap.txt in the folder.

    `images` is the folder of the frames, where the export holds none.
    """
    palette = read_palette(_find_table(folder, table))
    if (folder / _CVAT_LABELS).is_dir():
        return _open_cvat(folder, palette, images or folder / _CVAT_IMAGES)
    if not (folder / "labels").is_dir():
        raise MediaError(
            f"{folder} holds neither labels/ nor {_CVAT_LABELS}/; give a folder with images/ and "
            "labels/, or an export 'Segmentation mask 1.1' of CVAT"
        )
    pairs = plain_pairs(folder, images)
    return Dataset(palette.classes, pair_names(pairs), pair_reader(pairs, palette.read))


def _find_table(folder: Path, table: Path | None) -> Path:
    if table is None and not (folder / CVAT_TABLE).is_file():
        raise ConfigError(
            f"{folder} holds no {CVAT_TABLE}; name the table of colours by --palette FILE"
        )
    return table or folder / CVAT_TABLE


def _open_cvat(folder: Path, palette: Palette, images_folder: Path) -> Dataset:
    """CVAT writes no mask for a frame on which nobody drew; such frames are left out."""
    if not images_folder.is_dir():
        raise MediaError(
            f"{folder} holds masks but no frames; export the task again with 'Save images' on, or "
            "name the folder of the frames by --images"
        )
    images, labels = find_images(images_folder), find_labels(folder / _CVAT_LABELS)
    _check_listed(folder, images_folder, images.keys() | labels.keys())
    drawn = {name: path for name, path in images.items() if name in labels}
    pairs = pair_up(drawn, labels, ".png")
    left_out = len(images) - len(drawn)
    remarks = [f"{left_out} of {len(images)} frames have no mask and are left out"]
    return Dataset(
        palette.classes,
        pair_names(pairs),
        pair_reader(pairs, palette.read),
        frozenset({_BACKGROUND}) if palette.colour_of(_BACKGROUND) == (0, 0, 0) else frozenset(),
        tuple(remarks if left_out else ()),
    )


def _check_listed(folder: Path, images_folder: Path, found: set[str]) -> None:
    """Every frame that the export lists was exported with its image."""
    for listing in sorted((folder / "ImageSets" / "Segmentation").glob("*.txt")):
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            name = line.strip().strip('"').replace("/", "_")  # names with blanks have quotes
            if name and name not in found:
                raise MediaError(
                    f"{listing} lists {line.strip()!r}, which is not in {images_folder}; "
                    "copy or unpack the export again"
                )
