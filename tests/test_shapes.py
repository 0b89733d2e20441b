import json
import math
from typing import Any

import numpy as np
import pytest
from cvat_sdk.masks import decode_mask, encode_mask
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage import draw

from hvsa_cvat.annotation.polygons import encode_polygons
from hvsa_cvat.annotation.run_lengths import encode_masks
from hvsa_cvat.cvat.masks.label_map_shapes import mask_shape, polygon_shape
from hvsa_cvat.cvat.masks.task_labels import fingerprint
from hvsa_cvat.cvat.shapes import Json, compose, fill_shape, shape_clicks
from hvsa_cvat.errors import AnnotationError
from hvsa_cvat.types import IGNORE, Clicks, LabelMap, Mask, Size

LABEL_MAPS = npst.arrays(
    np.uint8,
    npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.sampled_from([0, 1, 2, 254, IGNORE]),
)
# Hardly ever with a pixel centre on an edge: oracles decide such ties in their own ways.
COORDINATES = st.integers(-400, 1200).map(lambda n: n / 100 + 0.00371)


def drawn(picture: str) -> LabelMap:
    """Label map from a drawing: a digit is a class, a dot is void."""
    rows = picture.split()
    return np.array([[IGNORE if c == "." else int(c) for c in row] for row in rows], dtype=np.uint8)


def shape(kind: str, *points: float, **changes: Any) -> Json:
    """A shape as the server gives it back."""
    return {
        "type": kind,
        "id": 7,
        "frame": 3,
        "label_id": 11,
        "group": None,
        "source": "manual",
        "occluded": False,
        "outside": False,
        "z_order": 0,
        "rotation": 0.0,
        "points": [float(number) for number in points],
        "attributes": [],
        "elements": [],
    } | changes


def box(left: float, top: float, right: float, bottom: float, **changes: Any) -> Json:
    return shape("rectangle", left, top, right, bottom, **changes)


def covered(one: Json, size: Size) -> Mask:
    filled = fill_shape(one, size)
    assert filled is not None
    whole = np.zeros(size, dtype=np.bool_)
    whole[filled[0]] = filled[1]
    return whole


def blobs(seed: int, size: Size = (60, 80), sigma: float = 3) -> LabelMap:
    rng = np.random.default_rng(seed)
    noise = [gaussian_filter(rng.standard_normal(size), sigma) for _ in range(5)]
    label_map = np.argmax(noise, axis=0).astype(np.uint8)
    label_map[label_map == 4] = IGNORE
    return label_map


def assert_painted_once(label_map: LabelMap, pieces: list[tuple[int, Json]]) -> None:
    times = np.zeros(label_map.shape, dtype=int)
    for _, one in pieces:
        times += covered(one, label_map.shape)
    np.testing.assert_array_equal(times, label_map != IGNORE)
    np.testing.assert_array_equal(compose(pieces, label_map.shape), label_map)


# encoding


def test_runs_go_along_the_rows_of_the_box_and_begin_with_background() -> None:
    masks = encode_masks(
        drawn("""
        .....
        .12.2
        .1122
        """)
    )
    assert masks == {
        1: [0, 1, 1, 2, 1, 1, 2, 2],
        2: [0, 1, 1, 1, 1, 2, 2, 1, 4, 2],
    }
    assert all(type(number) is int for points in masks.values() for number in points)


def test_a_run_goes_on_over_the_side_of_the_box_and_background_is_kept_to_its_end() -> None:
    masks = encode_masks(drawn("222 222 2.3 .33"))
    assert masks == {2: [0, 7, 2, 0, 0, 2, 2], 3: [1, 3, 1, 2, 2, 3]}


def test_nothing_labelled_gives_nothing() -> None:
    empty = np.full((3, 4), IGNORE, np.uint8)
    assert encode_masks(empty) == {}
    assert encode_polygons(empty) == []


@given(LABEL_MAPS)
def test_masks_are_those_of_the_sdk(label_map: LabelMap) -> None:
    labels = sorted(set(label_map.ravel().tolist()) - {IGNORE})
    masks = encode_masks(label_map)
    assert masks == {label: encode_mask(label_map == label) for label in labels}
    height, width = label_map.shape
    for label, points in masks.items():
        decoded = decode_mask(points, image_width=width, image_height=height)
        np.testing.assert_array_equal(decoded, label_map == label)


