"""A labelled data set as a folder: images/, labels/ and classes.txt, whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from hvsa_cvat.class_lists import read_classes
from hvsa_cvat.datasets.labelled import Dataset, LabelledFrame, choose_classes, class_table
from hvsa_cvat.errors import ConfigError, MediaError
from hvsa_cvat.files import atomic_directory
from hvsa_cvat.ports import Progress, silent
from hvsa_cvat.types import IGNORE, LabelMap, LabelSet, Size
from hvsa_cvat.video.frames import resize_image


@dataclass(frozen=True)
class Choice:
    """What is taken from a data set."""

    classes: tuple[str, ...] | None = None
    """By name, in their new order; None for all. Pixels of the others are unlabelled."""
    frames: str = "*"
    """Pattern of the names of frames, with `*` and `?`."""
    size: Size | None = None
    """Size of what is written; None for the frames' own."""


@dataclass(frozen=True)
class Imported:
    """What was written."""

    labels: LabelSet
    frames: int
    sizes: frozenset[Size]
    unseen: tuple[str, ...]
    """Classes without a pixel."""
    unlabelled: float
    """Share of the pixels."""


def check_free(out: Path) -> None:
    """`ConfigError` where something lies at `out` already."""
    try:
        taken = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    except OSError as error:
        raise ConfigError(f"--out {str(out)!r} cannot be read: {error.strerror}") from error
    if taken:
        raise ConfigError(f"--out {str(out)!r} is there already; name a new folder or an empty one")


def write_dataset(
    dataset: Dataset, choice: Choice, out: Path, progress: Progress = silent
) -> Imported:
    """Write what is chosen to the new folder `out`."""
    check_free(out)
    labels = choose_classes(dataset, choice.classes)
    table = class_table(dataset, labels)
    places = _chosen_frames(dataset, choice.frames)
    pixels = np.zeros(IGNORE + 1, np.int64)
    sizes: set[Size] = set()
    with atomic_directory(out) as folder:
        _write_classes(folder / "classes.txt", labels)
        (folder / "images").mkdir()
        (folder / "labels").mkdir()
        for done, place in enumerate(places, 1):
            label_map = _write_frame(
                folder, dataset.names[place], dataset.read(place), table, choice.size
            )
            pixels += np.bincount(label_map.ravel(), minlength=len(pixels))
            sizes.add((label_map.shape[0], label_map.shape[1]))
            progress("importing frames", done, len(places))
        if not pixels[:IGNORE].any():
            raise MediaError(
                f"no pixel of {len(places)} frames is labelled as {', '.join(labels)}; "
                "check the classes and the label maps"
            )
    unseen = tuple(name for value, name in enumerate(labels) if not pixels[value])
    share = float(pixels[IGNORE] / pixels.sum())
    return Imported(labels, len(places), frozenset(sizes), unseen, share)


def _chosen_frames(dataset: Dataset, pattern: str) -> Sequence[int]:
    places = [k for k, name in enumerate(dataset.names) if fnmatchcase(name, pattern)]
    if not places:
        raise ConfigError(
            f"--frames {pattern!r} is the name of none of {len(dataset.names)} frames, which are "
            f"called {dataset.names[0]} to {dataset.names[-1]}"
        )
    return places


def _write_classes(path: Path, labels: LabelSet) -> None:
    """One name a line, if it can be read back so."""
    path.write_text("".join(f"{name}\n" for name in labels), encoding="utf-8")
    try:
        read_back = read_classes(str(path))
    except ConfigError:
        read_back = None
    if read_back != labels:
        raise ConfigError(
            f"the class names {', '.join(labels)} cannot be written as a list of one name a line; "
            "rename those that begin with '#' or a number, or hold a comma"
        )


def _write_frame(
    folder: Path, name: str, frame: LabelledFrame, table: NDArray[np.uint8], size: Size | None
) -> LabelMap:
    """The label map that was written."""
    label_map = table[frame.indices]
    image = frame.image
    if size is not None and label_map.shape != size:
        image = resize_image(image, size)
        label_map = np.asarray(
            cv2.resize(label_map, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8
        )
    if frame.file is not None and image is frame.image:
        shutil.copyfile(frame.file, folder / "images" / f"{name}{frame.file.suffix.lower()}")
    else:
        saved = folder / "images" / f"{name}.png"
        PillowImage.fromarray(image).save(saved, compress_level=1)
    PillowImage.fromarray(label_map).save(folder / "labels" / f"{name}.png")
    return label_map
