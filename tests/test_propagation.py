import resource
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvsa_cvat.errors import HvsaError
from hvsa_cvat.propagation.propagate import (
    DECAY,
    FAILED_DECAY,
    Carried,
    Propagated,
    _chain,
    carry,
    fill,
)
from hvsa_cvat.types import IGNORE, Correspondence, FrameAnnotation
from hvsa_cvat.video.flow import OFFSETS, FlowStore


def drawn(text: str) -> np.ndarray:
    """A label map; a dot is a pixel without label."""
    return np.array(
        [[IGNORE if c == "." else int(c) for c in line] for line in text.split()], np.uint8
    )


def shown(label_map: np.ndarray) -> str:
    return " ".join("".join("." if v == IGNORE else str(v) for v in line) for line in label_map)


def annotated(frame: int, text: str) -> FrameAnnotation:
    return FrameAnnotation(frame, (0,), drawn(text))


def shifting(length: int, size, dx: float = 0.0, dy: float = 0.0, valid=True) -> FlowStore:
    """Everything moves by (dx, dy) a frame; the check fails outside the frame, or as told."""
    flow = np.zeros((length, len(OFFSETS), 2, *size), np.float16)
    checked = np.zeros((length, len(OFFSETS), *size), bool)
    x, y = np.arange(size[1]), np.arange(size[0])[:, np.newaxis]
    for i, offset in enumerate(OFFSETS):
        flow[:, i, 0], flow[:, i, 1] = dx * offset, dy * offset
        inside = (x + dx * offset >= -0.5) & (x + dx * offset < size[1] - 0.5)
        inside = inside & (y + dy * offset >= -0.5) & (y + dy * offset < size[0] - 0.5)
        checked[:, i] = inside & valid
    return FlowStore(flow, checked)


def propagate(annotations, flow, size, length, **others) -> list[Propagated]:
    with tempfile.TemporaryDirectory() as folder:
        return list(carry(annotations, flow, size, length, Path(folder) / "carried", **others))


def maps(annotations, flow, size):
    return [p.label_map for p in propagate(annotations, flow, size, len(flow))]


def test_labels_travel_with_the_flow_both_ways():
    flow = shifting(4, (2, 6), dx=1)
    got = maps([annotated(1, "001122 001122")], flow, (2, 6))
    assert [shown(m) for m in got] == [
        "011222 011222",  # what lies beyond the border goes on
        "001122 001122",
        "000112 000112",
        "000011 000011",
    ]


def test_confidence_by_hand():
    flow = shifting(3, (1, 4), dx=1)
    first, second, third = propagate([annotated(0, "0111")], flow, (1, 4), 3)
    assert first.confidence.tolist() == [[1, 1, 1, 1]]
    step, failed = DECAY, DECAY * FAILED_DECAY
    assert second.confidence[0] == pytest.approx([failed, step, step, step], rel=1e-3)
    assert third.confidence[0] == pytest.approx(
        [failed * failed, step * failed, step * step, step * step], rel=1e-3
    )
    assert (first.frame, second.frame, third.frame) == (0, 1, 2)
    assert second.label_map.dtype == np.uint8
    assert second.confidence.dtype == np.float32


def test_the_nearer_annotation_wins():
    flow = shifting(5, (1, 2))
    got = maps([annotated(0, "00"), annotated(4, "11")], flow, (1, 2))
    assert [shown(m) for m in got] == ["00", "00", "00", "11", "11"]


def test_a_chain_that_fails_the_check_loses_to_a_longer_one_that_holds():
    flow = shifting(5, (1, 2))
    valid = np.ones((5, 4, 1, 2), bool)
    valid[1, OFFSETS.index(-1), 0, 0] = False  # from the past, the left pixel of frame 1
    flow = FlowStore(flow._flow, valid)
    got = maps([annotated(0, "00"), annotated(4, "11")], flow, (1, 2))
    assert shown(got[1]) == "10"


def test_a_label_travels_on_through_failing_checks():
    flow = shifting(40, (1, 3), valid=False)
    last = propagate([annotated(0, "012")], flow, (1, 3), 40)[-1]
    assert shown(last.label_map) == "012"
    assert last.reached == 1
    assert (last.confidence > 0).all()
    assert (last.confidence < 0.001).all()


def test_partial_annotations_speak_for_their_own_pixels():
    flow = shifting(3, (1, 4))
    annotations = [annotated(0, "00.."), annotated(1, ".1.."), annotated(1, "..2.")]
    first, second, third = propagate(annotations, flow, (1, 4), 3)
    assert shown(first.label_map) == "002."
    assert shown(second.label_map) == "012."
    assert shown(third.label_map) == "012."
    assert third.reached == 0.75
    assert third.confidence[0] == pytest.approx([DECAY**2, DECAY, DECAY, 0], rel=1e-3)