@given(LABEL_MAPS)
def test_masks_cover_every_labelled_pixel_once(label_map: LabelMap) -> None:
    masks = encode_masks(label_map)
    assert_painted_once(label_map, [(at, mask_shape(0, 5, masks[at])) for at in masks])


def test_a_view_of_a_larger_map_is_encoded_alike() -> None:
    label_map = blobs(0)
    view = label_map[::2, 5:70:3]
    assert encode_masks(view) == encode_masks(np.ascontiguousarray(view))
    assert encode_masks(label_map.T) == encode_masks(np.ascontiguousarray(label_map.T))


def test_a_component_with_a_hole_becomes_two_polygons() -> None:
    polygons = encode_polygons(
        drawn("""
        .....
        .111.
        .1.1.
        .111.
        """)
    )
    assert sorted(polygons) == [
        (1, [1, 1, 1, 4, 2, 4, 2, 1]),
        (1, [2, 1, 2, 2, 3, 2, 3, 3, 2, 3, 2, 4, 4, 4, 4, 1]),
    ]


def test_islands_in_a_hole_are_painted_once() -> None:
    label_map = drawn("""
    1111111
    1222221
    121.121
    12.1.21
    121.121
    1222221
    1111111
    """)
    pieces = [(label, polygon_shape(0, 5, points)) for label, points in encode_polygons(label_map)]
    assert_painted_once(label_map, pieces)


@given(LABEL_MAPS)
def test_polygons_cover_every_labelled_pixel_once(label_map: LabelMap) -> None:
    pieces = [(label, polygon_shape(0, 5, points)) for label, points in encode_polygons(label_map)]
    assert_painted_once(label_map, pieces)


@pytest.mark.parametrize("seed", range(3))
def test_large_label_maps_come_back_from_polygons_and_masks(seed: int) -> None:
    label_map = blobs(seed)
    label_map[gaussian_filter(np.random.default_rng(seed).random(label_map.shape), 1) > 0.6] = 3
    polygons = encode_polygons(label_map)
    assert_painted_once(label_map, [(at, polygon_shape(0, 5, points)) for at, points in polygons])
    masks = encode_masks(label_map)
    assert_painted_once(label_map, [(at, mask_shape(0, 5, masks[at])) for at in masks])


def test_the_outlines_of_polygons_do_not_cross_themselves() -> None:
    for _, points in encode_polygons(blobs(1)):
        corners = list(zip(points[::2], points[1::2], strict=True))
        assert len(corners) >= 4
        assert len(set(corners)) == len(corners)


# fingerprints


SHAPES = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["mask", "polygon", "rectangle", "polyline"]),
        "frame": st.integers(0, 9),
        "label_id": st.integers(1, 9),
        "points": st.lists(st.integers(0, 99) | st.floats(0, 99), min_size=4, max_size=6),
        "source": st.sampled_from(["auto", "manual", "semi-auto"]),
        "group": st.integers(0, 2),
        "z_order": st.integers(-2, 2),
        "rotation": st.sampled_from([0, 0.0, 30, 359.5]),
        "occluded": st.booleans(),
        "outside": st.booleans(),
        "attributes": st.lists(
            st.fixed_dictionaries({"spec_id": st.integers(1, 9), "value": st.text(max_size=3)}),
            max_size=3,
            unique_by=lambda one: one["spec_id"],
        ),
    }
)


def given_back(sent: Json) -> Json:
    """What a server answers: the order, the types and some keys are its own."""
    returned = json.loads(json.dumps(sent))
    returned["points"] = [float(number) for number in sent["points"]]
    returned["group"] = sent["group"] or None
    returned["rotation"] = float(sent["rotation"])
    returned["attributes"] = returned["attributes"][::-1]
    return {"id": 615, "score": 1.0, "elements": [], **dict(sorted(returned.items()))}


@given(SHAPES)
def test_a_shape_that_comes_back_has_the_same_fingerprint(sent: Json) -> None:
    assert fingerprint(given_back(sent)) == fingerprint(sent)


def meaning(one: Json) -> Json:
    return given_back(one) | {"attributes": sorted(one["attributes"], key=lambda a: a["spec_id"])}


@given(SHAPES, SHAPES)
def test_any_change_changes_the_fingerprint(one: Json, other: Json) -> None:
    for key in one:
        changed = one | {key: other[key]}
        is_same = meaning(changed) == meaning(one)
        assert (fingerprint(changed) == fingerprint(one)) == is_same


