"""Jobs: how they are listed and found, and how state, stage and assignee move."""

from pathlib import Path

import pytest

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import Forbidden
from tests.contract.place import Json, Own, Place, jobs_of, write_pictures


def ids(rows: list[Json]) -> list[int]:
    return [row["id"] for row in rows]


def change(client: CvatClient, job: Json, **fields: object) -> Json:
    answer: Json = client.change("PATCH", f"jobs/{job['id']}", fields)
    assert answer["id"] == job["id"]
    assert {name: answer[name] for name in ("state", "stage")} == {
        name: client.get(f"jobs/{job['id']}")[name] for name in ("state", "stage")
    }
    return answer


@pytest.fixture(scope="module")
def listed(own: Own) -> Json:
    """A task of three jobs: the second in progress, the third completed."""
    task = own.images([(0,), (1,), (2,)], title="listed")
    jobs = jobs_of(own.client, task)
    change(own.client, jobs[1], state="in progress")
    change(own.client, jobs[2], state="completed")
    return task


def test_jobs_are_listed_newest_first_unless_sorted(client: CvatClient, listed: Json) -> None:
    plain = ids(client.get("jobs", task_id=listed["id"])["results"])
    assert plain == sorted(plain, reverse=True)
    assert ids(client.get("jobs", task_id=listed["id"], sort="id")["results"]) == plain[::-1]
    frames = [job["start_frame"] for job in client.rows("jobs", task_id=listed["id"])]
    assert frames == [0, 1, 2]


def test_jobs_are_found_by_state_and_type(client: CvatClient, listed: Json) -> None:
    jobs = jobs_of(client, listed)
    for state, job in zip(("new", "in progress", "completed"), jobs, strict=True):
        assert ids(client.rows("jobs", task_id=listed["id"], state=state)) == [job["id"]]
    assert client.rows("jobs", task_id=listed["id"], type="ground_truth") == []


def test_completed_jobs_of_a_project_are_found(client: CvatClient, own: Own) -> None:
    project = own.project("listed")
    jobs = [job for n in (1, 2) for job in jobs_of(client, own_task(own, project, n))]
    change(client, jobs[1], state="completed")
    in_project = {"==": [{"var": "project_id"}, project["id"]]}
    completed = {"==": [{"var": "state"}, "completed"]}
    assert sorted(ids(client.rows("jobs", filter=in_project))) == sorted(ids(jobs))
    assert ids(client.rows("jobs", filter={"and": [in_project, completed]})) == [jobs[1]["id"]]


def own_task(own: Own, project: Json, number: int) -> Json:
    return own.images([(number,)], title=f"task {number}", project_id=project["id"])


def test_the_list_for_annotators_shows_jobs_by_name_and_state(
    client: CvatClient, own: Own, listed: Json
) -> None:
    named = {"in": [f"{own.name} listed", {"var": "task_name"}]}
    for state, job in zip(("new", "in progress"), jobs_of(client, listed), strict=False):
        rule = {"and": [{"==": [{"var": "state"}, state]}, named]}
        assert ids(client.rows("jobs", filter=rule)) == [job["id"]]
    finished = {"!": {"==": [{"var": "state"}, "completed"]}}
    assert len(client.rows("jobs", filter={"and": [finished, named]})) == 2


def test_jobs_are_searched_by_the_names_of_task_and_project(
    client: CvatClient, own: Own, images: Json
) -> None:
    found = ids(client.rows("jobs", search=f"{own.name} project"))
    assert set(ids(jobs_of(client, images))) <= set(found)


def test_jobs_changed_since_are_found(client: CvatClient, listed: Json) -> None:
    jobs = jobs_of(client, listed)
    last = max(job["updated_date"] for job in jobs)
    in_task = {"==": [{"var": "task_id"}, listed["id"]]}
    since = {">=": [{"var": "updated_date"}, last]}
    found = ids(client.rows("jobs", filter={"and": [in_task, since]}))
    assert found == [job["id"] for job in jobs if job["updated_date"] == last]


def test_a_job_names_its_task_and_frames(client: CvatClient, images: Json) -> None:
    first, second = jobs_of(client, images)
    assert (first["task_id"], first["project_id"]) == (images["id"], images["project_id"])
    assert (first["frame_count"], second["frame_count"]) == (2, 1)
    assert (first["dimension"], first["assignee"]) == ("2d", None)


def test_finishing_changes_the_state_alone(client: CvatClient, job: Json) -> None:
    assert (job["state"], job["stage"]) == ("new", "annotation")
    assert change(client, job, state="in progress")["stage"] == "annotation"
    done = change(client, job, state="completed")
    assert (done["state"], done["stage"]) == ("completed", "annotation")
    assert done["updated_date"] > job["updated_date"]
    assert client.get(f"tasks/{job['task_id']}")["status"] == "annotation"
    assert change(client, job, state="rejected")["state"] == "rejected"