def test_labels_are_read_by_colour():
    # what stands still is seen to move by a pixel, so the label of another colour arrives
    flow = shifting(2, (1, 8), dx=1)
    video = np.zeros((2, 1, 8, 3), np.uint8)
    video[:, :, 4:] = 255
    answer = [annotated(0, "00001111")]
    plain = propagate(answer, flow, (1, 8), 2)
    assert [shown(one.label_map) for one in plain] == ["00001111", "00000111"]
    looked = propagate(answer, flow, (1, 8), 2, colours=video)
    assert [shown(one.label_map) for one in looked] == ["00001111", "00001111"]


def test_later_annotation_of_a_frame_holds():
    flow = shifting(1, (1, 3))
    got = maps([annotated(0, "00."), annotated(0, ".11")], flow, (1, 3))
    assert shown(got[0]) == "011"


def test_half_a_pixel_does_not_add_up_to_drift():
    flow = shifting(9, (1, 16), dx=0.5)
    got = maps([annotated(0, "0000000011111111")], flow, (1, 16))
    assert shown(got[8]) == "0000000000001111"  # moved by 4, not by 0 or 8


def test_flow_of_another_size_is_scaled():
    flow = shifting(3, (2, 6), dx=1)
    text = "000011112222 " * 4
    got = maps([annotated(0, text)], flow, (4, 12))
    assert shown(got[2]) == " ".join(["000000001111"] * 4)
    got = maps([annotated(0, "012")], shifting(2, (2, 6), dx=2), (1, 3))
    assert shown(got[1]) == "001"


def test_without_annotations_nothing_is_reached():
    (frame,) = propagate([], shifting(1, (2, 3)), (2, 3), 1)
    assert shown(frame.label_map) == "... ..."
    assert frame.reached == 0
    assert not frame.confidence.any()


def test_fill_takes_the_network_where_nothing_is_known_or_trusted():
    flow = shifting(2, (1, 3), valid=np.array([True, False, True]))
    _, frame = propagate([annotated(0, "01.")], flow, (1, 3), 2)
    network = drawn("555")
    assert shown(fill(frame, network)) == "015"


def test_misfits_are_bugs():
    with pytest.raises(ValueError, match="2 frames for a video of 3"):
        propagate([], shifting(2, (2, 2)), (2, 2), 3)
    with pytest.raises(ValueError, match="label map"):
        propagate([annotated(0, "00")], shifting(2, (2, 2)), (2, 2), 2)


def test_progress_goes_frame_by_frame_in_the_callers_thread():
    steps = []

    def progress(*step):
        steps.append((*step, threading.get_ident()))

    propagate([annotated(0, "00 00")], shifting(3, (2, 2)), (2, 2), 3, progress=progress)
    here = threading.get_ident()
    assert steps == [("carrying labels", done, 3, here) for done in (1, 2, 3)]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 5), scale=st.sampled_from([1, 2, 3]))
def test_people_are_always_right_and_nothing_is_made_up(seed, length, scale):
    rng = np.random.default_rng(seed)
    h, w = rng.integers(1, 6, 2)
    size = (int(h * scale), int(w * scale))
    flow = FlowStore(
        rng.normal(0, 2, (length, 4, 2, h, w)).astype(np.float16),
        rng.random((length, 4, h, w)) < 0.7,
    )
    annotations = [
        FrameAnnotation(t, (0,), rng.choice([0, 3, IGNORE], size).astype(np.uint8))
        for t in range(length)
        if rng.random() < 0.6
    ]
    results = propagate(annotations, flow, size, length)
    assert [p.frame for p in results] == list(range(length))
    seen = {v for a in annotations for v in np.unique(a.label_map)} | {IGNORE}
    for p in results:
        assert set(np.unique(p.label_map)) <= seen
        known = p.label_map != IGNORE
        assert p.reached == pytest.approx(known.mean())
        assert ((p.confidence > 0) == known).all()
        assert (p.confidence <= 1).all()
        assert ((p.lead >= 0) & (p.lead <= 2)).all()
        assert (p.lead[~known] == 0).all()
    for a in annotations:
        own = a.label_map != IGNORE
        assert (results[a.frame].label_map[own] == a.label_map[own]).all()
        assert (results[a.frame].confidence[own] == 1).all()
    again = propagate(annotations, flow, size, length)
    for p, q in zip(results, again, strict=True):
        assert np.array_equal(p.label_map, q.label_map)


# Both chains at once, kept in a folder

SIZE = (80, 96)


class Clip:
    """Six frames of 40x48 under answers of twice the size."""

    def __init__(self, flow_class: type[FlowStore] = FlowStore) -> None:
        rng = np.random.default_rng(1)
        noise = cv2.GaussianBlur(rng.normal(size=(40, 48, 3)), (0, 0), 2)
        still = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
        self.pictures = np.stack([np.roll(still, t, axis=1) for t in range(6)])
        self.answers = [
            FrameAnnotation(t, (0,), rng.choice([0, 3, IGNORE], SIZE).astype(np.uint8))
            for t in (1, 4)
        ]
        self.flow = flow_class(
            rng.normal(size=(6, 4, 2, 40, 48)).astype(np.float16), rng.random((6, 4, 40, 48)) < 0.8
        )

    def carried(self, folder: Path, steps: list[int] | None = None) -> Carried:
        """`steps` are counted one by one as they are taken."""

        def progress(step: str, done: int, total: int) -> None:
            if steps is not None:
                steps.append(done)

        return carry(
            self.answers, self.flow, SIZE, 6, folder, progress, self.pictures, self.pictures
        )