def test_keys_that_are_left_out_have_the_server_s_defaults() -> None:
    short = {"type": "rectangle", "frame": 0, "label_id": 5, "points": [0, -0.0, 1, 1]}
    nulls = dict.fromkeys(["attributes", "group", "z_order", "rotation", "occluded", "outside"])
    whole = shape("rectangle", 0, 0, 1, 1, frame=0, label_id=5)
    assert fingerprint(short) == fingerprint(short | nulls) == fingerprint(whole)


def test_what_we_send_is_plain_json_marked_as_automatic() -> None:
    label_map = blobs(2)
    for points in encode_masks(label_map).values():
        sent = mask_shape(4, 9, points)
        assert fingerprint(json.loads(json.dumps(sent))) == fingerprint(sent)
        assert (sent["source"], sent["frame"], sent["label_id"]) == ("auto", 4, 9)
    _, outline = encode_polygons(label_map)[0]
    assert json.loads(json.dumps(polygon_shape(4, 9, outline)))["type"] == "polygon"


# filling


def test_the_square_from_1_to_3_is_four_pixels() -> None:
    expected = drawn("..... .11.. .11.. .....") == 1
    for one in (
        shape("polygon", 1, 1, 3, 1, 3, 3, 1, 3),
        shape("rectangle", 1, 1, 3, 3),
        shape("rectangle", 1, 1, 3, 3, rotation=90),
        shape("rectangle", 1, 1, 3, 3, rotation=180.0),
        shape("mask", 0, 4, 1, 1, 2, 2),
        shape("mask", 5, 2, 2, 2, 1, 0, 0, 3, 2),
    ):
        np.testing.assert_array_equal(covered(one, (4, 5)), expected)


def test_rotation_is_clockwise_on_the_screen() -> None:
    bar = covered(box(1, 4, 9, 6, rotation=30), (10, 10))
    leaf = covered(shape("ellipse", 5, 5, 9, 4, rotation=30), (10, 10))
    for filled in (bar, leaf):
        # The right end goes down.
        assert filled[6, 7]
        assert filled[3, 2]
        assert not filled[3, 7]
        assert not filled[6, 2]


def test_a_quarter_turn_of_a_rectangle_is_exact() -> None:
    turned = covered(box(0.5, 1.5, 4.5, 3.5, rotation=90), (6, 5))
    np.testing.assert_array_equal(turned, covered(box(1.5, 0.5, 3.5, 4.5), (6, 5)))


def test_an_ellipse_is_its_centre_its_right_and_its_top() -> None:
    np.testing.assert_array_equal(
        covered(shape("ellipse", 3, 2, 6, 0), (4, 7)),
        drawn("""
        .1111..
        111111.
        111111.
        .1111..
        """)
        == 1,
    )


def distance_to_edges(points: list[tuple[float, float]], size: Size) -> NDArray[np.float64]:
    """float64 (H, W): of each pixel's centre to the nearest edge of a polygon."""
    rows, columns = np.indices(size) + 0.5
    centres = columns + 1j * rows
    nearest = np.full(size, np.inf)
    corners = [complex(*point) for point in points]
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        along = (centres - start) / (end - start) if end != start else np.zeros(size)
        foot = start + np.clip(along.real, 0, 1) * (end - start)
        nearest = np.minimum(nearest, np.abs(centres - foot))
    return nearest


@given(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=8))
def test_polygons_are_filled_as_by_another_rasteriser(points: list[tuple[float, float]]) -> None:
    x, y = np.array(points).T
    expected = np.zeros((8, 9), dtype=np.bool_)
    expected[draw.polygon(y - 0.5, x - 0.5, expected.shape)] = True
    flat = [number for point in points for number in point]
    clear = distance_to_edges(points, expected.shape) > 1e-6
    filled = covered(shape("polygon", *flat), (8, 9))
    np.testing.assert_array_equal(filled[clear], expected[clear])


@given(COORDINATES, COORDINATES, COORDINATES, COORDINATES, st.integers(0, 359))
def test_rectangles_turn_about_their_centre(
    left: float, top: float, right: float, bottom: float, degrees: int
) -> None:
    filled = covered(box(left, top, right, bottom, rotation=degrees), (8, 9))
    middle = complex((left + right) / 2, (top + bottom) / 2)
    back = complex(math.cos(math.radians(degrees)), -math.sin(math.radians(degrees)))
    for row, column in np.ndindex(8, 9):
        turned = (complex(column + 0.5, row + 0.5) - middle) * back
        inwards = min(
            abs(right - left) / 2 - abs(turned.real), abs(bottom - top) / 2 - abs(turned.imag)
        )
        if abs(inwards) > 1e-9:
            assert filled[row, column] == (inwards > 0)


