from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hvsa_cvat.propagation import votes as votes_module
from hvsa_cvat.propagation.propagate import Propagated
from hvsa_cvat.propagation.votes import Colours, cells_of, count_votes
from hvsa_cvat.types import IGNORE

PLACE = np.dtype([("offset", np.float16, 2), ("source", np.int32), ("confidence", np.float16)])


def placed(*cells: tuple[float, int, float]) -> NDArray[Any]:
    """One row of places: dx, source and confidence of each cell."""
    places = np.zeros((1, len(cells)), PLACE)
    for cell, (dx, source, confidence) in zip(places[0], cells, strict=True):
        cell["offset"], cell["source"], cell["confidence"] = (dx, 0), source, confidence
    return places


def test_chains_at_odds_by_hand() -> None:
    labels = np.array([[[0, 0, 1]], [[1, 0, 1]]], np.uint8)
    past = placed((0, 0, 0.75), (0, 0, 0.5), (0, -1, 0.0))
    future = placed((0, 1, 0.5), (0, 1, 0.25), (0, 1, 0.25))
    votes = count_votes([past, future], labels)
    assert votes.label_map.tolist() == [[0, 0, 1]]
    # 0.75 against 0.5; 0.5 and 0.25 agree; one is alone
    assert votes.confidence.tolist() == [[pytest.approx(0.75 * 0.75 / 1.25), 0.5, 0.25]]
    assert votes.lead.tolist() == [[0.25, 0.75, 0.25]]


def test_between_pixels_by_hand() -> None:
    labels = np.array([[[0, 0, 1, IGNORE]]], np.uint8)
    chain = placed((0, 0, 0.5), (0.75, 0, 0.5), (0.25, 0, 0.5), (0, 0, 0.5))
    votes = count_votes([chain], labels)
    assert votes.label_map.tolist() == [[0, 1, 1, IGNORE]]
    # of the second a quarter votes for 0; of the third a quarter votes for nothing
    assert votes.confidence.tolist() == [[0.5, 0.375, 0.5, 0.0]]
    assert votes.lead.tolist() == [[0.5, 0.25, 0.375, 0.0]]


def test_by_colour_by_hand() -> None:
    # the place is a pixel off: of a dark pixel, on the first bright one
    labels = np.array([[[0, 0, 1, 1, 1]]], np.uint8)
    video = np.zeros((2, 1, 5, 3), np.uint8)
    video[:, :, 2:] = 20
    chain = placed((0, 0, 0.5), (1, 0, 0.5), (0, 0, 0.5), (0, 0, 0.5), (0, 0, 0.5))
    assert count_votes([chain], labels).label_map.tolist() == [[0, 1, 1, 1, 1]]

    votes = count_votes([chain], labels, Colours(1, [0], video))
    # around the place of the second, from dark to bright: distances 1, 0 and 1, so 1, 2 and 1 parts
    dark, bright = 1.0, (2 + 1) * np.exp(-20 / 10)
    assert votes.label_map.tolist() == [[0, 0, 1, 1, 1]]
    assert votes.lead[0, 1] == pytest.approx(0.5 * (dark - bright) / (dark + bright), rel=1e-5)
    assert votes.confidence[0, 1] == pytest.approx(0.5 * dark / (dark + bright), rel=1e-5)
    assert votes.lead[0, [0, 4]].tolist() == [0.5, 0.5]


def test_nothing_is_annotated() -> None:
    nowhere = placed((0, -1, 0.0), (0, -1, 0.0))
    for colours in (None, Colours(0, [], np.zeros((1, 1, 2, 3), np.uint8))):
        votes = count_votes([nowhere, nowhere], np.zeros((0, 1, 2), np.uint8), colours)
        assert votes.label_map.tolist() == [[IGNORE, IGNORE]]
        assert votes.confidence.tolist() == votes.lead.tolist() == [[0, 0]]


