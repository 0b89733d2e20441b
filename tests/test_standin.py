"""The stand-in against what a real server answered, and against what is known of that server."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import re
import shutil
import ssl
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import urllib3
from cvat_sdk import make_client, models
from PIL import Image

from tests.standin import Fault, ProcessDied, StandIn
from tests.standin.media import Film, Pixels, encode, from_arrays, to_png

RECORDINGS = Path(__file__).parent / "data/cvat_recordings.json"
"""Requests of cvat-sdk 2.80 and the answers of CVAT 2.54.1; secrets and hosts are replaced."""

FIRST_IDS = {
    "token": 3,
    "project": 8,
    "task": 42,
    "label": 51,
    "attribute": 10,
    "data": 34,
    "job": 69,
    "shape": 615,
    "issue": 12,
    "webhook": 10,
    "guide": 23,
}
CHANGING = re.compile(r"https?://[^/]+|\d{4}-\d\d-\d\dT[\d:.]+Z")
OWN_WORDS = ("description", "key", "value", "email")


def blank(size: tuple[int, int] = (48, 64), value: int = 0) -> Pixels:
    return np.full((*size, 3), value, np.uint8)


def form(files: dict[str, bytes]) -> tuple[bytes, str]:
    fields = {f"client_files[{i}]": file for i, file in enumerate(files.items())}
    return urllib3.encode_multipart_formdata({"image_quality": "70", **fields})


def differences(recorded: Any, ours: Any, where: str = "") -> list[str]:
    """Where two answers differ in keys, types or values; hosts, dates and secrets may."""
    if isinstance(recorded, dict) and isinstance(ours, dict):
        found = [f"{where}: keys {set(recorded) ^ set(ours)}"] if set(recorded) ^ set(ours) else []
        for key in recorded.keys() & ours.keys():
            if key not in OWN_WORDS:
                found += differences(recorded[key], ours[key], f"{where}.{key}")
        return found
    if isinstance(recorded, list) and isinstance(ours, list):
        if len(recorded) != len(ours):
            return [f"{where}: {len(recorded)} items, {len(ours)} here"]
        pairs = enumerate(zip(recorded, ours, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{where}[{i}]")]
    if type(recorded) is not type(ours):
        return [f"{where}: {recorded!r}, {ours!r} here"]
    if isinstance(recorded, str):
        recorded, ours = CHANGING.sub("~", recorded), CHANGING.sub("~", ours)
    return [] if recorded == ours else [f"{where}: {recorded!r}, {ours!r} here"]


def test_answers_as_a_real_server_did() -> None:
    exchanges = json.loads(RECORDINGS.read_text())["exchanges"]
    pictures = (3, 20, 7, 11, 21)
    uploads = {
        "43": {f"p12_f{n:06d}.png": to_png(blank(value=n)) for n in pictures},
        "44": {"bedroom.mp4": encode([blank((540, 960))] * 60)},
    }
    found = []
    with StandIn(first_ids=FIRST_IDS) as cvat, urllib3.PoolManager() as http:
        # what the real server held before: another task of that round, a user of an organisation
        older = cvat.add_project("older")
        task = cvat.add_task("HVSA round 1 of task 12", project=older)
        task.bug_tracker, task.subset = "hvsa://12/round/1", "hvsa"
        media = replace(from_arrays([blank()] * 5, "abcde"), quality=95)
        cvat.world.attach(task, media, [(0, 1), (2, 4)])
        cvat.add_organization("acme", "admin", {cvat.add_user("annotator").name: "worker"})
        cookies: dict[str, str] = {}
        for number, exchange in enumerate(exchanges):
            asked, answered = exchange["request"], exchange["response"]
            headers, body = dict(asked["headers"]), asked["body"]
            raw = None if body is None else json.dumps(body).replace("<password>", "admin")
            if "Upload-Multiple" in headers:
                raw, headers["Content-Type"] = form(uploads[asked["path"].split("/")[3]])
            if cookies and "Authorization" not in headers:
                headers["Cookie"] = "; ".join(f"{k}={v}" for k, v in cookies.items())
                headers["X-CSRFToken"] = cookies["csrftoken"]
            reply = http.request(asked["method"], cvat.url + asked["path"], raw, headers=headers)
            cookies |= re.findall(
                r"(sessionid|csrftoken)=(\w+)", reply.headers.get("Set-Cookie", "")
            )
            where = f"{number} {exchange['scenario']}"
            found += differences(answered["status"], reply.status, f"{where}: status")
            theirs = {k.lower(): v for k, v in answered["headers"].items()}
            ours = {k.lower(): v for k, v in reply.headers.items()}
            missing = [k for k in theirs if k not in ours]
            found += [f"{where}: header {missing}"] if missing else []
            found += differences(theirs["allow"], ours["allow"], f"{where}: allow")
            kind = theirs.get("content-type", "")
            found += differences(kind, ours.get("content-type", ""), f"{where}: content type")
            if kind.endswith("json"):
                found += differences(answered["body"], reply.json(), where)
    assert found == [], "\n".join(found)


@pytest.fixture
def cvat() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


class Browser:
    """Raw requests of one account; answers as (status, body)."""

    def __init__(self, cvat: StandIn, token: str) -> None:
        self.url, self.pool = cvat.url, urllib3.PoolManager(retries=False, timeout=10)
        self.headers = {"Authorization": f"Bearer {token}"}

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.pool.request(
            method, f"{self.url}/api/{path}", body=raw, headers={**self.headers, **headers}
        )
        kind = answer.headers.get("Content-Type", "")
        return answer.status, answer.json() if kind.endswith("json") else answer.data


@pytest.fixture
def ask(cvat: StandIn) -> Iterator[Browser]:
    browser = Browser(cvat, cvat.admin.token)
    yield browser
    browser.pool.clear()


def box(frame: int = 0, label: int = 1, **more: Any) -> dict[str, Any]:
    return {"type": "rectangle", "frame": frame, "label_id": label, "points": [0, 0, 1, 1], **more}


# Tasks of uploads


def new_task(ask: Browser, **fields: Any) -> int:
    number: int = ask("POST", "tasks", {"name": "t", "labels": [{"name": "car"}], **fields})[1][
        "id"
    ]
    return number


def upload(ask: Browser, task: int, files: dict[str, bytes], **data: Any) -> tuple[int, Any]:
    """What the last of the three requests is answered, or the first that fails."""
    raw, kind = form(files)
    for headers, body in (
        ({"Upload_Start": ""}, b""),
        ({"Upload_Multiple": "", "Content_Type": kind}, raw),
        ({"Upload_Finish": "", "Content_Type": "application/json"}, data),
    ):
        answer = ask("POST", f"tasks/{task}/data/", body, **headers)
        if answer[0] >= 400:
            break
    return answer


def outcome(ask: Browser, task: int) -> tuple[str, str]:
    """Of the background request: "started" at first, then how it ends."""
    path = f"requests/action%3Dcreate%26target%3Dtask%26target_id%3D{task}"
    assert ask("GET", path)[1]["status"] == "started"
    answer = ask("GET", path)[1]
    return answer["status"], answer["message"]


PICTURES = {f"/some/where/{name}.png": to_png(blank(value=i)) for i, name in enumerate("dcba")}


def names_and_jobs(ask: Browser, task: int) -> tuple[list[str], list[tuple[int, int]]]:
    names = [frame["name"] for frame in ask("GET", f"tasks/{task}/data/meta")[1]["frames"]]
    jobs = ask("GET", f"jobs?task_id={task}&sort=id")[1]["results"]
    return names, [(job["start_frame"], job["stop_frame"]) for job in jobs]


def test_uploads_keep_base_names_in_order_of_names(ask: Browser) -> None:
    task = new_task(ask, segment_size=2)
    assert upload(ask, task, PICTURES)[0] == 202
    assert outcome(ask, task) == ("finished", "")
    assert names_and_jobs(ask, task) == (["a.png", "b.png", "c.png", "d.png"], [(0, 1), (2, 3)])
    assert upload(ask, task, PICTURES) == (400, "Adding more data is not supported")


def test_a_mapping_chooses_frames_and_cuts_jobs(ask: Browser) -> None:
    task = new_task(ask)
    upload(ask, task, PICTURES, job_file_mapping=[["c.png"], ["d.png", "a.png"]])
    assert names_and_jobs(ask, task) == (["c.png", "d.png", "a.png"], [(0, 0), (1, 2)])
    assert ask("GET", f"tasks/{task}")[1]["segment_size"] == 0


@pytest.mark.parametrize(
    ("mapping", "task_fields", "data"),
    [
        ([["a.png", "x.png"]], {}, {}),
        ([["a.png"]], {"segment_size": 2}, {}),
        ([["a.png"]], {}, {"sorting_method": "natural"}),
        ([["a.png"]], {}, {"stop_frame": 1}),
    ],
)
def test_a_bad_mapping_fails_in_the_background(
    ask: Browser, mapping: Any, task_fields: Any, data: Any
) -> None:
    task = new_task(ask, **task_fields)
    assert upload(ask, task, PICTURES, job_file_mapping=mapping, **data)[0] == 202
    status, message = outcome(ask, task)
    assert (status, message != "") == ("failed", True)
    shown = ask("GET", f"tasks/{task}")[1]
    assert (shown["size"], shown["mode"], shown["jobs"]["count"]) == (0, "", 0)


@pytest.mark.parametrize("mapping", [[["a.png"], ["a.png"]], [["a.png"], []], []])
def test_a_mapping_that_repeats_or_is_empty_is_refused(ask: Browser, mapping: Any) -> None:
    assert upload(ask, new_task(ask), PICTURES, job_file_mapping=mapping)[0] == 400


def test_two_files_of_one_base_name_are_a_server_error(ask: Browser) -> None:
    twice = {"/one/a.png": b"", "/two/a.png": b""}
    assert upload(ask, new_task(ask), twice)[0] == 500


def test_uploading_again_into_an_unfinished_task_spoils_it(ask: Browser) -> None:
    task = new_task(ask)
    raw, kind = form({"a.png": to_png(blank())[:40]})
    ask("POST", f"tasks/{task}/data/", raw, Upload_Multiple="", Content_Type=kind)
    upload(ask, task, {"a.png": to_png(blank())})
    assert outcome(ask, task)[0] == "failed"


def test_background_requests_are_forgotten_and_may_wait_for_ever(ask: Browser) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    with StandIn(clock=lambda: now[0]) as cvat:
        ask = Browser(cvat, cvat.admin.token)
        task = new_task(ask)
        cvat.world.working = False
        upload(ask, task, PICTURES)
        path = f"requests/action=create&target=task&target_id={task}"
        assert [ask("GET", path)[1]["status"] for _ in range(3)] == ["queued"] * 3
        cvat.world.working = True
        assert [ask("GET", path)[1]["status"] for _ in range(2)] == ["started", "finished"]
        now[0] += timedelta(seconds=501)
        assert ask("GET", path)[0] == 404
        ask.pool.clear()


# Frames


def test_frames_are_relative_and_meta_is_absolute(cvat: StandIn, ask: Browser) -> None:
    frames = [blank(value=i) for i in range(10)]
    task = cvat.add_task("t", ["car"], frames, job_size=4, start_frame=2, step=3)
    second = task.jobs[1].id
    meta = ask("GET", f"jobs/{second}/data/meta")[1]
    assert (meta["start_frame"], meta["stop_frame"], meta["size"]) == (14, 23, 4)
    assert [frame["name"] for frame in meta["frames"]] == [
        f"frame_00000{i}.png" for i in (4, 5, 6, 7)
    ]
    assert ask("GET", f"jobs/{second}/data?type=frame&quality=original&number=3")[0] == 400
    _, png = ask("GET", f"jobs/{second}/data?type=frame&quality=original&number=5")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), frames[5])
    _, chunk = ask("GET", f"jobs/{second}/data?type=chunk&quality=original&index=0")
    with zipfile.ZipFile(io.BytesIO(chunk)) as archive:
        assert archive.namelist() == [f"00000{i}.png" for i in range(4)]
        assert archive.read("000001.png") == png


def test_a_ground_truth_job_has_frames_of_its_own(cvat: StandIn, ask: Browser) -> None:
    task = cvat.add_task("t", ["car"], [blank()] * 6, start_frame=2, step=3)
    wish = {"type": "ground_truth", "task_id": task.id, "frame_selection_method": "manual"}
    job = ask("POST", "jobs", {**wish, "frames": [5, 1]})[1]["id"]
    meta = ask("GET", f"jobs/{job}/data/meta")[1]
    assert meta["included_frames"] == [5, 17]
    names = [frame["name"] for frame in meta["frames"]]
    assert [i for i, name in enumerate(names) if name != "placeholder.jpg"] == [1, 5]
    cvat.person("admin").draw(job, box(1))
    assert ask("GET", f"tasks/{task.id}/annotations")[1]["shapes"] == []
    assert ask("POST", "jobs", {**wish, "frames": [3]})[0] == 400
    assert ask("DELETE", f"jobs/{task.jobs[0].id}")[0] == 400
    assert ask("DELETE", f"jobs/{job}")[0] == 204
    assert ask("POST", "jobs", {**wish, "frames": [3]})[0] == 201


def test_a_job_replaces_only_its_own_deleted_frames(cvat: StandIn, ask: Browser) -> None:
    task = cvat.add_task("t", ["car"], [blank()] * 6, job_size=3)
    ask("PATCH", f"tasks/{task.id}/data/meta", {"deleted_frames": [1, 2, 4]})
    ask("PATCH", f"jobs/{task.jobs[0].id}/data/meta", {"deleted_frames": [0]})
    assert ask("GET", f"tasks/{task.id}/data/meta")[1]["deleted_frames"] == [0, 4]


def test_films_grow_to_even_sizes_and_their_jobs_overlap(cvat: StandIn, ask: Browser) -> None:
    ramp = [blank((47, 63), 4 * i) for i in range(50)]
    task = cvat.add_task("t", ["car"], video=ramp, job_size=20)
    assert [(job.start, job.stop) for job in task.jobs] == [(0, 19), (15, 34), (30, 49)]
    meta = ask("GET", f"tasks/{task.id}/data/meta")[1]
    assert [(frame["width"], frame["height"]) for frame in meta["frames"]] == [(63, 47)]
    _, film = ask("GET", f"jobs/{task.jobs[1].id}/data?type=chunk&quality=original&index=0")
    frames = Film(film)
    assert (len(frames), frames[0].shape) == (20, (48, 64, 3))
    assert [abs(int(frames[i].mean()) - 4 * (15 + i)) <= 2 for i in (0, 9, 19)] == [True] * 3
    _, png = ask("GET", f"tasks/{task.id}/data?type=frame&quality=original&number=21")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), frames[6])


# Annotations


def change(ask: Browser, job: int, action: str, *shapes: Any) -> tuple[int, Any]:
    return ask("PATCH", f"jobs/{job}/annotations?action={action}", {"shapes": shapes})


def test_what_the_server_lets_pass(cvat: StandIn, ask: Browser) -> None:
    task = cvat.add_task("t", [{"name": "car", "type": "mask"}], [blank()] * 4, job_size=2)
    job = task.jobs[0].id
    bad_masks = ([9, 9, 9, 0, 0], [1, -2.5, 3, 60, 60, 99, 99])
    masks = [box(0, type="mask", points=points) for points in bad_masks]
    sloppy = [box(99), box(3, source="whatever text"), box(0, unheard_of=1), *masks]
    status, saved = change(ask, job, "create", *sloppy)
    assert status == 200
    assert [shape["id"] for shape in saved["shapes"]] == [1, 2, 3, 4, 5]
    shapes = cvat.shapes(job)
    assert sorted(shape["frame"] for shape in shapes) == [0, 0, 0, 3, 99]
    assert "unheard_of" not in shapes[0]
    assert [s["points"] for s in shapes if s["type"] == "mask"] == [list(p) for p in bad_masks]
    assert all(isinstance(value, float) for value in shapes[0]["points"])


@pytest.mark.parametrize(
    ("status", "shape"),
    [
        (400, box(label=77)),
        (400, box(attributes=[{"spec_id": 77, "value": "x"}])),
        (400, box(type="polygon", points=[0, 0, 1, 1])),
        (400, box(type="polygon", points=[0, 0, 1, 1, 2, 2, 3])),
        (400, box(type="mask", points=[1, 0, 0, 0])),
        (400, box(id=1)),
        (500, box(z_order=-(2**31) - 1)),
        (500, box(source="a" * 17)),
    ],
)
def test_what_the_server_refuses(cvat: StandIn, ask: Browser, status: int, shape: Any) -> None:
    job = cvat.add_task("t", ["car"], [blank()]).jobs[0].id
    assert change(ask, job, "create", box(), shape)[0] == status
    assert cvat.shapes(job) == []


def test_update_keeps_ids_moves_rows_and_brings_back_the_dead(cvat: StandIn, ask: Browser) -> None:
    job = cvat.add_task("t", ["car"], [blank()]).jobs[0].id
    change(ask, job, "create", box(), box(), box())
    assert change(ask, job, "update", box(id=1, group=7))[0] == 200
    assert [shape["id"] for shape in cvat.shapes(job)] == [2, 3, 1]
    assert change(ask, job, "delete", box(id=2), box(id=2), box(id=55))[0] == 200
    change(ask, job, "update", box(id=2), box())
    assert [shape["id"] for shape in cvat.shapes(job)] == [3, 1, 2, 4]
    assert [shape["group"] for shape in cvat.shapes(job)] == [None, 7, None, None]


def test_put_and_delete_take_everything(cvat: StandIn, ask: Browser) -> None:
    job = cvat.add_task("t", ["car"], [blank()]).jobs[0].id
    cvat.person("admin").draw(job, box())
    assert ask("PUT", f"jobs/{job}/annotations", {"shapes": [box(), box()]})[0] == 200
    assert [shape["id"] for shape in cvat.shapes(job)] == [2, 3]
    assert ask("DELETE", f"jobs/{job}/annotations")[0] == 204
    assert cvat.shapes(job) == []


def test_a_task_writes_into_every_job_that_has_the_frame(cvat: StandIn, ask: Browser) -> None:
    task = cvat.add_task("t", ["car"], [blank()] * 6, job_size=4, overlap=2)
    path = f"tasks/{task.id}/annotations"
    mask = box(3, type="mask", points=[0, 1, 0, 0, 0, 0])
    ask("PATCH", path + "?action=create", {"shapes": [box(0), box(3), mask, box(50)]})
    assert [len(cvat.shapes(job)) for job in task.jobs] == [3, 2]
    shapes = ask("GET", path)[1]["shapes"]
    assert [shape["type"] for shape in shapes].count("rectangle") == 2
    assert [shape["type"] for shape in shapes].count("mask") == 2


def test_tracks_and_shapes_count_their_ids_apart(cvat: StandIn) -> None:
    job = cvat.add_task("t", ["car"], [blank()] * 3).jobs[0]
    ann = cvat.person("admin")
    keyframe = {"type": "rectangle", "frame": 0, "points": [0, 0, 4, 4]}
    assert ann.draw(job, box()) == 1
    assert ann.draw_track(job, {"frame": 0, "label_id": 1, "shapes": [keyframe]}) == 1
    track = ann.call("GET", f"jobs/{job.id}/annotations")["tracks"][0]
    assert track["shapes"][0]["outside"] is False
    assert track["shapes"][0]["points"] == [0.0, 0.0, 4.0, 4.0]


# People


def test_what_people_do_to_regions(cvat: StandIn) -> None:
    spec = {"input_type": "select", "values": ["a", "b"], "mutable": False}
    region = {"name": "region", "attributes": [{"name": "class", **spec}, {"name": "x", **spec}]}
    job = cvat.add_task("t", ["car", region], [blank()]).jobs[0]
    values = [{"spec_id": 1, "value": "a"}, {"spec_id": 2, "value": "a"}]
    outline = {"type": "polyline", "points": [0, 0, 4, 0, 4, 4, 0, 0], "attributes": values}
    ann = cvat.person("admin")
    shape = ann.draw(job, box(label=2, source="auto", group=5) | outline)
    assert job.state == "in progress"
    ann.set_class(job, shape, 1, "b")
    (row,) = cvat.shapes(job)
    assert [a["spec_id"] for a in row["attributes"]] == [2, 1]
    assert (row["id"], row["group"], row["source"]) == (shape, 5, "auto")
    twin = ann.copy(job, shape)
    back = ann.delete_and_undo(job, shape)
    ann.relabel(job, back, 1)
    ann.move(job, back, [1, 1, 5, 1])
    rows = {row["id"]: row for row in cvat.shapes(job)}
    assert sorted(rows) == [shape + 1, shape + 2] == [twin, back]
    assert (rows[back]["group"], rows[back]["source"]) == (5, "semi-auto")
    assert (rows[back]["attributes"], rows[back]["label_id"]) == ([], 1)
    assert (rows[twin]["group"], rows[twin]["source"]) == (0, "manual")
    ann.finish(job)
    assert (job.state, job.stage, cvat.requests) == ("completed", "annotation", [])
    ann.draw(job, box())
    assert job.state == "completed"


# Jobs: lists, states, dates


def numbers(answer: tuple[int, Any]) -> list[int]:
    assert answer[0] == 200
    return [row["id"] for row in answer[1]["results"]]


def test_lists_are_newest_first_and_misspelt_filters_ignored(cvat: StandIn, ask: Browser) -> None:
    task = cvat.add_task("HVSA one", ["car"], [blank()] * 12, job_size=1)
    cvat.add_task("other", ["car"], [blank()])
    cvat.person("admin").finish(task.jobs[3])
    assert numbers(ask("GET", "jobs")) == [13, 12, 11, 10, 9, 8, 7, 6, 5, 4]
    assert numbers(ask("GET", "jobs?page=2")) == [3, 2, 1]
    assert ask("GET", "jobs?page=3")[0] == 404
    assert len(numbers(ask("GET", "jobs?page_size=all"))) == 13
    assert numbers(ask("GET", "jobs?sort=id&page_size=2")) == [1, 2]
    assert numbers(ask("GET", "jobs?task_id=2")) == [13]
    assert len(numbers(ask("GET", "jobs?task=2&page_size=100"))) == 13
    assert numbers(ask("GET", "jobs?search=other")) == [13]


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ({"==": [{"var": "state"}, "completed"]}, [4]),
        ({"!": {"==": [{"var": "task_name"}, "HVSA one"]}}, [13]),
        ({"and": [{"in": ["hvsa", {"var": "task_name"}]}, {"<": [{"var": "id"}, 3]}]}, [2, 1]),
        ({"or": [{"<=": [5, {"var": "id"}, 6]}, {"in": [{"var": "id"}, [1, 9]]}]}, [9, 6, 5, 1]),
        ({">": [{"var": "updated_date"}, "2100-01-01T00:00:00Z"]}, []),
        ({"==": [{"var": "assignee"}, "ann"]}, [1]),
    ],
)
def test_json_logic(cvat: StandIn, ask: Browser, rule: Any, found: list[int]) -> None:
    task = cvat.add_task("HVSA one", ["car"], [blank()] * 12, job_size=1)
    cvat.add_task("other", ["car"], [blank()])
    ann = cvat.add_user("ann")
    cvat.person("admin").finish(task.jobs[3])
    cvat.person("admin").call("PATCH", "jobs/1", {"assignee": ann.id})
    assert numbers(ask("GET", f"jobs?filter={quote(json.dumps(rule))}")) == found
    assert ask("GET", 'jobs?filter={"==":[{"var":"subset"},"x"]}')[0] == 400


def test_a_new_stage_or_assignee_resets_the_state(cvat: StandIn, ask: Browser) -> None:
    job = cvat.add_task("t", ["car"], [blank()]).jobs[0]
    ask("PATCH", f"jobs/{job.id}", {"state": "completed"})
    ask("PATCH", f"jobs/{job.id}", {"stage": "acceptance"})
    assert job.state == "new"
    ask("PATCH", f"jobs/{job.id}", {"assignee": 1, "state": "completed"})
    assert job.state == "completed"
    assert ask("GET", f"tasks/{job.task.id}")[1]["status"] == "completed"
    assert ask("PATCH", f"jobs/{job.id}", {"state": "new", "colour": "red"})[0] == 403
    assert job.state == "completed"


def test_every_write_gives_job_task_and_project_a_new_date(cvat: StandIn, ask: Browser) -> None:
    project = cvat.add_project("p", ["car"])
    job = cvat.add_task("t", frames=[blank()], project=project).jobs[0]
    for write in (
        lambda: change(ask, job.id, "create", box()),
        lambda: ask("PATCH", f"jobs/{job.id}", {"state": "rejected"}),
        lambda: ask("PATCH", f"jobs/{job.id}/data/meta", {"deleted_frames": [0]}),
    ):
        before = (job.updated, job.task.updated, project.updated)
        write()
        after = (job.updated, job.task.updated, project.updated)
        assert all(old < new for old, new in zip(before, after, strict=True))


def test_labels_are_edited_one_by_one_and_take_their_shapes_along(
    cvat: StandIn, ask: Browser
) -> None:
    task = cvat.add_task("t", ["car", "road"], [blank()])
    ann = cvat.person("admin")
    ann.draw(task.jobs[0], box(label=1))
    ann.draw(task.jobs[0], box(label=2))
    edits = [{"id": 1, "deleted": True}, {"id": 2, "name": "street"}, {"name": "sky"}]
    assert ask("PATCH", f"tasks/{task.id}", {"labels": edits})[0] == 200
    labels = ask("GET", f"labels?task_id={task.id}")[1]["results"]
    assert [(label["id"], label["name"]) for label in labels] == [(2, "street"), (3, "sky")]
    assert [shape["label_id"] for shape in cvat.shapes(task.jobs[0])] == [2]


# Rights


def test_a_worker_may_do_its_job_and_nothing_else(cvat: StandIn, ask: Browser) -> None:
    task = cvat.add_task("t", ["car"], [blank()] * 2, job_size=1)
    ann = cvat.add_user("ann", groups=["worker"])
    mine, other = (job.id for job in task.jobs)
    ask("PATCH", f"jobs/{mine}", {"assignee": ann.id})
    ask("POST", "guides", {"task_id": task.id, "markdown": "do"})
    ask("POST", "issues", {"job": mine, "frame": 0, "position": [1, 1], "message": "here"})
    worker = Browser(cvat, ann.token)
    frame = "data?type=frame&quality=original&number=0"
    allowed = [
        worker("GET", f"jobs/{mine}"),
        worker("GET", f"jobs/{mine}/annotations"),
        change(worker, mine, "create", box()),
        worker("GET", f"jobs/{mine}/{frame}"),
        worker("GET", f"labels?job_id={mine}"),
        worker("PATCH", f"jobs/{mine}", {"state": "completed"}),
        change(worker, mine, "create", box()),
        worker("PATCH", "issues/1", {"resolved": True}),
        worker("GET", "guides/1"),
    ]
    assert [status for status, _ in allowed] == [200] * len(allowed)
    assert numbers(worker("GET", "jobs")) == [mine]
    refused = [
        worker("PATCH", f"jobs/{mine}", {"stage": "acceptance"}),
        worker("PATCH", f"jobs/{mine}", {"assignee": 1}),
        worker("GET", f"jobs/{other}/annotations"),
        worker("GET", f"tasks/{task.id}"),
        worker("GET", f"tasks/{task.id}/{frame}"),
        worker("PATCH", "guides/1", {"markdown": "mine"}),
        worker("POST", "tasks", {"name": "t"}),
        worker("POST", "projects", {"name": "p"}),
    ]
    worker.pool.clear()
    assert [status for status, _ in refused] == [403] * len(refused)


def test_tokens_may_be_read_only_or_unknown(cvat: StandIn) -> None:
    reader, stranger = Browser(cvat, cvat.token("admin", read_only=True)), Browser(cvat, "x")
    assert reader("GET", "users/self")[1]["username"] == "admin"
    assert reader("POST", "projects", {"name": "p"})[0] == 403
    assert stranger("GET", "users/self") == (401, {"detail": "Invalid token."})
    cvat.world.version = "2.47.0"
    assert reader("GET", "users/self")[0] == 401
    for browser in (reader, stranger):
        browser.pool.clear()


def test_organisations_keep_their_things_apart(cvat: StandIn, ask: Browser) -> None:
    cvat.add_user("ann")
    boss = cvat.add_user("boss")
    acme = cvat.add_organization("acme", members={"boss": "maintainer"})
    theirs = cvat.add_task("theirs", ["car"], [blank()], organization=acme)
    own = new_task(ask)
    assert numbers(ask("GET", "tasks")) == [own, theirs.id]
    assert numbers(ask("GET", "tasks", X_Organization="")) == [own]
    assert numbers(ask("GET", "tasks?org=acme")) == [theirs.id]
    assert ask("GET", "tasks?org=nobody")[0] == 404
    assert ask("GET", "tasks?org_id=1", X_Organization="acme")[0] == 400
    assert numbers(ask("GET", "users", X_Organization="acme")) == [1, boss.id]
    maintainer = Browser(cvat, boss.token)
    assert maintainer("PATCH", f"jobs/{theirs.jobs[0].id}", {"assignee": 1})[0] == 200
    assert maintainer("PATCH", f"jobs/{theirs.jobs[0].id}", {"assignee": 2})[0] == 403
    assert maintainer("GET", f"tasks/{own}")[0] == 403
    maintainer.pool.clear()


def test_a_project_shows_its_guide_and_has_but_one(cvat: StandIn, ask: Browser) -> None:
    project = cvat.add_project("p", ["car"])
    task = cvat.add_task("t", frames=[blank()], project=project)
    ask("POST", "guides", {"task_id": task.id, "markdown": "of the task"})
    guide = ask("POST", "guides", {"project_id": project.id, "markdown": "of the project"})[1]
    assert ask("GET", f"jobs/{task.jobs[0].id}")[1]["guide_id"] == guide["id"]
    assert ask("POST", "guides", {"project_id": project.id, "markdown": "more"})[0] == 500


# Webhooks


@pytest.fixture
def target() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """The address of a listener, and what it received."""
    received: list[tuple[dict[str, str], bytes]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((dict(self.headers), body))
            self.send_response_only(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", received
        server.shutdown()
        thread.join()


def test_webhooks_are_signed_and_fire_on_saves(cvat: StandIn, ask: Browser, target: Any) -> None:
    address, received = target
    project = cvat.add_project("p", ["car"])
    job = cvat.add_task("t", frames=[blank()], project=project).jobs[0]
    wish = {"target_url": address, "type": "project", "project_id": project.id, "secret": "s"}
    hook = ask("POST", "webhooks", {**wish, "events": ["update:job"]})[1]["id"]
    change(ask, job.id, "create", box())
    ask("PATCH", f"jobs/{job.id}", {"state": "completed"})
    assert cvat.delivered()
    events = [json.loads(body) for _, body in received]
    assert [sorted(event["before_update"]) for event in events] == [
        ["updated_date"],
        ["state", "updated_date"],
    ]
    assert events[1]["job"]["state"] == "completed"
    assert events[1]["sender"]["username"] == "admin"
    headers, body = received[1]
    sign = hmac.new(b"s", body, hashlib.sha256).hexdigest()
    assert headers["X-Signature-256"] == f"sha256={sign}"
    assert ask("POST", f"webhooks/{hook}/ping")[1]["status_code"] == 200
    assert json.loads(received[2][1])["event"] == "ping"
    assert numbers(ask("GET", f"webhooks/{hook}/deliveries")) == [3, 2, 1]


def test_a_target_that_is_down_is_a_502(cvat: StandIn, ask: Browser) -> None:
    project = cvat.add_project("p")
    wish = {"target_url": "http://127.0.0.1:9/", "type": "project", "project_id": project.id}
    hook = ask("POST", "webhooks", {**wish, "events": ["update:project"]})[1]["id"]
    ask("PATCH", f"projects/{project.id}", {"name": "q"})
    assert cvat.delivered()
    assert [d["status_code"] for d in cvat.webhook(hook).deliveries] == [502]


# Disturbances


@pytest.mark.parametrize("fault", Fault)
def test_faults_come_before_or_after_the_work(cvat: StandIn, ask: Browser, fault: Fault) -> None:
    cvat.faults = {0: fault}
    body = json.dumps({"name": "p"})
    status = None
    with suppress(urllib3.exceptions.HTTPError):
        status = ask.pool.request(
            "POST", f"{cvat.url}/api/projects", body=body, headers=ask.headers, timeout=0.2
        ).status
    expected = {Fault.ERROR: 500, Fault.BAD_GATEWAY: 502, Fault.UNAVAILABLE: 503}
    expected |= {Fault.BUSY: 429, Fault.LATE: 504}
    assert status == expected.get(fault)
    assert len(cvat.world.projects) == fault.acts
    assert ask("POST", "projects", {"name": "q"})[0] == 201
    assert [request.status for request in cvat.requests] == [status, 201]


def test_a_process_dies_around_a_request(cvat: StandIn, ask: Browser) -> None:
    for when, projects in (("before", 1), ("after", 2)):
        with cvat.process_dies(1, when):
            ask("GET", "users/self")
            with pytest.raises(ProcessDied):
                ask("POST", "projects", {"name": "p"})
        ask("POST", "projects", {"name": "p"})
        assert len(cvat.world.projects) == projects
        cvat.world.projects.clear()


def test_people_act_between_two_requests(cvat: StandIn, ask: Browser) -> None:
    job = cvat.add_task("t", ["car"], [blank()]).jobs[0]
    ann = cvat.person("admin")
    cvat.before_request = lambda request: ann.reject(job)
    assert ask("GET", f"jobs/{job.id}")[1]["state"] == "rejected"
    cvat.before_request, cvat.after_request = None, lambda request: ann.finish(job)
    assert ask("GET", f"jobs/{job.id}")[1]["state"] == "rejected"
    assert (job.state, len(cvat.requests)) == ("completed", 2)


def test_the_server_goes_down_and_comes_back_where_it_was(cvat: StandIn, ask: Browser) -> None:
    task, before = new_task(ask), cvat.url
    snapshot = cvat.snapshot()
    cvat.down()
    with pytest.raises(urllib3.exceptions.HTTPError):
        ask("GET", "users/self")
    cvat.up()
    assert (cvat.url, ask("DELETE", f"tasks/{task}")[0]) == (before, 204)
    cvat.restore(snapshot)
    assert ask("GET", f"tasks/{task}")[0] == 200


def test_a_failure_of_the_stand_in_is_not_overlooked() -> None:
    cvat = StandIn()
    cvat.before_request = lambda request: [][request.number]
    ask = Browser(cvat, cvat.admin.token)
    assert ask("GET", "users/self")[0] == 500
    ask.pool.clear()
    with pytest.raises(IndexError), cvat:
        pass


# The real client


def test_the_sdk_makes_a_task_and_reads_it_back(cvat: StandIn, tmp_path: Path) -> None:
    for name, data in PICTURES.items():
        (tmp_path / Path(name).name).write_bytes(data)
    with make_client(cvat.url, credentials=("admin", cvat.admin.password)) as client:
        client.config.status_check_period = 0.01
        task = client.tasks.create_from_data(
            {"name": "t", "labels": [{"name": "car"}]},
            [tmp_path / "c.png", tmp_path / "a.png"],
            data_params={"image_quality": 95, "job_file_mapping": [["c.png"], ["a.png"]]},
        )
        assert (task.size, task.image_quality) == (2, 95)
        assert task.get_frame(0, quality="original").read() == PICTURES["/some/where/c.png"]
        job = next(job for job in task.get_jobs() if job.start_frame == 1)
        shape = models.LabeledShapeRequest(**box(1, label=task.get_labels()[0].id))
        job.update_annotations(models.PatchedLabeledDataRequest(shapes=[shape]))
        job.update({"state": "completed"})
        assert [shape.frame for shape in job.get_annotations().shapes] == [1]
        issue = client.issues.create(
            models.IssueWriteRequest(frame=1, position=[1.0, 1.0], job=job.id, message="look")
        )
        assert [comment.message for comment in issue.get_comments()] == ["look"]
        task.remove()
    assert cvat.world.jobs == {}


def test_it_speaks_tls(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl program")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *made, *files], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with StandIn(tls=tls) as cvat:
        assert cvat.url.startswith("https://localhost:")
        for trusted in (True, False):
            ca = str(certificate) if trusted else None
            with urllib3.PoolManager(ca_certs=ca, retries=False) as http:
                context = nullcontext() if trusted else pytest.raises(urllib3.exceptions.SSLError)
                with context:
                    assert http.request("GET", f"{cvat.url}/api/server/about").status == 200
