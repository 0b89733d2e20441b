from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from hvsa_cvat.cvat.cards import enlarge
from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.credentials import Address, Credentials
from hvsa_cvat.cvat.keys import OURS, companion_key, earlier_companion_key, label_digest, server_key
from hvsa_cvat.cvat.request.ask import ask
from hvsa_cvat.cvat.request.assign import Person, find_person
from hvsa_cvat.cvat.request.find_task import child_tasks, remove_child
from hvsa_cvat.cvat.request.guide import guide_text, merge, tag_name
from hvsa_cvat.cvat.request.links import JOBS_PAGE, job_link, list_link
from hvsa_cvat.cvat.request.plan import AskOptions, Question, divide, plan_request, sittings
from hvsa_cvat.cvat.shapes import fill_shape
from hvsa_cvat.cvat.state import Request as Asked
from hvsa_cvat.cvat.state import State
from hvsa_cvat.cvat.task import WatchedTask, read_task
from hvsa_cvat.errors import HvsaError, ServerError, SessionError
from hvsa_cvat.ports import SegmentMaps, Shown, silent
from hvsa_cvat.types import Image, LabelMap, Mask, Sample
from hvsa_cvat.video.segments import Rectangles, WholeFrames
from tests.standin import Fault, ProcessDied, Request, StandIn

SIZE = (24, 32)
LENGTH = 6
CLASSES = ("road", "car", "sky")
UUID = re.compile("[0-9a-f-]{36}")
IMAGES = np.random.default_rng(0).integers(0, 256, (LENGTH, *SIZE, 3), np.uint8)

SAMPLES = [Sample(4, 1), Sample(1, 0), Sample(1, 5), Sample(3, 2), Sample(5, 3)]
CLICKS = [8.0, 2.0, 2.0, 5.0, 1.0]
"""Frames 1, 3, 4 and 5 take 4, 5, 8 and 1; by the published figures 6.7, 8.6, 13.85 and 1.6 s."""

MASKS: LabelMap = np.repeat(np.arange(SIZE[0], dtype=np.uint8)[:, None] // 4 % 3, SIZE[1], axis=1)
"""What the masks show: stripes of four rows, so that a sample of eight rows has two or three
classes."""


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


RECTANGLES = Rectangles(LENGTH, SIZE, 8, 8)

HOME = f"HVSA check: {', '.join(CLASSES)} (labels {label_digest(CLASSES)})"
"""The name of the companion project."""


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
        right: float | None = 0.9,
        task: WatchedTask | None = None,
        frames: Frames | None = None,
        job_minutes: float = 15.0,
        planted: bool = False,
    ) -> Asked:
        """`right`: how much of the masks is expected to be right; None: people see none."""
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
            shown = None
            if right is not None:
                shown = Shown(round_number - 1, lambda frame: MASKS, [right] * len(samples))
            question = Question(key, samples, segments, clicks, class_order, shown)
            options = AskOptions(annotators, job_minutes=job_minutes, planted=planted)
            return ask(connection, frames or Frames(), question, options)

    def children(self) -> list[Any]:
        return [task for task in self.cvat.world.tasks.values() if task.bug_tracker]

    def picture(self, request: Asked, child_frame: int) -> Image:
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


def area(shape: Any, size: tuple[int, int]) -> Mask:
    """The pixels of a picture that a mask covers."""
    filled = fill_shape(shape, size)
    assert filled is not None
    covered = np.zeros(size, np.bool_)
    covered[filled[0]] = filled[1]
    return covered


# -- the division of work


def test_work_is_divided_by_cost_and_not_by_frames() -> None:
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


def test_a_job_is_a_sitting() -> None:
    assert sittings([1, 1, 1], 15) == [range(3)]
    assert sittings([10, 5, 5, 10], 15) == [range(2), range(2, 4)]
    assert sittings([20, 2, 2], 15) == [range(1), range(1, 3)]
    assert sittings([1, 40, 1], 10) == [range(1), range(1, 2), range(2, 3)]


@given(st.lists(st.floats(0.01, 30), min_size=1, max_size=40), st.floats(1, 60))
def test_sittings_hold_everything_in_order(minutes: list[float], most: float) -> None:
    runs = sittings(minutes, most)
    assert [i for run in runs for i in run] == list(range(len(minutes)))
    assert all(runs)
    assert max(sum(minutes[i] for i in run) for run in runs) <= most + max(minutes) + 1e-6


