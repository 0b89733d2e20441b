from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hvsa_cvat.annotation.run_lengths import encode_masks
from hvsa_cvat.cvat.masks.label_map_shapes import mask_shape
from hvsa_cvat.cvat.masks.task_labels import read_labels
from hvsa_cvat.cvat.task import read_task
from hvsa_cvat.types import FrameAnnotation
from tests.asked_task import BLACK, CLASSES, Asking, Places, picture
from tests.standin import Request, StandIn

ROW = [0, 0, 8, 0, 8, 1, 0, 1]
"""A polygon of the topmost row."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with StandIn() as cvat:
        yield Places(cvat, tmp_path_factory.mktemp("asked"))


@pytest.fixture
def asking(places: Places, tmp_path: Path) -> Iterator[Asking]:
    with places.fresh(tmp_path / "state") as asking:
        yield asking


def jobs(asking: Asking) -> list[int]:
    """Of the parent: frames 0 and 1, frames 2 and 3."""
    return [job.id for job in asking.cvat.task(asking.task.id).jobs]


def label(asking: Asking, name: str) -> int:
    return asking.cvat.label(asking.cvat.task(asking.task.id), name)


def draw(asking: Asking, job: int, name: str, points: Sequence[float], **shape: Any) -> int:
    row = {"frame": 0, "label_id": label(asking, name), "points": list(points), **shape}
    return asking.person("admin").draw(job, row)


def finish(asking: Asking) -> None:
    for job in jobs(asking):
        asking.person("admin").finish(job)


def publish(asking: Asking, job: int, frame: int, drawing: str) -> list[int]:
    """Push masks as ours, one a class; their ids by class."""
    rows = [[255 if c == "." else int(c) for c in row] for row in drawing.split()]
    masks = encode_masks(np.array(rows, np.uint8))
    shapes = [
        mask_shape(frame, asking.task.classes[index].id, points)
        for index, points in sorted(masks.items())
    ]
    print_of = read_labels(
        asking.client, asking.state, asking.task.id, asking.task.label_ids
    ).fingerprint
    asking.state.ledger.intend(job, [(frame, print_of(shape)) for shape in shapes])
    made = asking.client.send(
        "PATCH", f"jobs/{job}/annotations", {"shapes": shapes}, action="create"
    )["shapes"]
    asking.state.ledger.settle(job, [(print_of(shape), shape["id"]) for shape in made])
    return [shape["id"] for shape in made]


def rows_of(found: Sequence[FrameAnnotation]) -> dict[int, list[str]]:
    """The rows that are not blank of each frame."""
    return {
        one.frame: [row for row in picture(one.label_map).split() if row != "." * 8]
        for one in found
    }


def test_what_people_draw_in_finished_jobs_is_an_answer(asking: Asking) -> None:
    first, second = jobs(asking)
    draw(asking, first, "car", ROW, frame=1)
    draw(asking, second, "sky", ROW, frame=2)
    assert asking.corrections() == ()
    asking.person("admin").finish(first)
    (found,) = asking.corrections()
    assert (found.frame, found.segments) == (1, ())
    assert rows_of([found]) == {1: ["11111111"]}


def test_the_policy_may_ask_for_acceptance(asking: Asking) -> None:
    first, _ = jobs(asking)
    draw(asking, first, "car", ROW)
    finish(asking)
    assert asking.corrections(accepted_only=True) == ()
    asking.person("admin").accept(first)
    assert len(asking.corrections(accepted_only=True)) == 1


def test_what_we_pushed_is_no_answer(asking: Asking) -> None:
    first, _ = jobs(asking)
    publish(asking, first, 0, "00001111 " + "22222222 " * 7)
    finish(asking)
    assert asking.corrections() == ()


def test_a_mask_of_ours_that_people_changed_is_an_answer(asking: Asking) -> None:
    first, _ = jobs(asking)
    road, car, _ = publish(asking, first, 0, "00001111 " + "22222222 " * 7)
    admin = asking.person("admin")
    admin.relabel(first, road, label(asking, "sky"))
    admin.move(first, car, [0, 2, 4, 0, 5, 0])
    finish(asking)
    assert rows_of(asking.corrections()) == {0: ["222211.."]}


def test_people_lie_over_what_they_corrected_of_ours(asking: Asking) -> None:
    first, _ = jobs(asking)
    (road,) = publish(asking, first, 0, "00000000 " + "........ " * 7)
    admin = asking.person("admin")
    draw(asking, first, "sky", [0, 0, 2, 0, 2, 1, 0, 1], z_order=-5)
    admin.move(first, road, [0, 6, 0, 0, 5, 0])
    finish(asking)
    assert rows_of(asking.corrections()) == {0: ["220000.."]}


def test_tracks_are_answers_on_all_frames_they_show(asking: Asking) -> None:
    _, second = jobs(asking)
    box = {"type": "rectangle", "outside": False, "occluded": False, "points": [0, 0, 8, 1]}
    track = {
        "frame": 2,
        "label_id": label(asking, "road"),
        "shapes": [{**box, "frame": 2}],
    }
    asking.person("admin").draw_track(second, track)
    finish(asking)
    assert rows_of(asking.corrections()) == {2: ["00000000"], 3: ["00000000"]}


def test_lines_and_damaged_masks_are_noted(asking: Asking) -> None:
    first, _ = jobs(asking)
    line = draw(asking, first, "car", [0, 0, 5, 5], type="polyline")
    mask = draw(asking, first, "car", [0, 3, 0, 0, 3, 3], type="mask")
    finish(asking)
    assert asking.corrections() == ()
    assert asking.log == [
        f"job {first}: polyline {line} on frame 0 is ignored: it covers no pixels",
        f"job {first}: mask {mask} on frame 0 cannot be read: its runs are 3 pixels, its box 16; "
        "delete it in CVAT or draw it again",
    ]


def test_labels_that_are_no_classes_are_passed_over(asking: Asking) -> None:
    first, _ = jobs(asking)
    body = {"labels": [{"name": "dog"}]}
    asking.person("admin").call("PATCH", f"tasks/{asking.task.id}", body)
    draw(asking, first, "dog", ROW)
    finish(asking)
    assert asking.corrections() == ()


def test_shapes_outside_the_job_are_passed_over(asking: Asking) -> None:
    first, _ = jobs(asking)
    draw(asking, first, "car", ROW, frame=3)
    finish(asking)
    assert asking.corrections() == ()


def test_ground_truth_jobs_are_not_read(asking: Asking) -> None:
    admin = asking.person("admin")
    body = {
        "type": "ground_truth",
        "task_id": asking.task.id,
        "frame_selection_method": "manual",
        "frames": [0],
    }
    truth = admin.call("POST", "jobs", body)["id"]
    draw(asking, truth, "car", ROW)
    admin.finish(truth)
    assert asking.corrections() == ()


def test_deleted_frames_are_left_out_and_do_not_count(asking: Asking) -> None:
    first, second = jobs(asking)
    draw(asking, first, "car", ROW, frame=1)
    draw(asking, second, "sky", ROW, frame=3)
    finish(asking)
    body = {"deleted_frames": [1]}
    asking.person("admin").call("PATCH", f"tasks/{asking.task.id}/data/meta", body)
    asking.task = read_task(asking.client, asking.task.id)
    assert rows_of(asking.corrections()) == {2: ["22222222"]}


def test_jobs_that_overlap_are_put_together(asking: Asking) -> None:
    cvat, admin = asking.cvat, asking.person("admin")
    made = cvat.add_task("overlapping", CLASSES, frames=[BLACK] * 5, job_size=3, overlap=1)
    asking.task = read_task(asking.client, made.id)
    first, second = jobs(asking)
    draw(asking, first, "road", ROW, frame=2)
    draw(asking, second, "car", [0, 0, 4, 0, 4, 2, 0, 2], frame=2)
    admin.finish(first)
    assert rows_of(asking.corrections()) == {2: ["00000000"]}
    admin.finish(second)
    assert rows_of(asking.corrections()) == {2: ["11110000", "1111...."]}


def test_a_job_that_changes_while_it_is_read_is_read_again(asking: Asking) -> None:
    first, _ = jobs(asking)
    shape = draw(asking, first, "car", ROW)
    finish(asking)
    times = []

    def edit(request: Request) -> None:
        if request.path.startswith(f"/api/jobs/{first}/annotations"):
            times.append(request)
            if len(times) == 1:
                asking.person("admin").relabel(first, shape, label(asking, "sky"))

    asking.cvat.after_request = edit
    assert rows_of(asking.corrections()) == {0: ["22222222"]}
    asking.cvat.after_request = lambda request: asking.person("admin").relabel(
        first, shape, label(asking, "sky")
    )
    assert asking.corrections() == ()
    assert asking.log == [
        f"job {first} changes while it is read; its corrections are left for later"
    ]


def test_a_renamed_label_is_the_same_class(asking: Asking) -> None:
    first, _ = jobs(asking)
    draw(asking, first, "car", ROW)
    finish(asking)
    body = {"labels": [{"id": label(asking, "car"), "name": "vehicle"}]}
    asking.person("admin").call("PATCH", f"tasks/{asking.task.id}", body)
    known = [(one.id, one.name) for one in asking.task.classes]
    asking.task = read_task(asking.client, asking.task.id, known=known)
    assert rows_of(asking.corrections()) == {0: ["11111111"]}
