import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.ndimage import gaussian_filter

from hvsa_cvat.annotation.clicks import (
    AnnotationRules,
    annotate_sample,
    click_cost,
    mimic_annotation,
)
from hvsa_cvat.annotation.polygons import rasterise
from hvsa_cvat.types import IGNORE, Clicks, LabelMap, SegmentMap

RULES = AnnotationRules()
EXACT = AnnotationRules(epsilon=0)
CHARGED = AnnotationRules(charge_junctions=True)


def drawn(picture: str) -> LabelMap:
    """Label map from a drawing: a digit is a class, a dot is void."""
    rows = picture.split()
    return np.array([[IGNORE if c == "." else int(c) for c in row] for row in rows], dtype=np.uint8)


def one_segment(label_map: LabelMap) -> SegmentMap:
    return np.zeros(label_map.shape, dtype=np.int32)


def blobs(seed: int, sigma: float = 6) -> LabelMap:
    rng = np.random.default_rng(seed)
    noise = [gaussian_filter(rng.standard_normal((96, 128)), sigma) for _ in range(5)]
    return np.argmax(noise, axis=0).astype(np.uint8)


def rectangles(label_map: LabelMap, side: int) -> SegmentMap:
    height, width = label_map.shape
    rows, columns = np.arange(height) // side, np.arange(width) // side
    return (rows[:, None] * (columns[-1] + 1) + columns).astype(np.int32)


HALVES = drawn("""
0011
0011
0011
0011
""")
NESTED = drawn("""
000000
011110
011110
011110
011110
000000
""")
ISLAND_AT_THE_BORDER = drawn("""
00111100
00111100
00111100
00000000
00000000
""")


@pytest.mark.parametrize(
    ("label_map", "rules", "border_is_free", "boundary", "classes"),
    [
        (HALVES, RULES, True, 0, 2),
        (HALVES, CHARGED, True, 4, 2),
        (HALVES, RULES, False, 8, 2),
        (HALVES, CHARGED, False, 8, 2),
        (NESTED, RULES, True, 4, 2),  # the surroundings have no line of their own: holes are free
        (NESTED, CHARGED, True, 4, 2),
        (NESTED, RULES, False, 8, 2),
        (ISLAND_AT_THE_BORDER, RULES, True, 4, 2),  # two corners, seen from either side
        (ISLAND_AT_THE_BORDER, CHARGED, True, 8, 2),
        (ISLAND_AT_THE_BORDER, RULES, False, 12, 2),
        (drawn("22 22"), CHARGED, True, 0, 1),
        (drawn("2222 2222 2222"), RULES, False, 4, 1),
        (drawn(".. .."), RULES, True, 0, 0),
        (drawn(".. .."), RULES, False, 0, 0),
        (drawn("2.2 ..2"), CHARGED, True, 0, 1),  # one class, in two parts around a void
    ],
)
def test_clicks_of_a_sample(label_map, rules, border_is_free, boundary, classes):
    polygons, clicks = annotate_sample(label_map, None, rules, border_is_free)
    assert clicks == Clicks(boundary, classes)
    annotation = rasterise(polygons, label_map.shape)
    annotation[label_map == IGNORE] = IGNORE
    np.testing.assert_array_equal(annotation, label_map)


def test_a_boundary_to_void_is_charged_like_others():
    # Each part: one line between two junctions on the border; the upper two have a corner.
    label_map = drawn("""
    11..22
    11..22
    ......
    222222
    """)
    _, clicks = annotate_sample(label_map, None, RULES, True)
    assert clicks == Clicks(boundary=1 + 1 + 0, classes=3)


def test_a_staircase_within_the_tolerance_is_drawn_as_one_line():
    label_map = drawn("""
    01111111
    00111111
    00011111
    00001111
    00000111
    00000011
    00000001
    00000000
    """)
    _, clicks = annotate_sample(label_map, None, RULES, True)
    assert clicks == Clicks(boundary=0, classes=2)
    _, exact = annotate_sample(label_map, None, EXACT, True)
    assert exact == Clicks(boundary=2 * 13, classes=2)


def test_a_component_smaller_than_the_tolerance_is_drawn_all_the_same():
    label_map = drawn("""
    0000
    0100
    0000
    """)
    annotation, clicks = mimic_annotation(label_map, one_segment(label_map), [0], RULES, True)
    np.testing.assert_array_equal(annotation, label_map)
    assert clicks == {0: Clicks(boundary=4, classes=2)}


def test_a_superpixel_of_one_class_costs_one_click_even_in_two_parts():
    label_map = np.zeros((4, 4), dtype=np.uint8)
    segments = drawn("""
    0111
    1111
    1111
    1110
    """).astype(np.int32)
    annotation, clicks = mimic_annotation(label_map, segments, [0], CHARGED, True)
    assert clicks == {0: Clicks(boundary=0, classes=1)}
    np.testing.assert_array_equal(annotation, np.where(segments == 0, label_map, IGNORE))