def test_what_a_person_has_is_cut_into_sittings(place: Place) -> None:
    """A job keeps all pictures of a frame."""
    request = place.ask(job_minutes=0.15)
    assert [(j.start, j.stop, j.assignee, j.expected_clicks) for j in request.jobs] == [
        (0, 1, "ann", 4.0),
        (2, 2, "ann", 5.0),
        (3, 3, "bob", 8.0),
        (4, 4, "bob", 1.0),
    ]
    jobs = place.cvat.task(request.task).jobs
    assert [job.assignee.username for job in jobs if job.assignee] == ["ann", "ann", "bob", "bob"]
    assert any("ann has 3 pictures in 2 jobs" in line for line in place.lines)
    assert place.ask(job_minutes=0.15) == request


def test_masks_that_are_noise_announce_no_days_of_work(place: Place) -> None:
    """Samples of 64 pixels are answered with less than 22 clicks each."""
    request = place.ask(clicks=[9_000.0] * len(SAMPLES))
    assert sum(job.expected_clicks for job in request.jobs) < 22 * len(SAMPLES)


def test_jobs_that_nobody_has_are_there_to_pick_from(place: Place) -> None:
    request = place.ask(annotators=(), job_minutes=0.15)
    assert len(request.jobs) > 1
    assert {job.assignee for job in request.jobs} == {None}
    (told,) = (line for line in place.lines if "nobody has" in line)
    assert "5 pictures" in told
    assert "/jobs?filter=" in told


def test_jobs_hold_their_frames_in_order_of_time(place: Place) -> None:
    request = place.ask()
    assert [card.sample for card in request.cards] == sorted(SAMPLES)
    assert [(j.start, j.stop, j.assignee, j.expected_clicks) for j in request.jobs] == [
        (0, 2, "ann", 9.0),
        (3, 4, "bob", 9.0),
    ]
    for mine, theirs in zip(request.jobs, place.cvat.task(request.task).jobs, strict=True):
        assert (theirs.id, theirs.start, theirs.stop) == (mine.id, mine.start, mine.stop)
        assert theirs.assignee is not None
        assert theirs.assignee.username == mine.assignee
        assert (theirs.state, theirs.stage) == ("new", "annotation")


def test_people_get_equal_times_and_not_equal_clicks() -> None:
    samples, seconds = [Sample(1, 0), Sample(3, 2), Sample(5, 3)], (3.0, 30.0, 3.0)
    question = Question("key", samples, RECTANGLES, [5.0, 3.0, 3.0], (0, 1, 2), None, seconds)
    shares = plan_request(question, AskOptions(("ann", "bob")), silent).shares
    assert [(one.start, one.stop, one.person) for one in shares] == [(0, 1, 0), (2, 2, 1)]
    assert [one.expected_seconds for one in shares] == pytest.approx([6.0, 30.0])


def test_one_annotator_or_none_makes_one_job(place: Place) -> None:
    assert [j.assignee for j in place.ask(annotators=("bob",)).jobs] == ["bob"]
    request = place.ask(annotators=(), round_number=3)
    assert [(j.start, j.stop, j.assignee) for j in request.jobs] == [(0, 4, None)]


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
    assert child.project.name == HOME
    assert child.project.organization is not None
    assert child.project.organization.slug == "lab"
    assert child.media is not None
    names = [row["name"] for row in place_meta(place, request)]
    assert [name.rpartition("_")[0] for name in names] == [
        f"p{place.task}_f{number:06d}_{where}"
        for number, where in (
            (1, "x0_y0_z44"),
            (1, "x0_y0_z29"),
            (3, "x8_y0_z29"),
            (4, "x0_y0_z29"),
            (5, "x16_y0_z44"),
        )
    ]
    upload = next(r for r in place.cvat.requests if b"job_file_mapping" in r.body)
    assert upload.json["image_quality"] == 100

    state = place.state()
    ids = [place.cvat.label(child.project, name) for name in CLASSES]
    shapes = {s["group"]: s for job in child.jobs for s in place.cvat.shapes(job)}
    assert sorted(shapes) == [part.number for part in request.parts]
    for part in request.parts:
        shape, card = shapes[part.number], request.cards[part.card]
        assert (shape["id"], shape["frame"]) == (part.shape, part.card)
        assert (shape["type"], shape["source"], shape["z_order"]) == ("mask", "auto", 0)
        assert shape["label_id"] == ids[part.label]
        wanted = (RECTANGLES[card.sample.frame] == card.sample.segment) & np.equal(
            MASKS, part.label
        )
        content = state.requests.content(request.key, part.card)
        assert ((content == part.number) <= wanted[card.window]).all()
        assert (area(shape, card.size) == enlarge(content == part.number, card.factor)).all()
    for number, card in enumerate(request.cards):
        asked = state.requests.content(request.key, number) > 0
        assert asked.sum() == (RECTANGLES[card.sample.frame] == card.sample.segment).sum()
    for job in child.jobs:
        tags = [(tag["frame"], tag["label_id"]) for tag in job.tags.values()]
        tag = place.cvat.label(child.project, "to check")
        assert tags == [(frame, tag) for frame in range(job.start, job.stop + 1)]
        assert not job.tracks


