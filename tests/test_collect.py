from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hvsa_cvat.cvat.answers.finished import CollectPolicy
from hvsa_cvat.cvat.answers.unfinished import unassign, unfinished_jobs
from hvsa_cvat.cvat.state import Request as Asked
from hvsa_cvat.errors import ServerError
from hvsa_cvat.types import AnswerKind, Answers, Clicks, Sample
from hvsa_cvat.video.segments import WholeFrames
from tests.asked_task import CAR, LATER, LEFT, RIGHT, ROAD, SIZE, Asking, Places, drawn, picture
from tests.standin import ProcessDied, Request, StandIn

SQUARE = [1, 1, 3, 1, 3, 3, 1, 3]
"""A polygon of the four pixels around (2, 2)."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with StandIn() as cvat:
        yield Places(cvat, tmp_path_factory.mktemp("asked"))


@pytest.fixture
def asking(places: Places, tmp_path: Path) -> Iterator[Asking]:
    with places.fresh(tmp_path / "state") as asking:
        yield asking


def answered(asking: Asking, **policy: Any) -> Answers:
    """The answers with gaps taken as they are."""
    answers = asking.collect(gap_threshold=1.0, **policy)
    assert answers is not None
    return answers


def pictures(answers: Answers | None) -> list[str]:
    assert answers is not None
    return [picture(one.label_map) for one in answers.annotations]


FIRST = "\n".join(["00011111"] * 4 + ["00000000"] * 4)
LAST = "\n".join(["....1111"] * 4 + ["....0000"] * 4)
"""The frames as they are shown."""


def finish_all(asking: Asking) -> None:
    asking.check(0, 1, 2)
    asking.finish()


# -- the label of the tag


def edit_tag_label(asking: Asking, **edit: Any) -> None:
    """What the administrator does to the label `to check` of the companion project."""
    label = {"id": asking.label("to check"), **edit}
    path = f"projects/{asking.request.project}"
    asking.person("admin").call("PATCH", path, {"labels": [label]})


def add_tag_label(asking: Asking) -> None:
    """What the next request about a task of the same project does where the label is missing."""
    path = f"projects/{asking.request.project}"
    label = {"name": "to check", "type": "tag"}
    asking.person("admin").call("PATCH", path, {"labels": [label]})


@pytest.mark.parametrize("added", [False, True])
def test_a_renamed_label_is_still_that_of_the_tags(asking: Asking, added: bool) -> None:
    asking.check(2)
    asking.finish()
    edit_tag_label(asking, name="to look at")
    if added:
        add_tag_label(asking)
    assert asking.collect() is None, "nobody has looked at the pictures of Ann"
    asking.finish(asking.jobs[0])
    answers = asking.collect()
    assert pictures(answers) == ["\n".join(["........"] * 8), LAST]
    assert answers is not None
    assert answers.clicks == {LEFT: Clicks(), RIGHT: Clicks(), LATER: Clicks(0, 1)}


@pytest.mark.parametrize("added", [False, True])
def test_without_the_label_of_the_tag_nothing_is_confirmed(asking: Asking, added: bool) -> None:
    asking.finish()
    edit_tag_label(asking, deleted=True)
    if added:
        add_tag_label(asking)
    project, child, parent = asking.request.project, asking.request.task, asking.task.id
    with pytest.raises(ServerError) as caught:
        asking.collect(gap_threshold=1.0)
    assert str(caught.value) == (
        f"the label 'to check' of project {project} is gone, and CVAT deletes a label's tags with "
        f"it, so nobody can tell which pictures of task {child} people have checked; delete that "
        f"task and ask again: hvsa-agent sync --task {parent} --ask-again"
    )


def test_a_label_that_is_deleted_while_a_job_is_read_confirms_nothing(asking: Asking) -> None:
    asking.finish()

    def delete(request: Request) -> None:
        # before the annotations of Bob, after everything about Ann
        if request.path == f"/api/jobs/{asking.jobs[1]}/annotations":
            asking.cvat.before_request = None
            edit_tag_label(asking, deleted=True)

    asking.cvat.before_request = delete
    with pytest.raises(ServerError, match="the label 'to check' of project"):
        asking.collect(gap_threshold=1.0)


def test_a_request_that_does_not_know_the_label_finds_it_by_its_name(asking: Asking) -> None:
    asking.request = replace(asking.request, tag=None)
    asking.check(2)
    asking.finish()
    edit_tag_label(asking, name="to look at")
    with pytest.raises(ServerError, match="if it was renamed, name it 'to check' again; else"):
        asking.collect()
    label = {"id": asking.label("to look at"), "name": "to check"}
    path = f"projects/{asking.request.project}"
    asking.person("admin").call("PATCH", path, {"labels": [label]})
    assert pictures(answered(asking)) == ["\n".join(["........"] * 8), LAST]


def test_what_was_collected_outlives_the_label(asking: Asking) -> None:
    finish_all(asking)
    asking.collect()
    asking.relabel(2, ROAD, "car")
    edit_tag_label(asking, deleted=True)
    said = len(asking.log)
    assert [asking.revised(), asking.revised()] == [None, None]
    assert asking.log[said:] == [
        f"task {asking.request.task} has lost its red tags; what was collected of it holds"
    ]


# -- when


def test_answers_come_when_all_jobs_are_finished(asking: Asking) -> None:
    ann, bob = asking.jobs
    assert asking.collect() is None
    asking.check(0, 1, 2)
    asking.relabel(2, ROAD, "sky")
    asking.finish(ann)
    assert asking.collect() is None
    asking.finish(bob)
    answers = asking.collect()
    assert pictures(answers) == [FIRST, LAST.replace("0", "2")]
    assert answers is not None
    assert [(one.frame, one.segments) for one in answers.annotations] == [(1, (0, 1)), (3, (1,))]
    assert answers.clicks == {LEFT: Clicks(0, 1), RIGHT: Clicks(0, 1), LATER: Clicks(0, 2)}
    assert answers.kinds == {
        LEFT: AnswerKind.CONFIRMED,
        RIGHT: AnswerKind.CONFIRMED,
        LATER: AnswerKind.CORRECTED,
    }
    assert pictures(asking.collect()) == pictures(answers)


def test_a_rejected_job_is_not_finished(asking: Asking) -> None:
    finish_all(asking)
    asking.person("admin").reject(asking.jobs[0])
    assert asking.collect() is None


def test_a_policy_may_wait_for_acceptance(asking: Asking) -> None:
    finish_all(asking)
    assert asking.collect(accepted_only=True) is None
    for job in asking.jobs:
        asking.person("admin").accept(job)
    assert asking.collect(accepted_only=True) is not None


def test_a_job_that_waits_for_others_is_read_and_told_of_once(asking: Asking) -> None:
    ann, bob = asking.jobs
    asking.check(0, 1)
    asking.finish(ann)
    asking.collect()
    said, asked = list(asking.log), len(asking.cvat.requests)
    assert said == [f"job {ann}: finished by ann; 0 of its 2 pictures have pixels without a class"]
    asking.collect()
    assert [request.path for request in asking.cvat.requests[asked:]] == ["/api/jobs"]
    asking.check(2)
    asking.finish(bob)
    assert asking.collect() is not None
    (line,) = [line for line in asking.log[len(said) :] if "how long" not in line]
    assert line.startswith(f"job {bob}: finished by bob")


def test_a_job_that_changes_while_it_is_read_is_read_again(asking: Asking) -> None:
    finish_all(asking)
    ann, _ = asking.jobs
    reads = []

    def edit(request: Request) -> None:
        if request.path.startswith(f"/api/jobs/{ann}/annotations"):
            reads.append(request)
            if len(reads) == 1:
                asking.relabel(0, ROAD, "sky")

    asking.cvat.after_request = edit
    rows = pictures(asking.collect())[0].split()
    assert rows == [*["22211111"] * 4, *["22220000"] * 4]
    assert len(reads) == 2


def test_a_job_that_never_holds_still_is_left_for_later(asking: Asking) -> None:
    finish_all(asking)
    ann, _ = asking.jobs

    def edit(request: Request) -> None:
        if request.path.startswith(f"/api/jobs/{ann}/annotations"):
            asking.relabel(0, ROAD, "sky")

    asking.cvat.after_request = edit
    assert asking.collect() is None
    asking.cvat.after_request = None
    assert asking.collect() is not None


def test_a_job_reopened_while_it_is_read_is_not_finished(asking: Asking) -> None:
    finish_all(asking)
    ann, _ = asking.jobs

    def reopen(request: Request) -> None:
        if request.path.startswith(f"/api/jobs/{ann}/annotations"):
            asking.cvat.after_request = None
            asking.worker(ann).reopen(ann)

    asking.cvat.after_request = reopen
    assert asking.collect() is None


# -- what is drawn


def test_a_drawing_may_reach_over_the_white_line(asking: Asking) -> None:
    """What lies on the other picture does not count."""
    asking.draw(0, "sky", [2, 2, 6, 2, 6, 4, 2, 4])
    asking.check(0)
    asking.finish()
    assert pictures(answered(asking))[0] == drawn("""
        0001....
        0001....
        0022....
        0022....
        0000....
        0000....
        0000....
        0000....
    """)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"points": SQUARE}, ["........", ".22.....", ".22....."]),
        ({"type": "rectangle", "points": [1, 0, 3, 3]}, [".22.....", ".22.....", ".22....."]),
        (
            {"type": "rectangle", "points": [0, 1, 3, 2], "rotation": 90},
            [".2......", ".2......", ".2......"],
        ),
        (
            {"type": "ellipse", "points": [2, 1.5, 4, 1], "rotation": 0},
            ["........", "2222....", "........"],
        ),
        (
            {"type": "ellipse", "points": [1.5, 1.5, 3, 1], "rotation": 90},
            [".2......", ".2......", ".2......"],
        ),
    ],
)
def test_kinds_of_shapes_cover_pixels(
    asking: Asking, shape: dict[str, Any], expected: list[str]
) -> None:
    asking.draw(0, "sky", **shape)
    asking.finish()
    assert pictures(answered(asking))[0].split()[:3] == expected


def test_a_brush_covers_pixels(asking: Asking) -> None:
    """Pixels of the picture: a pixel of the frame has the class that most of it has."""
    points = asking.points_of(0, ".#...... .#......")
    job = asking.jobs[0]
    row = {"type": "mask", "frame": 0, "label_id": asking.label("sky"), "points": points}
    asking.worker(job).draw(job, row)
    asking.finish()
    answers = answered(asking)
    assert pictures(answers)[0].split()[:3] == [".2......", ".2......", "........"]
    assert answers.clicks[LEFT] == Clicks(4, 1)


def test_tracks_are_read_as_what_people_see_of_them(asking: Asking) -> None:
    ann, bob = asking.jobs
    box = {"type": "rectangle", "occluded": False, "outside": False}
    factor = asking.request.cards[0].factor

    def at(*points: int) -> list[int]:
        return [factor * one for one in points]

    track = {
        "frame": 0,
        "label_id": asking.label("sky"),
        "shapes": [
            {**box, "frame": 0, "points": at(0, 0, 2, 1)},
            {**box, "frame": 1, "points": at(5, 0, 6, 1)},
        ],
    }
    asking.worker(ann).draw_track(ann, track)
    late = {
        "frame": 1,
        "label_id": asking.label("sky"),
        "shapes": [
            {**box, "frame": 1, "points": at(4, 0, 6, 2)},
            {**box, "frame": 3, "points": at(6, 0, 8, 2)},
        ],
    }
    asking.worker(bob).draw_track(bob, late)
    asking.finish()
    answers = answered(asking)
    assert [one.split()[0] for one in pictures(answers)] == ["22...2..", ".....22."]
    # Bob placed nothing on his own picture.
    assert answers.clicks == {LEFT: Clicks(2, 1), RIGHT: Clicks(2, 1), LATER: Clicks()}


def test_what_says_nothing_about_pixels_is_ignored_with_a_note(asking: Asking) -> None:
    ann, bob = asking.jobs
    project = asking.cvat.project(asking.request.project)
    admin = asking.person("admin")
    admin.call("PATCH", f"projects/{project.id}", {"labels": [{"name": "dog"}]})
    asking.draw(0, "car", [0, 0, 4, 4], type="polyline")
    asking.draw(0, "car", [1, 1], type="points")
    dog = asking.draw(0, "dog", SQUARE)
    early = asking.draw(2, "car", SQUARE, frame=0)
    outside = asking.draw(2, "car", SQUARE)
    short = asking.draw(2, "car", [1, 1, 4, 0, 8, 1], type="mask")
    tag = admin.save(ann, "create", "tags", {"frame": 0, "label_id": asking.label("car")})
    track = asking.worker(bob).draw_track(
        bob,
        {
            "frame": 2,
            "label_id": asking.label("car"),
            "shapes": [{"type": "polyline", "frame": 2, "points": [5, 5, 6, 6], "outside": False}],
        },
    )
    asking.finish()
    answers = answered(asking)
    assert set("".join(pictures(answers))) == {".", "\n"}
    other = ("finished by", "how long people worked")
    assert [line for line in asking.log if not any(one in line for one in other)] == [
        f"job {ann}: polygon {dog} on frame 0 is ignored: its label 'dog' is none of the classes",
        f"job {ann}: tag {tag} on frame 0 is ignored: it covers no pixels; so are 2 more",
        f"job {bob}: polygon {early} on frame 0 is ignored: the job has no such frame",
        f"job {bob}: polygon {outside} on frame 2 is ignored: it covers no pixel that was asked "
        "for",
        f"job {bob}: mask {short} on frame 2 cannot be read: its runs are 176 pixels, its box "
        "31417; delete it in CVAT or draw it again",
        f"job {bob}: track {track} is ignored: it covers no pixels",
    ]


def test_damaged_shapes_take_no_others_along(asking: Asking) -> None:
    asking.draw(0, "car", [-5, 9, 0, 0, 1, 1], type="mask")
    asking.draw(0, "car", SQUARE)
    asking.finish()
    assert pictures(answered(asking))[0].split()[1] == ".11....."


def test_clicks_are_counted_from_what_was_drawn(asking: Asking) -> None:
    asking.draw(0, "sky", [1, 1, 3, 1, 3, 3, 1, 3])
    asking.draw(1, "sky", [5, 1, 7, 2], type="rectangle")
    asking.check(0)
    asking.finish()
    assert answered(asking).clicks == {LEFT: Clicks(4, 2), RIGHT: Clicks(2, 1), LATER: Clicks()}


def test_whole_frames_are_drawn_without_masks(asking: Asking) -> None:
    asking.ask_again([Sample(2, 0)], WholeFrames(4, SIZE), masks=None)
    (job,) = asking.request.jobs
    assert asking.cvat.shapes(job.id) == []
    asking.draw(0, "car", [0, 0, 8, 0, 8, 4, 0, 4])
    asking.draw(0, "sky", [0, 4, 8, 4, 8, 8, 0, 8])
    asking.finish(job.id)
    answers = asking.collect()
    assert pictures(answers) == ["\n".join(["1" * 8] * 4 + ["2" * 8] * 4)], "the tag may stay"
    assert answers is not None
    assert answers.clicks == {Sample(2, 0): Clicks(8, 2)}
    assert answers.kinds == {Sample(2, 0): AnswerKind.DRAWN}


def test_whole_frames_are_corrected(asking: Asking) -> None:
    asking.ask_again([Sample(2, 0)], WholeFrames(4, SIZE))
    (job,) = asking.request.jobs
    assert len(asking.cvat.shapes(job.id)) == 2
    asking.relabel(0, CAR, "sky")
    asking.check(0)
    asking.finish(job.id)
    answers = asking.collect()
    assert pictures(answers) == [FIRST.replace("1", "2")]
    assert answers is not None
    assert answers.clicks == {Sample(2, 0): Clicks(0, 2)}


def test_a_request_of_version_0_1_names_the_way_on(asking: Asking) -> None:
    old = Asked(asking.request.key, 1, 9, (), (), asking.request.jobs)
    asking.request = old
    with pytest.raises(ServerError, match=r"in the form of hvsa-agent 0\.1; finish .*--ask-again"):
        asking.collect()
    assert asking.revised() is None


# -- afterwards


def test_answers_edited_later_are_given_again(asking: Asking) -> None:
    finish_all(asking)
    first = asking.collect()
    assert asking.revised() is None
    asking.relabel(2, ROAD, "car")
    revised = asking.revised()
    assert pictures(revised) == [pictures(first)[0], "\n".join(["....1111"] * 8)]


def test_a_revision_is_given_until_the_caller_has_it_for_sure(asking: Asking) -> None:
    finish_all(asking)
    first = asking.collect()
    asking.relabel(2, ROAD, "car")
    asking.revised()
    assert pictures(asking.revised())[1] == "\n".join(["....1111"] * 8)
    asking.relabel(2, ROAD, "road")
    assert pictures(asking.revised()) == pictures(first)


def test_a_revision_outlives_a_process_that_ends(places: Places, tmp_path: Path) -> None:
    number, ended = 0, True
    while ended:
        with places.fresh(tmp_path / str(number)) as asking:
            finish_all(asking)
            asking.collect()
            asking.relabel(2, ROAD, "car")
            ended = False
            try:
                with asking.cvat.process_dies(number, "after"):
                    asking.revised()
            except ProcessDied:
                ended = True
            with places.client() as asking.client:
                assert pictures(asking.revised())[1] == "\n".join(["....1111"] * 8)
        number += 1
    assert number > 5


def test_an_edit_that_changes_no_pixel_is_no_revision(asking: Asking) -> None:
    finish_all(asking)
    asking.collect()
    ann, _ = asking.jobs
    asking.worker(ann).delete_and_undo(ann, asking.mask(0, ROAD))
    assert asking.revised() is None
    requests = len(asking.cvat.requests)
    assert asking.revised() is None
    assert len(asking.cvat.requests) == requests + 1


def test_a_reopened_job_keeps_its_answers_until_it_is_finished(asking: Asking) -> None:
    finish_all(asking)
    asking.collect()
    ann, _ = asking.jobs
    said = len(asking.log)
    asking.worker(ann).reopen(ann)
    asking.worker(ann).remove_all(ann)
    asking.relabel(2, ROAD, "sky")
    assert [asking.revised(), asking.revised()] == [None, None]
    assert asking.log[said:] == [
        f"job {ann}: at work again; what was collected holds until that is finished"
    ]
    asking.finish(ann)
    assert "2" in pictures(asking.revised())[1]


def test_nothing_is_revised_that_was_not_collected(asking: Asking) -> None:
    finish_all(asking)
    assert asking.revised() is None


def test_a_deleted_child_task_is_an_error_with_the_mend(asking: Asking) -> None:
    ann, bob = asking.jobs
    child, parent = asking.request.task, asking.task.id
    asking.person("admin").call("DELETE", f"tasks/{child}")
    with pytest.raises(ServerError) as caught:
        asking.collect()
    assert str(caught.value) == (
        f"jobs {ann}, {bob} of task {child}, asking people about task {parent}: gone from the "
        f"server; ask again: hvsa-agent sync --task {parent} --ask-again"
    )
    assert asking.state.requests.get(asking.request.key) == asking.request
    assert [
        job.state for job in unfinished_jobs(asking.client, asking.request, CollectPolicy())
    ] == [
        "deleted",
        "deleted",
    ]


def test_a_child_task_deleted_while_it_is_read_is_the_same_error(asking: Asking) -> None:
    finish_all(asking)

    def delete(request: Request) -> None:
        if request.path == "/api/labels":
            asking.cvat.after_request = None
            asking.person("admin").call("DELETE", f"tasks/{asking.request.task}")

    asking.cvat.after_request = delete
    with pytest.raises(ServerError, match=f"job {asking.jobs[1]} of task .* --ask-again"):
        asking.collect()


def test_what_was_collected_outlives_the_child_task(asking: Asking) -> None:
    finish_all(asking)
    asking.collect()
    asking.person("admin").call("DELETE", f"tasks/{asking.request.task}")
    assert [asking.revised(), asking.revised()] == [None, None]
    assert asking.log[-1] == (
        f"task {asking.request.task} has lost jobs; what was collected of them holds"
    )


def test_owed_jobs_are_those_that_are_not_finished(asking: Asking) -> None:
    ann, bob = asking.jobs
    asking.finish(ann)
    (job,) = unfinished_jobs(asking.client, asking.request, CollectPolicy())
    assert (job.job, job.assignee, job.state, job.stage) == (bob, "bob", "new", "annotation")
    assert (job.pictures, job.expected_clicks) == (1, 1.0)
    assert job.link.startswith(f"{asking.cvat.url}/tasks/{asking.request.task}/jobs/{bob}?")
    assert (
        len(unfinished_jobs(asking.client, asking.request, CollectPolicy(accepted_only=True))) == 2
    )


def test_jobs_that_nobody_will_collect_are_taken_from_their_annotators(asking: Asking) -> None:
    ann, bob = asking.jobs
    asking.check(0)
    asking.finish(bob)
    shapes = asking.cvat.shapes(ann)
    assert unassign(asking.client, asking.request) == [ann]
    assert asking.cvat.job(ann).assignee is None
    assert asking.cvat.shapes(ann) == shapes
    finished = asking.cvat.job(bob)
    assert finished.assignee is not None
    assert (finished.assignee.username, finished.state) == ("bob", "completed")
    assert unassign(asking.client, asking.request) == []
