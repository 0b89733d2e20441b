import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy import ndimage
from torchvision.models.optical_flow import raft_small

from hvsa_cvat.errors import CheckpointError, ConfigError
from hvsa_cvat.video.flow import OFFSETS, compute_flow, consistent, warp
from hvsa_cvat.video.flow_estimators import DisFlow, RaftFlow, choose_flow


def texture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 2)
    grey = np.interp(noise, (noise.min(), noise.max()), (0, 255)).astype(np.uint8)
    return np.dstack([grey] * 3)


def moving(length: int, dx: int, dy: int, size=(48, 64)) -> NDArray[np.uint8]:
    """A window on one texture whose content moves by (dx, dy) a frame."""
    margin = 40
    scene = texture(size[0] + 2 * margin, size[1] + 2 * margin)
    return np.stack(
        [
            scene[margin - dy * t : margin - dy * t + size[0]][
                :, margin - dx * t : margin - dx * t + size[1]
            ]
            for t in range(length)
        ]
    )


class Shift:
    """Flow as told: every frame moves by `dx` pixels to the next one."""

    def __init__(self, name: str = "shift", dx: float = 3.0) -> None:
        self.name = name
        self.dx = dx
        self.pairs = 0

    def estimate(
        self, sources: NDArray[np.uint8], targets: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """The first pixel of a frame holds its number."""
        self.pairs += len(sources)
        steps = targets[:, 0, 0, 0].astype(np.float32) - sources[:, 0, 0, 0]
        flow = np.zeros((len(sources), 2, *sources.shape[1:3]), np.float32)
        flow[:, 0] = self.dx * steps[:, np.newaxis, np.newaxis]
        return flow


def numbered(length: int, size=(6, 10)) -> NDArray[np.uint8]:
    frames = np.zeros((length, *size, 3), np.uint8)
    frames[:, 0, 0, 0] = np.arange(length)
    return frames


@pytest.mark.parametrize("preset", ["fast", "medium", "fine"])
def test_dis_follows_the_content(preset):
    frames = moving(2, dx=3, dy=-2)
    flow = DisFlow(preset).estimate(frames[:1], frames[1:])
    assert flow.shape == (1, 2, 48, 64)
    assert flow.dtype == np.float32
    inner = flow[0][:, 12:-12, 12:-12]
    assert np.median(inner[0]) == pytest.approx(3, abs=0.3)  # to the right
    assert np.median(inner[1]) == pytest.approx(-2, abs=0.3)  # upwards


def test_dis_is_deterministic_and_takes_tiny_images():
    frames = moving(2, dx=2, dy=1)
    first, second = (DisFlow().estimate(frames[:1], frames[1:]) for _ in range(2))
    assert np.array_equal(first, second)
    assert DisFlow().estimate(frames[:1, :5, :3], frames[1:, :5, :3]).shape == (1, 2, 5, 3)


def test_warp_samples_where_the_flow_points():
    labels = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    right = np.zeros((2, 2, 3), np.float16)
    right[0] = 1
    assert warp(labels, right).tolist() == [[2, 3, 3], [5, 6, 6]]
    assert warp(labels > 4, right).tolist() == [[False] * 3, [True] * 3]
    down = np.zeros((2, 2, 3), np.float32)
    down[1] = 0.5
    half = warp(labels.astype(np.float32), down)
    assert half.tolist() == [[2.5, 3.5, 4.5], [4, 5, 6]]
    both = warp(np.dstack([labels] * 11).astype(np.float64), down)
    assert both.shape == (2, 3, 11)
    assert both.dtype == np.float64
    assert both[..., 7].tolist() == half.tolist()


def test_check_by_hand():
    there = np.zeros((2, 1, 5), np.float32)
    there[0] = [1, 1, 1, 1, 1]
    back = np.zeros((2, 1, 5), np.float32)
    back[0] = [-1, -1, 0, -0.5, -1]
    # 0 -> 1 -> 0 closes; 1 -> 2 stays there, one pixel off; 2 -> 3 returns half a pixel off;
    # 3 -> 4 -> 3 closes; 4 leaves the frame.
    assert consistent(there, back).tolist() == [[True, False, True, True, False]]


def test_store_by_hand(tmp_path):
    store = compute_flow(numbered(4), Shift(dx=3.0), tmp_path / "flow")
    assert len(store) == 4
    assert store.size == (6, 10)
    forward = store.get(1, 2)
    assert (forward.source, forward.target) == (1, 2)
    assert forward.flow.dtype == np.float16
    assert (forward.flow[0] == 3).all()
    assert (forward.flow[1] == 0).all()
    assert forward.valid[0].tolist() == [True] * 7 + [False] * 3  # the rest leaves the frame
    back = store.get(3, 1)
    assert (back.flow[0] == -6).all()
    assert back.valid[5].tolist() == [False] * 6 + [True] * 4
    assert store.get(0, 3) is None
    assert store.get(2, 2) is None
    assert store.get(0, -1) is None
    assert store.get(3, 4) is None
    assert store.valid_share() == {1: pytest.approx(0.7), 2: pytest.approx(0.4)}


@pytest.mark.parametrize(("length", "workers"), [(1, 1), (2, 1), (3, 2), (8, 2), (9, 1), (21, 3)])
def test_every_pair_once_in_any_chunking(tmp_path, length, workers):
    steps = []
    estimator = Shift(dx=1.0)
    store = compute_flow(
        numbered(length), estimator, tmp_path, lambda *step: steps.append(step), workers
    )
    for source in range(length):
        for offset in OFFSETS:
            pair = store.get(source, source + offset)
            if 0 <= source + offset < length:
                assert (pair.flow[0] == offset).all()
                assert pair.valid.any()
            else:
                assert pair is None
    assert estimator.pairs == 2 * (length - 1) + 2 * max(length - 2, 0)
    assert steps[-1] == ("computing optical flow", length, length)
    assert set(store.valid_share()) == {d for d in (1, 2) if d < length}


def test_flow_is_computed_once_for_an_estimator_and_shape(tmp_path):
    folder = tmp_path / "flow"
    first = Shift("first")
    kept = np.array(compute_flow(numbered(3), first, folder).get(0, 1).flow)
    again = Shift("first", dx=1.0)
    assert np.array_equal(compute_flow(numbered(3), again, folder).get(0, 1).flow, kept)
    assert again.pairs == 0
    other = Shift("other", dx=1.0)
    assert (compute_flow(numbered(3), other, folder).get(0, 1).flow[0] == 1).all()
    assert other.pairs == 6
    assert len(compute_flow(numbered(4), other, folder)) == 4
    (folder / "flow.npy").write_bytes(b"")
    compute_flow(numbered(4), other, folder)
    assert other.pairs == 6 + 2 * 10
    assert json.loads((folder / "flow.json").read_text())["estimator"] == "other"
    assert [p.name for p in tmp_path.iterdir()] == ["flow"]


def test_what_is_covered_fails_the_check(tmp_path):
    frames = moving(2, dx=0, dy=0, size=(128, 160))
    patch = texture(80, 64, seed=1)
    frames[0, 24:104, 40:104] = patch
    frames[1, 24:104, 48:112] = patch  # moves 8 pixels to the right
    valid = compute_flow(frames, DisFlow(), tmp_path / "flow").get(0, 1).valid
    assert valid[32:96, 105:111].mean() < 0.3  # background that gets covered
    assert valid[32:96, 48:96].mean() > 0.9
    assert valid[:, 125:].mean() > 0.95


def test_broken_estimator_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="values that are no numbers"):
        compute_flow(numbered(3), Shift(dx=float("nan")), tmp_path / "flow")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def raft_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(raft_small().state_dict(), path)
    return path