def place_meta(place: Place, request: Asked) -> list[Any]:
    meta = place.cvat.person("admin").call("GET", f"tasks/{request.task}/data/meta")
    frames: list[Any] = meta["frames"]
    return frames


def test_whole_frames_to_draw_are_shown_as_they_are(place: Place) -> None:
    whole = WholeFrames(LENGTH, SIZE)
    request = place.ask([Sample(0, 0), Sample(4, 0)], [7, 7], segments=whole, right=None)
    for number, card in enumerate(request.cards):
        assert (place.picture(request, number) == IMAGES[card.sample.frame]).all()
    assert request.parts == ()
    assert [place.cvat.shapes(job.id) for job in request.jobs] == [[], []]
    assert [len(place.cvat.job(job.id).tags) for job in request.jobs] == [1, 1]


def test_whole_frames_to_correct_are_pale_under_their_masks(place: Place) -> None:
    whole = WholeFrames(LENGTH, SIZE)
    request = place.ask([Sample(4, 0)], [7], segments=whole)
    shown, image = place.picture(request, 0), IMAGES[4]
    assert np.ptp(shown, axis=-1).mean() < 0.2 * np.ptp(image, axis=-1).mean()
    assert [part.label for part in request.parts] == [0, 1, 2, 0, 1, 2]


def test_doubtful_masks_are_not_shown(place: Place) -> None:
    """A whole frame has none then; a smaller sample is one mask, of the class that most of it
    shows, so that one key can change it."""
    whole = WholeFrames(LENGTH, SIZE)
    assert place.ask([Sample(4, 0)], [7], segments=whole, right=0.2).parts == ()
    assert place.ask([Sample(4, 0)], [7], segments=whole, round_number=5, right=0.4).parts
    request = place.ask([Sample(4, 4), Sample(4, 8)], [7, 7], round_number=3, right=0.4)
    assert [(part.card, part.label) for part in request.parts] == [(0, 0), (1, 1)]
    assert not any(card.suggests for card in request.cards)
    request = place.ask([Sample(4, 4)], [7], round_number=4, right=None)
    assert [(part.card, part.label) for part in request.parts] == [(0, 2)], "the most frequent"


def test_labels_and_keys(place: Place) -> None:
    project = place.cvat.task(place.ask().task).project
    assert project is not None
    parent = place.cvat.task(place.task)
    colours = {label.name: label.color for label in parent.own_labels}
    *classes, tag = project.labels
    assert [(c.name, c.color, c.type) for c in classes] == [
        (name, colours[name], "mask") for name in ("sky", "road", "car")
    ]
    assert (tag.name, tag.color, tag.type) == ("to check", "#ff0000", "tag")


def test_links(place: Place) -> None:
    request, log = place.ask(), place.lines
    with place.client() as client:
        job = request.jobs[1].id
        base = f"{place.cvat.url}/tasks/{request.task}/jobs/{job}"
        assert job_link(client, request, job) == f"{base}?openGuide"
        page = urlsplit(list_link(client).removeprefix(place.cvat.url))
    assert page.path == "/jobs"
    assert any(line.endswith(f"{base}?openGuide") for line in log)
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
    assert "\n   | `Ctrl`+`1` | sky |\n" in text
    assert "tag **to check**" in text
    assert request.parts[0].shape is not None
    road = place.cvat.label(place.cvat.project(request.project), "road")
    ann.relabel(request.jobs[0].id, request.parts[0].shape, road)
    ann.remove_tag(request.jobs[0].id, 0)


