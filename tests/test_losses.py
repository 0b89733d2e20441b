import numpy as np
import torch

from hvsa_cvat.segmentation.losses import consistency_loss, labeled_cross_entropy, warp_batch
from hvsa_cvat.types import IGNORE


def constant_flow(dx: float, dy: float, size: tuple[int, int]) -> torch.Tensor:
    return torch.tensor([dx, dy])[None, :, None, None].expand(1, 2, *size).contiguous()


def random_probs(size: tuple[int, int] = (6, 8), seed: int = 0) -> torch.Tensor:
    noise = np.random.default_rng(seed).normal(size=(1, 3, *size)).astype(np.float32)
    return torch.from_numpy(noise).softmax(dim=1)


def test_warp_reads_the_other_frame_where_the_flow_points() -> None:
    values = torch.arange(12.0).reshape(1, 1, 3, 4)

    right = warp_batch(values, constant_flow(1, 0, (3, 4)))
    down = warp_batch(values, constant_flow(0, 1, (3, 4)))

    # beyond the border its values go on
    assert torch.allclose(
        right[0, 0], torch.tensor([[1.0, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]])
    )
    assert torch.allclose(
        down[0, 0], torch.tensor([[4.0, 5, 6, 7], [8, 9, 10, 11], [8, 9, 10, 11]])
    )


def test_warp_is_bilinear() -> None:
    values = torch.tensor([[0.0, 4.0], [8.0, 20.0]])[None, None]

    assert torch.allclose(
        warp_batch(values, constant_flow(0.25, 0, (2, 2)))[0, 0, :, 0], torch.tensor([1.0, 11.0])
    )
    assert torch.allclose(
        warp_batch(values, constant_flow(0.5, 0.5, (2, 2)))[0, 0, 0, 0], torch.tensor(8.0)
    )


def test_warp_uses_the_flow_of_each_pixel_and_each_frame() -> None:
    values = torch.tensor([[0.0, 1.0, 2.0]]).expand(2, 1, 1, 3).contiguous()
    flow = torch.zeros(2, 2, 1, 3)
    flow[0, 0, 0] = torch.tensor([2.0, 0.0, -2.0])

    assert warp_batch(values, flow)[:, 0, 0].tolist() == [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]


def test_warp_takes_frames_of_one_row_or_column() -> None:
    values = torch.tensor([[0.0, 1.0, 2.0]])[None, None]

    assert warp_batch(values, constant_flow(1, 0, (1, 3)))[0, 0].tolist() == [[1.0, 2.0, 2.0]]
    assert torch.isfinite(warp_batch(values[..., :1], constant_flow(1, 1, (1, 1)))).all()


def test_consistency_by_hand() -> None:
    # one row of three pixels, two classes; the content moves one pixel to the right
    probs = torch.tensor([[0.9, 0.5, 0.2], [0.1, 0.5, 0.8]])[None, :, None]
    other = torch.tensor([[0.3, 0.7, 0.5], [0.7, 0.3, 0.5]])[None, :, None]
    valid = torch.tensor([[[True, True, False]]])

    loss = consistency_loss(probs, other, constant_flow(1, 0, (1, 3)), valid)

    # (0.9 - 0.7)^2 twice and (0.5 - 0.5)^2 twice, over two valid pixels
    assert torch.isclose(loss, torch.tensor(0.04))


def test_consistency_is_zero_exactly_under_the_true_shift() -> None:
    probs = random_probs()
    dx, dy = 2, -1
    other = torch.roll(probs, (dy, dx), dims=(2, 3))  # what is at x in t is at x + (dx, dy) in t'
    valid = torch.zeros(1, 6, 8, dtype=torch.bool)
    valid[:, 1:, :6] = True

    def loss(x: float, y: float) -> float:
        return float(consistency_loss(probs, other, constant_flow(x, y, (6, 8)), valid))

    assert loss(dx, dy) < 1e-10
    assert loss(-dx, -dy) > 0.01
    assert loss(0, 0) > 0.01


def test_consistency_ignores_pixels_that_are_not_valid() -> None:
    probs, other = random_probs(seed=1).requires_grad_(), random_probs(seed=2).requires_grad_()
    valid = torch.zeros(1, 6, 8, dtype=torch.bool)
    valid[0, 2, 3] = True

    loss = consistency_loss(probs, other, constant_flow(1, 0, (6, 8)), valid)
    loss.backward()

    expected = (probs[0, :, 2, 3] - other[0, :, 2, 4]).square().sum()
    assert torch.isclose(loss, expected)
    # both frames learn, at the two ends of the flow and nowhere else
    assert probs.grad is not None
    assert other.grad is not None
    assert probs.grad.abs().sum(dim=1).nonzero().tolist() == [[0, 2, 3]]
    touched = other.grad.abs().sum(dim=1)
    assert touched[0, 2, 4] > 0
    touched[0, 2, 4] = 0
    assert touched.max() < 1e-5  # rounding of the sampling position


def test_consistency_without_a_valid_pixel_is_zero() -> None:
    probs = random_probs(seed=1).requires_grad_()

    loss = consistency_loss(
        probs, random_probs(seed=2), constant_flow(0, 0, (6, 8)), torch.zeros(1, 6, 8).bool()
    )
    loss.backward()

    assert float(loss.detach()) == 0
    assert probs.grad is not None
    assert not probs.grad.any()


def test_cross_entropy_by_hand() -> None:
    logits = torch.zeros(1, 3, 1, 3)
    logits[0, 1, 0, 1] = np.log(2)  # probabilities 1/4, 1/2, 1/4
    targets = torch.tensor([[[0, 1, IGNORE]]])

    loss = labeled_cross_entropy(logits, targets)

    assert np.isclose(float(loss), (np.log(3) + np.log(2)) / 2)


def test_weighted_cross_entropy_by_hand() -> None:
    logits = torch.zeros(1, 3, 1, 4)
    logits[0, 1, 0, 1] = np.log(2)  # probabilities 1/4, 1/2, 1/4
    targets = torch.tensor([[[0, 1, IGNORE, 2]]])
    weights = torch.tensor([[[1.0, 0.5, 9.0, 0.0]]])

    loss = labeled_cross_entropy(logits, targets, weights)

    assert np.isclose(float(loss), (np.log(3) + 0.5 * np.log(2)) / 1.5)


def test_cross_entropy_of_unlabelled_pixels_teaches_nothing() -> None:
    logits = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.full((2, 2, 2), IGNORE)
    targets[1, 0, 1] = 2

    labeled_cross_entropy(logits, targets).backward()

    assert logits.grad is not None
    assert logits.grad.abs().sum(dim=1).nonzero().tolist() == [[1, 0, 1]]


def test_cross_entropy_without_labels_is_zero_with_a_finite_gradient() -> None:
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()

    loss = labeled_cross_entropy(logits, torch.full((1, 2, 2), IGNORE))
    loss.backward()

    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()
