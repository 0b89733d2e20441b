"""Projects, labels, guides, and tasks made of uploaded pictures."""

from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import pytest

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import NotFound, Refused
from hvsa_cvat.errors import ServerError
from tests.contract.place import LABELS, Json, Own, jobs_of, write_pictures


def names(client: CvatClient, task: Json) -> list[str]:
    return [frame["name"] for frame in client.get(f"tasks/{task['id']}/data/meta")["frames"]]


def test_labels_come_back_as_sent_in_their_order(client: CvatClient, project: Json) -> None:
    rows = client.rows("labels", project_id=project["id"])
    assert [row["name"] for row in rows] == [label["name"] for label in LABELS]
    for row, label in zip(rows, LABELS, strict=True):
        assert (row["color"], row["type"]) == (label["color"], label["type"])
        sent = [
            {**attribute, "id": row["attributes"][0]["id"]} for attribute in label["attributes"]
        ]
        assert row["attributes"] == sent


def test_a_label_added_later_comes_last(client: CvatClient, own: Own) -> None:
    project = own.project("growing")
    client.send("PATCH", f"projects/{project['id']}", {"labels": [{"name": "car", "type": "any"}]})
    rows = client.rows("labels", project_id=project["id"])
    assert [row["name"] for row in rows] == [*(label["name"] for label in LABELS), "car"]


def test_a_task_in_a_project_has_the_projects_labels(
    client: CvatClient, project: Json, images: Json
) -> None:
    assert images["project_id"] == project["id"]
    expected = client.rows("labels", project_id=project["id"])
    assert client.rows("labels", task_id=images["id"]) == expected
    job = jobs_of(client, images)[0]
    assert client.rows("labels", job_id=job["id"]) == expected


def test_the_mapping_orders_frames_and_cuts_jobs(client: CvatClient, images: Json) -> None:
    assert names(client, images) == ["p002.png", "p000.png", "p003.png"]
    assert (images["size"], images["mode"], images["dimension"]) == (3, "annotation", "2d")
    jobs = jobs_of(client, images)
    assert [(job["start_frame"], job["stop_frame"]) for job in jobs] == [(0, 1), (2, 2)]
    assert {(job["state"], job["stage"], job["type"]) for job in jobs} == {
        ("new", "annotation", "annotation")
    }


def test_a_file_outside_the_mapping_is_dropped(
    client: CvatClient, own: Own, tmp_path: Path
) -> None:
    files = write_pictures(tmp_path, 3)
    task = own.task(files, {"job_file_mapping": [["p002.png"]]})
    assert names(client, task) == ["p002.png"]


@pytest.mark.parametrize(
    "data",
    [
        {"job_file_mapping": [["p000.png", "absent.png"]]},
        {"job_file_mapping": [["p000.png"]], "sorting_method": "random"},
        {"job_file_mapping": [["p000.png"]], "start_frame": 1},
    ],
)
def test_a_bad_mapping_fails_later_and_leaves_a_task_without_jobs(
    client: CvatClient, own: Own, tmp_path: Path, data: Json
) -> None:
    task = own.empty_task("failed")
    with pytest.raises(ServerError, match="cannot make frames"):
        own.upload(task, write_pictures(tmp_path, 1), data)
    assert client.rows("jobs", task_id=task["id"]) == []
    after = client.get(f"tasks/{task['id']}")
    assert not (after.get("size") and after["mode"] and after["jobs"]["count"])


@pytest.mark.parametrize("mapping", [[["p000.png"], ["p000.png"]], [["p000.png"], []]])
def test_a_repeated_file_or_an_empty_job_is_refused(
    own: Own, tmp_path: Path, mapping: list[list[str]]
) -> None:
    task = own.empty_task("refused")
    with pytest.raises(Refused) as refusal:
        own.upload(task, write_pictures(tmp_path, 1), {"job_file_mapping": mapping})
    assert refusal.value.status == 400


def test_a_task_without_data_says_so(client: CvatClient, own: Own) -> None:
    task = client.get(f"tasks/{own.empty_task('empty')['id']}")
    assert not task.get("size")
    assert task["mode"] == ""
    assert task["jobs"]["count"] == 0


def test_a_second_upload_is_refused(client: CvatClient, images: Json) -> None:
    with pytest.raises(Refused):
        client.send("POST", f"tasks/{images['id']}/data", {"image_quality": 70})


def test_the_background_request_says_how_it_went(client: CvatClient, images: Json) -> None:
    identity = f"action=create&target=task&target_id={images['id']}"
    request = client.get(f"requests/{quote(identity, safe='')}")
    assert (request["id"], request["status"]) == (identity, "finished")
    assert request["operation"]["task_id"] == images["id"]