@given(
    COORDINATES,
    COORDINATES,
    st.integers(30, 900).map(lambda n: n / 100 + 0.0007),
    st.integers(30, 900).map(lambda n: n / 100 + 0.0003),
    st.integers(0, 359),
)
def test_ellipses_are_filled_as_by_another_rasteriser(
    x: float, y: float, radius_x: float, radius_y: float, degrees: int
) -> None:
    expected = np.zeros((8, 9), dtype=np.bool_)
    turn = math.radians((180 - degrees) % 360 - 180)
    expected[draw.ellipse(y - 0.5, x - 0.5, radius_y, radius_x, (8, 9), turn)] = True
    one = shape("ellipse", x, y, x + radius_x, y - radius_y, rotation=degrees)
    np.testing.assert_array_equal(covered(one, (8, 9)), expected)


@pytest.mark.parametrize("kind", ["rectangle", "ellipse", "polygon"])
def test_shapes_without_area_or_outside_the_image_cover_nothing(kind: str) -> None:
    for points in ([2, 2, 2, 2], [20, 20, 30, 30], [-9, -9, -5, -5], [1, 4, 1, 0]):
        points = points if kind != "polygon" else [*points, points[0], points[1] + 3]
        assert not covered(shape(kind, *points), (8, 8)).any()


@pytest.mark.parametrize("kind", ["polyline", "points", "cuboid", "skeleton"])
def test_kinds_without_an_inside_cover_nothing(kind: str) -> None:
    assert fill_shape(shape(kind, 0, 0, 5, 5, 0, 5), (8, 8)) is None
    assert fill_shape({"id": 1, "frame": 0, "label_id": 5}, (8, 8)) is None


@given(LABEL_MAPS, st.integers(-9, 9), st.integers(-9, 9))
def test_a_mask_that_leaves_the_image_is_cut_at_its_side(
    label_map: LabelMap, right: int, down: int
) -> None:
    height, width = label_map.shape
    for label, points in encode_masks(label_map).items():
        by = np.array([right, down, right, down])
        moved = [*points[:-4], *(np.array(points[-4:]) + by).tolist()]
        expected = np.zeros((height + 18, width + 18), dtype=np.bool_)
        expected[9 + down : 9 + down + height, 9 + right : 9 + right + width] = label_map == label
        np.testing.assert_array_equal(
            covered(shape("mask", *moved), (height, width)), expected[9:-9, 9:-9]
        )


def test_of_a_box_far_larger_than_the_image_only_the_image_is_filled() -> None:
    side = 40000
    one = shape("mask", side + 1, side * side - side - 1, 0, 0, side - 1, side - 1)
    np.testing.assert_array_equal(covered(one, (3, 3)), drawn("... .11 111") == 1)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([1, 3, 0, 0, 1, 2], r"its runs are 4 pixels, its box 6"),
        ([0, 4, 1, 1, 3, 3], r"its runs are 4 pixels, its box 9"),
        ([6, -2, 0, 0, 1, 1], r"a run length is negative"),
        ([1.5, 2.5, 0, 0, 1, 1], r"must be whole numbers"),
        ([1, 3, 0, 0, 1.25, 1], r"must be whole numbers"),
        ([4, 3, 3, 1, 1], r"its box 3, 3, 1, 1 is empty"),
        ([0, 0, 1, 1], r"4 numbers are too few"),
        ([1, math.nan, 0, 0, 1, 1], r"missing, endless or no numbers"),
        ([1, math.inf, 0, 0, 1, 1], r"missing, endless or no numbers"),
        ([1, 10**400, 0, 0, 1, 1], r"its points are not numbers"),
        (["one", 3, 0, 0, 1, 1], r"its points are not numbers"),
        (None, r"missing, endless or no numbers"),
    ],
)
def test_masks_that_make_no_sense_are_refused_in_one_line(points: Any, reason: str) -> None:
    with pytest.raises(AnnotationError, match=reason) as refused:
        fill_shape(shape("mask") | {"points": points}, (8, 8))
    assert str(refused.value).startswith("mask 7 on frame 3 cannot be read: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "points", "reason"),
    [
        ("polygon", [0, 0, 4, 0, 4], "5 numbers are no pairs"),
        ("rectangle", [0, 0, 4], "3 numbers instead of 4"),
        ("ellipse", [0, 0, 4, 4, 5], "5 numbers instead of 4"),
        ("polygon", [0, 0, 1e300, 0, 4, 4], "endless"),
    ],
)
def test_other_shapes_that_make_no_sense_are_refused(
    kind: str, points: list[float], reason: str
) -> None:
    with pytest.raises(AnnotationError, match=reason):
        fill_shape(shape(kind, *points), (8, 8))


