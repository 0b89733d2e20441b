import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from hvsa_cvat.segmentation.checkpoint import new_network
from hvsa_cvat.segmentation.pretrain import augment, pretrain, pretraining
from hvsa_cvat.types import IGNORE, Image, LabelMap, Size

CPU = torch.device("cpu")
seeds = st.integers(0, 10_000)
sizes = st.tuples(st.integers(32, 80), st.integers(32, 80))


def blocks(size: Size = (40, 60)) -> tuple[Image, LabelMap]:
    """Class c is the colour whose channel c is bright."""
    y, x = np.mgrid[: size[0], : size[1]]
    label_map = ((3 * x // size[1] + 2 * y // size[0]) % 3).astype(np.uint8)
    return np.array([(200, 20, 20), (20, 200, 20), (20, 20, 200)], np.uint8)[label_map], label_map


@settings(deadline=None, max_examples=60)
@given(seeds, sizes, sizes)
@example(208, (32, 39), (32, 61))
def test_labels_move_with_their_image(seed: int, size: Size, target: Size) -> None:
    image, label_map = augment(*blocks(size), target, np.random.default_rng(seed))

    assert image.dtype == label_map.dtype == np.uint8
    assert image.shape == (*target, 3)
    assert label_map.shape == target
    # colours mix where classes meet, if only just outside
    padded = np.pad(label_map, 1, constant_values=IGNORE)
    inner = ndimage.maximum_filter(padded, 5) == ndimage.minimum_filter(padded, 5)
    inner = inner[1:-1, 1:-1] & (label_map != IGNORE)
    assert inner.any()
    assert np.array_equal(image.argmax(axis=2)[inner], label_map[inner])


@settings(deadline=None, max_examples=60)
@given(seeds, sizes, sizes)
def test_outside_the_frame_nothing_is_labelled(seed: int, size: Size, target: Size) -> None:
    image, label_map = augment(
        np.full((*size, 3), 128, np.uint8), np.ones(size, np.uint8), target,
        np.random.default_rng(seed),
    )  # fmt: skip

    known = label_map != IGNORE
    rows, columns = known.any(axis=1), known.any(axis=0)
    assert np.array_equal(known, rows[:, None] & columns)  # a rectangle of the target's shape
    assert rows.mean() > 0.6 - 1 / 32
    assert abs(rows.mean() - columns.mean()) < 3 / 32
    assert image.min() > 50  # the image itself goes on


def test_half_are_mirrored_and_all_are_lit_anew() -> None:
    image, label_map = np.full((32, 48, 3), 128, np.uint8), np.zeros((32, 48), np.uint8)
    label_map[:, 24:] = 1
    rng = np.random.default_rng(0)

    drawn = [augment(image, label_map, (32, 48), rng) for _ in range(100)]

    def position(label_map: LabelMap, label: int) -> float:
        return float(np.nonzero(label_map == label)[1].mean())

    both = [target for _, target in drawn if {0, 1} <= set(np.unique(target).tolist())]
    mirrored = sum(position(target, 1) < position(target, 0) for target in both)
    assert len(both) > 80
    assert 0.3 < mirrored / len(both) < 0.7
    assert len({image.mean() for image, _ in drawn}) > 50
    shares = [(target != IGNORE).mean() for _, target in drawn]
    assert min(shares) < 0.6
    assert max(shares) == 1


def test_the_generator_decides_the_picture() -> None:
    one = augment(*blocks(), (32, 48), np.random.default_rng(4))
    again = augment(*blocks(), (32, 48), np.random.default_rng(4))
    other = augment(*blocks(), (32, 48), np.random.default_rng(5))

    assert np.array_equal(one[0], again[0])
    assert np.array_equal(one[1], again[1])
    assert not np.array_equal(one[0], other[0])


def test_a_few_steps_lower_the_loss_and_the_seed_decides_them() -> None:
    def weights(seed: int, epochs: int) -> tuple[dict[str, torch.Tensor], tuple[float, ...]]:
        network = new_network("hrnet_w18_small", 3, seed=1)
        config = pretraining(epochs, batch=4)
        run = pretrain(network, lambda k: blocks(), 8, (32, 48), config, seed=seed, device=CPU)
        assert not network.training
        return network.state_dict(), run.losses

    _, losses = weights(0, 12)
    assert losses[-1] < 0.7 * losses[0]

    (one, run), (again, run_again), (other, _) = weights(0, 1), weights(0, 1), weights(1, 1)
    assert run == run_again
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["last_layer.3.weight"], other["last_layer.3.weight"])


def test_every_frame_is_read_once_an_epoch_and_no_step_has_a_single_one() -> None:
    read: list[int] = []
    told: list[tuple[str, int, int]] = []

    def remember(k: int) -> tuple[Image, LabelMap]:
        read.append(k)
        return blocks((20 + k, 30))

    # at 32x32 the deepest branch has one cell: batch norm refuses a step of one frame
    pretrain(
        new_network("hrnet_w18_small", 3), remember, 5, (32, 32), pretraining(2, batch=4),
        seed=0, device=CPU, progress=lambda *step: told.append(step),
    )  # fmt: skip

    assert sorted(read[:5]) == sorted(read[5:]) == [0, 1, 2, 3, 4]
    assert told == [("train", k, 4) for k in (1, 2, 3, 4)]
