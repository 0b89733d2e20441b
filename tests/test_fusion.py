import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvsa_cvat.propagation.fusion import fuse, remember
from hvsa_cvat.propagation.propagate import Propagated
from hvsa_cvat.types import IGNORE


def carried(labels: list[int], lead: list[float]) -> Propagated:
    """Undisputed labels of one chain: it leads by all its confidence."""
    label_map = np.array([labels], np.uint8)
    reached = float((label_map != IGNORE).mean())
    confidence = np.array([lead], np.float32)
    return Propagated(0, label_map, confidence, confidence, reached)


def test_fusion_by_hand() -> None:
    # the network says of every pixel: 0.875 for class 0 and 0.125 for class 1
    network = np.array([[[0.875] * 5], [[0.125] * 5], [[0.0] * 5]], np.float32)
    evidence = carried([1, 1, IGNORE, 2, 0], [0.1, 0.15, 0.0, 0.1, 0.1])

    # 0.725 is less than 0.875 and 1.025 is more; no label arrives; 0.6 is less; both agree
    fused = fuse(evidence, network)
    assert fused.label_map.tolist() == [[0, 1, 0, 0, 0]]
    leads = [0.875 - 0.725, 1.025 - 0.875, 0.875 - 0.125, 0.875 - 0.6, 0.875 + 0.6 - 0.125]
    assert fused.certainty[0].tolist() == pytest.approx([n / (1 + n) for n in leads], rel=1e-5)


def test_what_is_disputed_says_less_than_it_is_trusted() -> None:
    # the chains are at odds: 0.9 for class 1, 0.8 for class 0
    label_map = np.array([[1]], np.uint8)
    confidence, lead = np.array([[0.9 * 0.9 / 1.7]], np.float32), np.array([[0.1]], np.float32)
    network = np.array([[[0.9]], [[0.1]]], np.float32)
    assert fuse(Propagated(0, label_map, confidence, lead, 1.0), network).label_map == [[0]]
    assert fuse(Propagated(0, label_map, confidence, lead + 0.1, 1.0), network).label_map == [[1]]


@st.composite
def frames(draw: st.DrawFn) -> tuple[Propagated, np.ndarray]:
    width, classes = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    labels = draw(
        st.lists(st.sampled_from([*range(classes), IGNORE]), min_size=width, max_size=width)
    )
    trust = draw(st.lists(st.sampled_from([0.001, 0.3, 0.93, 1.0]), min_size=width, max_size=width))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    scores = rng.random((classes, 1, width)).astype(np.float32) ** draw(st.sampled_from([1, 20]))
    scores += 1e-6
    confidence = [0.0 if label == IGNORE else t for label, t in zip(labels, trust, strict=True)]
    return carried(labels, confidence), (scores / scores.sum(axis=0)).astype(np.float32)


@given(frames())
def test_what_people_labelled_stays_and_the_rest_is_carried_or_predicted(
    frame: tuple[Propagated, np.ndarray],
) -> None:
    evidence, probabilities = frame

    fused, certainty = fuse(evidence, probabilities)

    assert ((certainty >= 0) & (certainty <= 1)).all()
    predicted = probabilities.argmax(axis=0)
    persons = evidence.confidence == 1
    assert (fused[persons] == evidence.label_map[persons]).all()
    assert (certainty[persons] == 1).all()
    unreached = evidence.label_map == IGNORE
    assert (fused[unreached] == predicted[unreached]).all()
    assert ((fused == evidence.label_map) | (fused == predicted)).all()
    agreed = evidence.label_map == predicted
    assert (fused[agreed] == predicted[agreed]).all()


def test_a_person_holds_against_a_network_that_is_certain() -> None:
    certain = np.array([[[1.0]], [[0.0]]], np.float32)

    assert fuse(carried([1], [1.0]), certain).label_map.tolist() == [[1]]


def test_one_class_needs_no_rival() -> None:
    fused = fuse(carried([0, IGNORE], [0.5, 0.0]), np.ones((1, 1, 2), np.float32))
    assert fused.label_map.tolist() == [[0, 0]]
    assert fused.certainty[0].tolist() == pytest.approx([0.8, 0.5])  # leads of 4 and 1


def test_what_no_answer_shows_is_as_likely_as_it_was() -> None:
    now = np.array([0.6, 0.4, 0.0], np.float32).reshape(3, 1, 1)
    first = np.array([0.2, 0.2, 0.6], np.float32).reshape(3, 1, 1)
    np.testing.assert_allclose(remember(now, first, [2]).ravel(), [0.24, 0.16, 0.6], rtol=1e-6)
    np.testing.assert_allclose(remember(now, first, [1]).ravel(), now.ravel())  # surer now
    np.testing.assert_allclose(remember(now, first, [0, 1, 2]).ravel(), [0.375, 0.25, 0.375])
    np.testing.assert_array_equal(remember(now, first, []), now)
    assert now.ravel().tolist() == pytest.approx([0.6, 0.4, 0.0])  # left as it was


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(0, 5))
def test_remembering_leaves_probabilities(seed: int, count: int, unseen: int) -> None:
    rng = np.random.default_rng(seed)
    now, first = rng.dirichlet(np.full(count, 0.3), (2, 4, 5)).transpose(0, 3, 1, 2)
    now, first = now.astype(np.float32), first.astype(np.float32)
    classes = list(range(min(unseen, count)))
    joined = remember(now, first, classes)
    assert joined.dtype == np.float32
    assert (joined >= 0).all()
    some = now[len(classes) :].sum(axis=0) > 1e-6
    np.testing.assert_allclose(joined.sum(axis=0)[some], 1, atol=1e-4)
    seen = slice(len(classes), None)
    left = 1 - joined[: len(classes)].sum(axis=0)
    share = now[seen] / np.maximum(now[seen].sum(axis=0), 1e-12)
    np.testing.assert_allclose(joined[seen][:, some], (left * share)[:, some], atol=1e-4)
