"""A labelled data set as every reader gives it, and the classes that are taken from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.errors import ConfigError
from hvsa_cvat.lookalikes import twin_hint
from hvsa_cvat.types import IGNORE, Image, LabelSet

UNKNOWN = -1
"""Class index of a pixel without a label."""

IndexMap = NDArray[np.int32]
"""int32 (H, W): positions in the classes of a data set, which may be hundreds; or `UNKNOWN`."""

_NAMED = 12
"""Classes that a message names."""


@dataclass(frozen=True)
class LabelledFrame:
    """A frame and its label map, of one size."""

    image: Image
    indices: IndexMap
    file: Path | None = None
    """The file that holds this image, if one does: it can be copied as it is."""


@dataclass(frozen=True)
class Dataset:
    """What a reader finds. A frame is read when it is asked for."""

    classes: tuple[str, ...]
    names: tuple[str, ...]
    """A unique name for each frame, which can be a file name."""
    read: Callable[[int], LabelledFrame]
    """The frame at a position in `names`."""
    not_meant: frozenset[str] = frozenset()
    """Classes that are unlabelled pixels unless someone asks for them, as CVAT's background."""
    remarks: tuple[str, ...] = ()
    """What a person should know, a line each."""


def choose_classes(dataset: Dataset, asked: Sequence[str] | None) -> LabelSet:
    """The classes to take, in their order; `asked` by name, or all that are meant."""
    if asked is None:
        meant = tuple(name for name in dataset.classes if name not in dataset.not_meant)
        if not meant:
            raise ConfigError("the data set has no class; name those to take by --classes")
        if len(meant) > IGNORE:
            raise ConfigError(
                f"the data set has {len(meant)} classes, and a label map takes at most {IGNORE}; "
                "name those to take by --classes"
            )
        return LabelSet(meant)
    for name in asked:
        if name not in dataset.classes:
            dots = ", ..." if len(dataset.classes) > _NAMED else ""
            raise ConfigError(
                f"--classes: the data set has no class {name!r}"
                f"{twin_hint(name, dataset.classes)}; "
                f"it has {', '.join(dataset.classes[:_NAMED])}{dots}"
            )
    return LabelSet(tuple(asked))


def class_table(dataset: Dataset, labels: LabelSet) -> NDArray[np.uint8]:
    """uint8 (C + 1,): the label-map value of each class of the data set. The last entry is that of
    `UNKNOWN`, which as an index of -1 means the last one."""
    table = np.full(len(dataset.classes) + 1, IGNORE, np.uint8)
    for value, name in enumerate(labels):
        table[dataset.classes.index(name)] = value
    return table
