"""How often masks are right at each level of certainty, learnt from answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import certainty
from hvsa_cvat.session.calibration import CARRIED, right_by_level
from hvsa_cvat.session.outlook import LEVELS, MIDDLES, HeldOut


def answered(*rows: tuple[int, int, int]) -> HeldOut:
    """Level, pixels that show class 0 and are right, and pixels there that are of class 1."""
    table = [
        (0, 0, level, true, pixels)
        for level, right, wrong in rows
        for true, pixels in ((0, right), (1, wrong))
        if pixels
    ]
    return HeldOut([np.array(table, np.int64)], 2)


def test_without_answers_the_table_of_other_videos_holds() -> None:
    assert right_by_level([], CARRIED) == pytest.approx(CARRIED)
    assert right_by_level([], MIDDLES) == pytest.approx(MIDDLES)


def test_answers_of_all_rounds_count_together() -> None:
    found = right_by_level([answered((7, 780, 220)), answered((7, 620, 380))], MIDDLES)
    # 1,400 of 2,000 pixels at level 7, and 200 * 15/16 of 200 before them, are fewer than the
    # 200 * 13/16 of 200 at level 6, so both are taken together
    assert found[6:] == pytest.approx([1750 / 2400] * 2)
    assert found[5] == pytest.approx(11 / 16)


def test_what_is_surer_is_not_less_often_right() -> None:
    # level 0 is right in 78 %, level 7 was never answered, and levels between say 19 to 81 %
    found = right_by_level([answered((0, 78_000, 22_000))], MIDDLES)
    assert (np.diff(found) >= 0).all()
    # 100,000 pixels against 200 at each other level: all below are drawn to about 78 %
    assert found[1:6] == pytest.approx(np.full(5, found[0]))
    assert found[0] == pytest.approx(0.775, abs=0.005)
    assert found[7] == pytest.approx(MIDDLES[7])


@given(
    st.lists(
        st.tuples(st.integers(0, LEVELS - 1), st.integers(0, 9999), st.integers(0, 9999)),
        max_size=20,
    )
)
def test_it_is_a_share_that_never_falls(rows: list[tuple[int, int, int]]) -> None:
    for start in (CARRIED, MIDDLES):
        found = right_by_level([answered(one) for one in rows if sum(one[1:])], start)
        assert (np.diff(found) >= -1e-12).all()
        assert (found >= 0).all()
        assert (found <= 1).all()


def test_the_benchmark_compares_each_round_with_what_was_known_before_it() -> None:
    first, second = answered((0, 800, 200)), answered((0, 700, 300))
    found = certainty.differences([first, second], CARRIED)
    known = right_by_level([first], CARRIED)[0]
    # level 0 is worth 1/16 by itself, 0.68 at the start, and then what the first round tells
    expected = [1 / 16 - 0.8, 0.68 - 0.8, 1 / 16 - 0.7, known - 0.7]
    assert [difference for _, difference in found] == pytest.approx(expected)
    assert len({name for name, _ in found}) == 3
