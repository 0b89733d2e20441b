"""The kinds of data sets that can be read, and the options that each takes.

The readers are imported when they are needed, so that the command line can name the kinds at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from hvsa_cvat.datasets.labelled import Dataset
from hvsa_cvat.errors import ConfigError, MediaError


@dataclass(frozen=True)
class Extras:
    """Files beside the data set that some kinds take."""

    palette: Path | None = None
    """Table of colours."""
    images: Path | None = None
    """Folder of the frames, where the data set holds none."""
    mapping: tuple[Path, ...] = ()
    """Files that give classes their new names."""
    protobuf: Path | None = None
    """What the pixels of a rendered data set are."""


@dataclass(frozen=True)
class _Kind:
    open: Callable[[Path, Extras], Dataset]
    extras: tuple[str, ...] = ()
    is_file: bool = False
    """The data set is one file, and not a folder."""


def _open_palette(path: Path, extras: Extras) -> Dataset:
    from hvsa_cvat.datasets.palette import open_palette

    return open_palette(path, extras.palette, extras.images)


def _open_camvid(path: Path, extras: Extras) -> Dataset:
    from hvsa_cvat.datasets.camvid import open_camvid

    return open_camvid(path)


def _open_cityscapes(path: Path, extras: Extras) -> Dataset:
    from hvsa_cvat.datasets.cityscapes import open_cityscapes

    return open_cityscapes(path)


def _open_nyuv2(path: Path, extras: Extras) -> Dataset:
    from hvsa_cvat.datasets.nyuv2 import open_nyuv2

    return open_nyuv2(path, extras.mapping)


def _open_scenenet(path: Path, extras: Extras) -> Dataset:
    from hvsa_cvat.datasets.scenenet import open_scenenet

    return open_scenenet(path, extras.protobuf, extras.mapping)


def _open_indices(path: Path, extras: Extras) -> Dataset:
    from hvsa_cvat.datasets.indices import open_indices

    return open_indices(path, extras.mapping, extras.images)


_KINDS = {
    "palette": _Kind(_open_palette, ("palette", "images")),
    "indices": _Kind(_open_indices, ("mapping", "images")),
    "camvid": _Kind(_open_camvid),
    "cityscapes": _Kind(_open_cityscapes),
    "nyuv2": _Kind(_open_nyuv2, ("mapping",), is_file=True),
    "scenenet": _Kind(_open_scenenet, ("mapping", "protobuf")),
}

KINDS = tuple(_KINDS)


def open_dataset(kind: str, path: Path, extras: Extras) -> Dataset:
    """The data set at `path`. `ConfigError` for an extra that its kind does not take."""
    for field in fields(extras):
        if getattr(extras, field.name) and field.name not in _KINDS[kind].extras:
            takers = [name for name, one in _KINDS.items() if field.name in one.extras]
            raise ConfigError(
                f"--{field.name} goes with {', '.join(takers)}, not with {kind}; leave it out"
            )
    if not path.exists():
        raise MediaError(f"no data set at {path}; check the path")
    if path.is_dir() == _KINDS[kind].is_file:
        wanted = "one file" if _KINDS[kind].is_file else "a folder, or a zip file of one"
        raise MediaError(f"{path} is not {wanted}, which {kind} is; check the path")
    return _KINDS[kind].open(path, extras)
