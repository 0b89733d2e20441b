"""Carried labels and the network's probabilities brought together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.propagation.propagate import Propagated
from hvsa_cvat.types import IGNORE, LabelMap


def fuse(carried: Propagated, probabilities: NDArray[np.float32]) -> LabelMap:
    """The class with the most evidence, uint8 (H, W).

    Probabilities are float32 (C, H, W); a carried label adds the fourth root of its confidence, so
    that it holds unless it came far or failed the flow check and the network is sure of another.
    What a person labelled stays.
    """
    label_map: LabelMap = probabilities.argmax(axis=0).astype(np.uint8)
    known = carried.label_map != IGNORE
    label, trust = carried.label_map[known], carried.confidence[known]
    rows, columns = np.nonzero(known)
    for_label = probabilities[label, rows, columns] + np.sqrt(np.sqrt(trust))
    holds = (for_label >= probabilities[:, known].max(axis=0)) | (trust >= 1)
    label_map[rows[holds], columns[holds]] = label[holds]
    return label_map
