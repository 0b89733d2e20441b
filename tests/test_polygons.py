import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.ndimage import gaussian_filter

from hvsa_cvat.annotation.polygons import (
    corners,
    encode_polygons,
    fill,
    outline_of,
    outlines,
    rasterise,
    vectorise,
)
from hvsa_cvat.types import IGNORE, LabelMap, Polygon

LABEL_MAPS = npst.arrays(
    np.uint8,
    npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.sampled_from([0, 1, 2, 254, IGNORE]),
)
COORDINATES = st.floats(-4, 12, width=32) | st.integers(-2, 10).map(float)
POINTS = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=8)


def drawn(picture: str) -> LabelMap:
    """Label map from a drawing: a digit is a class, a dot is void."""
    rows = picture.split()
    return np.array([[IGNORE if c == "." else int(c) for c in row] for row in rows], dtype=np.uint8)


def polygon(*points: tuple[float, float], label: int = 1, z_order: int = 0) -> Polygon:
    return Polygon(label, np.array(points, dtype=np.float64).reshape(-1, 2), z_order)


def square(left: float, right: float, label: int = 1, z_order: int = 0) -> Polygon:
    points = (left, left), (right, left), (right, right), (left, right)
    return polygon(*points, label=label, z_order=z_order)


def test_a_square_covers_the_pixels_whose_centres_lie_inside():
    np.testing.assert_array_equal(
        rasterise([square(1, 3)], (4, 5)),
        drawn("""
        .....
        .11..
        .11..
        .....
        """),
    )


@pytest.mark.parametrize(
    ("left", "right", "pixels"),
    [(1.4, 2.6, 4), (1.6, 2.4, 0), (0.5, 1.5, 1), (-9, 99, 16), (-5, 1, 1), (7, 9, 0)],
)
def test_vertices_may_be_fractional_and_outside(left, right, pixels):
    assert (rasterise([square(left, right)], (4, 4)) == 1).sum() == pixels


def test_a_centre_on_an_edge_belongs_to_the_right_of_it():
    triangle = [(0, 0), (4, 0), (0, 4)]
    rest = [(4, 0), (4, 4), (0, 4)]
    np.testing.assert_array_equal(
        rasterise([polygon(*triangle, label=1), polygon(*rest, label=2)], (4, 4)),
        drawn("""
        1112
        1122
        1222
        2222
        """),
    )


def test_a_polygon_that_crosses_itself_is_filled_by_parity():
    # Twice around the inner square: that counts as outside.
    around_twice = [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (3, 1), (3, 3), (1, 3), (1, 1)]
    np.testing.assert_array_equal(
        rasterise([polygon(*around_twice)], (4, 4)),
        drawn("""
        1111
        1..1
        1..1
        1111
        """),
    )


def test_higher_z_order_lies_on_top_and_equal_ones_keep_their_order():
    shapes = [square(0, 1, 3, z_order=2), square(0, 3, 1), square(0, 2, 2), square(-1, 9, 0, -1)]
    np.testing.assert_array_equal(rasterise(shapes, (3, 3)), drawn("321 221 111"))


@pytest.mark.parametrize("points", [[], [(1, 1)], [(0, 0), (3, 3)], [(0, 0), (3, 3), (1, 1)]])
def test_shapes_without_area_paint_nothing(points):
    assert (rasterise([polygon(*points)], (3, 3)) == IGNORE).all()


@given(POINTS)
def test_direction_and_first_vertex_do_not_matter(points):
    expected = rasterise([polygon(*points)], (8, 8))
    np.testing.assert_array_equal(rasterise([polygon(*points[::-1])], (8, 8)), expected)
    np.testing.assert_array_equal(rasterise([polygon(*points[2:], *points[:2])], (8, 8)), expected)


@given(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=2, max_size=6))
def test_polygons_on_both_sides_of_a_line_share_no_pixel_and_leave_none(line):
    count = np.zeros((8, 8), dtype=int)
    for side in (-99, 99):
        start, end = (side, line[0][1]), (side, line[-1][1])
        window, inside = fill(polygon(start, *line, end).points, (8, 8))
        count[window] += inside
    whole = [(-99, line[0][1]), (99, line[0][1]), (99, line[-1][1]), (-99, line[-1][1])]
    window, inside = fill(polygon(*whole).points, (8, 8))
    band = np.zeros((8, 8), dtype=int)
    band[window] = inside
    np.testing.assert_array_equal(count % 2, band)


def test_an_outline_runs_along_pixel_corners_with_the_inside_on_its_left():
    mask = np.array([[1, 0], [1, 1]], dtype=np.bool_)
    outline = outline_of(mask)
    assert outline.tolist() == [[0, 0], [0, 1], [0, 2], [1, 2], [2, 2], [2, 1], [1, 1], [1, 0]]
    assert corners(outline).tolist() == [[0, 0], [0, 2], [2, 2], [2, 1], [1, 1], [1, 0]]


@given(LABEL_MAPS)
def test_outlines_are_simple_closed_curves_of_unit_steps(label_map):
    for _, outline in outlines(label_map.astype(np.int64)):
        assert (np.abs(np.roll(outline, -1, axis=0) - outline).sum(axis=1) == 1).all()
        assert len(np.unique(outline, axis=0)) == len(outline)


def test_outlines_leave_out_minus_one():
    keys = np.array([[-1, 7], [-1, -1]], dtype=np.int64)
    assert [key for key, _ in outlines(keys)] == [7]


def test_a_hole_is_painted_after_its_surroundings():
    label_map = drawn("""
    11111
    12221
    12.21
    12221
    11111
    """)
    polygons = vectorise(label_map)
    assert [(p.label, len(p.points)) for p in polygons] == [(1, 4), (2, 4), (IGNORE, 4)]
    np.testing.assert_array_equal(rasterise(polygons, label_map.shape), label_map)


@given(LABEL_MAPS)
def test_vectorised_label_maps_come_back_exactly(label_map):
    polygons = vectorise(label_map)
    np.testing.assert_array_equal(rasterise(polygons[::-1], label_map.shape), label_map)


def test_checkerboards_and_large_blobs_come_back_exactly():
    board = np.indices((7, 8)).sum(axis=0).astype(np.uint8) % 2
    np.testing.assert_array_equal(rasterise(vectorise(board), board.shape), board)
    rng = np.random.default_rng(0)
    noise = [gaussian_filter(rng.standard_normal((120, 160)), 4) for _ in range(6)]
    blobs = np.argmax(noise, axis=0).astype(np.uint8)
    blobs[40:60, 30:50] = IGNORE
    np.testing.assert_array_equal(rasterise(vectorise(blobs), blobs.shape), blobs)


@given(LABEL_MAPS)
def test_encoded_polygons_touch_themselves_nowhere(label_map: LabelMap) -> None:
    """CVAT finds no likeness in polygons that do, and exports those of overlapping jobs twice."""
    for _, points in encode_polygons(label_map):
        x, y = np.array(points).reshape(-1, 2).T
        steps = np.maximum(np.abs(np.roll(x, -1) - x), np.abs(np.roll(y, -1) - y))
        passed = {
            (int(a + (b - a) * k / n), int(c + (d - c) * k / n))
            for a, b, c, d, n in zip(x, np.roll(x, -1), y, np.roll(y, -1), steps, strict=True)
            for k in range(n)
        }
        assert len(passed) == steps.sum()