def one_by_one(
    chains: Sequence[NDArray[Any]], labels: NDArray[np.uint8], colours: Colours | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """float64 (256, H, W) votes and (H, W) the better chain's confidence, pixel by pixel."""
    height, width = labels.shape[1:]
    votes, best = np.zeros((256, height, width)), np.zeros((height, width))
    reach = 1 if colours is None else 2
    for places in chains:
        h, w = places.shape
        for row, column in np.ndindex(height, width):
            cell = places[cells_of(height, h)[row], cells_of(width, w)[column]]
            if cell["source"] < 0:
                continue
            best[row, column] = max(best[row, column], cell["confidence"])
            x = np.clip(column + float(cell["offset"][0]) * width / w, 0, width - 1)
            y = np.clip(row + float(cell["offset"][1]) * height / h, 0, height - 1)
            weights = {}
            for r in range(int(y) + 1 - reach, int(y) + reach + 1):
                for c in range(int(x) + 1 - reach, int(x) + reach + 1):
                    weight = (reach - abs(y - r)) * (reach - abs(x - c))
                    near = min(max(r, 0), height - 1), min(max(c, 0), width - 1)
                    if colours is not None:
                        weight *= alike(colours, (row, column), cell["source"], near, labels.shape)
                    weights[r, c] = labels[cell["source"], *near], weight
            total = sum(weight for _, weight in weights.values())
            for label, weight in weights.values():
                votes[label, row, column] += weight / total * cell["confidence"]
    votes[IGNORE] = 0
    return votes, best


def alike(
    colours: Colours,
    here: tuple[int, int],
    source: int,
    there: tuple[int, int],
    shape: tuple[int, ...],
) -> float:
    h, w = colours.video.shape[1:3]
    rows, columns = cells_of(shape[1], h), cells_of(shape[2], w)
    mine = colours.video[colours.frame, rows[here[0]], columns[here[1]]]
    other = colours.video[colours.annotated[source], rows[there[0]], columns[there[1]]]
    return float(np.exp(-np.abs(mine.astype(float) - other).mean() / 10))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 3), st.integers(1, 3))
def test_votes_are_those_counted_one_by_one(
    seed: int, by_colour: bool, scale: int, sources: int
) -> None:
    rng = np.random.default_rng(seed)
    h, w = rng.integers(1, 6, 2).tolist()
    shape = (sources, h * scale, w * scale)
    labels = rng.choice([0, 1, 7, IGNORE], shape).astype(np.uint8)
    labels[0] = labels[0, 0, 0]  # of one mind
    chains = []
    for _ in range(2):
        places = np.zeros((h, w), PLACE)
        places["offset"] = rng.normal(0, 2, (h, w, 2))
        places["source"] = rng.integers(-1, sources, (h, w))
        places["confidence"] = rng.uniform(0.01, 1, (h, w)) * (places["source"] >= 0)
        chains.append(places)
    colours = None
    if by_colour:
        video = rng.integers(0, 60, (4, *rng.integers(1, 8, 2), 3)).astype(np.uint8)
        colours = Colours(3, sorted(rng.choice(4, sources, replace=False).tolist()), video)

    with patch.object(votes_module, "_AT_ONCE", 7):
        found = count_votes(chains, labels, colours)
    votes, best = one_by_one(chains, labels, colours)

    second, won = np.sort(votes, axis=0)[-2:]
    known = won > 0
    assert (found.label_map.dtype, found.lead.dtype) == (np.uint8, np.float32)
    assert ((found.label_map != IGNORE) == known).all()
    clear = won - second > 1e-5
    assert (found.label_map[clear] == votes.argmax(axis=0)[clear]).all()
    np.testing.assert_allclose(found.lead, won - second, atol=1e-5)
    share = won / np.where(known, votes.sum(axis=0), 1)
    np.testing.assert_allclose(found.confidence, best * share, atol=1e-5)
    size = labels.shape[1:]
    told = Propagated(0, found.label_map, 0 * found.confidence, found.lead, 1.0, found.disputed)
    np.testing.assert_allclose(told.votes(8), votes[:8].reshape(8, *size), atol=1e-5)