def test_the_stage_resets_the_state_unless_both_are_sent(client: CvatClient, job: Json) -> None:
    change(client, job, state="completed")
    moved = change(client, job, stage="validation")
    assert (moved["state"], moved["stage"]) == ("new", "validation")
    both = change(client, job, stage="acceptance", state="completed")
    assert (both["state"], both["stage"]) == ("completed", "acceptance")


def test_the_same_stage_again_leaves_the_state(client: CvatClient, job: Json) -> None:
    change(client, job, stage="validation", state="completed")
    assert change(client, job, stage="validation")["state"] == "completed"


def test_assigning_leaves_state_and_stage(client: CvatClient, job: Json) -> None:
    me = client.me()["id"]
    change(client, job, state="completed", stage="validation")
    for assignee in (me, None):
        answer = change(client, job, assignee=assignee)
        assert (answer["state"], answer["stage"]) == ("completed", "validation")
        assert (answer["assignee"] or {}).get("id") == assignee


def test_jobs_are_found_by_assignee(client: CvatClient, job: Json) -> None:
    me = client.me()
    change(client, job, assignee=me["id"])
    assert job["id"] in ids(client.rows("jobs", assignee=me["username"]))
    change(client, job, assignee=None)
    assert job["id"] not in ids(client.rows("jobs", assignee=me["username"]))


def test_an_unknown_field_is_forbidden(client: CvatClient, job: Json) -> None:
    with pytest.raises(Forbidden):
        client.change("PATCH", f"jobs/{job['id']}", {"no_such_field": 1})


# What somebody may do who was given one job and no more


@pytest.fixture(scope="module")
def shared(own: Own, place: Place, worker: CvatClient) -> tuple[Json, Json]:
    """The worker's job, and another of the same task."""
    mine, other = jobs_of(own.client, own.images([(0,), (1,)], title="shared"))
    try:
        own.client.change("PATCH", f"jobs/{mine['id']}", {"assignee": worker.me()["id"]})
    except Forbidden:
        if place.address.organization is None:
            pytest.skip("in the personal space only administrators give jobs to others")
        raise
    return mine, other


def test_a_worker_sees_the_own_jobs_alone(
    worker: CvatClient, place: Place, shared: tuple[Json, Json]
) -> None:
    mine, other = shared
    assert ids(worker.rows("jobs", task_id=mine["task_id"])) == [mine["id"]]
    for path in (f"jobs/{other['id']}", f"jobs/{other['id']}/annotations"):
        with pytest.raises(Forbidden):
            worker.get(path)


def test_a_worker_annotates_and_finishes(
    client: CvatClient, worker: CvatClient, shared: tuple[Json, Json]
) -> None:
    mine, _ = shared
    (label, *_) = worker.rows("labels", job_id=mine["id"])
    body = {"tags": [{"frame": 0, "label_id": label["id"]}]}
    path = f"jobs/{mine['id']}"
    worker.send("PATCH", f"{path}/annotations", body, action="create")
    assert worker.change("PATCH", path, {"state": "completed"})["state"] == "completed"
    worker.send("PATCH", f"{path}/annotations", body, action="create")
    job = client.get(path)
    assert (job["state"], len(client.get(f"{path}/annotations")["tags"])) == ("completed", 2)


def test_a_worker_sees_the_frames_and_tells_of_issues(
    worker: CvatClient, shared: tuple[Json, Json], tmp_path: Path
) -> None:
    mine, _ = shared
    path = f"jobs/{mine['id']}"
    assert worker.get(f"{path}/data/meta")["frames"][0]["name"] == "p000.png"
    query = {"type": "frame", "number": 0, "quality": "original"}
    worker.download(f"{path}/data", tmp_path / "frame.png", **query)
    assert (tmp_path / "frame.png").read_bytes() == write_pictures(tmp_path, 1)[0].read_bytes()
    body = {"job": mine["id"], "frame": 0, "position": [1, 1], "message": "Which class?"}
    issue = worker.send("POST", "issues", body)
    assert worker.change("PATCH", f"issues/{issue['id']}", {"resolved": True})["resolved"]


def test_a_worker_may_not_move_the_stage_or_assign(
    worker: CvatClient, shared: tuple[Json, Json]
) -> None:
    mine, other = shared
    for fields in ({"stage": "acceptance"}, {"assignee": None}):
        with pytest.raises(Forbidden):
            worker.change("PATCH", f"jobs/{mine['id']}", fields)
    with pytest.raises(Forbidden):
        worker.change("PATCH", f"jobs/{other['id']}", {"state": "completed"})
    with pytest.raises(Forbidden):
        worker.change("DELETE", f"tasks/{mine['task_id']}", None)
