from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvsa_cvat.propagation.propagate import DECAY, FAILED_DECAY, fill, propagate
from hvsa_cvat.types import IGNORE, FrameAnnotation
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
    last = list(propagate([annotated(0, "012")], flow, (1, 3), 40))[-1]
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
        next(propagate([], shifting(2, (2, 2)), (2, 2), 3))
    with pytest.raises(ValueError, match="label map"):
        next(propagate([annotated(0, "00")], shifting(2, (2, 2)), (2, 2), 2))


def test_progress_ends_whole():
    steps = []
    flow = shifting(3, (2, 2))
    list(propagate([annotated(0, "00 00")], flow, (2, 2), 3, lambda *step: steps.append(step)))
    assert steps[2] == ("propagating labels backward", 3, 3)
    assert steps[-1] == ("propagating labels", 3, 3)


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
    results = list(propagate(annotations, flow, size, length))
    assert [p.frame for p in results] == list(range(length))
    seen = {v for a in annotations for v in np.unique(a.label_map)} | {IGNORE}
    for p in results:
        assert set(np.unique(p.label_map)) <= seen
        known = p.label_map != IGNORE
        assert p.reached == pytest.approx(known.mean())
        assert ((p.confidence > 0) == known).all()
        assert (p.confidence <= 1).all()
    for a in annotations:
        own = a.label_map != IGNORE
        assert (results[a.frame].label_map[own] == a.label_map[own]).all()
        assert (results[a.frame].confidence[own] == 1).all()
    again = list(propagate(annotations, flow, size, length))
    for p, q in zip(results, again, strict=True):
        assert np.array_equal(p.label_map, q.label_map)


def test_what_lies_in_files_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    answers = [
        FrameAnnotation(t, (0,), rng.choice([0, 3, IGNORE], (20, 30)).astype(np.uint8))
        for t in (1, 4)
    ]
    flow = FlowStore(
        rng.normal(size=(6, 4, 2, 10, 15)).astype(np.float16), rng.random((6, 4, 10, 15)) < 0.8
    )
    expected = list(propagate(answers, flow, (20, 30), 6))
    monkeypatch.setattr("hvsa_cvat.propagation.propagate.IN_MEMORY", 100)
    found = list(propagate(answers, flow, (20, 30), 6, folder=tmp_path))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.label_map, other.label_map)
        np.testing.assert_array_equal(one.confidence, other.confidence)
    assert list(tmp_path.iterdir()) == []
