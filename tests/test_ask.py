from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy import ndimage

from hvsa_cvat.annotation.polygons import fill
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.keys import OURS, companion_keys, server_key
from hvsa_cvat.cvat.request.ask import AskOptions, Question, ask
from hvsa_cvat.cvat.request.assign import Person, find_person
from hvsa_cvat.cvat.request.companion_project import open_companion_project
from hvsa_cvat.cvat.request.find_task import child_tasks, remove_child
from hvsa_cvat.cvat.request.guide import (
    UNSET,
    attribute_values,
    guide_text,
    merge,
    mixed_value,
)
from hvsa_cvat.cvat.request.links import JOBS_PAGE, job_link, list_link
from hvsa_cvat.cvat.request.plan import cut, darken, divide, plan_request
from hvsa_cvat.cvat.state import Region, State
from hvsa_cvat.cvat.state import Request as Asked
from hvsa_cvat.cvat.task import WatchedTask, read_task
from hvsa_cvat.errors import ConfigError, ServerError, SessionError
from hvsa_cvat.ports import SegmentMaps, silent
from hvsa_cvat.types import Image, Sample, SegmentMap
from hvsa_cvat.video.segments import Rectangles, WholeFrames
from tests.standin import Fault, ProcessDied, Request, StandIn

SIZE = (24, 32)
LENGTH = 6
CLASSES = ("road", "car", "sky")
IMAGES = np.random.default_rng(0).integers(0, 256, (LENGTH, *SIZE, 3), np.uint8)

SAMPLES = [Sample(4, 1), Sample(1, 0), Sample(1, 5), Sample(3, 2), Sample(5, 3)]
CLICKS = [9.0, 2.0, 2.0, 5.0, 1.0]
"""Frames 1, 3, 4 and 5 cost 4, 5, 9 and 1."""


class Frames:
    """A `FrameSource` of arrays that notes in which order it is read."""

    names = tuple(f"frame_{i:06d}" for i in range(LENGTH))
    size = SIZE

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, frame: int) -> Image:
        self.read.append(frame)
        return IMAGES[frame]


class Maps:
    """`SegmentMaps` of given arrays."""

    border_is_free = True

    def __init__(self, segment_map: SegmentMap) -> None:
        self._map = segment_map

    def __len__(self) -> int:
        return LENGTH

    def count(self, frame: int) -> int:
        return int(self._map.max()) + 1

    def __getitem__(self, frame: int) -> SegmentMap:
        return self._map


RECTANGLES = Rectangles(LENGTH, SIZE, 8, 8)


@dataclass
class Place:
    """A server with an organisation in which the account `agent` asks `ann` and `bob`."""

    cvat: StandIn
    folder: Path
    token: str
    task: int
    organization: str | None = "lab"
    lines: list[str] = field(default_factory=list)

    def client(self) -> CvatClient:
        address = Address(self.cvat.url, self.organization)
        return CvatClient(address, Credentials(self.token), sleep=lambda seconds: None)

    def watched(self) -> WatchedTask:
        with self.client() as client:
            return read_task(client, self.task)

    def state(self) -> State:
        return State(self.folder / "state")

    def key(self, number: int = 2) -> str:
        return f"{OURS}{server_key(self.cvat.url)}/tasks/{self.task}/c0ffee/rounds/{number}"

    def ask(
        self,
        samples: Sequence[Sample] = SAMPLES,
        clicks: Sequence[float] = CLICKS,
        *,
        segments: SegmentMaps = RECTANGLES,
        annotators: tuple[str, ...] = ("ann", "bob"),
        class_order: Sequence[int] = (2, 0, 1),
        round_number: int = 2,
        darkness: float = 0.65,
        task: WatchedTask | None = None,
        frames: Frames | None = None,
    ) -> Asked:
        with self.client() as client:
            connection = TaskConnection(
                client,
                self.state(),
                task or read_task(client, self.task),
                self.lines.append,
                silent,
                lambda: datetime.now(UTC),
            )
            key = self.key(round_number)
            question = Question(key, samples, segments, clicks, class_order)
            return ask(connection, frames or Frames(), question, AskOptions(annotators, darkness))

    def children(self) -> list[Any]:
        return [task for task in self.cvat.world.tasks.values() if task.bug_tracker]

    def shown(self, request: Asked, child_frame: int) -> Image:
        """What an annotator's browser gets, at original quality."""
        person = self.cvat.person("admin")
        query = {"type": "frame", "number": str(child_frame), "quality": "original"}
        content = person.call("GET", f"tasks/{request.task}/data", None, **query)
        with PillowImage.open(io.BytesIO(content)) as image:
            assert image.format == "PNG"
            return np.asarray(image)

    def forget(self) -> None:
        """Our memory is lost; the server keeps what it has."""
        (self.folder / "state" / "cvat.db").unlink()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with StandIn() as cvat:
        agent = cvat.add_user("agent")
        for name in ("ann", "bob", "eve"):
            cvat.add_user(name, groups=["worker"])
        members = {"agent": "maintainer", "ann": "worker", "bob": "worker"}
        lab = cvat.add_organization("lab", members=members)
        task = cvat.add_task("kitchen", CLASSES, frames=list(IMAGES), organization=lab, owner=agent)
        yield Place(cvat, tmp_path, agent.token, task.id)


