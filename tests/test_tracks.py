from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvsa_cvat.cvat.shapes import Json, compose
from hvsa_cvat.cvat.tracks import expand_tracks

SQUARE = [0, 0, 10, 0, 10, 10, 0, 10]
SQUARE_WITH_A_MIDPOINT = [0, 0, 5, 0, 10, 0, 10, 10, 0, 10]


def key(frame: int, *points: float, kind: str = "rectangle", **changes: Any) -> Json:
    """A keyframe as the server gives it back."""
    return {
        "id": 100 + frame,
        "type": kind,
        "frame": frame,
        "occluded": False,
        "outside": False,
        "z_order": 0,
        "rotation": 0.0,
        "points": list(points),
        "attributes": [],
    } | changes


def track(*keyframes: Json, **changes: Any) -> Json:
    return {
        "id": 5,
        "frame": keyframes[0]["frame"] if keyframes else 0,
        "label_id": 11,
        "group": None,
        "source": "manual",
        "shapes": list(keyframes),
        "attributes": [],
        "elements": [],
    } | changes


def points_at(one: Json, frame: int) -> list[float]:
    (shape,) = expand_tracks([one], [frame])
    points: list[float] = shape["points"]
    return points


def test_a_rectangle_moves_evenly_and_its_last_keyframe_holds() -> None:
    one = track(key(2, 0, 0, 4, 4), key(6, 8, 4, 12, 4))
    shapes = expand_tracks([one], [9, 0, 1, 2, 3, 5, 6])
    assert [(shape["frame"], shape["points"]) for shape in shapes] == [
        (2, [0, 0, 4, 4]),
        (3, [2, 1, 6, 4]),
        (5, [6, 3, 10, 4]),
        (6, [8, 4, 12, 4]),
        (9, [8, 4, 12, 4]),
    ]
    assert [shape["keyframe"] for shape in shapes] == [True, False, False, True, False]


def test_an_outside_keyframe_hides_until_the_next() -> None:
    one = track(key(0, 0, 0, 1, 1), key(3, 3, 0, 4, 1, outside=True), key(6, 9, 0, 10, 1))
    assert [shape["frame"] for shape in expand_tracks([one], range(9))] == [0, 1, 2, 6, 7, 8]
    # It moves on towards the place at which it vanishes.
    assert points_at(one, 2) == [2, 0, 3, 1]
    assert expand_tracks([track(key(0, 0, 0, 1, 1, outside=True))], range(3)) == []
    assert expand_tracks([track()], range(3)) == []


def test_keyframes_may_come_in_any_order() -> None:
    keyframes = [key(4, 4, 0, 5, 1), key(0, 0, 0, 1, 1), key(8, 0, 0, 1, 1)]
    assert points_at(track(*keyframes), 6) == points_at(track(*keyframes), 2) == [2, 0, 3, 1]


def test_keyframes_on_deleted_frames_do_not_count() -> None:
    one = track(key(0, 0, 0, 1, 1), key(2, 50, 0, 51, 1, outside=True), key(4, 4, 0, 5, 1))
    shapes = expand_tracks([one], [0, 1, 3, 4], deleted=[2])
    assert [shape["points"][0] for shape in shapes] == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("start", "end", "middle"),
    [(350, 20, 5), (20, 350, 5), (10, 30, 20), (0, 180, 90), (180, 0, 270), (None, 90.0, 45)],
)
def test_rectangles_and_ellipses_turn_the_shorter_way(
    start: float | None, end: float, middle: float
) -> None:
    for kind in ("rectangle", "ellipse"):
        one = track(
            key(0, 3, 3, 5, 1, kind=kind, rotation=start),
            key(2, 3, 3, 5, 1, kind=kind, rotation=end),
        )
        (shape,) = expand_tracks([one], [1])
        assert shape["rotation"] == middle
        assert shape["points"] == [3, 3, 5, 1]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3, max_size=9),
    st.integers(-20, 20),
    st.integers(-20, 20),
)
def test_a_polygon_that_is_only_moved_keeps_its_form(
    corners: list[tuple[int, int]], dx: int, dy: int
) -> None:
    start = np.array(list(dict.fromkeys(corners)), dtype=np.float64)
    end = start + 4 * np.array([dx, dy])
    keyframes = [
        key(at, *one.ravel().tolist(), kind="polygon") for at, one in ((0, start), (4, end))
    ]
    moved = np.array(points_at(track(*keyframes), 1)).reshape(-1, 2)
    if len(start) > 1:
        np.testing.assert_allclose(moved, start + np.array([dx, dy]), atol=1e-9)