# -- names


def test_over_ten_classes_the_others_are_named_in_the_guide() -> None:
    text = guide_text([f"c{i}" for i in range(12)], "to check", None)
    assert "| `Ctrl`+`0` | c9 |" in text
    assert "All other classes (c10, c11) have no key" in text
    assert "All other classes" not in guide_text([f"c{i}" for i in range(10)], "to check", None)


def test_the_guide_tells_of_planted_errors_only_where_there_are_any() -> None:
    assert "wrong on purpose" not in guide_text(["c"], "to check", None)
    assert "wrong on purpose" in guide_text(["c"], "to check", None, planted=True)


def test_a_shared_guide_goes_on_to_tell_of_planted_errors(place: Place, tmp_path: Path) -> None:
    lab = place.cvat.world.organizations[1]
    task = place.cvat.add_task("scene 2", CLASSES, frames=list(IMAGES), organization=lab)
    other = replace(place, task=task.id, folder=tmp_path / "other")
    place.ask(planted=True)
    (guide,) = place.cvat.world.guides.values()
    assert "wrong on purpose" in guide.markdown
    place.ask(round_number=3)
    assert "wrong on purpose" not in guide.markdown
    place.ask(round_number=4, planted=True)
    other.ask()
    assert "wrong on purpose" in guide.markdown, "it is true of the other task"


def test_over_ten_classes_on_the_server(tmp_path: Path, place: Place) -> None:
    lab = place.cvat.world.organizations[1]
    names = [f"class {i}" for i in range(14)]
    task = place.cvat.add_task("street", names, frames=list(IMAGES), organization=lab)
    project = place.cvat.task(replace(place, task=task.id).ask(class_order=range(14)).task).project
    assert project is not None
    assert [label.name for label in project.labels] == [*names, "to check"]


def test_a_class_may_be_called_as_the_tag(place: Place) -> None:
    lab = place.cvat.world.organizations[1]
    names = ["to check", "car"]
    task = place.cvat.add_task("salad", names, frames=list(IMAGES), organization=lab)
    asked = replace(place, task=task.id).ask(class_order=range(2), right=None)
    project = place.cvat.project(asked.project)
    assert [(label.name, label.type) for label in project.labels] == [
        ("to check", "mask"),
        ("car", "mask"),
        (tag_name(names), "tag"),
    ]


def test_long_names_are_cut_and_stay_findable(place: Place) -> None:
    place.cvat.task(place.task).name = "k" * 256
    request = place.ask()
    child = place.cvat.task(request.task)
    assert len(child.name) == 256
    assert child.name.startswith("HVSA round 2: kkk")
    assert child.name.endswith(f"... (task {place.task})")


# -- the companion project


def in_project(place: Place) -> Place:
    lab = place.cvat.world.organizations[1]
    project = place.cvat.add_project("film", CLASSES, organization=lab)
    task = place.cvat.add_task("scene", project=project, frames=list(IMAGES))
    return replace(place, task=task.id)


def projects(place: Place) -> list[int]:
    """The companion projects that are there."""
    return [one.id for one in place.cvat.world.projects.values() if one.name.startswith("HVSA")]


def test_tasks_of_the_same_classes_share_a_companion(place: Place, tmp_path: Path) -> None:
    first = in_project(place)
    lab = place.cvat.world.organizations[1]
    other = place.cvat.add_task("scene 2", CLASSES[::-1], frames=list(IMAGES), organization=lab)
    second = replace(first, task=other.id, folder=tmp_path / "other")
    one, two = first.ask(), second.ask()
    assert one.project == two.project
    project = place.cvat.project(one.project)
    assert project.name == HOME
    names = [label.name for label in project.labels]
    assert names == ["sky", "road", "car", "to check"], "annotators have learned these keys"
    assert len(place.cvat.world.guides) == 1
    third = place.cvat.add_task(
        "scene 3", [*CLASSES, "tree"], frames=list(IMAGES), organization=lab
    )
    assert replace(first, task=third.id, folder=tmp_path / "third").ask().project != project.id


