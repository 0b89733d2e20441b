"""Lists of names in one text, although names hold commas."""

from hvsa_cvat.name_lists import join_names, split_names

KNOWN = ("traffic light, red", "traffic light", "road", "sky", "a,b, c")


def test_a_text_is_split_at_commas_and_anything_else_is_left() -> None:
    assert split_names("sky, road,") == ["sky", "road"]
    assert split_names(["traffic light, red"]) == ["traffic light, red"]
    assert split_names(5) == 5


def test_pieces_of_a_known_name_are_put_together_again() -> None:
    assert join_names(("traffic light", "red"), KNOWN) == ("traffic light, red",)
    assert join_names(("sky", "traffic light", "red", "road"), KNOWN) == (
        "sky",
        "traffic light, red",
        "road",
    )
    assert join_names(split_names("a,b,c, sky"), KNOWN) == ("a,b, c", "sky")
    assert join_names(("traffic light", "road"), KNOWN) == ("traffic light", "road")


def test_whole_and_unknown_names_stay() -> None:
    assert join_names(("traffic light, red", "water"), KNOWN) == ("traffic light, red", "water")
    assert join_names((), KNOWN) == ()