def test_raft_takes_any_size(raft_file, tmp_path):
    raft = RaftFlow("small", raft_file, "cpu")
    frames = moving(3, dx=1, dy=0, size=(33, 130))
    flow = raft.estimate(frames[:2], frames[1:])
    assert flow.shape == (2, 2, 33, 130)
    assert flow.dtype == np.float32
    assert np.allclose(flow[1], raft.estimate(frames[1:2], frames[2:])[0], atol=1e-3)
    assert raft.name.startswith("raft-small-")
    safe = tmp_path / "small.safetensors"
    save_file(torch.load(raft_file, weights_only=True), safe)
    same = RaftFlow("small", safe, "cpu")
    assert np.array_equal(same.estimate(frames[:2], frames[1:]), flow)
    assert same.name != raft.name


def test_wrong_weights_files(raft_file, tmp_path):
    cases = {
        "missing.pth": None,
        "empty.pth": b"",
        "text.pth": b"hello world",
        "cut.pth": raft_file.read_bytes()[:5000],
        "text.safetensors": b"hello world",
    }
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name) as caught:
            RaftFlow("small", tmp_path / name, "cpu")
        assert "--flow-weights FILE, or use --flow dis" in str(caught.value)
        assert "\n" not in str(caught.value)
    torch.save([1, 2], tmp_path / "list.pth")
    for variant, path in (("large", raft_file), ("small", tmp_path / "list.pth")):
        with pytest.raises(CheckpointError, match=f"no weights of torchvision.s RAFT {variant}"):
            RaftFlow(variant, path, "cpu")


def test_unreachable_published_weights(tmp_path, monkeypatch):
    home = tmp_path / "file"
    home.write_text("where the hub's folder would be")
    monkeypatch.setenv("TORCH_HOME", str(home))
    with pytest.raises(CheckpointError, match="--flow-weights FILE, or use --flow dis") as caught:
        RaftFlow("large", None, "cpu")
    assert "\n" not in str(caught.value)
    estimator, why = choose_flow("auto", "cuda", None)
    assert estimator.name == "dis-fine"
    assert "RAFT cannot be used" in why
    damaged = tmp_path / "hub" / "checkpoints" / "raft_small_C_T_V2-01064c6d.pth"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half a download")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="raft_small"):
        choose_flow("raft-small", "cpu", None)


def test_choice_of_flow(raft_file):
    estimator, why = choose_flow("auto", "cpu", None)
    assert (estimator.name, why) == (
        "dis-fine",
        "Optical flow by DIS, because RAFT is slow without a GPU.",
    )
    assert choose_flow("dis", "cuda", None)[0].name == "dis-fine"
    small, why = choose_flow("raft-small", "cpu", raft_file)
    assert small.name.startswith("raft-small")
    assert why == "Optical flow by RAFT (small), as asked for."
    with pytest.raises(ConfigError, match="--flow dis uses no weights"):
        choose_flow("dis", "cpu", raft_file)
    with pytest.raises(ConfigError, match="'farneback'; choose one of auto, dis"):
        choose_flow("farneback", "cpu", None)
    with pytest.raises(CheckpointError, match="RAFT large"):
        choose_flow("auto", "cpu", raft_file)