def test_an_unknown_background_request_is_not_found(client: CvatClient) -> None:
    identity = "action=create&target=task&target_id=2000000000"
    with pytest.raises(NotFound):
        client.get(f"requests/{quote(identity, safe='')}")


def test_a_task_is_found_by_its_tracker_link(client: CvatClient, own: Own, images: Json) -> None:
    link = images["bug_tracker"]
    rule = {"==": [{"var": "tracker_link"}, link]}
    assert [task["id"] for task in client.rows("tasks", filter=rule)] == [images["id"]]
    start = link[:-1]
    assert client.rows("tasks", filter={"==": [{"var": "tracker_link"}, start]}) == []
    contains = {"in": [start, {"var": "tracker_link"}]}
    assert [task["id"] for task in client.rows("tasks", filter=contains)] == [images["id"]]
    assert {job["bug_tracker"] for job in jobs_of(client, images)} == {link}


def test_tasks_are_found_by_project(client: CvatClient, project: Json, images: Json) -> None:
    assert [task["id"] for task in client.rows("tasks", project_id=project["id"])] == [images["id"]]


def test_projects_are_found_by_a_part_of_the_name(client: CvatClient, own: Own) -> None:
    link = f"hvsa://{own.name}/tasks/1"
    project = own.project("found", bug_tracker=link)
    rule = {"in": [f"{own.name} fou", {"var": "name"}]}
    (row,) = client.rows("projects", filter=rule)
    assert (row["id"], row["bug_tracker"], row["guide_id"]) == (project["id"], link, None)
    client.change("PATCH", f"projects/{project['id']}", {"name": f"{own.name} renamed"})
    assert client.rows("projects", filter=rule) == []


def test_a_project_takes_its_tasks_along(client: CvatClient, own: Own) -> None:
    project = own.project("doomed")
    task = own.images([(0,)], project_id=project["id"])
    client.change("DELETE", f"projects/{project['id']}", None)
    with pytest.raises(NotFound):
        client.get(f"tasks/{task['id']}")
    assert client.rows("jobs", task_id=task["id"]) == []


def test_a_removed_task_is_gone(client: CvatClient, own: Own) -> None:
    task = own.images([(0,), (1,)])
    (job, _) = jobs_of(client, task)
    client.change("DELETE", f"tasks/{task['id']}", None)
    for path in (f"tasks/{task['id']}", f"jobs/{job['id']}", f"jobs/{job['id']}/annotations"):
        with pytest.raises(NotFound):
            client.get(path)


def test_everybody_in_a_project_sees_its_guide(client: CvatClient, own: Own) -> None:
    project = own.project("guided")
    task = own.images([(0,)], project_id=project["id"])
    text = "\n".join(["# Regions", "", "Press the key of the *class*.  "] * 100).strip()
    guide = client.send("POST", "guides", {"project_id": project["id"], "markdown": text})
    assert client.get(f"guides/{guide['id']}")["markdown"] == text
    assert client.get(f"projects/{project['id']}")["guide_id"] == guide["id"]
    (job,) = jobs_of(client, task)
    assert client.get(f"jobs/{job['id']}")["guide_id"] == guide["id"]


def test_a_guide_loses_the_space_around_it(client: CvatClient, own: Own) -> None:
    body = {"project_id": own.project("guide")["id"], "markdown": "\n first \n"}
    guide = client.send("POST", "guides", body)
    assert guide["markdown"] == "first"
    client.change("PATCH", f"guides/{guide['id']}", {"markdown": "second\n"})
    assert client.get(f"guides/{guide['id']}")["markdown"] == "second"


def test_a_guide_keeps_the_pictures_that_its_text_shows(
    client: CvatClient, own: Own, tmp_path: Path
) -> None:
    project = own.project("pictures")
    guide = client.send("POST", "guides", {"project_id": project["id"], "markdown": "first"})
    picture = (files("hvsa_cvat") / "data" / "guide.png").read_bytes()
    path = client.attach(guide["id"], "guide.png", picture)
    client.change("PATCH", f"guides/{guide['id']}", {"markdown": f"![it]({path})"})
    client.download(path.removeprefix("/api/"), tmp_path / "got.png")
    assert (tmp_path / "got.png").read_bytes() == picture
    client.change("PATCH", f"guides/{guide['id']}", {"markdown": "no picture"})
    with pytest.raises(NotFound):
        client.download(path.removeprefix("/api/"), tmp_path / "again.png")


def test_a_project_has_one_guide(client: CvatClient, own: Own) -> None:
    project = own.project("one guide")
    body = {"project_id": project["id"], "markdown": "first"}
    guide = client.send("POST", "guides", body)
    with pytest.raises(ServerError):
        client.send("POST", "guides", {**body, "markdown": "second"})
    assert client.get(f"guides/{guide['id']}")["markdown"] == "first"