def pixels(region: Region) -> NDArray[np.bool_]:
    """What an outline covers, by the rule of the pixel centres."""
    points = np.asarray(region.points, np.float64).reshape(-1, 2)
    assert (points[0] == points[-1]).all()
    area = np.zeros(SIZE, np.bool_)
    window, inside = fill(points[:-1], SIZE)
    area[window] = inside
    return area


# -- the picture and the outlines


def test_the_surroundings_are_darker_and_the_samples_untouched() -> None:
    image = np.array([[[0, 100, 255]], [[0, 100, 255]]], np.uint8)
    lit = np.array([[True], [False]])
    assert darken(image, lit, 0.65).tolist() == [[[0, 100, 255]], [[0, 35, 89]]]
    assert darken(image, lit, 0).tolist() == image.tolist()


def test_a_rectangle_is_outlined_along_its_pixels() -> None:
    segments = np.zeros((4, 5), np.int32)
    segments[1:3, 2:4] = 7
    found, numbers = cut(segments, [7], 3, outlined=True)
    (segment, points), *others = found
    assert not others
    assert segment == 7
    corners = list(zip(points[::2], points[1::2], strict=True))
    assert corners[0] == corners[-1]
    assert set(corners) == {(2, 1), (4, 1), (4, 3), (2, 3)}
    assert len(corners) == 5
    assert numbers.tolist() == (np.where(segments == 7, 3, 0)).tolist()


def test_each_part_of_a_superpixel_is_a_region_and_holes_stay_dark() -> None:
    drawn = """
        AAAABB
        A..ABB
        AAAA.A
        .....A
    """
    rows = [list(row) for row in drawn.split()]
    segments = np.array([["BA.".index(cell) for cell in row] for row in rows], np.int32)
    found, numbers = cut(segments, [0, 1], 1, outlined=True)
    assert [segment for segment, _ in found] == [0, 1, 1]
    assert numbers.tolist() == [
        [2, 2, 2, 2, 1, 1],
        [2, 0, 0, 2, 1, 1],
        [2, 2, 2, 2, 0, 3],
        [0, 0, 0, 0, 0, 3],
    ]
    outer = np.asarray(found[1][1]).reshape(-1, 2)
    assert len(outer) == 5, "the hole has no line of its own"


@st.composite
def segment_maps(draw: st.DrawFn) -> SegmentMap:
    cells = draw(st.lists(st.integers(0, 3), min_size=30, max_size=30))
    return np.unique(cells, return_inverse=True)[1].reshape(5, 6).astype(np.int32)


@given(segment_maps(), st.data())
def test_outlines_and_numbers_cover_exactly_the_samples(
    segments: SegmentMap, data: st.DataObject
) -> None:
    ids = range(int(segments.max()) + 1)
    wanted = data.draw(st.lists(st.sampled_from(ids), min_size=1, unique=True).map(sorted))
    found, numbers = cut(segments, wanted, 5, outlined=True)
    assert ((numbers > 0) == np.isin(segments, wanted)).all()
    assert sorted(set(numbers[numbers > 0])) == list(range(5, 5 + len(found)))
    assert [segment for segment, _ in found] == sorted(segment for segment, _ in found)
    for number, (segment, points) in enumerate(found, start=5):
        part = numbers == number
        assert (segments[part] == segment).all()
        outline = np.asarray(points, np.float64).reshape(-1, 2)
        area = np.zeros(segments.shape, np.bool_)
        window, inside = fill(outline[:-1], segments.shape)
        area[window] = inside
        assert area[part].all()
        # what else the outline encloses are holes: nothing of it reaches the part's outside
        rest = area & ~part
        assert not (rest & _outside(part)).any()


