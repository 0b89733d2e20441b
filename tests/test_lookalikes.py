"""Names that only look alike."""

import pytest

from hvsa_cvat.lookalikes import find_twin, spelled, twin_hint


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("floor", "Floor"),
        ("floor", "\ufefffloor"),
        ("floor", "flo\u200bor"),
        ("T\u00fcr", "Tu\u0308r"),
        ("\ufb02oor", "floor"),
        ("traffic light", "traffic_light"),
        ("traffic light", "traffic\u00a0light"),
        ("stra\u00dfe", "STRASSE"),
    ],
)
def test_a_twin_is_found_both_ways(name: str, twin: str) -> None:
    assert find_twin(name, ["sky", twin]) == twin
    assert find_twin(twin, ["sky", name]) == name


def test_the_same_name_and_other_names_are_no_twins() -> None:
    assert find_twin("floor", ["floor", "flour", "sky"]) is None
    assert twin_hint("floor", ["floor", "sky"]) == ""


def test_what_cannot_be_seen_is_spelled_out() -> None:
    assert twin_hint("floor", ["Floor"]) == " ('floor' only looks like 'Floor': rename one of them)"
    assert "'\\ufefffloor'" in twin_hint("floor", ["\ufefffloor"])
    assert spelled("Tu\u0308r") == "'Tu\\u0308r'"
    assert spelled("T\u00fcr") == "'T\u00fcr'"
