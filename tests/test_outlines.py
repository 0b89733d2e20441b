from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvsa_cvat.cvat.answers.outlines import MIXED, ChildLabels, Outlines, read_outlines
from hvsa_cvat.cvat.request.guide import UNSET
from hvsa_cvat.cvat.state import Region
from hvsa_cvat.types import Sample

SIZE = (8, 16)
NAMES = ("road", "car", "sky")
ROAD, CAR, SKY, DOG, REGION = 51, 52, 53, 54, 55
SPEC = 10
COLUMNS = 4
"""Squares of 4 pixels in a row."""


def server_labels() -> list[dict[str, Any]]:
    rows = [
        {"id": number, "name": name, "attributes": []}
        for number, name in ((SKY, "sky"), (DOG, "dog"), (ROAD, "road"), (CAR, "car"))
    ]
    attribute = {"id": SPEC, "name": "class", "values": [UNSET, *NAMES, "mixed"]}
    return [*rows, {"id": REGION, "name": "hvsa:region", "attributes": [attribute]}]


LABELS = ChildLabels.of(server_labels(), NAMES)


def square(place: int, shift: float = 0) -> tuple[float, ...]:
    left, right = 4 * place + shift, 4 * place + 4 + shift
    return (left, 0, right, 0, right, 4, left, 4, left, 0)


def region(number: int) -> Region:
    """Four of them on each of two frames."""
    frame, place = divmod(number - 1, COLUMNS)
    return Region(number, Sample(frame, place), frame, square(place), 100 + number)


REGIONS = [region(number) for number in range(1, 2 * COLUMNS + 1)]


def outline(number: int, value: str = UNSET, **changes: Any) -> dict[str, Any]:
    """As the server shows the outline of a region."""
    of = region(number)
    return {
        "id": of.shape,
        "type": "polyline",
        "frame": of.child_frame,
        "label_id": REGION,
        "points": list(of.points),
        "group": number,
        "source": "auto",
        "attributes": [{"spec_id": SPEC, "value": value}],
    } | changes


def read(*shapes: dict[str, Any]) -> Outlines:
    return read_outlines(REGIONS, shapes, LABELS, SIZE)


def said(found: Outlines) -> tuple[dict[int, int], tuple[dict[str, Any], ...], tuple[str, ...]]:
    """All but the regions whose outlines are gone; test_send_back looks at those."""
    return found.classes, found.rest, found.remarks


def test_labels_are_known_by_name_and_the_attribute_by_its_spec() -> None:
    assert LABELS.classes == {ROAD: 0, CAR: 1, SKY: 2}
    assert (LABELS.region, LABELS.choice) == (REGION, SPEC)
    assert LABELS.values == {"road": 0, "car": 1, "sky": 2, "mixed": MIXED}


def test_without_the_reserved_label_nothing_is_an_outline() -> None:
    labels = ChildLabels.of(server_labels()[:-1], NAMES)
    found = read_outlines(REGIONS, [], labels, SIZE)
    assert said(found) == ({}, (), ())


@pytest.mark.parametrize(
    ("value", "expected"), [("car", {3: 1}), ("mixed", {}), (UNSET, {}), ("", {})]
)
def test_the_attribute_says_the_class(value: str, expected: dict[int, int]) -> None:
    assert said(read(outline(3, value))) == (expected, (), ())


def test_attributes_come_in_any_order_and_others_say_nothing() -> None:
    others = [{"spec_id": 99, "value": "car"}, {"spec_id": SPEC, "value": "sky"}]
    assert read(outline(1, attributes=others)).classes == {1: 2}


def test_a_value_that_is_no_class_is_unset_and_noted() -> None:
    found = read(outline(1, "tree"))
    assert found.classes == {}
    assert found.remarks == (
        "region 1 on frame 0 has the value 'tree', which is no class, and counts as unset",
    )


def test_an_outline_relabelled_as_something_unknown_is_unset_and_noted() -> None:
    found = read(outline(1, label_id=DOG, attributes=[]))
    assert (found.classes, found.rest) == ({}, ())
    assert found.remarks == (
        "region 1 on frame 0 has the label 'dog', which is no class, and counts as unset",
    )


def test_a_group_matches_on_its_own_frame_only() -> None:
    stray = outline(1, "car", id=900, frame=1, points=[0, 5, 1, 5])
    assert said(read(outline(1), stray)) == ({}, (stray,), ())


def test_a_polygon_in_the_group_of_a_region_is_no_outline() -> None:
    polygon = outline(1, id=900, type="polygon", label_id=CAR, attributes=[])
    assert said(read(outline(1), polygon)) == ({}, (polygon,), ())


def test_an_outline_without_id_and_group_is_found_by_its_place() -> None:
    lost = outline(2, "car", id=900, group=0, points=square(1, shift=1))
    assert read(lost).classes == {2: 1}
    far = outline(2, "car", id=900, group=0, points=square(1, shift=2))
    assert said(read(far)) == ({}, (far,), ())


def test_a_region_that_has_its_outline_takes_no_other_at_its_place() -> None:
    copy = outline(2, "car", id=900, group=0, source="manual")
    assert said(read(outline(2), copy)) == ({}, (copy,), ())


def test_a_line_of_a_class_is_an_outline_only_if_we_made_it() -> None:
    relabelled = outline(2, id=900, group=0, label_id=CAR, attributes=[])
    assert read(relabelled).classes == {2: 1}
    own_line = relabelled | {"source": "manual"}
    assert said(read(own_line)) == ({}, (own_line,), ())


