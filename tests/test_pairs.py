from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hvsa_cvat.segmentation.pairs import (
    Batch,
    Gathered,
    Pair,
    ResidentVideo,
    TrainingData,
    epoch_pairs,
    make_batch,
    shrink_labels,
    shrink_weights,
)
from hvsa_cvat.types import IGNORE
from hvsa_cvat.video.flow import OFFSETS, FlowStore

lengths = st.integers(1, 40)
batch_sizes = st.integers(1, 9)
seeds = st.integers(0, 1000)


def labels(*rows: str) -> np.ndarray:
    """`.` where nobody labelled."""
    return np.array(
        [[IGNORE if mark == "." else int(mark) for mark in row] for row in rows], np.uint8
    )


def video(
    length: int = 3, size: tuple[int, int] = (2, 3), seed: int = 0, flow: bool = True
) -> TrainingData:
    rng = np.random.default_rng(seed)
    store = FlowStore(
        rng.normal(size=(length, len(OFFSETS), 2, *size)).astype(np.float16),
        rng.random((length, len(OFFSETS), *size)) < 0.5,
    )
    return TrainingData(
        rng.integers(0, 256, (length, *size, 3), np.uint8),
        {1: rng.integers(0, 4, size, np.uint8)},
        store if flow else None,
    )


# Drawing pairs


