from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hvsa_cvat.cvat.answers.gaps import Gap
from hvsa_cvat.cvat.answers.outlines import ChildLabels

from hvsa_cvat.cvat.answers.finished import CollectPolicy
from hvsa_cvat.cvat.answers.read_job import Assignment, read_answers
from hvsa_cvat.cvat.answers.unfinished import unassign, unfinished_jobs
from hvsa_cvat.cvat.state import Region
from hvsa_cvat.errors import ServerError
from hvsa_cvat.types import Answers, Clicks, Sample
from hvsa_cvat.video.segments import WholeFrames
from tests.asked_task import LATER, LEFT, RIGHT, SIZE, Asking, Places, drawn, picture
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


def finish_all(asking: Asking) -> None:
    for region in (1, 2, 3):
        asking.set_class(region, "road")
    asking.finish()


# -- when


def test_answers_come_when_all_jobs_are_finished(asking: Asking) -> None:
    ann, bob = asking.jobs
    assert asking.collect() is None
    asking.set_class(1, "road")
    asking.set_class(2, "car")
    asking.set_class(3, "sky")
    asking.finish(ann)
    assert asking.collect() is None
    asking.finish(bob)
    answers = asking.collect()
    assert pictures(answers) == ["\n".join(["00001111"] * 8), "\n".join(["....2222"] * 8)]
    assert answers is not None
    assert [(one.frame, one.segments) for one in answers.annotations] == [(1, (0, 1)), (3, (1,))]
    assert answers.clicks == {sample: Clicks(0, 1) for sample in (LEFT, RIGHT, LATER)}
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
    asking.set_class(1, "road")
    asking.set_class(2, "road")
    asking.finish(ann)
    asking.collect()
    said, asked = list(asking.log), len(asking.cvat.requests)
    assert said == [f"job {ann}: finished by ann; 0 of its 2 samples have pixels without a class"]
    asking.collect()
    assert [request.path for request in asking.cvat.requests[asked:]] == ["/api/jobs"]
    asking.set_class(3, "road")
    asking.finish(bob)
    assert asking.collect() is not None
    assert len(asking.log) == len(said) + 1


def test_a_job_that_changes_while_it_is_read_is_read_again(asking: Asking) -> None:
    finish_all(asking)
    ann, _ = asking.jobs
    reads = []

    def edit(request: Request) -> None:
        if request.path.startswith(f"/api/jobs/{ann}/annotations"):
            reads.append(request)
            if len(reads) == 1:
                asking.set_class(1, "sky")

    asking.cvat.after_request = edit
    assert pictures(asking.collect())[0] == "\n".join(["22220000"] * 8)
    assert len(reads) == 2


def test_a_job_that_never_holds_still_is_left_for_later(asking: Asking) -> None:
    finish_all(asking)
    ann, _ = asking.jobs

    def edit(request: Request) -> None:
        if request.path.startswith(f"/api/jobs/{ann}/annotations"):
            asking.set_class(1, "sky")

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


def test_drawings_lie_over_the_class_of_a_region(asking: Asking) -> None:
    asking.set_class(1, "road")
    asking.set_class(2, "mixed")
    asking.draw(asking.jobs[0], "car", [2, 2, 6, 2, 6, 4, 2, 4])
    asking.finish()
    assert pictures(answered(asking))[0] == drawn("""
        0000....
        0000....
        001111..
        001111..
        0000....
        0000....
        0000....
        0000....
    """)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"points": SQUARE}, ["........", ".11.....", ".11....."]),
        ({"type": "rectangle", "points": [1, 0, 3, 3]}, [".11.....", ".11.....", ".11....."]),
        (
            {"type": "rectangle", "points": [0, 1, 3, 2], "rotation": 90},
            [".1......", ".1......", ".1......"],
        ),
        (
            {"type": "ellipse", "points": [2, 1.5, 4, 1], "rotation": 0},
            ["........", "1111....", "........"],
        ),
        (
            {"type": "ellipse", "points": [1.5, 1.5, 3, 1], "rotation": 90},
            [".1......", ".1......", ".1......"],
        ),
        (
            {"type": "mask", "points": [1, 1, 1, 1, 0, 0, 1, 1]},
            [".1......", ".1......", "........"],
        ),
    ],
)
def test_kinds_of_shapes_cover_pixels(
    asking: Asking, shape: dict[str, Any], expected: list[str]
) -> None:
    asking.draw(asking.jobs[0], "car", **shape)
    asking.finish()
    assert pictures(answered(asking))[0].split()[:3] == expected


