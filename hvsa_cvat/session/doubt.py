"""How much of the masks of a frame is expected to be wrong.

What answers have shown of the masks before them tells how often a class is right at each level of
certainty (`session.outlook`); with that, each frame has a share of pixels that are expected to be
wrong.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.errors import SessionError
from hvsa_cvat.session.artefacts import RoundFiles
from hvsa_cvat.session.outlook import LEVELS, truth_given
from hvsa_cvat.types import IGNORE


def wrong_given(files: RoundFiles, newest: int, classes: int) -> NDArray[np.float64]:
    """float64 (C, LEVELS): probability that a class is wrong where the round of `files` shows it at
    a level.

    By the newest answers that are there, up to those of round `newest`; without any, certainty is
    taken at its word.
    """
    middle = 1 - (np.arange(LEVELS) + 0.5) / LEVELS
    for answered in range(min(files.number + 1, newest), 0, -1):
        with suppress(SessionError):
            counts = files.of_round(answered).held_out(classes).counts()
            shown = files.level_counts().sum(axis=1) > 0
            given = truth_given(counts, (counts.sum(axis=(0, 1)) > 0) | shown)
            every = np.arange(classes)
            return np.asarray(1 - given[every, :, every], np.float64)
    return np.tile(middle, (classes, 1))


def expected_wrong(files: RoundFiles, name: str, wrong: NDArray[np.float64]) -> float:
    """The share of the pixels of the frame `name` that are expected to be wrong; `wrong` as
    `wrong_given` makes it."""
    label_map, levels = files.label_map(name), files.certainty_levels(name)
    if label_map.shape != levels.shape:
        raise SessionError(f"{files.label_map_path(name)} has another size than its certainty")
    known = (label_map < len(wrong)) & (label_map != IGNORE) & (levels < LEVELS)
    return float(wrong[label_map[known], levels[known]].mean()) if known.any() else 0.0
