from collections.abc import Sequence

import numpy as np
import pytest

from hvsa_cvat.propagation.fusion import Fused
from hvsa_cvat.propagation.propagate import Propagated
from hvsa_cvat.propagation.smoothing import Smoother, decide, evidence
from hvsa_cvat.propagation.votes import Disputed
from hvsa_cvat.types import IGNORE
from hvsa_cvat.video.flow import OFFSETS, FlowStore


def nothing_carried(size: tuple[int, int], person: int | None = None) -> Propagated:
    """No label arrives; or a person labelled every pixel."""
    label_map = np.full(size, IGNORE if person is None else person, np.uint8)
    confidence = np.full(size, 0 if person is None else 1, np.float32)
    return Propagated(0, label_map, confidence, np.zeros(size, np.float32), 0.0)


def moving(length: int, size: tuple[int, int], right: float) -> FlowStore:
    """All pixels move `right` pixels a frame, and pass the check where they end inside."""
    flow = np.zeros((length, 4, 2, *size), np.float16)
    valid = np.zeros((length, 4, *size), np.bool_)
    for frame in range(length):
        for i, offset in enumerate(OFFSETS):
            if 0 <= frame + offset < length:
                flow[frame, i, 0] = right * offset
                x = np.arange(size[1]) + right * offset
                valid[frame, i] = (x >= 0) & (x <= size[1] - 1)
    return FlowStore(flow, valid)


def two_classes(*first: float) -> np.ndarray:
    """Probabilities of one row of pixels."""
    row = np.array([first], np.float32)
    return np.stack([row, 1 - row])


def smooth(smoother: Smoother, frames: Sequence[np.ndarray]) -> list[Fused]:
    empty = nothing_carried(frames[0].shape[1:])
    return [shown for one in frames for shown in smoother.add(empty, one)]


def leads(shown: Fused) -> list[float]:
    """The lead in evidence, of its certainty."""
    certainty = shown.certainty[0].astype(float)
    return [float(lead) for lead in certainty / (1 - certainty) / 3]


def test_evidence_by_hand() -> None:
    # one chain with 0.5 for class 1; both chains at odds; a person; nothing
    label_map = np.array([[1, 0, 0, IGNORE]], np.uint8)
    confidence = np.array([[0.5, 0.4, 1, 0]], np.float32)
    lead = np.array([[0.5, 0.2, 0.7, 0]], np.float32)
    disputed = Disputed(np.array([1]), np.array([[0.6], [0.4]], np.float32))
    carried = Propagated(0, label_map, confidence, lead, 0.75, disputed)
    probabilities = np.full((3, 1, 4), 0.25, np.float32)

    found = evidence(carried, probabilities)

    votes = [[0, 0.6, 2, 0], [0.5, 0.4, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(found[:, 0], 2 * np.array(votes) + 0.25, rtol=1e-6)


def test_a_shifted_frame_by_hand() -> None:
    # the second frame is the first one, a pixel further right
    pictures = np.zeros((2, 1, 4, 3), np.uint8)
    frames = [two_classes(1.0, 0.75, 0.5, 0.25), two_classes(1.0, 0.25, 0.25, 0.5)]

    first, second = smooth(Smoother(moving(2, (1, 4), 1), pictures, 2), frames)

    # pixel x of the first frame lies at x + 1 of the second; the last one left the frame
    mean = np.array([(1 + 0.25) / 2, (0.75 + 0.25) / 2, (0.5 + 0.5) / 2, 0.25])
    np.testing.assert_allclose(leads(first), np.abs(2 * mean - 1), atol=2e-3)
    assert first.label_map[0, [0, 3]].tolist() == [0, 1]
    mean = np.array([1, (0.25 + 1) / 2, (0.25 + 0.75) / 2, (0.5 + 0.5) / 2])
    np.testing.assert_allclose(leads(second), np.abs(2 * mean - 1), atol=2e-3)


def test_what_looks_otherwise_counts_less() -> None:
    pictures = np.zeros((2, 1, 3, 3), np.uint8)
    pictures[1] = 10
    frames = [two_classes(1.0, 1.0, 1.0), two_classes(0.0, 0.0, 0.0)]

    first, _ = smooth(Smoother(moving(2, (1, 3), 0), pictures, 2), frames)

    weight = np.exp(-1)
    assert leads(first) == pytest.approx([(1 - weight) / (1 + weight)] * 3, rel=1e-2)


def test_four_neighbours_and_no_more_are_averaged() -> None:
    pictures = np.zeros((7, 1, 1, 3), np.uint8)
    frames = [two_classes(1.0)] * 6 + [two_classes(0.0)]

    shown = smooth(Smoother(moving(7, (1, 1), 0), pictures, 7), frames)

    means = [1, 1, 1, 1, 4 / 5, 3 / 4, 2 / 3]
    found = [leads(one)[0] for one in shown]
    assert found == pytest.approx([abs(2 * mean - 1) for mean in means], abs=2e-3)


def test_a_frame_waits_for_the_two_after_it() -> None:
    smoother = Smoother(moving(4, (1, 2), 0), np.zeros((4, 1, 2, 3), np.uint8), 4)
    given = [
        len(list(smoother.add(nothing_carried((1, 2)), two_classes(1.0, 0.0)))) for _ in range(4)
    ]
    assert given == [0, 0, 1, 3]
    alone = Smoother(moving(1, (1, 2), 0), np.zeros((1, 1, 2, 3), np.uint8), 1)
    (shown,) = alone.add(nothing_carried((1, 2)), two_classes(1.0, 0.0))
    assert shown.label_map.tolist() == [[0, 1]]


def test_a_persons_labels_are_on_top() -> None:
    smoother = Smoother(moving(2, (1, 2), 0), np.zeros((2, 1, 2, 3), np.uint8), 2)
    for person, label in ((1, 0), (0, 1)):  # each is wrong for the frame beside it
        given = list(smoother.add(nothing_carried((1, 2), person), two_classes(label, label)))
    assert [one.label_map.tolist() for one in given] == [[[1, 1]], [[0, 0]]]
    assert (given[0].certainty == 1).all()


def test_frames_larger_than_the_flow() -> None:
    # one cell of the flow is two pixels wide, so its motion is two pixels
    pictures = np.zeros((2, 1, 4, 3), np.uint8)
    frames = [np.zeros((2, 1, 8), np.float32) for _ in range(2)]
    frames[0][1], frames[1][0] = 1, 1
    frames[1][:, 0, 4:6] = [[0], [1]]

    first, _ = smooth(Smoother(moving(2, (1, 4), 1), pictures, 2), frames)

    # pixels 2 and 3 of the first frame lie at 4 and 5 of the second
    assert leads(first)[2:4] == pytest.approx([1, 1], abs=1e-2)
    assert leads(first)[0:2] == pytest.approx([0, 0], abs=1e-2)


def test_one_class() -> None:
    shown = decide(np.full((1, 1, 2), 0.5, np.float32), np.full((1, 2), IGNORE, np.uint8))
    assert shown.label_map.tolist() == [[0, 0]]
    assert shown.certainty[0].tolist() == pytest.approx([0.6, 0.6])
