from pathlib import Path

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hvsa_cvat.propagation.drift import Places, moved_places, reconstruct, without_drift
from hvsa_cvat.propagation.propagate import carry
from hvsa_cvat.types import IGNORE, FrameAnnotation
from hvsa_cvat.video.flow import OFFSETS, FlowStore

SIZE = (40, 48)


def textured(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Noise that is smooth enough for optical flow, uint8 (h, w, 3)."""
    noise = np.random.default_rng(seed).normal(size=(*size, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.asarray(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX), np.uint8)


def still(offset: float = 0.0, size: tuple[int, int] = SIZE) -> Places:
    """Every cell comes from source 0, `offset` cells to the right."""
    places = np.zeros((*size, 2), np.float32)
    places[..., 0] = offset
    return Places(places, np.zeros(size, np.int32), np.full(size, 0.5, np.float32))


def test_moved_places_by_hand() -> None:
    places = Places(
        np.array([[[0, 0], [2, 0], [5, 1]]], np.float32),
        np.array([[0, 1, -1]], np.int32),
        np.array([[0.1, 0.2, 0.3]], np.float32),
    )
    flow = np.zeros((2, 1, 3), np.float32)
    flow[0] = 0.75  # to the cell on the right; the last one has none

    moved = moved_places(places, flow)

    assert moved.offset.tolist() == [[[2.75, 0], [5.75, 1], [5.75, 1]]]
    assert moved.source.tolist() == [[1, -1, -1]]
    assert np.allclose(moved.confidence, [[0.2, 0.3, 0.3]])


def test_painting_reads_the_sources_between_pixels() -> None:
    video = np.full((3, 1, 3, 3), 7, np.uint8)
    video[0, 0, :, 0], video[2, 0, :, 0] = (0, 10, 20), (100, 110, 120)
    offset = np.zeros((1, 3, 2), np.float32)
    offset[0, 0, 0] = 0.5
    places = Places(offset, np.array([[0, 1, -1]], np.int32), np.ones((1, 3), np.float32))

    reconstructed = reconstruct(places, video, 1, [0, 2])

    assert reconstructed[0, :, 0].tolist() == [5, 110, 7]


def test_painting_goes_on_beyond_the_border() -> None:
    video = np.zeros((2, 1, 3, 3), np.uint8)
    video[0, 0, :, 0] = (10, 20, 30)
    offset = np.zeros((1, 3, 2), np.float32)
    offset[..., 0], offset[..., 1] = (-4, 0, 9), 3
    places = Places(offset, np.zeros((1, 3), np.int32), np.ones((1, 3), np.float32))

    assert reconstruct(places, video, 1, [0])[0, :, 0].tolist() == [10, 20, 30]


def test_drift_is_taken_out() -> None:
    picture = textured()
    video = np.stack([picture, picture])

    mended = without_drift(still(2.0), video, 1, [0])

    inner = mended.offset[8:-8, 8:-8]
    assert np.abs(inner).mean() < 0.25  # it was 1, half of 2: only x had drifted
    assert (mended.source == 0).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 100), st.sampled_from([-2.0, 0.0, 1.0, 3.0]))
def test_nothing_is_painted_worse_than_before(seed: int, offset: float) -> None:
    video = np.stack([textured(seed), textured(seed)])
    before = still(offset)

    after = without_drift(before, video, 1, [0])

    def error(places: Places) -> float:
        return float(np.abs(reconstruct(places, video, 1, [0]) - video[1]).mean())

    assert error(after) <= error(before) + 1e-6
    if offset == 0:
        assert (after.offset == before.offset).all()


def test_places_that_come_from_nowhere_stay() -> None:
    nowhere = still()._replace(source=np.full(SIZE, -1, np.int32))

    assert (without_drift(nowhere, np.stack([textured(1)] * 2), 1, [0]).source == -1).all()


def test_labels_stay_on_what_the_flow_is_wrong_about(tmp_path: Path) -> None:
    """Nothing moves and the flow says that everything does, by a cell a frame."""
    length = 5
    video = np.stack([textured(2)] * length)
    flow = np.zeros((length, len(OFFSETS), 2, *SIZE), np.float16)
    flow[:, :, 0] = np.array(OFFSETS)[None, :, None, None]
    store = FlowStore(flow, np.ones((length, len(OFFSETS), *SIZE), bool))
    label_map = np.zeros(SIZE, np.uint8)
    label_map[:, 24:] = 1
    label_map[:3, :3] = IGNORE
    answers = [FrameAnnotation(0, (0,), label_map)]

    def wrong(pictures: np.ndarray | None) -> float:
        folder = tmp_path / str(pictures is None)
        *_, last = carry(answers, store, SIZE, length, folder, pictures=pictures)
        inner = np.s_[8:-8, 8:-8]
        return float((last.label_map[inner] != label_map[inner]).mean())

    assert wrong(None) == 4 / 32
    assert wrong(video) < 1 / 32