def test_of_two_outlines_the_one_that_was_set_holds() -> None:
    assert said(read(outline(1), outline(1, "sky", id=900))) == ({1: 2}, (), ())


def test_outlines_that_disagree_are_noted() -> None:
    found = read(outline(1, "road"), outline(1, "sky", id=901), outline(1, "sky", id=900))
    assert found.classes == {1: 0}
    assert found.remarks == (
        "region 1 on frame 0 has several outlines that disagree (101, 901, 900); 101 is taken",
    )
    assert read(outline(1, "mixed"), outline(1, "sky", id=901)).classes == {}
    assert read(outline(1, "car", id=901), outline(1, "sky", id=900)).classes == {1: 1}


def test_lines_of_odd_numbers_do_no_harm() -> None:
    odd = outline(2, "car", id=900, group=0, points=[4.0, 0.0, 8.0])
    assert said(read(odd)) == ({}, (odd,), ())


# -- people at work


@dataclass(frozen=True)
class Line:
    """An outline as people see it: which one it was, where it lies, what it says."""

    shape: int
    frame: int
    place: int
    shift: float
    label: int
    value: str
    group: int
    source: str

    def json(self) -> dict[str, Any]:
        attributes = [{"spec_id": SPEC, "value": self.value}] if self.label == REGION else []
        return {
            "id": self.shape,
            "type": "polyline",
            "frame": self.frame,
            "label_id": self.label,
            "points": square(self.place, self.shift),
            "group": self.group,
            "source": self.source,
            "attributes": attributes,
        }

    @property
    def choice(self) -> int | None:
        says = {ROAD: "road", CAR: "car", SKY: "sky", REGION: self.value}.get(self.label)
        return {"road": 0, "car": 1, "sky": 2, "mixed": MIXED}.get(says or "")


def untouched(of: Region) -> Line:
    assert of.shape is not None
    place = of.sample.segment
    return Line(of.shape, of.child_frame, place, 0, REGION, UNSET, of.number, "auto")


@dataclass
class Editor:
    """The web interface: what its actions do to ids, groups, sources and attributes."""

    lines: list[Line] = field(default_factory=lambda: [untouched(of) for of in REGIONS])
    deleted: list[Line] = field(default_factory=list)
    next_id: int = 500

    def act(self, action: str, which: int, place: int, shift: int, label: int, value: str) -> None:
        if action == "undo":
            if self.deleted:
                self._add(self.deleted.pop())
            return
        if not self.lines:
            return
        line = self.lines.pop(which % len(self.lines))
        if action == "delete":
            self.deleted.append(line)
            return
        if action == "copy":
            self._add(replace(line, source="manual", group=0, place=place, shift=shift))
        elif action == "set" and line.label == REGION:
            line = replace(line, value=value)
        elif action == "relabel":
            line = replace(line, label=label, value=UNSET)
        elif action == "move":
            source = "manual" if line.source == "manual" else "semi-auto"
            line = replace(line, place=place, shift=shift, source=source)
        elif action == "group":
            line = replace(line, group=1000)
        self.lines.append(line)

    def _add(self, line: Line) -> None:
        self.lines.append(replace(line, shape=self.next_id))
        self.next_id += 1


def expected(lines: list[Line]) -> tuple[dict[int, int], set[int]]:
    """By the rules: the class of each region, and the regions about which outlines disagree."""
    classes, disagreed = {}, set()
    surely = {
        of.number: [
            *(line for line in lines if line.shape == of.shape),
            *sorted(
                (
                    line
                    for line in lines
                    if line.shape >= 500 and (line.frame, line.group) == (of.child_frame, of.number)
                ),
                key=lambda line: -line.shape,
            ),
        ]
        for of in REGIONS
    }
    taken = {line.shape for found in surely.values() for line in found}
    for of in REGIONS:
        found = surely[of.number]
        if not found:
            here = [
                line
                for line in lines
                if line.shape not in taken
                and (line.frame, line.place) == (of.child_frame, of.sample.segment)
                and (line.label == REGION or (line.label != DOG and line.source != "manual"))
            ]
            found = sorted(here, key=lambda line: -line.shape)
        said = [line.choice for line in found if line.choice is not None]
        if len(set(said)) > 1:
            disagreed.add(of.number)
        if said and said[0] != MIXED:
            classes[of.number] = said[0]
    return classes, disagreed


ACTIONS = st.tuples(
    st.sampled_from(["set", "relabel", "move", "delete", "undo", "copy", "group"]),
    st.integers(0, 20),
    st.integers(0, COLUMNS - 1),
    st.integers(0, 1),
    st.sampled_from([ROAD, CAR, SKY, DOG, REGION]),
    st.sampled_from([*NAMES, "mixed"]),
)


@given(st.lists(ACTIONS, max_size=40), st.randoms(use_true_random=False))
def test_whatever_people_do_to_outlines_ends_in_the_class_that_the_rules_say(
    actions: list[tuple[Any, ...]], order: Any
) -> None:
    editor = Editor()
    for action in actions:
        editor.act(*action)
    shapes = [line.json() for line in editor.lines]
    order.shuffle(shapes)
    found = read(*shapes)
    classes, disagreed = expected(editor.lines)
    assert found.classes == classes
    noted = {
        number
        for number in range(1, 9)
        for note in found.remarks
        if "disagree" in note and note.startswith(f"region {number} ")
    }
    assert noted == disagreed