def test_a_project_that_people_renamed_is_found_by_its_key(place: Place) -> None:
    first = place.ask()
    place.cvat.project(first.project).name = "HVSA check: our work"
    assert place.ask(round_number=3).project == first.project
    assert place.cvat.project(first.project).name == "HVSA check: our work"


@pytest.mark.parametrize("inside", [False, True])
def test_a_task_with_a_project_of_an_earlier_version_goes_on_with_it(
    place: Place, inside: bool
) -> None:
    place = in_project(place) if inside else place
    parent = place.cvat.task(place.task).project
    number = parent.id if parent is not None else None
    lab = place.cvat.world.organizations[1]
    old = place.cvat.add_project("HVSA check: kitchen (task 1)", [], organization=lab)
    old.bug_tracker = earlier_companion_key(place.cvat.url, place.task, number)
    assert place.ask().project == old.id
    assert projects(place) == [old.id]


def test_a_companion_of_the_same_name_elsewhere_is_not_ours(place: Place) -> None:
    foreign = place.cvat.add_project(HOME)
    request = place.ask()
    assert request.project != foreign.id
    assert foreign.labels == []


def test_of_two_agents_that_make_one_both_use_the_same(place: Place, tmp_path: Path) -> None:
    other = replace(place, folder=tmp_path / "other")
    raced: list[Asked] = []

    def act(request: Request) -> None:
        if request.method == "POST" and request.path.endswith("/projects") and not raced:
            place.cvat.before_request = None
            raced.append(other.ask(round_number=3))

    place.cvat.before_request = act
    mine = place.ask()
    assert mine.project == raced[0].project
    assert projects(place) == [mine.project]
    assert {place.cvat.task(one.task).project.id for one in (mine, raced[0])} == {mine.project}


def test_labels_that_people_change_in_the_project_are_a_line_each(place: Place) -> None:
    project = place.cvat.project(place.ask().project)
    label = project.labels[0]
    label.name, project.labels[1].type = "heaven", "polygon"
    place.lines.clear()
    place.ask(round_number=3)
    assert sum("lacks the label 'sky'" in line for line in place.lines) == 1
    assert sum("'road' of project" in line and "type polygon" in line for line in place.lines) == 1


def test_missing_labels_are_added_and_the_order_stays(place: Place) -> None:
    first = place.ask()
    project = place.cvat.project(first.project)
    project.labels.remove(project.labels[0])
    second = place.ask(round_number=3)
    assert second.project == first.project
    assert [label.name for label in project.labels] == ["road", "car", "to check", "sky"]
    (guide,) = place.cvat.world.guides.values()
    assert "| `Ctrl`+`1` | road |" in guide.markdown


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
    # the picture went with our words, and is another file now
    assert UUID.sub("-", guide.markdown).endswith(UUID.sub("-", ours))


def test_the_guide_shows_a_picture_that_is_sent_once(place: Place) -> None:
    place.ask()
    (guide,) = place.cvat.world.guides.values()
    ((key, content),) = guide.assets.items()
    assert content == (files("hvsa_cvat") / "data" / "guide.png").read_bytes()
    assert f"](/api/assets/{key})" in guide.markdown
    place.ask(round_number=3)
    assert list(guide.assets) == [key]


def test_the_picture_of_another_version_is_replaced(place: Place) -> None:
    place.ask()
    (guide,) = place.cvat.world.guides.values()
    ((key, content),) = guide.assets.items()
    mark = hashlib.sha256(content).hexdigest()[:8]
    guide.markdown = guide.markdown.replace(mark, "01234567")
    place.ask(round_number=3)
    assert guide.assets.keys() != {key}
    assert list(guide.assets.values()) == [content]


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.LATE])
def test_where_no_picture_is_taken_the_guide_has_none_until_one_is(
    place: Place, fault: Fault
) -> None:
    place.cvat.faults = lambda request: fault if "/api/assets" in request.path else None
    assert place.ask().jobs
    (guide,) = place.cvat.world.guides.values()
    assert "/api/assets/" not in guide.markdown
    assert any(line.startswith("the guide for annotators has no picture: ") for line in place.lines)
    place.cvat.faults = {}
    place.ask(round_number=3)
    (key,) = guide.assets
    assert f"](/api/assets/{key})" in guide.markdown


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


