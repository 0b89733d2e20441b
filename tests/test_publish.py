"""What annotators see after rounds were published, through the stand-in server's socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest

from hvsa_cvat.cvat.http.errors import Unreachable
from hvsa_cvat.cvat.masks.options import PublishOptions, WriteLimits
from hvsa_cvat.cvat.masks.publish import Outcome
from hvsa_cvat.errors import ServerError
from hvsa_cvat.types import IGNORE, LabelMap
from tests.published_task import (
    CAR,
    CLASSES,
    ROAD,
    ROAD_AND_SKY,
    SIZE,
    SKY,
    WITH_CAR,
    Field,
    assert_shows,
    blocks,
    draw,
    field_of,
    filled,
)
from tests.standin import Fault, ProcessDied, Request
from tests.standin.model import Row


@pytest.fixture
def field() -> Iterator[Field]:
    """Four frames in one job."""
    with field_of() as made:
        yield made


def row_of(field: Field, shape: int) -> dict[str, Any]:
    return next(row for row in field.shapes() if row["id"] == shape)


def of_class(field: Field, frame: int, index: int) -> dict[str, Any]:
    """The one shape of a class in a frame."""
    (row,) = [r for r in field.shapes(frame) if r["label_id"] == field.label(index)]
    return row


# what is shown


def test_every_pixel_has_one_shape_of_its_class(field: Field) -> None:
    maps = [blocks(seed) for seed in range(4)]
    outcome = field.publish(1, maps)
    assert_shows(field, maps, {})
    expected = sum(len(set(np.unique(one)) - {IGNORE}) for one in maps)
    assert outcome == Outcome(created=expected, deleted=0, kept=0, left=())
    assert len(field.shapes()) == expected


def test_how_a_shape_is_made(field: Field) -> None:
    field.publish(1, draw("........", ".cc.....", ".cc.....", *["........"] * 3))
    assert field.shapes(2) == [
        {
            "id": 3,
            "job": field.jobs[0],
            "label_id": field.label(CAR),
            "frame": 2,
            "type": "mask",
            "points": [0, 4, 1, 1, 2, 2],
            "source": "auto",
            "group": 0,
            "z_order": 0,
            "rotation": 0.0,
            "occluded": False,
            "outside": False,
            "attributes": [],
            "elements": [],
        }
    ]


def test_only_additions_and_deletions_of_shapes_of_jobs_are_written(field: Field) -> None:
    field.publish(1, ROAD_AND_SKY)
    field.publish(2, WITH_CAR)
    path = f"PATCH /api/jobs/{field.jobs[0]}/annotations/"
    assert field.writes() == [f"{path} create", f"{path} delete", f"{path} create"]


def test_a_round_that_is_shown_is_asked_for_once_and_not_written_again(field: Field) -> None:
    field.publish(1, WITH_CAR)
    shapes = field.shapes()
    field.cvat.requests.clear()

    def untouched() -> Iterator[tuple[int, LabelMap]]:
        raise AssertionError
        yield

    assert field.publish(1, untouched()) == Outcome(0, 0, kept=12, left=())  # type: ignore[arg-type]
    assert [str(one) for one in field.cvat.requests] == ["GET /api/jobs"]
    assert field.shapes() == shapes


def test_what_still_fits_in_the_next_round_stays(field: Field) -> None:
    field.publish(1, WITH_CAR)
    before = {row["id"] for row in field.shapes()}
    outcome = field.publish(2, field.maps(WITH_CAR, ROAD_AND_SKY, WITH_CAR))
    assert outcome == Outcome(created=2, deleted=3, kept=9, left=())
    assert len(before & {row["id"] for row in field.shapes()}) == 9
    field.cvat.requests.clear()
    assert field.publish(3, field.maps(WITH_CAR, ROAD_AND_SKY, WITH_CAR)).kept == 11
    assert field.writes() == []


def test_background_and_unknown_pixels_are_not_shown(field: Field) -> None:
    field.reread(background=frozenset({SKY}))
    all_sky, unknown = (np.full(SIZE, value, np.uint8) for value in (SKY, IGNORE))
    field.publish(1, field.maps(WITH_CAR, all_sky, unknown))
    assert field.shown(0).tolist() == np.where(WITH_CAR == SKY, IGNORE, WITH_CAR).tolist()
    assert {row["frame"] for row in field.shapes()} == {0}


def test_a_class_that_becomes_background_goes(field: Field) -> None:
    field.publish(1, WITH_CAR)
    field.reread(background=frozenset({SKY}))
    assert field.publish(2, WITH_CAR) == Outcome(created=0, deleted=4, kept=8, left=())


@pytest.mark.parametrize("kind", ["masks", "polygons"])
def test_labels_that_take_one_kind_get_it_and_the_others_what_was_chosen(kind: Any) -> None:
    labels = [{"name": "road", "type": "polygon"}, {"name": "car", "type": "mask"}, "sky"]
    with field_of(labels=labels) as field:
        field.options = PublishOptions(shapes=kind)
        maps = [blocks(seed) for seed in range(4)]
        field.publish(1, maps)
        assert_shows(field, maps, {})
        types = {(field.task.index_of(row["label_id"]), row["type"]) for row in field.shapes()}
        assert types == {(ROAD, "polygon"), (CAR, "mask"), (SKY, kind.removesuffix("s"))}
        field.publish(2, maps[::-1])
        assert_shows(field, maps[::-1], {})


def test_requests_are_bounded_by_shapes_and_by_numbers(field: Field) -> None:
    def sizes() -> list[int]:
        sent = [one.json["shapes"] for one in field.cvat.requests if one.query.get("action")]
        field.cvat.requests.clear()
        return [len(shapes) for shapes in sent]

    field.options = PublishOptions(limits=WriteLimits(shapes_per_request=5))
    field.publish(1, WITH_CAR)
    assert sizes() == [5, 5, 2]
    field.options = PublishOptions(limits=WriteLimits(numbers_per_request=1))
    field.publish(2, ROAD_AND_SKY)
    assert sizes() == [12, *[1] * 8]
    assert_shows(field, field.maps(ROAD_AND_SKY), {})


def test_long_jobs_are_read_anew_after_each_group(field: Field) -> None:
    field.options = PublishOptions(
        limits=WriteLimits(shapes_per_group=3, shapes_without_deletions=3)
    )
    field.publish(1, WITH_CAR)
    assert [one.split()[-1] for one in field.writes()] == ["create"] * 4
    reads = [one for one in field.cvat.requests if one.path.endswith("/annotations/")]
    assert sum(one.method == "GET" for one in reads) == 1
    field.cvat.requests.clear()
    maps = [blocks(seed) for seed in range(4)]
    field.publish(2, maps)
    assert_shows(field, maps, {})
    actions = [
        one.query.get("action", one.method)
        for one in field.cvat.requests
        if one.path.endswith("/annotations/")
    ]
    assert actions == ["GET", "delete", "create"] * 4


def test_label_maps_must_be_those_of_all_frames_in_order(field: Field) -> None:
    for wrong in (field.maps(WITH_CAR)[:3], field.maps(WITH_CAR) * 2, WITH_CAR[:3], WITH_CAR[None]):
        with pytest.raises(ValueError, match="label map"):
            field.publish(1, wrong)
    field.publish(1, WITH_CAR)
    assert_shows(field, field.maps(WITH_CAR), {})


# jobs and frames


def test_where_jobs_overlap_each_shows_its_frames_and_an_export_has_no_doubles() -> None:
    with field_of(frames=7, job_size=4, overlap=2) as field:
        maps = [blocks(seed) for seed in range(7)]
        for round_number in (1, 2):
            field.publish(round_number, maps)
            assert_shows(field, maps, {})  # in each job that holds the frame
            for frame in range(7):
                assert field.exported(frame).tolist() == maps[frame].tolist()
            kinds = {row["frame"]: row["type"] for row in field.shapes()}
            assert [kinds[frame] for frame in range(7)] == ["mask"] * 2 + ["polygon"] * 4 + ["mask"]
            maps = maps[::-1]
        assert field.retract().deleted > 0
        assert field.shapes() == []


def test_labels_that_take_masks_only_are_shown_by_the_first_job() -> None:
    labels = [{"name": name, "type": "mask"} for name in ("road", "car")]
    with field_of(frames=3, job_size=2, overlap=1, labels=[*labels, "sky"]) as field:
        first, second = field.jobs
        field.publish(1, WITH_CAR)
        assert field.shown_in(first, 1).tolist() == WITH_CAR.tolist()
        only_sky = np.where(WITH_CAR == SKY, WITH_CAR, IGNORE)
        assert field.shown_in(second, 1).tolist() == only_sky.tolist()
        assert field.exported(1).tolist() == WITH_CAR.tolist()
        assert [line for line in field.lines if "road, car" in line]


@pytest.mark.parametrize("busy", [0, 1])
def test_shared_frames_wait_until_each_job_that_shows_them_is_free(busy: int) -> None:
    """Else one job would show the new round, the other the old one, and an export both."""
    with field_of(frames=6, job_size=4, overlap=2) as field:
        at_work, free = field.jobs[busy], field.jobs[1 - busy]
        field.publish(1, ROAD_AND_SKY)
        people = field.draw(at_work, 0 if busy == 0 else 5, [0, 0, 2, 0, 2, 2, 0, 2])
        field.publish(2, WITH_CAR)
        assert field.pending(2) == [at_work]
        alone = 5 if busy == 0 else 0
        assert field.shown_in(free, alone).tolist() == WITH_CAR.tolist()
        for frame in (2, 3):
            assert field.exported(frame).tolist() == ROAD_AND_SKY.tolist()
        field.clock.wait(60)
        field.publish(2, WITH_CAR)
        assert field.pending(2) == []
        assert_shows(field, field.maps(WITH_CAR), {people: row_of(field, people)})
        for frame in (2, 3):
            assert field.exported(frame).tolist() == WITH_CAR.tolist()


def test_shared_frames_are_shown_beside_a_job_that_was_finished_without_ours() -> None:
    with field_of(frames=6, job_size=4, overlap=2) as field:
        first, second = field.jobs
        people = field.draw(first, 3, [1, 1, 5, 1, 5, 4, 1, 4])
        row = row_of(field, people)
        field.people.finish(first)
        field.publish(1, WITH_CAR)
        assert [one["id"] for one in field.shapes() if one["job"] == first] == [people]
        left_free = np.where(filled(row, field.task.size), IGNORE, WITH_CAR)
        assert field.shown_in(second, 3).tolist() == left_free.tolist()
        assert field.exported(3, [people]).tolist() == left_free.tolist()


def test_people_s_shapes_on_shared_frames_stay_in_either_job() -> None:
    with field_of(frames=6, job_size=4, overlap=2) as field:
        field.publish(1, ROAD_AND_SKY)
        first, second = field.jobs
        ours = next(row["id"] for row in field.shapes(2) if row["job"] == first)
        field.carve(first, ours, [0, 0, 3, 0, 3, 2])
        drawn = field.draw(second, 3, [1, 1, 5, 1, 5, 4, 1, 4])
        theirs = {one: row_of(field, one) for one in (ours, drawn)}
        field.clock.wait(60)
        field.publish(2, WITH_CAR)
        assert_shows(field, field.maps(WITH_CAR), theirs)


def test_what_people_drew_in_another_job_of_the_frame_is_left_out() -> None:
    with field_of(frames=6, job_size=4, overlap=2) as field:
        _, second = field.jobs
        people = field.draw(second, 3, [1, 1, 5, 1, 5, 4, 1, 4])
        field.clock.wait(60)
        field.publish(1, WITH_CAR)
        assert_shows(field, field.maps(WITH_CAR), {people: row_of(field, people)})


def test_people_s_shapes_count_also_in_a_job_that_shares_all_its_frames() -> None:
    with field_of(frames=7, job_size=4, overlap=2) as field:
        third = field.jobs[2]
        field.people.call("PATCH", f"tasks/{field.task.id}/data/meta", {"deleted_frames": [6]})
        field.reread()
        people = field.draw(third, 5, [1, 1, 5, 1, 5, 4, 1, 4])
        field.clock.wait(60)
        field.publish(1, WITH_CAR)
        assert_shows(field, field.maps(WITH_CAR), {people: row_of(field, people)})
        assert field.pending(2) == field.jobs


def test_deleted_frames_get_nothing() -> None:
    with field_of(frames=5) as field:
        task = f"tasks/{field.task.id}/data/meta"
        field.people.call("PATCH", task, {"deleted_frames": [1, 3]})
        field.reread()
        maps = [blocks(1), blocks(2), blocks(3)]
        field.publish(1, maps)
        assert_shows(field, maps, {})
        assert {row["frame"] for row in field.shapes()} == {0, 2, 4}
        field.people.call("PATCH", task, {"deleted_frames": [2]})
        field.reread()
        maps = [blocks(seed) for seed in range(4)]
        field.publish(2, maps)
        assert_shows(field, maps, {})
        assert field.shown(2).tolist() == blocks(2).tolist()


def test_ground_truth_jobs_are_neither_read_nor_written(field: Field) -> None:
    body = {
        "type": "ground_truth",
        "task_id": field.task.id,
        "frame_selection_method": "manual",
        "frames": [1],
    }
    truth = field.people.call("POST", "jobs", body)["id"]
    field.draw(truth, 1, [0, 0, 4, 0, 4, 4])
    field.publish(1, WITH_CAR)
    assert_shows(field, field.maps(WITH_CAR), {})
    assert len(field.cvat.shapes(truth)) == 1


# people's shapes


DRAWN: dict[str, tuple[dict[str, Any], int]] = {
    "polygon": ({"points": [1, 1, 5, 1, 5, 4, 1, 4]}, 12),
    "rectangle": ({"type": "rectangle", "points": [1, 1, 5, 4]}, 12),
    "rotated rectangle": ({"type": "rectangle", "points": [1, 1, 5, 3], "rotation": 90.0}, 8),
    "ellipse": ({"type": "ellipse", "points": [4, 3, 6, 1]}, 12),
    "mask": ({"type": "mask", "points": [0, 3, 2, 1, 1, 1, 2, 3]}, 4),
    "other class, far below": ({"points": [1, 1, 5, 1, 5, 4, 1, 4], "z_order": -100}, 12),
    "polyline": ({"type": "polyline", "points": [1, 1, 5, 4]}, 0),
    "outside of the frame": ({"points": [-4, -4, 2, -4, 2, 2, -4, 2]}, 4),
    "automatic, not ours": ({"points": [1, 1, 5, 1, 5, 4, 1, 4], "source": "auto"}, 12),
}


@pytest.mark.parametrize("shape", DRAWN.values(), ids=list(DRAWN))
def test_pixels_that_people_labelled_are_left_to_them(
    field: Field, shape: tuple[dict[str, Any], int]
) -> None:
    row, pixels = shape
    drawn = field.draw(field.jobs[0], 1, **row)
    before = row_of(field, drawn)
    field.clock.wait(60)
    field.publish(1, ROAD_AND_SKY)
    field.publish(2, WITH_CAR)
    assert row_of(field, drawn) == before
    shown = field.shown(1, [drawn])
    assert np.count_nonzero(shown == IGNORE) == pixels
    assert (shown[shown != IGNORE] == WITH_CAR[shown != IGNORE]).all()
    assert field.shown(2).tolist() == WITH_CAR.tolist()


def test_tracks_are_people_s_at_the_frames_where_they_are_seen(field: Field) -> None:
    def keyframe(frame: int, left: int, **more: Any) -> dict[str, Any]:
        return {
            "frame": frame,
            "type": "rectangle",
            "points": [left, 0, left + 2, 3],
            "outside": False,
            "attributes": [],
            **more,
        }

    track = {
        "frame": 0,
        "label_id": field.label(CAR),
        "shapes": [keyframe(0, 0), keyframe(2, 4), keyframe(3, 4, outside=True)],
    }
    field.people.draw_track(field.jobs[0], track)
    field.clock.wait(60)
    field.publish(1, ROAD_AND_SKY)
    for frame, left in ((0, 0), (1, 2), (2, 4)):
        expected = ROAD_AND_SKY.copy()
        expected[:3, left : left + 2] = IGNORE
        assert field.shown(frame).tolist() == expected.tolist()
    assert field.shown(3).tolist() == ROAD_AND_SKY.tolist()
    assert len(field.cvat.job(field.jobs[0]).tracks) == 1


def test_a_frame_that_people_labelled_wholly_gets_nothing(field: Field) -> None:
    field.publish(1, ROAD_AND_SKY)
    field.draw(field.jobs[0], 2, [0, 0, 8, 0, 8, 6, 0, 6])
    field.clock.wait(60)
    field.publish(2, WITH_CAR)
    (row,) = field.shapes(2)
    assert row["source"] == "manual"


def test_boxes_and_points_beside_the_classes_claim_no_pixels() -> None:
    labels = [*CLASSES, {"name": "box", "type": "rectangle"}, {"name": "key", "type": "points"}]
    with field_of(labels=labels) as field:
        task = field.cvat.task(field.task.id)
        for name, kind, points in (("box", "rectangle", [1, 1, 6, 5]), ("key", "points", [3, 3])):
            label = field.cvat.label(task, name)
            field.draw(field.jobs[0], 0, points, type=kind, label_id=label)
        field.clock.wait(60)
        field.publish(1, WITH_CAR)
        beside = [row["id"] for row in field.shapes(0) if row["source"] == "manual"]
        assert len(beside) == 2
        assert field.shown(0, beside).tolist() == WITH_CAR.tolist()


def test_labels_that_came_later_are_people_s_like_the_others(field: Field) -> None:
    edit = {"labels": [{"name": "bicycle"}]}
    field.people.call("PATCH", f"tasks/{field.task.id}", edit)
    label = field.cvat.label(field.cvat.task(field.task.id), "bicycle")
    drawn = field.draw(field.jobs[0], 0, [0, 0, 4, 0, 4, 4, 0, 4], label_id=label)
    field.clock.wait(60)
    field.publish(1, ROAD_AND_SKY)
    assert np.count_nonzero(field.shown(0, [drawn]) == IGNORE) == 16


def test_people_s_masks_that_cannot_be_read_keep_their_box_and_stop_nothing(field: Field) -> None:
    job = field.jobs[0]
    wrong_sum = field.draw(job, 0, [0, 3, 1, 1, 3, 2], type="mask")
    endless = field.draw(job, 1, [1, 2, 3, 1e30, 1e30], type="mask")
    upside_down = field.draw(job, 2, [0, 4, 5, 5, 1, 1], type="mask")
    field.clock.wait(60)
    field.publish(1, WITH_CAR)
    bad = [wrong_sum, endless, upside_down]
    assert [np.count_nonzero(field.shown(n, bad) == IGNORE) for n in range(3)][:2] == [6, 0]
    assert len(field.lines) == 3
    assert all("cannot be read" in line and line.startswith("job") for line in field.lines)


EDITS: dict[str, Callable[[Field, int], object]] = {
    "moved": lambda field, shape: field.people.move(field.jobs[0], shape, [0, 4, 1, 1, 2, 2]),
    "relabelled": lambda field, shape: field.people.relabel(field.jobs[0], shape, field.label(SKY)),
    "attribute": lambda field, shape: field.people.set_class(
        field.jobs[0], shape, field.cvat.task(field.task.id).labels[CAR].attributes[0]["id"], "7"
    ),
    "carved": lambda field, shape: field.carve(field.jobs[0], shape, [0, 2, 2, 2, 3, 2]),
    "grouped": lambda field, shape: field.people.save(
        field.jobs[0], "update", "shapes", {**field.people._shape(field.jobs[0], shape), "group": 4}
    ),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=list(EDITS))
def test_a_shape_of_ours_that_a_person_changed_is_theirs(
    edit: Callable[[Field, int], object],
) -> None:
    attribute = {"name": "number", "input_type": "text", "default_value": "", "values": [""]}
    with field_of(labels=["road", {"name": "car", "attributes": [attribute]}, "sky"]) as field:
        field.publish(1, WITH_CAR)
        shape = of_class(field, 1, CAR)["id"]
        edit(field, shape)
        theirs = {shape: row_of(field, shape)}
        field.clock.wait(60)
        for round_number, seed in ((2, 5), (3, 6)):
            maps = [blocks(seed + frame) for frame in range(4)]
            field.publish(round_number, maps)
            assert_shows(field, maps, theirs)
        assert field.retract().edited == 1
        assert [row["id"] for row in field.shapes()] == [shape]


def test_attributes_that_nobody_set_do_not_make_a_shape_people_s() -> None:
    attribute = {"name": "hidden", "input_type": "checkbox", "default_value": "false"}
    with field_of(labels=["road", {"name": "car", "attributes": [attribute]}, "sky"]) as field:
        field.publish(1, WITH_CAR)
        job = field.cvat.job(field.jobs[0])
        spec = field.cvat.task(field.task.id).labels[CAR].attributes[0]["id"]
        for number, row in job.shapes.items():
            if row["label_id"] == field.label(CAR):
                default = {"spec_id": spec, "value": "false"}
                job.shapes[number] = Row({**row, "attributes": [default]})
        assert field.publish(2, ROAD_AND_SKY) == Outcome(created=8, deleted=12, kept=0, left=())


def test_shapes_are_still_ours_when_all_labels_get_new_ids(field: Field) -> None:
    field.publish(1, WITH_CAR)
    task = field.cvat.task(field.task.id)
    for label in task.own_labels:
        label.id += 100
    job = field.cvat.job(field.jobs[0])
    for number, row in job.shapes.items():
        job.shapes[number] = Row({**row, "label_id": row["label_id"] + 100})
    field.reread()
    assert field.publish(2, field.maps(WITH_CAR, ROAD_AND_SKY)).kept == 3
    assert_shows(field, field.maps(WITH_CAR, ROAD_AND_SKY), {})


def test_what_a_person_deleted_may_be_proposed_again_in_the_next_round(field: Field) -> None:
    field.publish(1, WITH_CAR)
    field.people.delete(field.jobs[0], of_class(field, 1, CAR)["id"])
    field.clock.wait(60)
    field.publish(1, WITH_CAR)
    assert np.count_nonzero(field.shown(1) == IGNORE) == 8
    field.publish(2, WITH_CAR)
    assert_shows(field, field.maps(WITH_CAR), {})


def test_what_a_person_deleted_stays_deleted_when_the_round_goes_on(field: Field) -> None:
    field.options = PublishOptions(limits=WriteLimits(shapes_per_request=3))
    creations = count(1)

    def third_creation_fails(request: Request) -> Fault | None:
        is_late = request.query.get("action") == "create" and next(creations) >= 3
        return Fault.ERROR if is_late else None

    field.cvat.faults = third_creation_fails
    outcome = field.publish(1, WITH_CAR)
    assert outcome.created == 6
    assert "answered 500" in outcome.left[0][1]
    assert field.pending(1) == field.jobs
    field.cvat.faults = {}
    field.people.delete(field.jobs[0], of_class(field, 1, CAR)["id"])
    field.clock.wait(60)
    field.agent_restarts()
    assert field.publish(1, WITH_CAR) == Outcome(created=6, deleted=0, kept=0, left=())
    assert np.count_nonzero(field.shown(1) == IGNORE) == 8
    assert [field.shown(n).tolist() for n in (0, 2, 3)] == [WITH_CAR.tolist()] * 3


def test_what_a_person_deleted_and_brought_back_is_theirs(field: Field) -> None:
    field.publish(1, WITH_CAR)
    back = field.people.delete_and_undo(field.jobs[0], of_class(field, 1, CAR)["id"])
    theirs = {back: row_of(field, back)}
    field.clock.wait(60)
    field.publish(2, ROAD_AND_SKY)
    assert_shows(field, field.maps(ROAD_AND_SKY), theirs)


def test_after_remove_all_annotations_the_next_round_comes_as_on_the_first_day(
    field: Field,
) -> None:
    field.publish(1, WITH_CAR)
    field.people.remove_all(field.jobs[0])
    field.clock.wait(60)
    assert field.publish(2, WITH_CAR) == Outcome(created=12, deleted=0, kept=0, left=())
    assert_shows(field, field.maps(WITH_CAR), {})


# jobs that people work on


def test_a_job_that_is_open_is_left_until_it_is_quiet() -> None:
    with field_of(frames=4, job_size=2) as field:
        first, _ = field.jobs
        field.publish(1, ROAD_AND_SKY)
        drawn = field.draw(first, 0, [0, 0, 2, 0, 2, 2, 0, 2])
        theirs = {drawn: row_of(field, drawn)}
        field.clock.wait(14.5)
        outcome = field.publish(2, WITH_CAR)
        ((job, reason),) = outcome.left
        assert job == first
        assert "at work" in reason
        assert "14 minutes" in reason
        assert outcome.created == 6
        assert field.pending(2) == [first]
        assert_shows(field, field.maps(ROAD_AND_SKY), theirs, [1])
        assert_shows(field, field.maps(WITH_CAR), {}, [2, 3])
        field.clock.wait(1)
        assert field.publish(2, WITH_CAR).left == ()
        assert field.pending(2) == []
        assert_shows(field, field.maps(WITH_CAR), theirs)


def test_our_own_writes_are_nobody_at_work(field: Field) -> None:
    field.draw(field.jobs[0], 0, [0, 0, 2, 0, 2, 2, 0, 2])
    field.clock.wait(16)
    for round_number in (1, 2, 3):
        assert field.publish(round_number, blocks(round_number)).left == ()
    field.draw(field.jobs[0], 0, [4, 4, 6, 4, 6, 6, 4, 6])
    assert len(field.publish(4, WITH_CAR).left) == 1


def test_a_clock_that_goes_wrong_leaves_an_open_job_alone(field: Field) -> None:
    field.draw(field.jobs[0], 0, [0, 0, 2, 0, 2, 2, 0, 2])
    field.clock.wait(-600)
    assert "0 minutes ago" in field.publish(1, WITH_CAR).left[0][1]
    field.options = PublishOptions(quiet_minutes=0)
    field.clock.wait(600)
    assert field.publish(1, WITH_CAR).left == ()


@pytest.mark.parametrize("how", ["finish", "accept", "review"])
def test_a_finished_job_is_left_as_its_annotator_finished_it(field: Field, how: str) -> None:
    job = field.jobs[0]
    field.publish(1, ROAD_AND_SKY)
    if how == "review":
        field.people.call("PATCH", f"jobs/{job}", {"stage": "validation"})
    else:
        getattr(field.people, how)(job)
    field.clock.wait(60)
    before = field.shapes()
    assert "has finished it" in field.publish(2, WITH_CAR).left[0][1]
    assert field.shapes() == before
    assert field.pending(2) == []
    field.people.call("PATCH", f"jobs/{job}", {"stage": "annotation", "state": "rejected"})
    assert field.pending(2) == [job]
    assert "at work" in field.publish(2, WITH_CAR).left[0][1]
    field.clock.wait(60)
    assert field.publish(2, WITH_CAR).left == ()
    assert_shows(field, field.maps(WITH_CAR), {})


def when(number: int, method: str, ending: str, then: Callable[[], object]) -> Any:
    """Before the `number`-th such request, once, do something else."""
    seen = 0

    def hook(request: Request) -> None:
        nonlocal seen
        if request.method == method and request.path.endswith(ending):
            seen += 1
            if seen == number:
                then()

    return hook


@pytest.mark.parametrize("request_number", range(7))
def test_who_saves_while_we_publish_loses_nothing(field: Field, request_number: int) -> None:
    """Before each request but the deletion itself, by a browser that has loaded all before."""
    field.publish(1, WITH_CAR)
    job, car = field.jobs[0], of_class(field, 1, CAR)["id"]
    edited = {**field.cvat.job(job).shapes[car], "points": [0, 4, 1, 1, 2, 2]}
    edited["source"] = "semi-auto"
    others = count()

    def hook(request: Request) -> None:
        if request.query.get("action") != "delete" and next(others) == request_number:
            field.people.save(job, "update", "shapes", edited)

    field.cvat.before_request = hook
    field.publish(2, ROAD_AND_SKY)
    field.cvat.before_request = None
    theirs = {car: row_of(field, car)}
    assert theirs[car]["points"] == edited["points"]
    field.clock.wait(60)
    field.publish(2, ROAD_AND_SKY)
    field.publish(3, WITH_CAR)
    assert_shows(field, field.maps(WITH_CAR), theirs)


def test_a_person_who_saves_behind_our_own_write_loses_nothing(field: Field) -> None:
    """Our creation gives the job a newer date than their edit has."""
    field.options = PublishOptions(limits=WriteLimits(shapes_per_group=2))
    job = field.jobs[0]
    field.publish(1, WITH_CAR)
    field.people.call("PATCH", f"jobs/{job}", {"state": "in progress"})
    field.clock.wait(60)
    car = of_class(field, 3, CAR)["id"]
    field.cvat.before_request = when(
        2, "PATCH", "/annotations/", lambda: field.people.move(job, car, [0, 4, 1, 1, 2, 2])
    )
    field.publish(2, ROAD_AND_SKY)
    field.cvat.before_request = None
    theirs = {car: row_of(field, car)}
    assert theirs[car]["source"] == "semi-auto"
    field.publish(2, ROAD_AND_SKY)
    field.publish(3, WITH_CAR)
    assert_shows(field, field.maps(WITH_CAR), theirs)


def test_what_is_drawn_while_we_write_is_free_of_our_masks_after_the_next_pass(
    field: Field,
) -> None:
    job = field.jobs[0]
    drawn: list[int] = []

    def draw() -> None:
        drawn.append(field.draw(job, 2, [0, 0, 4, 0, 4, 6, 0, 6]))

    field.cvat.before_request = when(1, "PATCH", "/annotations/", draw)
    outcome = field.publish(1, WITH_CAR)
    field.cvat.before_request = None
    assert "somebody drew on frame 2" in outcome.left[0][1]
    assert field.pending(1) == [job]
    theirs = {drawn[0]: row_of(field, drawn[0])}
    field.clock.wait(60)
    assert field.publish(1, WITH_CAR).left == ()
    assert field.pending(1) == []
    assert_shows(field, field.maps(WITH_CAR), theirs)


# errors


def test_a_job_that_refuses_us_does_not_stop_the_others() -> None:
    with field_of(frames=4, job_size=2) as field:
        refused = field.jobs[0]
        serve = field.cvat.serve

        def no_rights(request: Request, *rest: Any) -> Any:
            answer = serve(request, *rest)
            if request.method == "PATCH" and f"jobs/{refused}/" in request.path:
                answer.status, answer.body = 403, {"detail": "no"}
            return answer

        field.cvat.serve = no_rights  # type: ignore[method-assign]
        outcome = field.publish(1, WITH_CAR)
        assert [job for job, _ in outcome.left] == [refused]
        assert "may not" in outcome.left[0][1]
        assert_shows(field, field.maps(WITH_CAR), {}, [2, 3])


def test_a_server_that_always_fails_ends_in_one_line_and_loses_nothing() -> None:
    with field_of(frames=6, job_size=2) as field:
        field.cvat.faults = lambda one: Fault.ERROR if one.method == "PATCH" else None
        with pytest.raises(ServerError, match="answered 500") as caught:
            field.publish(1, WITH_CAR)
        assert "\n" not in str(caught.value)
        assert len(field.writes()) == 6
        field.cvat.down()
        with pytest.raises(Unreachable):
            field.publish(1, WITH_CAR)
        field.cvat.up()
        field.cvat.faults = {}
        field.agent_restarts()
        assert field.publish(1, WITH_CAR).left == ()
        assert_shows(field, field.maps(WITH_CAR), {})


def test_a_server_that_keeps_other_numbers_than_were_sent_is_named(field: Field) -> None:
    serve = field.cvat.serve

    def rounding(request: Request, *rest: Any) -> Any:
        answer = serve(request, *rest)
        if request.query.get("action") == "create":
            answer.body["shapes"][0]["points"][0] += 1
        return answer

    field.cvat.serve = rounding  # type: ignore[method-assign]
    with pytest.raises(ServerError, match=r"other shapes in job .* than were sent"):
        field.publish(1, WITH_CAR)


def test_what_a_lost_request_creates_late_goes_again(field: Field) -> None:
    """The connection breaks, nothing is there yet, we send again, and then both are carried out."""
    lost: list[Request] = []

    def lose(request: Request) -> Fault | None:
        if request.query.get("action") == "create" and not lost:
            lost.append(request)
            return Fault.RESET
        return None

    def arrive() -> None:
        field.people.call("PATCH", lost[0].path[5:], lost[0].json, action="create")

    field.cvat.faults = lose
    field.cvat.before_request = when(2, "PATCH", "/annotations/", arrive)
    field.publish(1, WITH_CAR)
    field.cvat.before_request = None
    assert_shows(field, field.maps(WITH_CAR), {})
    assert len(field.writes()) == 3
    # later still: found in the next round
    arrive()
    assert len(field.shapes()) == 24
    field.agent_restarts()
    field.publish(2, WITH_CAR)
    assert_shows(field, field.maps(WITH_CAR), {})


def test_what_a_process_that_died_had_sent_may_arrive_late(field: Field) -> None:
    """And after another one has gone on with the round."""
    creation = 5
    with pytest.raises(ProcessDied), field.cvat.process_dies(creation, "before"):
        field.publish(1, WITH_CAR)
    field.agent_restarts()
    field.publish(1, WITH_CAR)
    (sent,) = [one for one in field.cvat.requests if one.method == "PATCH"]
    field.people.call("PATCH", sent.path[5:], sent.json, action="create")
    assert len(field.shapes()) == 24
    field.publish(2, ROAD_AND_SKY)
    assert_shows(field, field.maps(ROAD_AND_SKY), {})


# withdrawal


def test_retracting_takes_what_is_ours_and_as_we_left_it() -> None:
    with field_of(frames=6, job_size=2) as field:
        first, second, third = field.jobs
        field.publish(1, WITH_CAR)
        moved = of_class(field, 0, CAR)["id"]
        field.people.move(first, moved, [0, 4, 1, 1, 2, 2])
        drawn = field.draw(first, 1, [0, 0, 2, 0, 2, 2, 0, 2])
        field.clock.wait(60)
        field.draw(second, 2, [0, 0, 2, 0, 2, 2, 0, 2])
        field.people.finish(third)
        retracted = field.retract()
        assert (retracted.deleted, retracted.edited) == (5, 1)
        assert [job for job, _ in retracted.left] == [second, third]
        assert retracted.waits
        assert [line for line in retracted.lines() if "6 shapes of ours stay" in line]
        assert {row["id"] for row in field.shapes() if row["job"] == first} == {moved, drawn}
        field.clock.wait(60)
        finished = field.retract()
        assert (finished.deleted, len(finished.left), finished.waits) == (6, 1, False)
        field.people.call("PATCH", f"jobs/{third}", {"state": "new"})
        again = field.retract()
        assert (again.deleted, again.edited, again.left) == (6, 0, ())
        assert [row["source"] for row in field.shapes()] == ["semi-auto", "manual", "manual"]
        field.cvat.requests.clear()
        assert field.retract().lines() == ["0 shapes of ours are deleted"]
        assert field.writes() == []


def test_long_jobs_are_retracted_group_by_group(field: Field) -> None:
    field.publish(1, WITH_CAR)
    field.cvat.requests.clear()
    field.options = PublishOptions(limits=WriteLimits(shapes_per_group=5))
    assert field.retract().deleted == 12
    assert [len(one.json["shapes"]) for one in field.cvat.requests if one.body] == [5, 5, 2]
    assert field.shapes() == []


def test_retracting_from_a_job_that_is_gone(field: Field) -> None:
    field.publish(1, WITH_CAR)
    job = field.cvat.task(field.task.id).jobs.pop()
    del field.cvat.world.jobs[job.id]
    assert field.retract().deleted == 0
    assert field.lines == [f"job {job.id} is gone, and our shapes with it"]
    assert field.state.ledger.jobs() == []


def test_after_retracting_a_round_can_be_published_again(field: Field) -> None:
    field.publish(1, WITH_CAR)
    field.retract()
    assert field.shapes() == []
    assert field.pending(1) == field.jobs
    field.publish(1, WITH_CAR)
    assert_shows(field, field.maps(WITH_CAR), {})


@pytest.mark.parametrize("step", ["publish", "retract"])
def test_an_edit_during_a_deletion_is_lost_in_that_small_group_only(step: str) -> None:
    with field_of(frames=120) as field:
        field.publish(1, [blocks(seed, holes=False) for seed in range(120)])
        (job,) = field.jobs
        assert len(field.shapes()) > 300
        edited: list[int] = []

        def edit(request: Request) -> None:
            if request.query.get("action") == "delete" and not edited:
                shape = max(field.cvat.job(job).shapes)  # of the last frames
                field.people.relabel(job, shape, field.label(SKY))
                field.people.move(job, shape, [0, 4, 1, 1, 2, 2])
                edited.append(shape)

        field.cvat.before_request = edit
        field.cvat.requests.clear()
        if step == "publish":
            field.publish(2, [blocks(seed, holes=False) for seed in range(1000, 1120)])
        else:
            field.retract()
        field.cvat.before_request = None
        assert field.cvat.job(job).shapes[edited[0]]["points"] == [0, 4, 1, 1, 2, 2]
        deleted, read = [], False
        for request in field.cvat.requests:
            if request.query.get("action") == "delete":
                assert read, "shapes are read again before each deletion"
                deleted.append(len(request.json["shapes"]))
                read = False
            read |= request.method == "GET" and request.path.endswith("/annotations/")
        assert deleted
        assert max(deleted) <= 200