def test_a_vertex_opens_into_two_once_they_are_apart() -> None:
    opening = track(
        key(0, *SQUARE, kind="polygon"), key(10, *SQUARE_WITH_A_MIDPOINT, kind="polygon")
    )
    # The new vertex, as far from both its neighbours, comes from the first of them.
    assert points_at(opening, 5) == [0, 0, 2.5, 0, 10, 0, 10, 10, 0, 10]
    # Nearer than a quarter of the 5 pixels that they will be apart, both are one.
    assert points_at(opening, 1) == [0.25, 0, 10, 0, 10, 10, 0, 10]


def test_two_vertices_close_into_one() -> None:
    closing = track(
        key(0, *SQUARE_WITH_A_MIDPOINT, kind="polygon"), key(10, *SQUARE, kind="polygon")
    )
    assert points_at(closing, 5) == [0, 0, 2.5, 0, 10, 0, 10, 10, 0, 10]
    np.testing.assert_allclose(points_at(closing, 9), [0.25, 0, 10, 0, 10, 10, 0, 10])
    assert points_at(closing, 10) == SQUARE


def test_of_many_vertices_that_open_those_that_crowd_are_left_out() -> None:
    # A triangle whose last side gets two more vertices next to its first corner.
    triangle = [0, 0, 40, 0, 0, 30]
    after = [0, 0, 40, 0, 0, 30, 0, 3, 0, 2]
    one = track(key(0, *triangle, kind="polygon"), key(4, *after, kind="polygon"))
    assert points_at(one, 3) == pytest.approx([0, 0, 40, 0, 0, 30, 0, 2.25, 0, 1.5])
    assert points_at(one, 1) == pytest.approx([0, 0, 40, 0, 0, 30, 0, 0.75])


def test_a_polygon_without_length_holds() -> None:
    one = track(key(0, *[3] * 6, kind="polygon"), key(2, *SQUARE, kind="polygon"))
    assert points_at(one, 1) == [3] * 6


@pytest.mark.parametrize("kind", ["mask", "polyline", "points", "cuboid", "skeleton"])
def test_other_kinds_hold(kind: str) -> None:
    one = track(key(0, 0, 4, 0, 0, 1, 1, kind=kind), key(4, 4, 0, 3, 3, 4, 4, kind=kind))
    assert points_at(one, 3) == [0, 4, 0, 0, 1, 1]


def test_a_change_of_kind_is_not_bridged() -> None:
    one = track(key(0, 0, 0, 1, 1), key(4, *SQUARE, kind="polygon"))
    assert points_at(one, 3) == [0, 0, 1, 1]


def test_attributes_stay_until_they_change() -> None:
    def attribute(spec: int, value: str) -> Json:
        return {"spec_id": spec, "value": value}

    one = track(
        key(0, 0, 0, 1, 1, attributes=[attribute(1, "a"), attribute(2, "b")]),
        key(2, 0, 0, 1, 1, attributes=[attribute(1, "c")], z_order=3, occluded=True),
        attributes=[attribute(9, "fixed")],
    )
    before, after = expand_tracks([one], [1, 3])
    assert before["attributes"] == [attribute(1, "a"), attribute(2, "b"), attribute(9, "fixed")]
    assert after["attributes"] == [attribute(1, "c"), attribute(2, "b"), attribute(9, "fixed")]
    assert (before["z_order"], before["occluded"]) == (0, False)
    assert (after["z_order"], after["occluded"]) == (3, True)


def test_label_group_and_source_are_the_track_s() -> None:
    first = track(key(0, 0, 0, 1, 1), source="semi-auto", group=4)
    second = track(key(0, 0, 0, 1, 1), id=6, label_id=12)
    shapes = expand_tracks([first, second], [0])
    kept = ["id", "track_id", "label_id", "source", "group"]
    assert [[shape[name] for name in kept] for shape in shapes] == [
        [None, 5, 11, "semi-auto", 4],
        [None, 6, 12, "manual", None],
    ]


def test_tracks_stay_as_they_are_and_their_shapes_can_be_composed() -> None:
    one = track(key(0, *SQUARE, kind="polygon"), key(10, *SQUARE_WITH_A_MIDPOINT, kind="polygon"))
    before = deepcopy(one)
    shapes = expand_tracks([one], range(12))
    assert one == before
    for shape in shapes:
        np.testing.assert_array_equal(compose([(1, shape)], (10, 10)), np.ones((10, 10)))
