"""Combining carried labels and the network's probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.propagation.propagate import Propagated
from hvsa_cvat.types import IGNORE, LabelMap

_CARRIED = 6.0
"""The evidence for a label of which one chain is sure. The network's probabilities, which are its
evidence, add up to 1 over the classes."""


class Fused(NamedTuple):
    """The result for one frame."""

    label_map: LabelMap
    certainty: NDArray[np.float32]
    """float32 (H, W) in 0..1: n / (1 + n), where n is the lead in evidence over the next class. It
    is 1 where a person labelled."""


def remember(
    probabilities: NDArray[np.float32], first: NDArray[np.float32], classes: Sequence[int]
) -> NDArray[np.float32]:
    """Raise the probabilities of `classes` to those of `first`, where `first` has higher ones.

    `first` are the probabilities of the network of round 0. The other classes keep their
    proportions. All arrays are float32 (C, H, W) and sum to one over the classes.
    """
    joined = probabilities.copy()
    known = np.ones(len(joined), np.bool_)
    known[list(classes)] = False
    kept = np.maximum(probabilities, first)[~known]
    total = kept.sum(axis=0)
    kept /= np.maximum(total, 1)
    joined[~known] = kept
    others = probabilities[known].sum(axis=0)
    joined[known] *= np.maximum(1 - total, 0) / np.maximum(others, 1e-12)
    return joined


def fuse(carried: Propagated, probabilities: NDArray[np.float32]) -> Fused:
    """The class with the most evidence at each pixel.

    `probabilities` are float32 (C, H, W). A carried label adds six times its lead to its class. So
    it usually wins. It loses where its lead is small (it comes from far away, the flow failed the
    check, or the chains disagree) and the network is sure of another class. The label of a person
    always wins.
    """
    label_map: LabelMap = probabilities.argmax(axis=0).astype(np.uint8)
    if len(probabilities) > 1:
        second, first = np.partition(probabilities, -2, axis=0)[-2:]
    else:
        first, second = probabilities[0], np.zeros_like(probabilities[0])
    lead = first - second
    known = carried.label_map != IGNORE
    label, trust = carried.label_map[known], carried.confidence[known]
    rows, columns = np.nonzero(known)
    for_label = probabilities[label, rows, columns] + _CARRIED * carried.lead[known]
    rival = np.where(label == label_map[known], second[known], first[known])
    holds = (for_label >= rival) | (trust >= 1)
    lead[known] = np.where(
        holds, for_label - rival, first[known] - np.maximum(for_label, second[known])
    )
    label_map[rows[holds], columns[holds]] = label[holds]
    certainty = lead / (1 + lead)
    certainty[rows[trust >= 1], columns[trust >= 1]] = 1
    return Fused(label_map, certainty)