def _outside(part: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels that a walk from beyond the border reaches without a diagonal step: where two
    pixels of the part touch at a corner, their outline is closed."""
    beyond = np.pad(~part, 1, constant_values=True)
    parts, _ = ndimage.label(beyond)
    return (parts == parts[0, 0])[1:-1, 1:-1]


def test_whole_frames_have_no_outlines() -> None:
    plan = plan_request([Sample(3, 0), Sample(1, 0)], [5, 5], WholeFrames(6, SIZE), 1, silent)
    assert plan.frames == (1, 3)
    assert [(r.number, r.sample.frame, r.points) for r in plan.regions] == [(1, 1, ()), (2, 3, ())]
    assert [np.unique(numbers.array).tolist() for numbers in plan.numbers] == [[1], [2]]


# -- the division of work


def test_work_is_divided_by_clicks_and_not_by_frames() -> None:
    assert divide([10, 1, 1, 1, 1, 1, 1, 4], 2) == [[0], [1, 2, 3, 4, 5, 6, 7]]
    assert divide([4, 5, 9, 1], 2) == [[0, 1], [2, 3]]
    assert divide([0, 0, 0], 2) == [[0, 2], [1]]
    assert divide([3], 4) == [[0]]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.integers(1, 5))
def test_everybody_gets_something_and_nobody_far_too_much(costs: list[float], parts: int) -> None:
    groups = divide(costs, parts)
    assert len(groups) == min(parts, len(costs))
    assert all(groups)
    assert sorted(i for group in groups for i in group) == list(range(len(costs)))
    assert all(group == sorted(group) for group in groups)
    loads = [sum(costs[i] for i in group) for group in groups]
    least = max(sum(costs) / len(groups), max(costs))
    assert max(loads) <= 2 * least + 1e-6


def test_jobs_hold_their_frames_in_order_of_time(place: Place) -> None:
    request = place.ask()
    assert request.frames == (1, 3, 4, 5)
    assert [(j.start, j.stop, j.assignee, j.expected_clicks) for j in request.jobs] == [
        (0, 1, "ann", 9.0),
        (2, 3, "bob", 10.0),
    ]
    for mine, theirs in zip(request.jobs, place.cvat.task(request.task).jobs, strict=True):
        assert (theirs.id, theirs.start, theirs.stop) == (mine.id, mine.start, mine.stop)
        assert theirs.assignee is not None
        assert theirs.assignee.username == mine.assignee
        assert (theirs.state, theirs.stage) == ("new", "annotation")


def test_one_annotator_or_none_makes_one_job(place: Place) -> None:
    assert [j.assignee for j in place.ask(annotators=("bob",)).jobs] == ["bob"]
    request = place.ask(annotators=(), round_number=3)
    assert [(j.start, j.stop, j.assignee) for j in request.jobs] == [(0, 3, None)]


def test_more_annotators_than_frames(place: Place) -> None:
    request = place.ask([Sample(2, 0)], [1.0])
    assert [(j.start, j.stop, j.assignee) for j in request.jobs] == [(0, 0, "ann")]
    assert any("nothing for bob" in line for line in place.lines)


# -- what stands on the server


def test_a_request_as_annotators_see_it(place: Place) -> None:
    frames = Frames()
    request = place.ask(frames=frames)
    assert frames.read == [1, 3, 4, 5]
    child = place.cvat.task(request.task)
    assert child.name == f"HVSA round 2: kitchen (task {place.task})"
    assert child.bug_tracker == request.key == place.key()
    assert child.project is not None
    assert child.project.name == f"HVSA: kitchen (task {place.task})"
    assert child.project.organization is not None
    assert child.project.organization.slug == "lab"
    assert child.media is not None
    assert [f["name"] for f in place_meta(place, request)] == [
        f"p{place.task}_f{number:06d}.png" for number in (1, 3, 4, 5)
    ]
    upload = next(r for r in place.cvat.requests if b"job_file_mapping" in r.body)
    assert upload.json["image_quality"] == 100

    state = place.state()
    label = place.cvat.label(child.project, "hvsa:region")
    (spec,) = child.project.labels[-1].attributes
    shapes = {s["group"]: s for job in child.jobs for s in place.cvat.shapes(job)}
    assert sorted(shapes) == [region.number for region in request.regions] == [1, 2, 3, 4, 5]
    for region in request.regions:
        sample = RECTANGLES[region.sample.frame] == region.sample.segment
        assert (pixels(region) == sample).all()
        numbers = state.requests.numbers(request.key, region.child_frame)
        assert ((numbers == region.number) == sample).all()
        shape = shapes[region.number]
        assert shape["id"] == region.shape
        assert shape["frame"] == region.child_frame
        assert request.frames[region.child_frame] == region.sample.frame
        assert shape["points"] == list(region.points)
        assert (shape["type"], shape["source"], shape["z_order"]) == ("polyline", "auto", 0)
        assert shape["label_id"] == label
        assert shape["attributes"] == [{"spec_id": spec["id"], "value": UNSET}]
    assert sum(len(j.tags) + len(j.tracks) + len(j.shapes) for j in child.jobs) == 5

    for child_frame, position in enumerate(request.frames):
        lit = state.requests.numbers(request.key, child_frame) > 0
        shown = place.shown(request, child_frame)
        assert (shown[lit] == IMAGES[position][lit]).all()
        dark = np.round(IMAGES[position][~lit] * 0.35)
        assert (shown[~lit] == dark).all()


def place_meta(place: Place, request: Asked) -> list[Any]:
    meta = place.cvat.person("admin").call("GET", f"tasks/{request.task}/data/meta")
    frames: list[Any] = meta["frames"]
    return frames


def test_whole_frames_are_shown_as_they_are(place: Place) -> None:
    request = place.ask([Sample(0, 0), Sample(4, 0)], [7, 7], segments=WholeFrames(LENGTH, SIZE))
    for child_frame, position in enumerate(request.frames):
        assert (place.shown(request, child_frame) == IMAGES[position]).all()
    assert [region.shape for region in request.regions] == [None, None]
    assert [place.cvat.shapes(job.id) for job in request.jobs] == [[], []]
    assert all("ATTRIBUTES" not in line for line in place.lines)


def test_labels_and_keys(place: Place) -> None:
    project = place.cvat.task(place.ask().task).project
    assert project is not None
    parent = place.cvat.task(place.task)
    colours = {label.name: label.color for label in parent.own_labels}
    *classes, region = project.labels
    assert [(c.name, c.color, c.type) for c in classes] == [(n, colours[n], "any") for n in CLASSES]
    assert (region.name, region.color, region.type) == ("hvsa:region", "#ffffff", "polyline")
    (attribute,) = region.attributes
    assert attribute["name"] == "class"
    assert (attribute["input_type"], attribute["mutable"]) == ("select", False)
    assert attribute["default_value"] == UNSET
    assert attribute["values"] == [UNSET, "sky", "road", "car", "mixed"]


def test_links(place: Place) -> None:
    request, log = place.ask(), place.lines
    with place.client() as client:
        job = request.jobs[1].id
        base = f"{place.cvat.url}/tasks/{request.task}/jobs/{job}"
        assert job_link(client, request, job, regions=True) == (
            f"{base}?defaultWorkspace=ATTRIBUTES&openGuide"
        )
        assert job_link(client, request, job, regions=False) == f"{base}?openGuide"
        page = urlsplit(list_link(client).removeprefix(place.cvat.url))
    assert page.path == "/jobs"
    assert any(line.endswith(f"{base}?defaultWorkspace=ATTRIBUTES&openGuide") for line in log)
    # the web page hands the filter of its address to the server as it is
    (logic,) = parse_qs(page.query)["filter"]
    bob = place.cvat.person("bob")
    listed = bob.call("GET", "jobs", filter=logic)["results"]
    assert [row["id"] for row in listed] == [job]
    bob.reject(job)
    assert bob.call("GET", "jobs", filter=logic)["count"] == 1
    bob.finish(job)
    assert bob.call("GET", "jobs", filter=logic)["count"] == 0


def test_annotators_can_read_the_guide_and_work(place: Place) -> None:
    request = place.ask()
    ann = place.cvat.person("ann")
    guide = ann.call("GET", f"jobs/{request.jobs[0].id}")["guide_id"]
    text = ann.call("GET", f"guides/{guide}")["markdown"]
    assert f"]({JOBS_PAGE})" in text
    assert "organization **lab**" in text
    # indented, so that the table belongs to the step that it stands in
    assert "\n   | `0` | sky |\n" in text
    assert "\n   | `3` | **several classes**: mixed |\n" in text
    region = request.regions[0]
    assert region.shape is not None
    ann.set_class(request.jobs[0].id, region.shape, 1, "sky")


# -- names


def test_ten_classes_and_more_keep_one_key_a_region() -> None:
    few = [f"c{i}" for i in range(9)]
    assert attribute_values(few, range(9)) == [UNSET, *few, "mixed"]
    many = [f"c{i}" for i in range(12)]
    order = [11, *range(11)]
    values = attribute_values(many, order)
    assert values == [UNSET, "c11", *many[:8], "mixed", "c8", "c9", "c10"]
    assert values[1:].index("mixed") == 9
    text = guide_text(values, many, None)
    assert "| `9` | **several classes**: mixed |" in text
    assert "| `10` |" not in text
    assert "All other classes (c8, c9, c10)" in text


def test_over_ten_classes_on_the_server(tmp_path: Path, place: Place) -> None:
    lab = place.cvat.world.organizations[1]
    names = [f"class {i}" for i in range(14)]
    task = place.cvat.add_task("street", names, frames=list(IMAGES), organization=lab)
    project = place.cvat.task(replace(place, task=task.id).ask(class_order=range(14)).task).project
    assert project is not None
    assert len(project.labels) == 15
    values = project.labels[-1].attributes[0]["values"]
    assert values == [UNSET, *names[:9], "mixed", *names[9:]]


def test_a_class_may_be_called_mixed(place: Place) -> None:
    lab = place.cvat.world.organizations[1]
    names = ["mixed", "mixed (several classes)", "car"]
    task = place.cvat.add_task("salad", names, frames=list(IMAGES), organization=lab)
    project = place.cvat.task(replace(place, task=task.id).ask(class_order=range(3)).task).project
    assert project is not None
    values = project.labels[-1].attributes[0]["values"]
    assert values == [UNSET, *names, mixed_value(names)]
    assert mixed_value(names) not in names


@pytest.mark.parametrize("name", [UNSET, "hvsa:region"])
def test_names_that_cannot_be_shown_are_refused_before_anything_is_made(
    place: Place, name: str
) -> None:
    lab = place.cvat.world.organizations[1]
    task = place.cvat.add_task("odd", ["car", name], frames=list(IMAGES), organization=lab)
    with pytest.raises(ServerError, match="rename the label"):
        replace(place, task=task.id).ask(class_order=[0, 1])
    assert not place.cvat.world.projects


def test_long_names_are_cut_and_stay_findable(place: Place) -> None:
    place.cvat.task(place.task).name = "k" * 256
    request = place.ask()
    child = place.cvat.task(request.task)
    assert child.project is not None
    assert len(child.name) == len(child.project.name) == 256
    assert child.name.startswith("HVSA round 2: kkk")
    assert child.name.endswith(f"... (task {place.task})")


# -- the companion project


def in_project(place: Place) -> Place:
    lab = place.cvat.world.organizations[1]
    project = place.cvat.add_project("film", CLASSES, organization=lab)
    task = place.cvat.add_task("scene", project=project, frames=list(IMAGES))
    return replace(place, task=task.id)


def test_tasks_of_one_project_share_a_companion(place: Place, tmp_path: Path) -> None:
    first = in_project(place)
    parent = place.cvat.task(first.task).project
    assert parent is not None
    other = place.cvat.add_task("scene 2", project=parent, frames=list(IMAGES))
    second = replace(first, task=other.id, folder=tmp_path / "other")
    one, two = first.ask(), second.ask(class_order=[1, 0, 2])
    assert one.project == two.project
    project = place.cvat.project(one.project)
    assert project.name == f"HVSA: film (project {parent.id})"
    values = project.labels[-1].attributes[0]["values"]
    assert values == [UNSET, "sky", "road", "car", "mixed"], "annotators have learned these keys"
    assert len(place.cvat.world.guides) == 1


def test_a_renamed_parent_keeps_its_companion(place: Place) -> None:
    film = in_project(place)
    first = film.ask()
    parent = place.cvat.task(film.task).project
    assert parent is not None
    parent.name = "movie"
    second = film.ask(round_number=3)
    assert second.project == first.project
    assert place.cvat.project(first.project).name == f"HVSA: movie (project {parent.id})"
    # a name that people gave it stays
    place.cvat.project(first.project).name = "HVSA: our work"
    third = film.ask(round_number=4)
    assert third.project == first.project
    assert place.cvat.project(first.project).name == "HVSA: our work"


def test_a_companion_of_the_same_name_elsewhere_is_not_ours(place: Place) -> None:
    film = in_project(place)
    parent = place.cvat.task(film.task).project
    assert parent is not None
    foreign = place.cvat.add_project(f"HVSA: film (project {parent.id})")
    request = film.ask()
    assert request.project != foreign.id
    assert foreign.labels == []


def test_missing_labels_and_values_are_added_and_the_order_stays(place: Place) -> None:
    first = place.ask()
    project = place.cvat.project(first.project)
    region, others = project.labels[-1], project.labels[:-1]
    region.attributes[0]["values"] = [UNSET, "car", "mixed", "of people"]
    project.labels.remove(others[0])
    second = place.ask(round_number=3)
    assert second.project == first.project
    assert [label.name for label in project.labels] == ["car", "sky", "hvsa:region", "road"]
    values = project.labels[2].attributes[0]["values"]
    assert values == [UNSET, "car", "mixed", "of people", "sky", "road"]
    (guide,) = place.cvat.world.guides.values()
    assert "| `0` | car |" in guide.markdown
    assert "| `1` | **several classes**: mixed |" in guide.markdown


def test_a_region_label_without_its_attribute_is_mended(place: Place) -> None:
    project = place.cvat.project(place.ask().project)
    project.labels[-1].attributes.clear()
    request = place.ask(round_number=3)
    (spec,) = project.labels[-1].attributes
    assert spec["values"] == [UNSET, "sky", "road", "car", "mixed"]
    (shape, *_) = place.cvat.shapes(request.jobs[0].id)
    assert shape["attributes"] == [{"spec_id": spec["id"], "value": UNSET}]


def test_the_guide_keeps_what_people_wrote_around_our_part(place: Place) -> None:
    place.ask()
    (guide,) = place.cvat.world.guides.values()
    ours = guide.markdown
    guide.markdown = f"Ask Zoe.\n\n{ours}\nThank you."
    place.ask(round_number=3)
    assert guide.markdown == f"Ask Zoe.\n\n{ours}\nThank you."
    guide.markdown = "All by ourselves."
    place.ask(round_number=4)
    assert guide.markdown.startswith("All by ourselves.\n\n")
    assert guide.markdown.endswith(ours)


def test_our_part_of_a_guide_is_replaced_as_a_whole() -> None:
    old = merge("", "old words")
    assert merge(old, "new words") == merge("", "new words")
    assert merge(f"A\n\n{old}\nB", "new words") == f"A\n\n{merge('', 'new words')}\nB"


# -- people


def test_an_unknown_annotator_is_named_before_anything_is_made(place: Place) -> None:
    for name in ("zoe", "eve", "an"):
        with pytest.raises(ServerError, match=f"no user '{name}' in organisation 'lab'"):
            place.ask(annotators=("ann", name))
    assert not place.cvat.world.projects
    assert len(place.cvat.world.tasks) == 1


def test_one_may_name_oneself_in_the_personal_space_too(place: Place) -> None:
    """Where CVAT lists only users who are in no organisation."""
    agent = next(u for u in place.cvat.world.users.values() if u.username == "agent")
    with CvatClient(Address(place.cvat.url), Credentials(token=place.token)) as personal:
        assert find_person(personal, "agent") == Person(agent.id, "agent")
        with pytest.raises(ServerError, match="no user 'ann'"):
            find_person(personal, "ann")


def test_an_annotator_who_may_not_be_assigned(place: Place) -> None:
    bob = next(u for u in place.cvat.world.users.values() if u.username == "bob")

    def leaves(request: Request) -> None:
        if request.method == "POST" and request.path == "/api/tasks":
            place.cvat.world.organizations[1].roles.pop(bob.id, None)

    place.cvat.after_request = leaves
    with pytest.raises(ServerError, match=r"cannot be given to 'bob'.*member.*'lab'"):
        place.ask()
    place.cvat.after_request = None
    place.cvat.world.organizations[1].roles[bob.id] = "worker"
    request = place.ask()
    assert [job.assignee for job in request.jobs] == ["ann", "bob"]
    assert [task.id for task in place.children()] == [request.task]


def test_a_job_that_somebody_was_given_meanwhile_stays_with_them(place: Place) -> None:
    first = place.ask()
    place.forget()
    eve = next(u for u in place.cvat.world.users.values() if u.username == "eve")
    place.cvat.job(first.jobs[0].id).assignee = eve
    second = place.ask()
    assert [job.assignee for job in second.jobs] == ["eve", "bob"]


# -- repeating


def test_the_same_key_is_the_same_request(place: Place) -> None:
    first = place.ask()
    place.cvat.requests.clear()
    assert place.ask() == first
    assert place.ask(list(reversed(SAMPLES)), list(reversed(CLICKS))) == first
    assert all(request.method == "GET" for request in place.cvat.requests)
    with pytest.raises(SessionError, match="asked for other samples"):
        place.ask([Sample(0, 0)], [1.0])


def test_lost_memory_finds_the_task_with_the_work_of_people(place: Place) -> None:
    first = place.ask()
    ann = place.cvat.person("ann")
    job = first.jobs[0].id
    one, two, three = [r.shape for r in first.regions if r.child_frame <= first.jobs[0].stop]
    assert one is not None
    assert two is not None
    assert three is not None
    road = place.cvat.label(place.cvat.project(first.project), "road")
    ann.set_class(job, one, 1, "car")
    again = ann.delete_and_undo(job, two)
    ann.relabel(job, three, road)
    ann.draw(job, {"frame": 0, "label_id": road, "points": [0, 0, 4, 0, 4, 4]})
    before = place.cvat.shapes(job)
    place.forget()
    second = place.ask()
    assert second.task == first.task
    assert place.cvat.shapes(job) == before
    ids = {region.number: region.shape for region in first.regions}
    assert {r.number: r.shape for r in second.regions} == ids | {2: again}
    assert place.cvat.job(job).state == "in progress"


def unmake(place: Place) -> int:
    """The child task as it was before the server made frames of its files; its number."""
    place.forget()
    (child,) = place.children()
    child.media = None
    while child.jobs:
        del place.cvat.world.jobs[child.jobs.pop().id]
    return int(child.id)


def test_a_half_made_task_is_made_anew(place: Place) -> None:
    place.ask()
    broken = unmake(place)
    request = place.ask()
    assert request.task != broken
    assert [task.id for task in place.children()] == [request.task]


def test_a_task_that_the_server_is_still_making_is_left_in_peace(place: Place) -> None:
    place.ask()
    (background,) = place.cvat.world.backgrounds.values()
    background.messages, background.finished = ["", ""], None
    number = unmake(place)
    for _ in range(2):
        with pytest.raises(ServerError, match=f"still making the frames of child task {number}"):
            place.ask()
        assert [task.id for task in place.children()] == [number]
    assert place.ask().task != number, "in vain: the server says it is done, but there is nothing"


def test_other_annotators_than_before_make_the_task_anew(place: Place) -> None:
    first = place.ask()
    place.forget()
    second = place.ask(annotators=("ann",))
    assert [task.id for task in place.children()] == [second.task]
    assert second.task != first.task


def test_other_regions_than_before_make_the_task_anew(place: Place) -> None:
    first = place.ask()
    place.forget()
    others = [replace(sample, segment=sample.segment + 1) for sample in SAMPLES]
    second = place.ask(others)
    assert second.frames == first.frames
    assert [task.id for task in place.children()] == [second.task]
    place.forget()
    shape = second.regions[0].shape
    assert shape is not None
    place.cvat.person("ann").move(second.jobs[0].id, shape, [0, 0, 9, 0, 9, 9, 0, 0])
    with pytest.raises(ServerError, match="people have worked in it"):
        place.ask()
    assert place.ask(others).task == second.task


@pytest.mark.parametrize("what", ["class", "shape", "state"])
def test_a_task_in_which_people_worked_is_never_deleted(place: Place, what: str) -> None:
    first = place.ask()
    place.forget()
    job = first.jobs[1].id
    bob = place.cvat.person("bob")
    if what == "class":
        shape = next(iter(place.cvat.job(job).shapes))
        bob.set_class(job, shape, 1, "car")
    elif what == "shape":
        car = place.cvat.label(place.cvat.project(first.project), "car")
        bob.draw(job, {"frame": 2, "label_id": car, "points": [0, 0, 4, 0, 4, 4]})
    else:
        bob.finish(job)
    before = place.cvat.shapes(job)
    with pytest.raises(ServerError, match="people have worked in it"):
        place.ask(annotators=("ann",))
    assert place.cvat.shapes(job) == before
    assert place.ask().task == first.task


def test_a_task_with_another_key_is_not_ours(place: Place) -> None:
    lab = place.cvat.world.organizations[1]
    other = place.cvat.add_task("of people", organization=lab)
    other.bug_tracker = place.key() + "0"
    request = place.ask()
    assert {task.id for task in place.children()} == {other.id, request.task}
    with place.client() as client:
        found = child_tasks(client, place.task)
        assert [row["id"] for row in found] == [other.id, request.task]
        assert child_tasks(client, 999) == []


@pytest.mark.parametrize("former", [False, True])
@pytest.mark.parametrize("spelling", ["{}", "{}/", "http://LOCALHOST:{port}", "{}/cvat"])
def test_who_was_asked_from_any_address_of_the_server_is_known(
    place: Place, spelling: str, former: bool
) -> None:
    """Both halves of the guard against asking twice from a second workspace. `former`: the key that
    version 0.1 wrote."""
    url = spelling.format(place.cvat.url, port=urlsplit(place.cvat.url).port)
    parts = urlsplit(url)
    server = parts.netloc + parts.path if former else server_key(url)
    child = place.cvat.add_task("asked", organization=place.cvat.world.organizations[1])
    child.bug_tracker = f"{OURS}{server}/tasks/{place.task}/c0ffee/rounds/1"
    with place.client() as client:
        assert [row["id"] for row in child_tasks(client, place.task)] == [child.id]
        assert child_tasks(client, place.task + 1) == []
    address = Address(url.removesuffix("/cvat"), place.organization)
    with CvatClient(address, Credentials(place.token)) as client:
        assert [row["id"] for row in child_tasks(client, place.task)] == [child.id]


def test_one_server_has_one_key() -> None:
    urls = ("https://CVAT.x", "https://cvat.X/", "https://cvat.x/cvat", "http://cvat.x")
    assert {server_key(url) for url in urls} == {"cvat.x"}
    assert server_key("http://localhost:8080") == "localhost:8080"
    assert companion_keys("https://CVAT.x/cvat", 7, None) == (
        "hvsa://cvat.x/tasks/7",
        "hvsa://CVAT.x/cvat/tasks/7",
    )
    assert companion_keys("https://cvat.x", 7, 3) == ("hvsa://cvat.x/projects/3",)


def test_a_companion_project_of_version_0_1_is_found(place: Place) -> None:
    first = place.ask()
    project = place.cvat.project(first.project)
    assert project.bug_tracker == f"{OURS}{server_key(place.cvat.url)}/tasks/{place.task}"
    project.name = "HVSA: our work"
    url = place.cvat.url.replace("127.0.0.1", "LOCALHOST")
    project.bug_tracker = f"{OURS}{urlsplit(url).netloc}/tasks/{place.task}"
    with CvatClient(Address(url, place.organization), Credentials(place.token)) as client:
        assert client.address.url == url
        connection = TaskConnection(
            client,
            place.state(),
            read_task(client, place.task),
            place.lines.append,
            silent,
            lambda: datetime.now(UTC),
        )
        assert open_companion_project(connection, (0, 1, 2)).id == project.id
    assert list(place.cvat.world.projects) == [project.id]


def test_withdrawing_removes_the_task_and_nothing_else(place: Place) -> None:
    first, second = place.ask(), place.ask(round_number=3)
    state = place.state()
    with place.client() as client:
        remove_child(client, state, first)
        remove_child(client, state, first)
        assert [task.id for task in place.children()] == [second.task]
        assert state.requests.get(first.key) is None
        place.cvat.task(second.task).bug_tracker = "https://tracker.example/1"
        with pytest.raises(ServerError, match="does not carry the key"):
            remove_child(client, state, second)
    assert second.task in place.cvat.world.tasks
    assert state.requests.get(second.key) == second


# -- disturbances


def content(place: Place, request: Asked) -> Any:
    """All that came of a request, without the numbers that the server happened to give."""
    world = place.cvat.world
    (task,), (project,) = place.children(), world.projects.values()
    assert (task.id, project.id) == (request.task, request.project)
    shapes = [place.cvat.shapes(job) for job in task.jobs]
    assert {r.shape for r in request.regions} == {shape["id"] for part in shapes for shape in part}
    return {
        "jobs": [(j.start, j.stop, j.assignee, j.expected_clicks) for j in request.jobs],
        "assigned": [job.assignee and job.assignee.username for job in task.jobs],
        "states": [(job.stage, job.state) for job in task.jobs],
        "outlines": [
            [(s["frame"], s["group"], s["points"], s["attributes"][0]["value"]) for s in part]
            for part in shapes
        ],
        "labels": [label.name for label in project.labels],
        "values": project.labels[-1].attributes[0]["values"],
        "guides": [guide.markdown for guide in world.guides.values()],
        "frames": request.frames,
        "regions": [replace(region, shape=None) for region in request.regions],
        "numbers": [
            place.state().requests.numbers(request.key, i).tolist()
            for i in range(len(request.frames))
        ],
        "left over": list(place.folder.rglob("*.png")),
    }


def all_requests(request: Request) -> bool:
    return True


def writes(request: Request) -> bool:
    """What lies between two writes leaves the server as it was."""
    return request.method != "GET"


@dataclass
class Undisturbed:
    """What comes of a quiet request."""

    content: Any
    disturbed: list[int]
    """Numbers of the requests to disturb."""


def undisturbed(place: Place, chosen: Callable[[Request], bool]) -> Undisturbed:
    place.cvat.requests.clear()
    wanted = content(place, place.ask())
    return Undisturbed(wanted, [r.number for r in place.cvat.requests if chosen(r)])


EACH = [
    pytest.param(writes, id="write"),
    pytest.param(all_requests, id="request", marks=pytest.mark.slow),
]


def by_passes(place: Place) -> Asked:
    """What a pass cannot do the next one does."""
    for _ in range(2):
        try:
            return place.ask()
        except ServerError:
            place.cvat.faults = {}
    return place.ask()


NOISY = [fault for fault in Fault if fault not in (Fault.SILENCE, Fault.SILENCE_AFTER)]
"""A connection that breaks is met as one that stays silent until the time is up, only sooner."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("chosen", EACH)
def test_killed_at_any_request_the_end_is_the_same(
    place: Place, chosen: Callable[[Request], bool], when: Any
) -> None:
    world = place.cvat.snapshot()
    quiet = undisturbed(place, chosen)
    assert len(quiet.disturbed) >= 10
    for number in quiet.disturbed:
        place.cvat.restore(world)
        place.forget()
        with pytest.raises(ProcessDied), place.cvat.process_dies(number, when):
            place.ask()
        assert content(place, by_passes(place)) == quiet.content, number


@pytest.mark.parametrize(
    ("chosen", "fault"),
    [
        (writes, Fault.LATE),
        (writes, Fault.RESET),
        *(pytest.param(all_requests, fault, marks=pytest.mark.slow) for fault in NOISY),
    ],
)
def test_any_request_may_fail_once(
    place: Place, chosen: Callable[[Request], bool], fault: Fault
) -> None:
    world = place.cvat.snapshot()
    quiet = undisturbed(place, chosen)
    for number in quiet.disturbed:
        place.cvat.restore(world)
        place.forget()
        place.cvat.requests.clear()
        place.cvat.faults = {number: fault}
        assert content(place, by_passes(place)) == quiet.content, number


def test_a_server_that_forgets_shapes_is_named(place: Place) -> None:
    def lose(request: Request) -> None:
        if request.method == "PATCH" and "annotations" in request.path:
            for job in place.cvat.world.jobs.values():
                job.shapes.clear()

    place.cvat.after_request = lose
    with pytest.raises(ServerError, match="does not keep the outlines"):
        place.ask()


def test_darkness_is_a_share() -> None:
    with pytest.raises(ConfigError, match="darkness"):
        AskOptions(darkness=1.5)


def test_samples_must_lie_in_the_video(place: Place) -> None:
    for samples in ([], [Sample(0, 0), Sample(0, 0)], [Sample(9, 0)], [Sample(0, 99)]):
        with pytest.raises(ValueError, match=r"sample|Sample"):
            place.ask(samples, [1.0] * len(samples))
    assert not place.cvat.world.projects