def test_only_the_wanted_segments_are_drawn_and_costs_come_in_their_order():
    segments = rectangles(HALVES, 2)
    label_map = HALVES.copy()
    label_map[3, 3] = 0
    annotation, clicks = mimic_annotation(label_map, segments, [3, 0], EXACT, True)
    np.testing.assert_array_equal(
        annotation,
        drawn("""
        00..
        00..
        ..11
        ..10
        """),
    )
    assert clicks == {3: Clicks(boundary=2, classes=2), 0: Clicks(classes=1)}
    assert click_cost(label_map, segments, [3, 0], EXACT, True).tolist() == [4, 1]
    assert click_cost(label_map, segments, [], EXACT, True).tolist() == []


def test_lines_that_cut_across_the_outside_change_nothing_there():
    label_map, segments = blobs(1), np.zeros((96, 128), dtype=np.int32)
    ring = np.hypot(*(np.indices(segments.shape) - np.array([48, 64])[:, None, None]))
    segments[(ring > 20) & (ring < 26)] = 1
    annotation, _ = mimic_annotation(label_map, segments, [1], AnnotationRules(epsilon=8), True)
    assert (annotation[segments == 0] == IGNORE).all()


@pytest.mark.parametrize("side", [None, 16])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_the_usual_tolerance_nearly_all_pixels_are_drawn_right(side, seed):
    label_map = blobs(seed)
    segments = one_segment(label_map) if side is None else rectangles(label_map, side)
    ids = range(segments.max() + 1)
    annotation, _ = mimic_annotation(label_map, segments, ids, RULES, side is not None)
    agreement = (annotation == label_map).mean()
    assert 0.95 <= agreement < 1


def test_a_wider_tolerance_and_free_junctions_are_cheaper():
    label_map = blobs(3)
    segments = rectangles(label_map, 16)
    ids = range(segments.max() + 1)
    cost = [
        click_cost(label_map, segments, ids, AnnotationRules(epsilon, junctions), True).sum()
        for epsilon, junctions in [(0, True), (0, False), (1, False), (2, False)]
    ]
    assert cost == sorted(cost, reverse=True)
    assert len(set(cost)) == len(cost)


def test_rules_and_shapes_are_checked():
    with pytest.raises(ValueError, match="epsilon"):
        AnnotationRules(epsilon=-1)
    with pytest.raises(ValueError, match="differ"):
        click_cost(HALVES, np.zeros((2, 2), dtype=np.int32), [0], RULES, True)


@st.composite
def cases(draw: st.DrawFn) -> tuple[LabelMap, SegmentMap, list[int]]:
    """A label map, a partition into segments of any shape, and some of their ids."""
    shape = draw(npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))
    values = st.sampled_from([0, 1, 2, 254, IGNORE])
    label_map = draw(npst.arrays(np.uint8, shape, elements=values))
    parts = draw(npst.arrays(np.int32, shape, elements=st.integers(0, 3)))
    segments = np.unique(parts, return_inverse=True)[1].reshape(shape).astype(np.int32)
    ids = draw(st.lists(st.integers(0, int(segments.max())), unique=True))
    return label_map, segments, ids


@given(cases(), st.booleans())
def test_without_tolerance_the_truth_comes_back_exactly(case, border_is_free):
    label_map, segments, ids = case
    annotation, _ = mimic_annotation(label_map, segments, ids, EXACT, border_is_free)
    expected = np.where(np.isin(segments, ids), label_map, IGNORE)
    np.testing.assert_array_equal(annotation, expected)


@given(cases(), st.sampled_from([0.0, 1.0, 2.5]), st.booleans(), st.booleans())
def test_all_ways_to_ask_agree_and_void_stays_void(case, epsilon, junctions, border_is_free):
    label_map, segments, ids = case
    rules = AnnotationRules(epsilon, junctions)
    annotation, clicks = mimic_annotation(label_map, segments, ids, rules, border_is_free)
    unknown = ~np.isin(segments, ids) | (label_map == IGNORE)
    assert (annotation[unknown] == IGNORE).all()
    cost = click_cost(label_map, segments, ids, rules, border_is_free)
    assert cost.tolist() == [clicks[segment].total for segment in ids]
    for segment in ids:
        region = segments == segment
        polygons, spent = annotate_sample(label_map, region, rules, border_is_free)
        assert spent == clicks[segment]
        alone = rasterise(polygons, label_map.shape)
        alone[label_map == IGNORE] = IGNORE
        np.testing.assert_array_equal(alone[region], annotation[region])