@settings(deadline=None)
@given(lengths, batch_sizes, seeds)
def test_every_frame_is_an_anchor_once_an_epoch(length: int, batch: int, seed: int) -> None:
    batches = epoch_pairs(length, [0], "every-frame", batch, np.random.default_rng(seed))

    assert sorted(t for pairs in batches for t, _ in pairs) == list(range(length))
    assert len(batches) == -(-length // batch)
    assert all(len(pairs) == batch for pairs in batches[:-1])


@settings(deadline=None)
@given(lengths, batch_sizes, seeds, st.sampled_from(["every-frame", "half-labeled"]))
def test_partners_are_near_and_inside_the_video(
    length: int, batch: int, seed: int, sampling: str
) -> None:
    batches = epoch_pairs(length, [length - 1], sampling, batch, np.random.default_rng(seed))  # type: ignore[arg-type]

    for t, partner in (pair for pairs in batches for pair in pairs):
        assert 0 <= partner < length
        assert abs(t - partner) in ({1, 2} if length > 1 else {0})


@settings(deadline=None)
@given(lengths, st.integers(2, 9), seeds)
def test_half_labeled_adds_labeled_anchors_and_keeps_every_frame(
    length: int, batch: int, seed: int
) -> None:
    labeled = list(range(0, length, 5))

    batches = epoch_pairs(length, labeled, "half-labeled", batch, np.random.default_rng(seed))

    anchors = Counter(t for pairs in batches for t, _ in pairs)
    again = anchors - Counter(range(length))
    assert set(anchors) == set(range(length))
    assert set(again) <= set(labeled)
    assert again.total() == len(batches) * min(batch // 2, len(labeled))
    assert all(len(pairs) == batch for pairs in batches[:-1])


def test_half_labeled_without_labels_is_every_frame() -> None:
    one, other = np.random.default_rng(3), np.random.default_rng(3)

    assert epoch_pairs(7, [], "half-labeled", 4, one) == epoch_pairs(7, [], "every-frame", 4, other)


@pytest.mark.parametrize("sampling", ["every-frame", "half-labeled"])
def test_epochs_have_equally_many_batches_of_other_pairs(sampling) -> None:
    epochs = [
        epoch_pairs(11, [2, 7], sampling, 4, np.random.default_rng(seed)) for seed in range(20)
    ]

    assert len({len(batches) for batches in epochs}) == 1
    assert epochs[0] != epochs[1]
    assert epochs[0] == epoch_pairs(11, [2, 7], sampling, 4, np.random.default_rng(0))
    # over the epochs each frame meets all of its neighbours
    met = {pair for batches in epochs for pairs in batches for pair in pairs if pair[0] == 5}
    assert met == {(5, 3), (5, 4), (5, 6), (5, 7)}


# Gathering them


def assert_same(one: Batch, other: Batch) -> None:
    for name, value in vars(one).items():
        found = getattr(other, name)
        same = found is None if value is None else torch.equal(found, value)
        assert same, name
        assert value is None or found.dtype == value.dtype, name


def test_a_batch_is_all_anchors_then_all_partners() -> None:
    data = video()

    batch = make_batch(data, [(0, 1), (2, 0)])

    assert batch.images.dtype == torch.uint8
    for image, frame in zip(batch.images, (0, 2, 1, 0), strict=True):
        assert np.array_equal(image.numpy(), data.frames[frame].transpose(2, 0, 1))
    assert batch.targets.dtype == torch.int64
    assert np.array_equal(batch.targets[2].numpy(), data.targets[1])
    assert (batch.targets[[0, 1, 3]] == IGNORE).all()
    for k, pair in enumerate([(0, 1), (2, 0)]):
        found = data.flow.get(*pair)
        assert np.array_equal(batch.flow[k].numpy(), found.flow)
        assert np.array_equal(batch.valid[k].numpy(), found.valid)
    assert (batch.flow.dtype, batch.valid.dtype) == (torch.float32, torch.bool)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("flow", [False, True])
def test_a_resident_video_gives_the_same_batches(weighted: bool, flow: bool) -> None:
    data = video(5, flow=flow)
    weights = {1: np.full((2, 3), 0.5, np.float32)}
    data = replace(data, weights=weights if weighted else None)
    resident = ResidentVideo(data, torch.device("cpu"))

    for pairs in ([(0, 1), (1, 3), (4, 2)], [(2, 2)], [(3, 4)], []):
        assert_same(resident.batch(pairs), make_batch(data, pairs))


def test_what_a_resident_video_takes() -> None:
    data = video(3)  # 2 x 3 pixels: 3 bytes of colour, 4 x (4 + 1) of flow a frame; labels

    assert ResidentVideo.bytes(data) == 3 * 6 * (3 + 20) + 6 * (len(data.targets) + 1)


def test_a_pair_without_flow_is_valid_nowhere() -> None:
    for data, pair in ((video(flow=False), (0, 1)), (video(length=1), (0, 0))):
        batch = make_batch(data, [pair])

        assert not batch.valid.any()
        assert not batch.flow.any()


def test_a_batch_does_not_write_into_the_video() -> None:
    data = video()
    before = data.frames.copy(), data.targets[1].copy(), data.flow.get(0, 1).flow.copy()

    batch = make_batch(data, [(0, 1)])
    for values in (batch.images, batch.targets, batch.flow):
        values.zero_()

    assert np.array_equal(data.frames, before[0])
    assert np.array_equal(data.targets[1], before[1])
    assert np.array_equal(data.flow.get(0, 1).flow, before[2])


# Labels at network size


def test_labels_shrink_to_the_pixel_under_the_centre() -> None:
    full = labels("000111", "0.0111", "000222", "333222", "333222", "333222")

    assert np.array_equal(shrink_labels(full, (2, 2)), labels(".1", "32"))
    assert np.array_equal(shrink_labels(full, (6, 6)), full)
    assert np.array_equal(shrink_labels(labels("01"), (1, 4)), labels("0011"))


@settings(deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_a_shrunk_label_is_the_one_at_its_centre(full: np.ndarray, size: tuple[int, int]) -> None:
    small = shrink_labels(full, size)

    assert small.shape == size
    assert small.dtype == np.uint8
    rows, columns = ((2 * np.arange(n) + 1) * m for n, m in zip(size, full.shape, strict=True))
    # a centre that lies exactly between two pixels may take either
    clear = (rows % (2 * size[0]) != 0)[:, None] & (columns % (2 * size[1]) != 0)
    centres = full[rows // (2 * size[0])][:, columns // (2 * size[1])]
    assert np.array_equal(small[clear], centres[clear])


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_gathered_ahead_are_the_same(ahead: bool) -> None:
    steps = [[(0, 1), (2, 0)], [(1, 2)], [], [(2, 1)]]
    data = replace(video(), weights={1: np.full((2, 3), 0.5, np.float32)})
    asked: list[Sequence[Pair]] = []

    def gather(pairs: Sequence[Pair]) -> Batch:
        asked.append(pairs)
        return make_batch(data, pairs)

    gathered = Gathered(steps, gather, ahead)

    assert (len(gathered), asked) == (4, [])
    for batch, pairs in zip(gathered, steps, strict=True):
        assert_same(batch.to(torch.device("cpu")), make_batch(data, pairs))
    assert asked == steps


def test_gathering_waits_one_batch_ahead_and_fails_in_its_turn() -> None:
    def gather(pairs: Sequence[Pair]) -> Batch:
        if pairs == [(9, 9)]:
            raise OSError("no such frame")
        return make_batch(video(), pairs)

    gathered = iter(Gathered([[(0, 1)], [(9, 9)]], gather, ahead=True))

    assert len(next(gathered).images) == 2
    with pytest.raises(OSError, match="no such frame"):
        next(gathered)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_pinned_batch_is_the_same() -> None:
    batch = make_batch(video(), [(0, 1), (2, 0)])

    sent = batch.pinned().to(torch.device("cuda"))

    assert batch.pinned().flow.is_pinned()
    assert_same(sent.to(torch.device("cpu")), batch)


def test_weights_follow_their_targets() -> None:
    data = video()
    assert make_batch(data, [(1, 0)]).weights is None
    ones = np.full((2, 3), 0.5, np.float32)

    batch = make_batch(replace(data, weights={1: ones}), [(1, 0)])

    assert batch.weights is not None
    assert batch.weights.tolist() == [ones.tolist(), np.zeros((2, 3)).tolist()]


def test_weights_are_those_of_the_labels_that_are_kept() -> None:
    label_map = np.arange(24, dtype=np.uint8).reshape(4, 6)

    small = shrink_weights(label_map.astype(np.float32), (2, 3))

    assert small.tolist() == shrink_labels(label_map, (2, 3)).tolist()