def test_tracks_are_read_as_what_people_see_of_them(asking: Asking) -> None:
    ann, bob = asking.jobs
    box = {"type": "rectangle", "occluded": False, "outside": False}
    track = {
        "frame": 0,
        "label_id": asking.label("sky"),
        "shapes": [{**box, "frame": 0, "points": [0, 0, 2, 1]}],
    }
    asking.worker(ann).draw_track(ann, track)
    late = {
        "frame": 0,
        "label_id": asking.label("sky"),
        "shapes": [
            {**box, "frame": 0, "points": [4, 0, 6, 2]},
            {**box, "frame": 2, "points": [6, 0, 8, 2]},
        ],
    }
    asking.worker(bob).draw_track(bob, late)
    asking.finish()
    answers = answered(asking)
    assert [one.split()[0] for one in pictures(answers)] == ["22......", ".....22."]
    # Bob placed nothing on his own frame.
    assert answers.clicks == {LEFT: Clicks(2, 1), RIGHT: Clicks(), LATER: Clicks()}


def test_people_lie_over_machines_whatever_the_layer(asking: Asking) -> None:
    ann, _ = asking.jobs
    row = [0, 0, 8, 0, 8, 1, 0, 1]
    asking.draw(ann, "road", [0, 0, 3, 0, 3, 1, 0, 1], z_order=-100)
    asking.draw(ann, "car", [0, 0, 4, 0, 4, 1, 0, 1], z_order=0, source="semi-auto")
    asking.draw(ann, "sky", row, z_order=10, source="auto")
    asking.draw(ann, "sky", [0, 0, 1, 0, 1, 1, 0, 1], z_order=-99)
    asking.finish()
    assert pictures(answered(asking))[0].split()[0] == "20012222"


def test_what_says_nothing_about_pixels_is_ignored_with_a_note(asking: Asking) -> None:
    ann, bob = asking.jobs
    project = asking.cvat.project(asking.request.project)
    admin = asking.person("admin")
    admin.call("PATCH", f"projects/{project.id}", {"labels": [{"name": "dog"}]})
    asking.draw(ann, "car", [0, 0, 4, 4], type="polyline")
    asking.draw(ann, "car", [1, 1], type="points")
    dog = asking.draw(ann, "dog", SQUARE)
    early = asking.draw(bob, "car", SQUARE, frame=0)
    outside = asking.draw(bob, "car", SQUARE)
    short = asking.draw(bob, "car", [1, 1, 4, 0, 8, 1], type="mask")
    reserved = asking.draw(bob, "hvsa:region", SQUARE)
    tag = admin.save(ann, "create", "tags", {"frame": 0, "label_id": asking.label("car")})
    track = asking.worker(bob).draw_track(
        bob,
        {
            "frame": 1,
            "label_id": asking.label("car"),
            "shapes": [{"type": "polyline", "frame": 1, "points": [5, 5, 6, 6], "outside": False}],
        },
    )
    asking.finish()
    answers = answered(asking)
    assert set("".join(pictures(answers))) == {".", "\n"}
    assert [line for line in asking.log if "finished by" not in line] == [
        f"job {ann}: polygon {dog} on frame 0 is ignored: its label 'dog' is none of the classes",
        f"job {ann}: tag {tag} on frame 0 is ignored: it covers no pixels; so are 2 more",
        f"job {bob}: polygon {early} on frame 0 is ignored: the job has no such frame",
        f"job {bob}: polygon {reserved} on frame 1 is ignored: it is the outline of no region, "
        "perhaps a copy",
        f"job {bob}: mask {short} on frame 1 cannot be read: its runs are 2 pixels, its box 10; "
        "delete it in CVAT or draw it again",
        f"job {bob}: track {track} is ignored: it covers no pixels",
        f"job {bob}: polygon {outside} on frame 1 is ignored: it covers no pixel that was asked "
        "for",
    ]


