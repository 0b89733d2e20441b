"""Cityscapes: street scenes of 50 cities, with 19 classes that are scored."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.datasets.labelled import UNKNOWN, Dataset, IndexMap
from hvsa_cvat.datasets.pairs import by_name, files_below, pair_names, pair_reader, pair_up
from hvsa_cvat.errors import MediaError
from hvsa_cvat.types import IGNORE
from hvsa_cvat.video.index_map import read_index_map

_IMAGES = "leftImg8bit"
_LABELS = "gtFine"
_IMAGE_ENDING = "_leftImg8bit"
_IDS_ENDING = "_gtFine_labelIds"
_TRAIN_IDS_ENDING = "_gtFine_labelTrainIds"
_TEST = "test_"
"""Begins the names of the test frames, whose labels are not published."""

IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""The classes in order of their training ids, with the ids of labelIds.png."""
_LARGEST_ID = 33


def open_cityscapes(folder: Path) -> Dataset:
    """leftImg8bit/ and gtFine/ as they are unpacked; frames are called SPLIT_CITY_..."""
    for name in (_IMAGES, _LABELS):
        if not (folder / name).is_dir():
            raise MediaError(
                f"{folder} holds no {name}/; unpack {_IMAGES}_trainvaltest.zip and "
                f"{_LABELS}_trainvaltest.zip there"
            )
    images, labels = _images(folder / _IMAGES), _labels(folder / _LABELS)
    tests = sum(name.startswith(_TEST) for name in images)
    pairs = pair_up(_without_tests(images), _without_tests(labels), f"{_IDS_ENDING}.png")
    remark = f"{tests} test frames are left out, because their labels are not published"
    return Dataset(
        tuple(IDS),
        pair_names(pairs),
        pair_reader(pairs, _read),
        remarks=(remark,) if tests else (),
    )


def _images(folder: Path) -> dict[str, Path]:
    return _named(folder, files_below(folder, (".jpg", ".png")), _IMAGE_ENDING)


def _labels(folder: Path) -> dict[str, Path]:
    """labelIds.png, which the data set holds, or else labelTrainIds.png, which its scripts make."""
    files = files_below(folder, (".png",))
    return _named(folder, files, _TRAIN_IDS_ENDING) | _named(folder, files, _IDS_ENDING)


def _named(folder: Path, files: list[Path], ending: str) -> dict[str, Path]:
    def name(path: Path) -> str:
        split = path.relative_to(folder).parts[0]
        return f"{split}_{path.stem.removesuffix(ending)}"

    return by_name((p for p in files if p.stem.endswith(ending)), name)


def _without_tests(files: dict[str, Path]) -> dict[str, Path]:
    kept = {name: path for name, path in files.items() if not name.startswith(_TEST)}
    if not kept:
        raise MediaError(
            f"no files SPLIT/CITY/*{_IMAGE_ENDING}.png with *{_IDS_ENDING}.png of the splits "
            "train and val; unpack the data set again"
        )
    return kept


def _read(path: Path) -> IndexMap:
    values = read_index_map(path)
    if path.stem.endswith(_TRAIN_IDS_ENDING):
        table, largest = _table(range(len(IDS))), len(IDS) - 1
    else:
        table, largest = _table(IDS.values()), _LARGEST_ID
    wrong = values[(values > largest) & (values != IGNORE)]
    if wrong.size:
        raise MediaError(
            f"{path} holds {wrong.max()}, but the ids of its kind are 0 to {largest}, and "
            f"{IGNORE}; unpack the data set again"
        )
    return table[values]


def _table(ids: Iterable[int]) -> NDArray[np.int32]:
    """Class indices by id."""
    table = np.full(IGNORE + 1, UNKNOWN, np.int32)
    table[list(ids)] = np.arange(len(IDS))
    return table
