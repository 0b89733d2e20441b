"""NYU Depth V2: rooms of which 1449 frames are labelled, all in one MATLAB file (HDF5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.datasets.labelled import UNKNOWN, Dataset, LabelledFrame
from hvsa_cvat.datasets.matlab import MatlabTable, read_table
from hvsa_cvat.errors import ConfigError, MediaError

_KEYS = ("images", "labels", "names")
_FINE = "classMapping40.mat"
_COARSE = "class13Mapping.mat"


@dataclass(frozen=True)
class _Classes:
    """Names, and for each value of the file's label maps (0 is unlabelled) a position in them."""

    names: tuple[str, ...]
    table: NDArray[np.int32]


def open_nyuv2(path: Path, mappings: Sequence[Path]) -> Dataset:
    """The labelled frames of `nyu_depth_v2_labeled.mat`.

    The file names hundreds of classes. The official mapping files bring them to 40 and 13 classes.
    """
    with _opened(path) as file:
        for key in _KEYS:
            if key not in file:
                raise MediaError(
                    f"{path} holds no {key!r}; the labelled part of NYU Depth V2 is the file "
                    "nyu_depth_v2_labeled.mat"
                )
        count, size = len(file["images"]), file["images"].shape[2:]
        if file["labels"].shape != (count, *size):
            raise MediaError(
                f"{path} holds images of shape {file['images'].shape} and labels of shape "
                f"{file['labels'].shape}, which do not belong together; download it again"
            )
        classes = _mapped(_texts(file, "names"), mappings)
        scenes = _texts(file, "scenes") if "scenes" in file else ("frame",) * count
    names = tuple(f"{s.replace('/', '_')}_{number:04d}" for number, s in enumerate(scenes, 1))

    def read(position: int) -> LabelledFrame:
        with _opened(path) as file:
            # MATLAB stores columns first: (3, W, H) and (W, H)
            image = file["images"][position].transpose(2, 1, 0)
            values = file["labels"][position].T
        if values.max() >= len(classes.table):
            raise MediaError(
                f"{path}: frame {position + 1} holds class {values.max()} of "
                f"{len(classes.table) - 1}; download it again"
            )
        return LabelledFrame(np.ascontiguousarray(image), classes.table[values])

    return Dataset(classes.names, names, read)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise ConfigError(
            "reading nyuv2 needs h5py; install it by: pip install 'hvsa-cvat[datasets]'"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise MediaError(
            f"cannot read {path}: {error}; it must be nyu_depth_v2_labeled.mat, whole"
        ) from error


def _texts(file: Any, key: str) -> tuple[str, ...]:
    """A cell array of texts: references to arrays of character codes."""
    references = np.ravel(file[key][()])
    return tuple("".join(map(chr, np.ravel(file[one][()]))) for one in references)


def _mapped(names: tuple[str, ...], mappings: Sequence[Path]) -> _Classes:
    """The classes after the mappings: none, to 40 classes, or from these to 13."""
    tables = {table.kind: table for table in map(read_table, mappings)}
    if "13" in tables and "40" not in tables:
        raise ConfigError(f"--mapping {_COARSE} starts from the 40 classes; name {_FINE}, too")
    values = np.arange(len(names) + 1)
    for kind in ("40", "13"):
        if kind in tables:
            names, values = _follow(tables[kind], values, len(names))
    return _Classes(names, np.where(values == 0, UNKNOWN, values - 1).astype(np.int32))


def _follow(
    table: MatlabTable, values: NDArray[np.int64], count: int
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class numbers, 0 for none, one mapping further. Numbers beyond the names mean none."""
    if len(table.targets) != count:
        raise ConfigError(
            f"--mapping {table.path}: it maps {len(table.targets)} classes, but there are {count}; "
            "take the file that belongs to the data set"
        )
    known = np.where(table.targets <= len(table.names), table.targets, 0)
    return table.names, np.concatenate(([0], known))[values]