def test_damaged_shapes_take_no_others_along(asking: Asking) -> None:
    ann, _ = asking.jobs
    asking.draw(ann, "car", [-5, 9, 0, 0, 1, 1], type="mask")
    asking.draw(ann, "car", SQUARE)
    asking.finish()
    assert pictures(answered(asking))[0].split()[1] == ".11....."


def test_clicks_are_counted_from_what_was_drawn(asking: Asking) -> None:
    ann, bob = asking.jobs
    asking.set_class(1, "road")
    asking.set_class(2, "mixed")
    # Six of its pixels lie in the left half, two in the right one.
    asking.draw(ann, "car", [1, 1, 5, 1, 5, 3, 1, 3])
    asking.draw(ann, "sky", [5, 1, 7, 2], type="rectangle")
    # Four rows of four pixels and four of the right two: a polygon around it has six corners.
    asking.draw(bob, "sky", [0, 16, *[2] * 8, 4, 0, 7, 7], type="mask")
    asking.finish()
    assert answered(asking).clicks == {
        LEFT: Clicks(4, 2),
        RIGHT: Clicks(2, 1),
        LATER: Clicks(6, 1),
    }


def test_whole_frames_are_drawn_without_outlines(asking: Asking) -> None:
    asking.ask_again([Sample(2, 0)], WholeFrames(4, SIZE))
    (job,) = asking.request.jobs
    assert asking.cvat.shapes(job.id) == []
    asking.draw(job.id, "car", [0, 0, 8, 0, 8, 4, 0, 4])
    asking.draw(job.id, "sky", [0, 4, 8, 4, 8, 8, 0, 8])
    (still,) = unfinished_jobs(asking.client, asking.request, CollectPolicy())
    assert "ATTRIBUTES" not in still.link
    asking.finish(job.id)
    answers = asking.collect()
    assert pictures(answers) == ["\n".join(["1" * 8] * 4 + ["2" * 8] * 4)]
    assert answers is not None
    assert answers.clicks == {Sample(2, 0): Clicks(8, 2)}


def test_a_sample_of_two_parts_is_one_sample() -> None:
    numbers = np.array([[1, 1, 0, 0], [0, 2, 2, 2]], np.int32)
    sample = Sample(7, 5)
    regions = (
        Region(1, sample, 0, (0, 0, 2, 0, 2, 1, 0, 1, 0, 0), 11),
        Region(2, sample, 0, (), 12),
    )
    asked = Assignment(range(1), regions, {0: 7}, lambda frame: numbers, (2, 4))
    labels = ChildLabels({51: 3}, {51: "car"}, 50, 10, {"car": 3})
    outline = {"type": "polyline", "frame": 0, "label_id": 50, "points": [0, 0, 2, 0]}
    chosen = {**outline, "id": 11, "attributes": [{"spec_id": 10, "value": "car"}]}
    box = {"id": 13, "type": "rectangle", "frame": 0, "label_id": 51, "points": [1, 1, 2, 2]}
    found = read_answers(asked, {"shapes": [chosen, box], "tracks": [], "tags": []}, labels, 0.1)
    (annotation,) = found.annotations
    assert (annotation.frame, annotation.segments) == (7, (5,))
    assert picture(annotation.label_map) == "33..\n.3.."
    assert found.clicks == {sample: Clicks(2, 2)}
    assert found.uncovered == {sample: 0.4}
    assert found.gaps == (Gap(0, 1, 0.4, (2, 1, 4, 2)),)
    assert not found.is_empty


# -- what outlines say