def test_what_an_annotator_did_stays_while_a_request_is_not_saved(place: Place) -> None:
    """Ann has her job and begins; then the pass ends with an error, as Bob may not be assigned."""
    roles = place.cvat.world.organizations[1].roles
    bob = next(u for u in place.cvat.world.users.values() if u.username == "bob")

    def leaves(request: Request) -> None:
        if request.method == "POST" and request.path == "/api/tasks":
            roles.pop(bob.id, None)

    place.cvat.after_request = leaves
    with pytest.raises(ServerError, match="cannot be given to 'bob'"):
        place.ask()
    place.cvat.after_request = None
    (child,) = place.children()
    job, other = child.jobs
    assert job.assignee.username == "ann"
    ann = place.cvat.person("ann")
    deleted = place.cvat.shapes(job)[0]
    ann.remove_tag(job, 1)
    ann.delete(job, deleted["id"])
    before = place.cvat.shapes(job), dict(job.tags), place.cvat.shapes(other), dict(other.tags)
    roles[bob.id] = "worker"
    request = place.ask()
    after = place.cvat.shapes(job), dict(job.tags), place.cvat.shapes(other), dict(other.tags)
    assert after == before
    assert request.task == child.id
    lost = [part for part in request.parts if part.shape is None]
    assert [(part.card, part.number) for part in lost] == [(deleted["frame"], deleted["group"])]


def test_nobody_has_a_job_where_the_contents_cannot_be_saved(place: Place) -> None:
    (place.folder / "state").mkdir()
    (place.folder / "state" / "requests").write_text("a file in place of the folder")
    with pytest.raises(HvsaError, match="cannot write"):
        place.ask()
    (child,) = place.children()
    assert [job.assignee for job in child.jobs] == [None, None]


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
    one, two, three = [part.shape for part in first.parts][:3]
    assert one is not None
    assert two is not None
    assert three is not None
    road = place.cvat.label(place.cvat.project(first.project), "road")
    again = ann.delete_and_undo(job, two)
    ann.relabel(job, three, road)
    ann.move(job, one, [0, 1, 0, 0, 0, 0])
    ann.draw(job, {"frame": 0, "label_id": road, "points": [0, 0, 4, 0, 4, 4]})
    ann.remove_tag(job, 1)
    before = place.cvat.shapes(job)
    place.forget()
    second = place.ask()
    assert second.task == first.task
    assert place.cvat.shapes(job) == before
    ids = {part.number: part.shape for part in first.parts}
    assert {p.number: p.shape for p in second.parts} == ids | {2: again}
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


def test_other_samples_or_masks_than_before_make_the_task_anew(place: Place) -> None:
    first = place.ask()
    place.forget()
    others = [replace(sample, segment=sample.segment + 1) for sample in SAMPLES]
    second = place.ask(others)
    assert [task.id for task in place.children()] == [second.task] != [first.task]
    place.forget()
    third = place.ask(others, right=0.1)
    assert [task.id for task in place.children()] == [third.task] != [second.task]
    place.forget()
    shape = third.parts[0].shape
    assert shape is not None
    place.cvat.person("ann").move(third.jobs[0].id, shape, [0, 1, 0, 0, 0, 0])
    with pytest.raises(ServerError, match="people have worked in it"):
        place.ask()
    assert place.ask(others, right=0.1).task == third.task


@pytest.mark.parametrize("what", ["class", "shape", "tag", "state"])
def test_a_task_in_which_people_worked_is_never_deleted(place: Place, what: str) -> None:
    first = place.ask()
    place.forget()
    job = first.jobs[1].id
    bob = place.cvat.person("bob")
    car = place.cvat.label(place.cvat.project(first.project), "car")
    if what == "class":
        bob.relabel(job, next(iter(place.cvat.job(job).shapes)), car)
    elif what == "shape":
        bob.draw(job, {"frame": 2, "label_id": car, "points": [0, 0, 4, 0, 4, 4]})
    elif what == "tag":
        bob.remove_tag(job, first.jobs[1].start)
        # the page saves the state by a request of its own, which may fail
        place.cvat.job(job).state = "new"
    else:
        bob.finish(job)
    before = place.cvat.shapes(job)
    with pytest.raises(ServerError, match="people have worked in it"):
        place.ask(annotators=("ann",))
    assert place.cvat.shapes(job) == before
    assert place.ask().task == first.task