def assert_same(found: Iterable[Propagated], expected: Iterable[Propagated]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.frame, one.reached) == (other.frame, other.reached)
        np.testing.assert_array_equal(one.label_map, other.label_map)
        np.testing.assert_array_equal(one.confidence, other.confidence)
        np.testing.assert_array_equal(one.lead, other.lead)


def test_chains_side_by_side_are_those_that_run_one_after_another(tmp_path: Path) -> None:
    clip = Clip()
    carried = clip.carried(tmp_path / "carried")
    maps = np.stack([answer.label_map for answer in clip.answers])
    np.testing.assert_array_equal(carried.labels, maps)
    for found, order in ((carried.past, range(6)), (carried.future[::-1], range(6)[::-1])):
        alone = np.stack(list(_chain((1, 4), maps, clip.flow, order, clip.pictures)))
        assert found.dtype == alone.dtype
        assert found.tobytes() == alone.tobytes()
    first = list(carried)
    assert len(first) == len(carried) == 6
    assert_same(carried, first)


def test_what_was_carried_is_read_again(tmp_path: Path) -> None:
    clip, folder, steps = Clip(), tmp_path / "carried", []
    expected = list(clip.carried(folder, steps))
    assert steps == [1, 2, 3, 4, 5, 6]
    assert_same(clip.carried(folder, steps), expected)
    assert len(steps) == 6
    names = ["carried.json", "future.npy", "labels.npy", "past.npy"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["carried.json", "future.npy", "labels.npy", "past.npy"])
@pytest.mark.parametrize("damage", ["gone", "empty", "truncated", "flipped"])
def test_what_is_damaged_is_carried_anew(name: str, damage: str, tmp_path: Path) -> None:
    clip, folder, steps = Clip(), tmp_path / "carried", []
    expected = list(clip.carried(folder))
    whole = (folder / name).read_bytes()
    if damage == "gone":
        (folder / name).unlink()
    elif damage == "flipped":
        (folder / name).write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    else:
        (folder / name).write_bytes(whole[:-1] if damage == "truncated" else b"")
    assert_same(clip.carried(folder, steps), expected)
    assert len(steps) == 6
    assert (folder / name).read_bytes() == whole


def test_other_answers_are_carried_anew(tmp_path: Path) -> None:
    clip, folder, steps = Clip(), tmp_path / "carried", []
    before = clip.carried(folder)
    seen = clip.answers[1].label_map
    clip.answers[1] = FrameAnnotation(4, (0,), np.where(seen == 3, 0, seen))
    after = clip.carried(folder, steps)
    assert len(steps) == 6
    assert (list(after)[4].label_map[seen == 3] == 0).all()
    # whoever still reads the old ones is not disturbed
    assert (list(before)[4].label_map[seen == 3] == 3).all()


class TornFlow(FlowStore):
    """Fails in the chain from the future, amid the video."""

    def get(self, source: int, target: int) -> Correspondence | None:
        if (source, target) == (2, 3):
            raise RuntimeError("torn")
        return super().get(source, target)


def test_what_ends_one_chain_ends_both(tmp_path: Path) -> None:
    steps: list[int] = []
    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="torn"):
        Clip(TornFlow).carried(tmp_path / "carried", steps)
    assert steps == [1, 2, 3]
    assert threading.active_count() == threads
    assert list(tmp_path.iterdir()) == []


def test_interrupted_between_frames(tmp_path: Path) -> None:
    def progress(step: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    clip, threads = Clip(), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        carry(clip.answers, clip.flow, SIZE, 6, tmp_path / "carried", progress, clip.pictures)
    assert threading.active_count() == threads
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        with pytest.raises(HvsaError, match=r"cannot write .*carried: .*; free space or choose"):
            Clip().carried(tmp_path / "carried")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_chain_that_is_cut_at_wholly_labelled_frames_gives_the_same(tmp_path: Path) -> None:
    clip = Clip()
    part = np.full(SIZE, IGNORE, np.uint8)
    part[: SIZE[0] // 2] = 1
    whole = [FrameAnnotation(t, (0,), np.full(SIZE, t % 2, np.uint8)) for t in (1, 4)]
    answers = [*whole, FrameAnnotation(2, (0,), part)]

    def carried(folder: Path) -> list[tuple[bytes, bytes]]:
        found = carry(answers, clip.flow, SIZE, 6, folder, pictures=clip.pictures)
        return [(found.past[t].tobytes(), found.future[t].tobytes()) for t in range(6)]

    cut = carried(tmp_path / "cut")
    uncut = [
        list(
            _chain(
                (1, 2, 4),
                np.stack([answers[0].label_map, part, answers[1].label_map]),
                clip.flow,
                order,
                clip.pictures,
            )
        )
        for order in (range(6), range(6)[::-1])
    ]
    assert cut == [(uncut[0][t].tobytes(), uncut[1][5 - t].tobytes()) for t in range(6)]
