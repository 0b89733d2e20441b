"""Frames whose names are not in the order of their numbers."""

import pytest

from hvsa_cvat.cvat.frame_order import order_warning


def test_unpadded_names_in_the_order_of_their_letters_are_told_with_two_names() -> None:
    names = [f"frame_{i}.png" for i in sorted(range(12), key=str)]
    assert names[:4] == ["frame_0.png", "frame_1.png", "frame_10.png", "frame_11.png"]
    line = order_warning(7, names)
    assert line is not None
    assert line.startswith("task 7: frame 'frame_11.png' comes before 'frame_2.png'")
    assert "\n" not in line


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["frame_9.png"],
        [f"frame_{i:03d}.png" for i in range(12)],
        [f"{i}.jpg" for i in range(12)],
        ["walk_2/9.png", "walk_10/1.png"],  # other places: no order of their numbers is meant
        ["b.png", "a.png"],
        ["left_3.png", "right_1.png"],
        ["clip.7z_5.png", "clip.7z_6.png"],
    ],
)
def test_other_names_are_in_order(names: list[str]) -> None:
    assert order_warning(7, names) is None