def test_a_task_whose_tags_are_lost_is_not_taken_for_checked(place: Place) -> None:
    """The request is asked again after somebody deleted the label of the tag."""
    first = place.ask()
    place.cvat.person("ann").finish(first.jobs[0].id)
    project = place.cvat.project(first.project)
    label = {"id": place.cvat.label(project, "to check"), "deleted": True}
    place.cvat.person("admin").call("PATCH", f"projects/{project.id}", {"labels": [label]})
    place.forget()
    with pytest.raises(ServerError, match=r"other .* or tags .* and people have worked in it"):
        place.ask()
    place.cvat.person("admin").call("DELETE", f"tasks/{first.task}")
    second = place.ask()
    assert second.tag == place.cvat.label(project, "to check") != first.tag


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
    earlier = earlier_companion_key
    assert earlier("https://CVAT.x/cvat", 7, None) == "hvsa://cvat.x/check/tasks/7"
    assert earlier("https://cvat.x", 7, 3) == "hvsa://cvat.x/check/projects/3"
    assert companion_key("https://cvat.x", ["a", "b"]) == companion_key("https://CVAT.x", "ba")


def test_a_companion_project_of_version_0_1_is_left_alone(place: Place) -> None:
    """Its labels are of another type."""
    old = place.cvat.add_project(f"HVSA: kitchen (task {place.task})", ["road"])
    old.bug_tracker = f"{OURS}{server_key(place.cvat.url)}/tasks/{place.task}"
    request = place.ask()
    assert request.project != old.id
    assert [label.name for label in old.labels] == ["road"]


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
    assert {p.shape for p in request.parts} == {shape["id"] for part in shapes for shape in part}
    return {
        "jobs": [(j.start, j.stop, j.assignee, j.expected_clicks) for j in request.jobs],
        "assigned": [job.assignee and job.assignee.username for job in task.jobs],
        "states": [(job.stage, job.state) for job in task.jobs],
        "masks": [sorted((s["frame"], s["group"], s["points"]) for s in part) for part in shapes],
        "tags": [sorted(tag["frame"] for tag in job.tags.values()) for job in task.jobs],
        "labels": [label.name for label in project.labels],
        "guides": [UUID.sub("-", guide.markdown) for guide in world.guides.values()],
        "cards": request.cards,
        "parts": [replace(part, shape=None) for part in request.parts],
        "contents": [
            place.state().requests.content(request.key, i).tolist()
            for i in range(len(request.cards))
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


def test_a_job_that_somebody_took_before_its_masks_were_made_gets_them(place: Place) -> None:
    world = place.cvat.snapshot()
    quiet = undisturbed(place, lambda request: request.path.endswith("/annotations"))
    place.cvat.restore(world)
    place.forget()
    with pytest.raises(ProcessDied), place.cvat.process_dies(quiet.disturbed[0], "before"):
        place.ask()
    ann = next(u for u in place.cvat.world.users.values() if u.username == "ann")
    place.children()[0].jobs[0].assignee = ann
    assert content(place, place.ask()) == quiet.content


def test_a_card_with_masks_is_never_without_a_tag(place: Place) -> None:
    """Whoever takes a job while it is being made finds no card that looks as if it was checked."""
    seen = []

    def look(request: Request) -> None:
        for job in (job for child in place.children() for job in child.jobs):
            masked = {shape["frame"] for shape in place.cvat.shapes(job)}
            seen.append(masked - {tag["frame"] for tag in job.tags.values()})

    place.cvat.after_request = look
    place.ask()
    assert seen
    assert set().union(*seen) == set()


def test_a_server_that_forgets_shapes_is_named(place: Place) -> None:
    def lose(request: Request) -> None:
        if request.method == "PATCH" and "annotations" in request.path:
            for job in place.cvat.world.jobs.values():
                job.shapes.clear()

    place.cvat.after_request = lose
    with pytest.raises(ServerError, match="does not keep the masks"):
        place.ask()


def test_samples_must_lie_in_the_video(place: Place) -> None:
    for samples in ([], [Sample(0, 0), Sample(0, 0)], [Sample(9, 0)], [Sample(0, 99)]):
        with pytest.raises(ValueError, match=r"sample|Sample"):
            place.ask(samples, [1.0] * len(samples))
    assert not place.cvat.world.projects
