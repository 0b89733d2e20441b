"""Frames and label maps that lie as files of the same names in two trees of folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hvsa_cvat.datasets.labelled import IndexMap, LabelledFrame
from hvsa_cvat.errors import MediaError
from hvsa_cvat.video.folder import IMAGE_SUFFIXES, list_files, natural_key
from hvsa_cvat.video.images import read_image


@dataclass(frozen=True)
class Pair:
    """The two files of a frame."""

    name: str
    image: Path
    labels: Path


def files_below(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files with one of `suffixes` in a folder and in those below it, in natural order."""
    known = frozenset(suffixes)
    found: list[Path] = []
    for place, folders, _ in os.walk(folder, onerror=_cannot_read):
        folders[:] = sorted((f for f in folders if not f.startswith(".")), key=natural_key)
        found += [p for p in list_files(Path(place)) if p.suffix.lower() in known]
    return found


def _cannot_read(error: OSError) -> None:
    raise MediaError(
        f"cannot read the folder {error.filename}: {error.strerror}; check the path and its "
        "permissions"
    ) from error


def by_name(files: Iterable[Path], name_of: Callable[[Path], str]) -> dict[str, Path]:
    """Files by the names of their frames. `MediaError` where two would have one name."""
    named: dict[str, Path] = {}
    for path in files:
        name = name_of(path)
        first = named.setdefault(name, path)
        if first is not path:
            raise MediaError(
                f"{first} and {path} would both be frame {name!r}; rename or remove one"
            )
    return named


def pair_up(images: Mapping[str, Path], labels: Mapping[str, Path], suffix: str) -> list[Pair]:
    """A pair for each frame, in natural order. `MediaError` where a file lacks its partner.

    `suffix` is what a missing label map would end in, for the message.
    """
    for name, path in images.items():
        if name not in labels:
            raise MediaError(
                f"{path} has no label map {name}{suffix} ({len(labels)} label maps for "
                f"{len(images)} images); copy the data set again or remove the image"
            )
    for name, path in labels.items():
        if name not in images:
            raise MediaError(
                f"{path} has no image {name} ({len(images)} images for {len(labels)} label "
                "maps); copy the data set again or remove the label map"
            )
    return [Pair(n, images[n], labels[n]) for n in sorted(images, key=natural_key)]


def plain_pairs(folder: Path, images: Path | None) -> list[Pair]:
    """The pairs in images/ and labels/ of a folder; `images` replaces images/ if given."""
    return pair_up(find_images(images or folder / "images"), find_labels(folder / "labels"), ".png")


def find_images(folder: Path) -> dict[str, Path]:
    """All images of a tree by name: the path below `folder`, with `_` between its parts."""
    return _found(folder, IMAGE_SUFFIXES, "images")


def find_labels(folder: Path) -> dict[str, Path]:
    """All PNG files of a tree, named in the same way."""
    return _found(folder, (".png",), "label maps, which are PNG files,")


def _found(folder: Path, suffixes: Iterable[str], kind: str) -> dict[str, Path]:
    files = files_below(folder, suffixes)
    if not files:
        raise MediaError(f"no {kind} in {folder}; check the path")
    return by_name(files, lambda path: "_".join(path.relative_to(folder).with_suffix("").parts))


def pair_names(pairs: Iterable[Pair]) -> tuple[str, ...]:
    return tuple(pair.name for pair in pairs)


def pair_reader(
    pairs: list[Pair], read_labels: Callable[[Path], IndexMap]
) -> Callable[[int], LabelledFrame]:
    """A function that reads the pair at a position."""
    return lambda position: read_pair(pairs[position], read_labels)


def read_pair(pair: Pair, read_labels: Callable[[Path], IndexMap]) -> LabelledFrame:
    """Both files of a frame. `MediaError` where their sizes differ."""
    image, indices = read_image(pair.image), read_labels(pair.labels)
    if image.shape[:2] != indices.shape:
        (height, width), (h, w) = indices.shape, image.shape[:2]
        raise MediaError(
            f"{pair.labels} is {width}x{height} but its image {pair.image.name} is {w}x{h}; "
            "export labels and images at one size"
        )
    return LabelledFrame(image, indices, pair.image)
