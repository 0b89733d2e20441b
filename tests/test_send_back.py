from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvsa_cvat.cvat.state import State
from hvsa_cvat.errors import ServerError
from tests.asked_task import Asking, Places, picture
from tests.standin import Fault, ProcessDied, Request, StandIn

ADVICE = (
    "Give it a class or draw it, up to its edges, and finish the job again. What you cannot tell "
    "you may leave as it is: a job comes back only once."
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with StandIn() as cvat:
        yield Places(cvat, tmp_path_factory.mktemp("asked"))


@pytest.fixture
def asking(places: Places, tmp_path: Path) -> Iterator[Asking]:
    with places.fresh(tmp_path / "state") as asking:
        yield asking


def leave_a_gap(asking: Asking) -> None:
    """Ann leaves two rows of her right half and one pixel further up; Bob does all."""
    asking.set_class(1, "road")
    asking.set_class(2, "mixed")
    asking.draw(asking.jobs[0], "car", [4, 0, 8, 0, 8, 6, 4, 6, 4, 2, 5, 2, 5, 1, 4, 1])
    asking.set_class(3, "sky")
    asking.finish()


def states(asking: Asking) -> list[str]:
    return [asking.cvat.job(job).state for job in asking.jobs]


def test_a_job_with_a_gap_goes_back_with_an_issue_at_that_spot(asking: Asking) -> None:
    leave_a_gap(asking)
    ann, bob = asking.jobs
    assert asking.collect() is None
    assert asking.issues() == [
        (
            ann,
            0,
            [4, 6, 8, 8],
            f"HVSA: 28 % of the part asked for on this frame has no class yet. {ADVICE}",
        )
    ]
    assert states(asking) == ["rejected", "completed"]
    assert asking.log == [
        f"job {ann}: finished by ann; 1 of its 2 samples have pixels without a class: "
        "28 % on frame 1",
        f"job {ann}: goes back to ann because of the gaps; it goes back only once",
        f"job {bob}: finished by bob; 0 of its 1 samples have pixels without a class",
    ]
    assert asking.collect() is None


def test_the_second_time_it_is_taken_as_it_is(asking: Asking) -> None:
    leave_a_gap(asking)
    asking.collect()
    ann, _ = asking.jobs
    asking.finish(ann)
    answers = asking.collect()
    assert answers is not None
    rows = picture(answers.annotations[0].label_map).split()
    assert rows == ["00001111", "0000.111", *["00001111"] * 4, *["0000...."] * 2]
    assert len(asking.issues()) == 1


def test_even_if_it_is_worse_then(asking: Asking) -> None:
    leave_a_gap(asking)
    asking.collect()
    ann, _ = asking.jobs
    asking.worker(ann).remove_all(ann)
    asking.finish(ann)
    assert asking.collect() is not None
    assert len(asking.issues()) == 1


def test_a_gap_that_was_filled_is_no_more(asking: Asking) -> None:
    leave_a_gap(asking)
    asking.collect()
    ann, _ = asking.jobs
    asking.worker(ann).resolve(next(iter(asking.cvat.world.issues)))
    asking.set_class(2, "sky")
    asking.finish(ann)
    answers = asking.collect()
    assert answers is not None
    assert picture(answers.annotations[0].label_map).split()[7] == "00002222"


def test_small_gaps_are_no_matter(asking: Asking) -> None:
    asking.set_class(1, "road")
    asking.set_class(3, "sky")
    ann, _ = asking.jobs
    # One of 32 pixels is left.
    asking.draw(ann, "car", [4, 0, 8, 0, 8, 8, 5, 8, 5, 7, 4, 7])
    asking.finish()
    assert asking.collect() is not None
    assert asking.log[0].endswith("1 of its 2 samples have pixels without a class: 3 % on frame 1")


def test_the_threshold_is_the_policys(asking: Asking) -> None:
    leave_a_gap(asking)
    assert asking.collect(gap_threshold=0.3) is not None
    assert asking.issues() == []


def test_an_empty_job_gets_one_issue(asking: Asking) -> None:
    _, bob = asking.jobs
    asking.finish()
    assert asking.collect() is None
    assert states(asking) == ["rejected", "rejected"]
    message = f"HVSA: nothing in this job has a class yet. {ADVICE}"
    assert asking.issues()[1] == (bob, 1, [4, 0, 8, 8], message)


def test_removed_outlines_are_back_when_the_job_is(asking: Asking) -> None:
    ann, bob = asking.jobs
    asking.worker(ann).remove_all(ann)
    asking.set_class(3, "sky")
    asking.finish()
    assert asking.collect() is None
    assert f"job {ann}: 2 removed outlines are put back" in asking.log
    outlines = asking.cvat.shapes(ann)
    points = [(one["group"], one["points"]) for one in outlines]
    assert points == [(r.number, list(r.points)) for r in asking.request.regions[:2]]
    assert len(asking.cvat.shapes(bob)) == 1
    for outline, value in zip(outlines, ("road", "car"), strict=True):
        asking.worker(ann).set_class(ann, outline["id"], asking.attribute, value)
    asking.finish(ann)
    answers = asking.collect()
    assert answers is not None
    assert picture(answers.annotations[0].label_map).split() == ["00001111"] * 8


def test_removed_outlines_of_parts_that_were_drawn_stay_away(asking: Asking) -> None:
    ann, _ = asking.jobs
    asking.worker(ann).remove_all(ann)
    asking.draw(ann, "car", [0, 0, 4, 0, 4, 8, 0, 8])
    asking.set_class(3, "sky")
    asking.finish()
    assert asking.collect() is None
    assert [one["group"] for one in asking.cvat.shapes(ann) if one["type"] == "polyline"] == [2]


def test_outlines_are_put_back_once_even_if_the_answer_gets_lost(asking: Asking) -> None:
    ann, _ = asking.jobs
    asking.worker(ann).remove_all(ann)
    asking.set_class(3, "sky")
    asking.finish()

    def lose(request: Request) -> Fault | None:
        return Fault.LATE if request.query.get("action") == "create" else None

    asking.cvat.faults = lose
    with pytest.raises(ServerError):
        asking.collect()
    asking.cvat.faults = {}
    assert asking.collect() is None
    assert states(asking) == ["rejected", "completed"]
    assert [one["group"] for one in asking.cvat.shapes(ann)] == [1, 2]


def test_a_frame_gets_one_issue_for_all_its_gaps(asking: Asking) -> None:
    ann, _ = asking.jobs
    asking.draw(ann, "car", [0, 0, 8, 0, 8, 4, 0, 4])
    asking.finish(ann)
    asking.collect()
    ((_, _, position, message),) = asking.issues()
    assert position == [0, 4, 8, 8]
    assert message.startswith("HVSA: 50 % of the 2 unfinished parts asked for on this frame")


def test_issues_of_people_are_not_taken_for_ours(asking: Asking) -> None:
    leave_a_gap(asking)
    ann, _ = asking.jobs
    body = {"job": ann, "frame": 0, "position": [0, 0, 1, 1], "message": "Is this a car?"}
    asking.worker(ann).call("POST", "issues", body)
    asking.collect()
    assert len(asking.issues()) == 2


def test_a_job_goes_back_to_the_stage_of_annotation(asking: Asking) -> None:
    leave_a_gap(asking)
    ann, bob = asking.jobs
    for job in (ann, bob):
        asking.person("admin").accept(job)
    assert asking.collect(accepted_only=True) is None
    assert states(asking) == ["rejected", "completed"]
    assert asking.cvat.job(ann).stage == "annotation"
    asking.finish(ann)
    assert asking.collect(accepted_only=True) is None
    asking.person("admin").accept(ann)
    assert asking.collect(accepted_only=True) is not None


def test_a_job_taken_up_again_meanwhile_is_left_to_its_annotator(asking: Asking) -> None:
    leave_a_gap(asking)
    ann, _ = asking.jobs

    def reopen(request: Request) -> None:
        if request.method == "POST":
            asking.worker(ann).reopen(ann)

    asking.cvat.after_request = reopen
    assert asking.collect() is None
    assert states(asking) == ["in progress", "completed"]
    asking.cvat.after_request = None
    asking.finish(ann)
    assert asking.collect() is None
    assert states(asking) == ["rejected", "completed"]
    assert len(asking.issues()) == 1


def test_it_goes_back_once_whenever_the_process_ends(places: Places, tmp_path: Path) -> None:
    def at_the_end(asking: Asking) -> None:
        """Ann finishes again, and fills the gap or not."""
        assert states(asking) == ["rejected", "completed"]
        assert len(asking.issues()) == 1
        asking.set_class(1, "sky")
        asking.finish(asking.jobs[0])
        answers = asking.collect()
        assert answers is not None
        assert picture(answers.annotations[0].label_map).split()[7] == "2222...."
        assert len(asking.issues()) == 1

    with places.fresh(tmp_path / "undisturbed") as asking:
        leave_a_gap(asking)
        before = len(asking.cvat.requests)
        asking.collect()
        requests = len(asking.cvat.requests) - before
        at_the_end(asking)
    for number in range(requests):
        for when in ("before", "after"):
            with places.fresh(tmp_path / f"{number} {when}") as asking:
                leave_a_gap(asking)
                with pytest.raises(ProcessDied), asking.cvat.process_dies(number, when):
                    asking.collect()
                asking.state = State(asking.state.folder)
                with places.client() as asking.client:
                    if states(asking)[0] == "completed":
                        asking.collect()
                    at_the_end(asking)


@pytest.mark.parametrize("fault", [Fault.LATE, Fault.RESET_AFTER, Fault.BUSY])
def test_it_goes_back_once_whatever_fails(places: Places, tmp_path: Path, fault: Fault) -> None:
    with places.fresh(tmp_path / "undisturbed") as asking:
        asking.finish(asking.jobs[0])
        before = len(asking.cvat.requests)
        asking.collect()
        requests = len(asking.cvat.requests) - before
    for number in range(requests):
        with places.fresh(tmp_path / str(number)) as asking:
            asking.finish(asking.jobs[0])
            asking.cvat.faults = {len(asking.cvat.requests) + number: fault}
            asking.collect()
            asking.cvat.faults = {}
            assert states(asking)[0] == "rejected"
            assert len(asking.issues()) == 1
