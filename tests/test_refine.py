from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hvsa_cvat.errors import SessionError
from hvsa_cvat.segmentation.crops import (
    BATCH,
    Crops,
    boundaries,
    choose_corners,
    choose_frames,
    crop_size,
    steps_for,
    target_weights,
)
from hvsa_cvat.segmentation.refine import (
    fit,
    load_head,
    log_probabilities,
    new_head,
    refine,
    save_head,
)
from hvsa_cvat.types import IGNORE

CPU = torch.device("cpu")


def probabilities(size: tuple[int, int], classes: int = 3) -> np.ndarray:
    values = np.random.default_rng(0).dirichlet(np.ones(classes), size).transpose(2, 0, 1)
    return values.astype(np.float32)


def image(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)


@pytest.mark.parametrize("size", [(8, 10), (7, 10), (8, 9), (7, 9), (1, 1)])
def test_a_new_head_changes_nothing_at_any_size(size: tuple[int, int]) -> None:
    probs = probabilities(size)
    found = refine(new_head(3, seed=0).eval(), image(size), probs)
    raised = np.maximum(probs, 1e-3)
    assert found.shape == probs.shape
    np.testing.assert_allclose(found, raised / raised.sum(axis=0), atol=1e-6)


def test_a_seed_gives_a_head() -> None:
    one, same, other = (new_head(3, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["first.weight"], other["first.weight"])


def test_boundaries_by_hand() -> None:
    target = np.array([[0, 0, 1], [0, IGNORE, 1], [0, 0, 0]], np.uint8)
    assert boundaries(target).tolist() == [
        [False, True, True],
        [False, False, True],
        [False, False, True],
    ]


def test_weights_by_hand() -> None:
    target = np.array([[0] * 6 + [1] * 6], np.uint8)
    confidence = np.full(target.shape, 0.5, np.float32)
    confidence[0, -1] = 1
    # four pixels beside the boundary's own
    near, far = [0.5] * 10, [0.1, 0.2]
    assert target_weights(target, confidence)[0].tolist() == pytest.approx([far[0], *near, far[1]])
    nowhere = target_weights(np.zeros_like(target), confidence)
    np.testing.assert_allclose(nowhere, confidence / 5)


def test_crops_are_even_and_lie_at_boundaries() -> None:
    target = np.zeros((101, 131), np.uint8)
    target[60:, 100:] = 1
    assert crop_size(target.shape) == (96, 96)
    assert crop_size((33, 200)) == (32, 96)
    rng = np.random.default_rng(0)
    for crop in ((96, 96), (16, 20)):
        corners = choose_corners(target, crop, 50, rng)
        assert len(corners) == 50
        for top, left in corners:
            assert top % 2 == left % 2 == 0
            here = boundaries(target)[top : top + crop[0], left : left + crop[1]]
            assert here.shape == crop
            assert here.any()
    assert len(set(corners)) > 10
    assert len(set(choose_corners(np.zeros_like(target), (16, 20), 50, rng))) > 10


def test_a_fifth_of_the_crops_are_of_answered_frames() -> None:
    frames = choose_frames(1000, [3, 7], 5000, np.random.default_rng(0))
    assert np.isin(frames, [3, 7]).mean() == pytest.approx(0.2, abs=0.02)
    assert len(set(frames.tolist())) > 900
    again = choose_frames(1000, [3, 7], 5000, np.random.default_rng(0))
    np.testing.assert_array_equal(frames, again)


def test_short_small_videos_take_fewer_steps() -> None:
    assert steps_for(50, (360, 480)) == 200
    assert steps_for(5000, (1080, 1920)) == 200
    assert steps_for(50, (144, 192)) == 80
    assert steps_for(1, (32, 32)) == 2


def bright_and_dark(count: int) -> Crops:
    """Class 1 is what is bright, and the network does not know where its boundary lies."""
    rng = np.random.default_rng(0)
    edge = rng.integers(8, 25, count)
    targets = (np.arange(32) >= edge[:, np.newaxis]).astype(np.uint8)
    targets = np.repeat(targets[:, np.newaxis], 32, axis=1)
    images = np.repeat((60 + 120 * targets)[..., np.newaxis], 3, axis=3).astype(np.uint8)
    even = np.full((count, 2, 32, 32), np.log(0.5), np.float16)
    return Crops(images, even, targets, np.ones(targets.shape, np.float32))


def test_a_head_learns_where_the_boundaries_are() -> None:
    head = new_head(2, seed=0)
    told: list[tuple[str, int, int]] = []
    fit(head, bright_and_dark(40 * BATCH), device=CPU, progress=lambda *at: told.append(at))
    assert told[-1] == ("refine", 40, 40)
    assert not head.training
    other = bright_and_dark(BATCH)
    half = np.full((2, 32, 32), 0.5, np.float32)
    for seen, target in zip(other.images, other.targets, strict=True):
        assert (refine(head, seen, half).argmax(axis=0) == target).mean() > 0.97


def test_the_same_crops_give_the_same_head() -> None:
    heads = [new_head(2, seed=0) for _ in range(3)]
    crops = bright_and_dark(4 * BATCH)
    lighter = replace(crops, weights=crops.weights / 2)
    for head, given in zip(heads, (crops, crops, lighter), strict=True):
        fit(head, given, device=CPU)
    one, same, halved = (head.state_dict() for head in heads)
    for name in one:
        assert torch.equal(one[name], same[name])
        # it is the weighted mean that counts
        torch.testing.assert_close(one[name], halved[name], rtol=1e-2, atol=1e-3)


def test_crops_without_any_label_teach_nothing() -> None:
    crops = bright_and_dark(BATCH)
    head = new_head(2, seed=0)
    fit(head, replace(crops, targets=np.full_like(crops.targets, IGNORE)), device=CPU)
    assert all(bool(value.isfinite().all()) for value in head.state_dict().values())
    found = refine(head, image((4, 4)), np.full((2, 4, 4), 0.5, np.float32))
    np.testing.assert_allclose(found, 0.5, atol=1e-3)


def test_a_crop_by_hand(tmp_path: Path) -> None:
    crops = Crops.in_files(tmp_path, 2, (2, 2), classes=1)
    probs = np.array([[[0.5, 0.0, 1.0], [0.5, 0.25, 0.5]]], np.float32)
    numbers = np.arange(6, dtype=np.uint8).reshape(2, 3)
    frame = np.repeat(numbers[..., np.newaxis], 3, axis=2)
    crops.cut(1, (0, 1), frame, probs, numbers, numbers / np.float32(2))
    assert crops.images[1, ..., 0].tolist() == [[1, 2], [4, 5]]
    expected = np.log([[1e-3, 1], [0.25, 0.5]])
    np.testing.assert_allclose(crops.log_probs[1, 0], expected, rtol=1e-3)
    assert crops.targets[1].tolist() == [[1, 2], [4, 5]]
    assert crops.weights[1].tolist() == [[0.5, 1], [2, 2.5]]


def test_crops_lie_in_files(tmp_path: Path) -> None:
    crops = Crops.in_files(tmp_path, 3, (16, 20), classes=5)
    assert crops.images.shape == (3, 16, 20, 3)
    assert crops.log_probs.shape == (3, 5, 16, 20)
    arrays = (crops.images, crops.log_probs, crops.targets, crops.weights)
    assert sum(array.nbytes for array in arrays) == Crops.bytes(3, (16, 20), 5)


def test_a_head_is_kept_and_read_again(tmp_path: Path) -> None:
    head, path = new_head(2, seed=0), tmp_path / "head.safetensors"
    fit(head, bright_and_dark(2 * BATCH), device=CPU)
    save_head(head, path)
    again = load_head(path, 2)
    probs = probabilities((6, 8), 2)
    kept, read = (refine(one, image((6, 8)), probs) for one in (head, again))
    np.testing.assert_array_equal(kept, read)
    with pytest.raises(SessionError, match="is missing or damaged"):
        load_head(path, 3)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SessionError, match="is missing or damaged"):
        load_head(path, 2)


def test_small_probabilities_are_raised() -> None:
    found = log_probabilities(torch.tensor([0.0, 1e-4, 1.0]))
    np.testing.assert_allclose(found, np.log([1e-3, 1e-3, 1.0]), rtol=1e-5)