def test_a_relabelled_outline_is_a_class(asking: Asking) -> None:
    ann, _ = asking.jobs
    asking.worker(ann).relabel(ann, asking.outline(1), asking.label("sky"))
    asking.finish()
    answers = answered(asking)
    assert pictures(answers)[0] == "\n".join(["2222...."] * 8)
    assert answers.clicks[LEFT] == Clicks(0, 1)


def test_a_moved_outline_is_of_the_pixels_that_were_asked_for(asking: Asking) -> None:
    ann, _ = asking.jobs
    asking.set_class(1, "car")
    asking.worker(ann).move(ann, asking.outline(1), [5, 5, 8, 5, 8, 8, 5, 5])
    asking.finish()
    assert pictures(answered(asking))[0] == "\n".join(["1111...."] * 8)


def test_an_outline_that_came_back_is_the_same(asking: Asking) -> None:
    ann, _ = asking.jobs
    asking.set_class(1, "car")
    new = asking.worker(ann).delete_and_undo(ann, asking.outline(1))
    assert new != asking.outline(1)
    asking.worker(ann).delete(ann, asking.outline(2))
    asking.finish()
    assert pictures(answered(asking))[0] == "\n".join(["1111...."] * 8)


def test_a_copied_outline_is_nobodys(asking: Asking) -> None:
    ann, _ = asking.jobs
    asking.set_class(1, "car")
    worker = asking.worker(ann)
    copy = worker.copy(ann, asking.outline(1), points=[4, 0, 8, 0, 8, 8, 4, 8, 4, 0])
    line = worker.copy(ann, asking.outline(1))
    worker.relabel(ann, line, asking.label("sky"))
    asking.finish()
    assert pictures(answered(asking))[0] == "\n".join(["1111...."] * 8)
    assert asking.log[:2] == [
        f"job {ann}: polyline {copy} on frame 0 is ignored: it is the outline of no region, "
        "perhaps a copy",
        f"job {ann}: polyline {line} on frame 0 is ignored: it covers no pixels",
    ]


# -- afterwards


def test_answers_edited_later_are_given_again(asking: Asking) -> None:
    finish_all(asking)
    first = asking.collect()
    assert asking.revised() is None
    asking.set_class(3, "car")
    revised = asking.revised()
    assert pictures(revised) == [pictures(first)[0], "\n".join(["....1111"] * 8)]


def test_a_revision_is_given_until_the_caller_has_it_for_sure(asking: Asking) -> None:
    finish_all(asking)
    first = asking.collect()
    asking.set_class(3, "car")
    asking.revised()
    assert pictures(asking.revised())[1] == "\n".join(["....1111"] * 8)
    asking.set_class(3, "road")
    assert pictures(asking.revised()) == pictures(first)


def test_a_revision_outlives_a_process_that_ends(places: Places, tmp_path: Path) -> None:
    number, ended = 0, True
    while ended:
        with places.fresh(tmp_path / str(number)) as asking:
            finish_all(asking)
            asking.collect()
            asking.set_class(3, "car")
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
    asking.worker(ann).move(ann, asking.outline(1), [5, 5, 8, 5, 8, 8, 5, 5])
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
    asking.set_class(3, "sky")
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
    assert (job.frames, job.expected_clicks) == (1, 1.0)
    assert job.link.startswith(f"{asking.cvat.url}/tasks/{asking.request.task}/jobs/{bob}?")
    assert "ATTRIBUTES" in job.link
    assert (
        len(unfinished_jobs(asking.client, asking.request, CollectPolicy(accepted_only=True))) == 2
    )


def test_jobs_that_nobody_will_collect_are_taken_from_their_annotators(asking: Asking) -> None:
    ann, bob = asking.jobs
    asking.set_class(1, "road")
    asking.finish(bob)
    shapes = asking.cvat.shapes(ann)
    assert unassign(asking.client, asking.request) == [ann]
    assert asking.cvat.job(ann).assignee is None
    assert asking.cvat.shapes(ann) == shapes
    finished = asking.cvat.job(bob)
    assert finished.assignee is not None
    assert (finished.assignee.username, finished.state) == ("bob", "completed")
    assert unassign(asking.client, asking.request) == []
