from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvsa_cvat.cvat.answers.finished import CollectPolicy
from hvsa_cvat.cvat.answers.unfinished import unfinished_jobs
from hvsa_cvat.cvat.state import State
from hvsa_cvat.errors import ServerError
from tests.asked_task import CAR, ROAD, Asking, Places, picture
from tests.standin import Fault, ProcessDied, Request, StandIn

AGAIN = "Then finish the job again. What you cannot tell you may leave: it comes back only once."
CHECK = "Look at the picture, correct what is wrong, and click the x of the tag."


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with StandIn() as cvat:
        yield Places(cvat, tmp_path_factory.mktemp("asked"))


@pytest.fixture
def asking(places: Places, tmp_path: Path) -> Iterator[Asking]:
    with places.fresh(tmp_path / "state") as asking:
        yield asking


def leave_a_gap(asking: Asking) -> None:
    """Ann erases two rows of her right half and does not look at her left half; Bob does all."""
    ann, _ = asking.jobs
    points = asking.points_of(1, "........ " * 4 + "....#### ....#### ........ ........")
    asking.worker(ann).move(ann, asking.mask(1, ROAD), points)
    asking.check(1, 2)
    asking.finish()


def states(asking: Asking) -> list[str]:
    return [asking.cvat.job(job).state for job in asking.jobs]


def test_a_job_with_a_gap_goes_back_with_an_issue_at_that_spot(asking: Asking) -> None:
    leave_a_gap(asking)
    ann, bob = asking.jobs
    assert asking.collect() is None
    factor = asking.request.cards[0].factor
    assert asking.issues() == [
        (
            ann,
            0,
            [0, 0, 16, 16],
            f"HVSA: the red tag is still on this picture. {CHECK} {AGAIN}",
        ),
        (
            ann,
            1,
            [4 * factor, 6 * factor, 8 * factor, 8 * factor],
            "HVSA: 25 % of what is asked for on this picture has no class yet. Paint it, up to its "
            f"edges. {AGAIN}",
        ),
    ]
    assert states(asking) == ["rejected", "completed"]
    assert asking.log == [
        f"job {ann}: finished by ann; 2 of its 2 pictures have pixels without a class: "
        "100 % on frame 1, 25 % on frame 1",
        f"job {ann}: goes back to ann because of the gaps; it goes back only once: "
        f"{asking.cvat.url}/tasks/{asking.request.task}/jobs/{ann}?frame=0",
        f"job {bob}: finished by bob; 0 of its 1 pictures have pixels without a class",
    ]
    assert asking.collect() is None


def test_the_link_to_it_opens_the_first_picture_whose_note_is_open(asking: Asking) -> None:
    leave_a_gap(asking)
    asking.collect()
    ann, _ = asking.jobs
    first, second = asking.cvat.world.issues
    page = f"{asking.cvat.url}/tasks/{asking.request.task}/jobs/{ann}"
    assert links(asking) == {ann: f"{page}?frame=0"}
    asking.worker(ann).resolve(first)
    assert links(asking) == {ann: f"{page}?frame=1"}
    asking.worker(ann).resolve(second)
    assert links(asking) == {ann: f"{page}?openGuide"}


def links(asking: Asking) -> dict[int, str]:
    client = asking.connection.client
    found = unfinished_jobs(client, asking.request, CollectPolicy())
    return {job.job: job.link for job in found}


def test_the_second_time_it_is_taken_as_it_is(asking: Asking) -> None:
    leave_a_gap(asking)
    asking.collect()
    ann, _ = asking.jobs
    asking.finish(ann)
    answers = asking.collect()
    assert answers is not None
    rows = picture(answers.annotations[0].label_map).split()
    assert rows == [*["....1111"] * 4, *["....0000"] * 2, *["........"] * 2]
    assert len(asking.issues()) == 2


def test_even_if_it_is_worse_then(asking: Asking) -> None:
    leave_a_gap(asking)
    asking.collect()
    ann, _ = asking.jobs
    asking.worker(ann).remove_all(ann)
    asking.finish(ann)
    assert asking.collect() is not None
    assert len(asking.issues()) == 2


def test_a_gap_that_was_filled_is_no_more(asking: Asking) -> None:
    leave_a_gap(asking)
    asking.collect()
    ann, _ = asking.jobs
    asking.worker(ann).resolve(next(iter(asking.cvat.world.issues)))
    asking.check(0)
    asking.draw(1, "sky", [4, 6, 8, 6, 8, 8, 4, 8])
    asking.finish(ann)
    answers = asking.collect()
    assert answers is not None
    assert picture(answers.annotations[0].label_map).split()[7] == "00002222"