# composition


def test_people_lie_over_us_whatever_the_layer() -> None:
    ours = box(0, 0, 4, 1, source="auto", z_order=9, id=40)
    corrected = box(0, 0, 3, 1, source="semi-auto", z_order=5, id=30)
    lower = box(0, 0, 2, 1, source="manual", z_order=-100, id=20)
    upper = box(0, 0, 1, 1, source="manual", z_order=-99, id=10)
    pairs = [(3, ours), (2, corrected), (1, lower), (0, upper)]
    for order in (pairs, pairs[::-1]):
        np.testing.assert_array_equal(compose(order, (2, 5)), drawn("0123. ....."))


@pytest.mark.parametrize("source", ["manual", "file", "consensus", "Ground truth", "", None, "x"])
def test_sources_that_are_not_ours_are_people_s(source: str | None) -> None:
    theirs = box(0, 0, 1, 1, source=source, z_order=-5, id=1)
    for other in ("auto", "semi-auto"):
        over = box(0, 0, 1, 1, source=other, z_order=5, id=2)
        assert compose([(1, theirs), (0, over)], (1, 1)) == [[1]]


def test_newer_shapes_lie_over_older_and_tracks_over_shapes() -> None:
    old, new = box(0, 0, 2, 1, id=99), box(0, 0, 1, 1, id=100)
    np.testing.assert_array_equal(compose([(1, new), (0, old)], (1, 2)), drawn("10"))
    track = box(0, 0, 1, 1, id=None, track_id=5)
    np.testing.assert_array_equal(compose([(2, track), (1, new), (0, old)], (1, 2)), drawn("20"))


def test_nothing_drawn_is_void_and_lines_cover_nothing() -> None:
    line = shape("polyline", 0, 0, 3, 0, 3, 3, 0, 0)
    assert (compose([(1, line)], (3, 3)) == IGNORE).all()
    assert compose([], (3, 3)).dtype == np.uint8


def test_a_shape_that_cannot_be_read_is_noted_and_left_out() -> None:
    bad = shape("mask", 1, 3, 0, 0, 1, 2)
    pairs = [(0, box(0, 0, 1, 1)), (1, bad)]
    notes: list[str] = []
    np.testing.assert_array_equal(compose(pairs, (1, 2), notes.append), drawn("0."))
    assert len(notes) == 1
    assert "mask 7 on frame 3" in notes[0]
    with pytest.raises(AnnotationError):
        compose(pairs, (1, 2))


# clicks


def test_clicks_are_vertices_and_one_for_the_class() -> None:
    assert shape_clicks(shape("polygon", 0, 0, 9, 0, 9, 9, 5, 2), (20, 20)) == Clicks(4, 1)
    assert shape_clicks(shape("polyline", 0, 0, 9, 0, 9, 9), (20, 20)) == Clicks(3, 1)
    assert shape_clicks(box(0, 0, 9, 9), (20, 20)) == Clicks(2, 1)
    assert shape_clicks(box(0, 0, 9, 9, rotation=12.5), (20, 20)) == Clicks(3, 1)
    assert shape_clicks(shape("ellipse", 5, 5, 9, 0), (20, 20)) == Clicks(2, 1)


def test_a_mask_costs_the_polygons_around_its_components() -> None:
    label_map = np.full((20, 20), IGNORE, np.uint8)
    label_map[2:10, 2:10] = 0
    label_map[4:6, 4:6] = IGNORE
    label_map[12:18, 1:19] = 0
    label_map[17, 18] = IGNORE
    mask = shape("mask", *encode_masks(label_map)[0])
    assert shape_clicks(mask, (20, 20), epsilon=1.5) == Clicks(8, 2)
    assert shape_clicks(mask, (20, 20), epsilon=0) == Clicks(10, 2)


def test_a_mask_outside_the_image_cost_nothing_that_counts() -> None:
    assert shape_clicks(shape("mask", 0, 4, 30, 30, 31, 31), (20, 20)) == Clicks()
    assert shape_clicks(shape("mask", 4, 0, 0, 1, 1), (20, 20)) == Clicks()