def test_small_gaps_are_no_matter(asking: Asking) -> None:
    ann, _ = asking.jobs
    # One of 32 pixels is erased.
    rows = "........ " * 4 + "....#### ....#### ....#### ....###."
    asking.worker(ann).move(ann, asking.mask(1, ROAD), asking.points_of(1, rows))
    asking.check(0, 1, 2)
    asking.finish()
    assert asking.collect() is not None
    assert asking.log[0].endswith("1 of its 2 pictures have pixels without a class: 3 % on frame 1")


def test_the_threshold_is_the_policys(asking: Asking) -> None:
    leave_a_gap(asking)
    assert asking.collect(gap_threshold=1.0) is not None
    assert asking.issues() == []


def test_an_empty_job_gets_one_issue(asking: Asking) -> None:
    _, bob = asking.jobs
    asking.finish()
    assert asking.collect() is None
    assert states(asking) == ["rejected", "rejected"]
    text = "nobody has checked anything in this job yet: all red tags are still there."
    assert asking.issues()[1] == (bob, 2, [0, 0, 16, 16], f"HVSA: {text} {CHECK} {AGAIN}")


def test_removed_masks_and_tags_are_back_when_the_job_is(asking: Asking) -> None:
    """ "Remove all annotations" by mistake."""
    ann, _ = asking.jobs
    before = asking.cvat.shapes(ann)
    asking.worker(ann).remove_all(ann)
    asking.check(2)
    asking.finish()
    assert asking.collect() is None
    assert f"job {ann}: {len(before)} removed masks are put back" in asking.log
    assert masks_of(asking, ann) == [(s["frame"], s["group"], s["points"]) for s in before]
    assert sorted(tag["frame"] for tag in asking.cvat.job(ann).tags.values()) == [0, 1]
    asking.check(0, 1)
    asking.finish(ann)
    answers = asking.collect()
    assert answers is not None
    rows = picture(answers.annotations[0].label_map).split()
    assert rows == [*["00011111"] * 4, *["00000000"] * 4]


def test_a_tag_that_is_still_there_gets_no_second_one(asking: Asking) -> None:
    ann, _ = asking.jobs
    before = masks_of(asking, ann)
    asking.worker(ann).delete(ann, asking.mask(0, CAR))
    asking.check(1, 2)
    asking.finish()
    assert asking.collect() is None
    assert masks_of(asking, ann) == before
    assert [tag["frame"] for tag in asking.cvat.job(ann).tags.values()] == [0]
    asking.check(0)
    asking.finish(ann)
    answers = asking.collect()
    assert answers is not None
    rows = picture(answers.annotations[0].label_map).split()
    assert rows == [*["00011111"] * 4, *["00000000"] * 4]


def masks_of(asking: Asking, job: int) -> list[tuple[int, int, list[float]]]:
    ours = [s for s in asking.cvat.shapes(job) if s["group"]]
    return sorted((s["frame"], s["group"], s["points"]) for s in ours)


def test_removed_masks_that_something_replaces_stay_away(asking: Asking) -> None:
    ann, _ = asking.jobs
    asking.worker(ann).remove_all(ann)
    asking.draw(0, "car", [0, 0, 2, 0, 2, 8, 0, 8])
    asking.check(2)
    asking.finish()
    assert asking.collect() is None
    put_back = {group for _, group, _ in masks_of(asking, ann)}
    lost = {p.number for p in asking.request.parts if p.card == 1 or (p.card, p.label) == (0, CAR)}
    assert put_back == lost


def test_masks_are_put_back_once_even_if_the_answer_gets_lost(asking: Asking) -> None:
    ann, _ = asking.jobs
    before = masks_of(asking, ann)
    asking.worker(ann).remove_all(ann)
    asking.check(2)
    asking.finish()

    def lose(request: Request) -> Fault | None:
        return Fault.LATE if request.query.get("action") == "create" else None

    asking.cvat.faults = lose
    with pytest.raises(ServerError):
        asking.collect()
    asking.cvat.faults = {}
    assert asking.collect() is None
    assert states(asking) == ["rejected", "completed"]
    assert masks_of(asking, ann) == before


def test_issues_of_people_are_not_taken_for_ours(asking: Asking) -> None:
    leave_a_gap(asking)
    ann, _ = asking.jobs
    body = {"job": ann, "frame": 0, "position": [0, 0, 1, 1], "message": "Is this a car?"}
    asking.worker(ann).call("POST", "issues", body)
    asking.collect()
    assert len(asking.issues()) == 3


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
    assert len(asking.issues()) == 2


def test_it_goes_back_once_whenever_the_process_ends(places: Places, tmp_path: Path) -> None:
    def at_the_end(asking: Asking) -> None:
        """Ann finishes again, with something of the gap left."""
        assert states(asking) == ["rejected", "completed"]
        assert len(asking.issues()) == 2
        asking.relabel(0, ROAD, "sky")
        asking.finish(asking.jobs[0])
        answers = asking.collect()
        assert answers is not None
        assert picture(answers.annotations[0].label_map).split()[7] == "2222...."
        assert len(asking.issues()) == 2

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
