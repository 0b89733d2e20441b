"""The dashboard's pages without a browser, over a workspace in which all kinds of tasks are."""

from __future__ import annotations

import io
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from hvsa_cvat.agent.settings import AgentSettings, LocalSettings, load_local_settings
from hvsa_cvat.agent.workspace import Workspace
from hvsa_cvat.cvat.doctor import Finding
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.cvat.state import Reading, State
from hvsa_cvat.dashboard.app import application, shown
from hvsa_cvat.dashboard.encoded import Encoded, PictureCache
from hvsa_cvat.dashboard.machine_checks import MachineChecks
from hvsa_cvat.dashboard.site import Site, SiteOptions, code
from hvsa_cvat.dashboard.summaries import Overview, summarise
from hvsa_cvat.dashboard.summaries import State as TaskState
from hvsa_cvat.enrolled.doubtful import Doubt, Ranking, Rankings
from hvsa_cvat.enrolled.pictures import frame_doubt
from hvsa_cvat.enrolled.tasks import EnrolledTasks
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import IGNORE
from tests.lead import DONE, FAILED, FRESH, WAITING, Filled, run_of
from tests.team import LENGTH


class Clock:
    def __init__(self) -> None:
        self.time = 2_000_000_000.0

    def __call__(self) -> float:
        return self.time


@contextmanager
def browsing(
    filled: Filled,
    options: SiteOptions | None = None,
    clock: Clock | None = None,
    login: AgentSettings | None = None,
    examine: Callable[[LocalSettings], tuple[Finding, ...]] | None = None,
) -> Iterator[TestClient]:
    """`examine` checks the machine in place of a process that takes seconds."""
    settings = load_local_settings(None, {"CVAT_HOST": filled.url}, workspace=filled.workspace)
    site = Site(settings, options or SiteOptions(patience=60), clock or Clock(), login)
    site.machine_checks = MachineChecks(settings, site.clock, examine)
    client = TestClient(application(site), base_url="http://localhost:8088", follow_redirects=False)
    yield client
    site.close()


@pytest.fixture(scope="module")
def browser(filled: Filled) -> Iterator[TestClient]:
    with browsing(filled) as client:
        yield client


def page(client: TestClient, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    assert "Traceback" not in answer.text
    return answer.text


def decoded(picture: bytes) -> NDArray[np.uint8]:
    """uint8 (H, W, 4) RGBA."""
    return np.asarray(PillowImage.open(io.BytesIO(picture)).convert("RGBA"))


def form_value(text: str) -> str:
    found = re.search(r'name="csrf" value="(\w+)"', text)
    assert found is not None
    return found[1]


def settled(client: TestClient, path: str) -> str:
    """A page, once it does not load itself anew any more."""
    for _ in range(2400):
        text = page(client, path)
        if 'http-equiv="refresh"' not in text:
            return text
        threading.Event().wait(0.05)
    raise AssertionError(f"{path} is never finished")


def judged(client: TestClient, task: int = DONE, query: str = "") -> str:
    """The review of a task, once all its frames are judged."""
    return settled(client, f"/tasks/{task}/review{query}")


# -- what the pages say


def test_the_list_says_how_each_task_stands(browser: TestClient) -> None:
    text = page(browser, "/")
    for state in ("stopped", "waits for people", "waits for the agent", "done"):
        assert f">{state}</span>" in text
    assert "ann, bob" in text
    assert "task 4 is gone</span>" in text
    assert "if it was deleted, end its enrollment: hvsa-agent withdraw 4</span>" in text
    assert re.search(r"<b>\d+\.\d %</b>", text)
    assert "2 of 2" in text


def test_names_are_text_not_markup(browser: TestClient) -> None:
    for path in ("/", f"/tasks/{WAITING}", f"/tasks/{WAITING}/frames/0", "/review"):
        text = page(browser, path)
        assert "<img src=x" not in text
        assert "&lt;img src=x onerror=alert(1)&gt;" in text
    judged(browser, WAITING)


def test_the_list_is_filtered_and_sorted(browser: TestClient) -> None:
    def tasks(query: str) -> list[int]:
        found = re.findall(r'class="name" href="/tasks/(\d+)"', page(browser, query))
        return [int(number) for number in found]

    assert tasks("/?sort=task") == [DONE, WAITING, FRESH, FAILED]
    assert tasks("/?sort=task&down=1") == [FAILED, FRESH, WAITING, DONE]
    assert tasks("/?sort=quality&down=1")[0] == DONE
    assert tasks("/?state=done") == [DONE]
    assert tasks("/?person=ann&sort=task") == [WAITING, FAILED]
    assert tasks("/?text=CORRI") == [FRESH]
    assert tasks("/?text=3") == [FRESH]
    assert tasks("/?sort=nonsense&page=99999&state=%00&down=x") == [FAILED, WAITING, FRESH, DONE]
    assert "No task matches" in page(browser, "/?text=nothing+like+that")


def test_the_page_of_a_task(browser: TestClient, filled: Filled) -> None:
    run = run_of(filled, DONE)
    text = page(browser, f"/tasks/{DONE}")
    assert f'href="{filled.url}/tasks/{DONE}"' in text
    assert "Expected mIoU over clicks. after round 1" in text
    for frame in {sample.frame for sample in run.session.queried}:
        assert f'href="/tasks/{DONE}/frames/{frame}"' in text
    for number in run.session.labels:
        assert number in text


def test_the_page_of_a_task_that_waits_links_its_jobs(browser: TestClient, filled: Filled) -> None:
    run = run_of(filled, WAITING)
    request = run.request_of(2)
    assert request is not None
    text = page(browser, f"/tasks/{WAITING}")
    for job in request.jobs:
        assert f'href="{filled.url}/tasks/{request.task}/jobs/{job.id}"' in text
        assert str(job.assignee) in text


def test_a_job_that_came_back_is_not_answered(copied: Filled) -> None:
    """The adapter keeps a reading when it sends a job back, and another when it is done again."""
    run = run_of(copied, WAITING)
    request = run.request_of(2)
    assert request is not None
    readings = State(run.root / "cvat").readings
    first, second = (job.id for job in request.jobs)
    for job in (first, second):
        readings.begin_send_back(job, "2030-01-01T00:00:00Z")
        readings.save(job, Reading("2030-01-01T00:00:00Z", sent_back=True))
    readings.save(second, Reading("2030-01-02T00:00:00Z", sent_back=True))
    states = {job.id: job.state for job in summarise(WAITING, run_of(copied, WAITING)).jobs}
    assert states == {first: "sent back", second: "answered"}


def test_a_frame_opens_in_the_job_that_shows_it(browser: TestClient, filled: Filled) -> None:
    run = run_of(filled, DONE)
    (job,) = run.memory.jobs
    text = page(browser, f"/tasks/{DONE}/frames/3?round=1&before=0")
    assert f'href="{filled.url}/tasks/{DONE}/jobs/{job.job}?frame=3"' in text
    assert f"/tasks/{DONE}/pictures/1/3/masks" in text
    assert f"/tasks/{DONE}/pictures/0/3/masks" in text
    assert f'href="/tasks/{DONE}/frames/2?round=1&amp;before=0" rel="prev"' in text.replace(
        "&before", "&amp;before"
    )


def test_what_was_asked_for_opens_in_the_job_that_asked(
    browser: TestClient, filled: Filled
) -> None:
    run = run_of(filled, DONE)
    request = run.request_of(1)
    assert request is not None
    assert request.cards
    review = judged(browser, query="?all=1")
    for place, card in enumerate(request.cards):
        (job,) = [job for job in request.jobs if job.start <= place <= job.stop]
        link = f'href="{filled.url}/tasks/{request.task}/jobs/{job.id}?frame={place}"'
        text = page(browser, f"/tasks/{DONE}/frames/{card.sample.frame}")
        assert link in text
        # the sample is a square of 16 pixels in a frame of 48 x 64
        row, column = divmod(card.sample.segment, 4)
        left, top, right, bottom = (16 * at for at in (column, row, column + 1, row + 1))
        assert f'points="{left},{top} {left},{bottom} {right},{bottom} {right},{top}"' in text
        if f'/tasks/{DONE}/frames/{card.sample.frame}"' in review:
            assert link in review


def test_one_stopped_task_needs_a_person(browser: TestClient) -> None:
    assert ">needs a person<" in page(browser, "/")


def test_pictures_show_what_the_files_hold(browser: TestClient, filled: Filled) -> None:
    run = run_of(filled, DONE)
    masks = browser.get(f"/tasks/{DONE}/pictures/2/1/masks")
    assert masks.headers["content-type"] == "image/png"
    shown = decoded(masks.content)
    np.testing.assert_array_equal(shown[..., :3], run.colours[run.files(2).label_map(run.names[1])])
    assert (shown[..., 3] == 255).all()
    doubt = decoded(browser.get(f"/tasks/{DONE}/pictures/2/1/doubt").content)
    assert (doubt[..., :3] == (255, 140, 0)).all()
    np.testing.assert_array_equal(doubt[..., 3], np.rint(255 * frame_doubt(run, 2, 1)))
    image = browser.get(f"/tasks/{DONE}/pictures/0/1/image")
    assert PillowImage.open(io.BytesIO(image.content)).size == (64, 48)
    for kind in ("doubt", "small", "doubtful"):
        answer = browser.get(f"/tasks/{DONE}/pictures/2/1/{kind}")
        PillowImage.open(io.BytesIO(answer.content)).load()
        assert "max-age=300" in answer.headers["cache-control"]
    page(browser, f"/tasks/{DONE}/pictures/2/1/nonsense", 404)
    page(browser, f"/tasks/{DONE}/pictures/9/1/masks", 404)
    page(browser, f"/tasks/{DONE}/pictures/2/99/masks", 404)


def test_pixels_without_a_class_are_transparent(copied: Filled) -> None:
    run = run_of(copied, DONE)
    shown = run.files(2).label_map(run.names[0]).copy()
    shown[:2], shown[2:4], shown[4:6] = IGNORE, len(run.colours), 0
    cv2.imwrite(str(run.files(2).label_map_path(run.names[0])), shown)
    with browsing(copied) as client:
        painted = decoded(client.get(f"/tasks/{DONE}/pictures/2/0/masks").content)
    assert (painted[:4, :, 3] == 0).all()
    assert (painted[4:, :, 3] == 255).all()
    assert (painted[4:6, :, :3] == run.colours[0]).all()


def test_the_review_begins_with_the_worst_frame(browser: TestClient) -> None:
    text = judged(browser)
    shares = [float(share) for share in re.findall(r"<b>([\d.]+) %</b> probably wrong", text)]
    assert shares == sorted(shares, reverse=True)
    assert 0 < len(shares) <= LENGTH


def test_a_frame_is_marked_as_seen(copied: Filled) -> None:
    with browsing(copied) as client:
        text = judged(client)
        form = {"csrf": form_value(text), "frame": "0", "round": "2", "seen": "1"}
        answer = client.post(f"/tasks/{DONE}/seen", data=form)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/tasks/{DONE}/review")
        assert f'/tasks/{DONE}/frames/0"' not in judged(client)
        assert f'/tasks/{DONE}/frames/0"' in judged(client, query="?all=1")
        assert "frame 0 is marked as seen" in page(client, "/system")
        client.post(f"/tasks/{DONE}/seen", data={**form, "seen": "0"})
        assert f'/tasks/{DONE}/frames/0"' in judged(client)
        for wrong in ({"frame": "99"}, {"frame": "-1"}, {"round": "x"}, {"round": "77"}):
            assert client.post(f"/tasks/{DONE}/seen", data={**form, **wrong}).status_code == 400


def test_the_system_page_needs_no_server(browser: TestClient, filled: Filled) -> None:
    text = settled(browser, "/system")
    for part in ("hvsa-cvat", "GPU:", "start network:", "disk:", str(filled.workspace)):
        assert part in text


@pytest.mark.parametrize("form", ["html", "md", "csv", "json"])
def test_reports_are_files(browser: TestClient, form: str) -> None:
    answer = browser.get(f"/tasks/{DONE}/report.{form}")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == f'attachment; filename="task_{DONE}.{form}"'


def test_looking_changes_nothing(filled: Filled) -> None:
    before = {p: p.stat().st_mtime_ns for p in filled.workspace.rglob("*")}
    with browsing(filled) as client, Store(run_of(filled, DONE).root):
        locked = {p: p.stat().st_mtime_ns for p in filled.workspace.rglob("*")}
        for path in ("/", f"/tasks/{DONE}", f"/tasks/{DONE}/frames/1", "/review"):
            page(client, path)
        judged(client)
        assert {p: p.stat().st_mtime_ns for p in filled.workspace.rglob("*")} == locked
    assert set(before) == set(filled.workspace.rglob("*"))


# -- bad input


def test_without_a_task_the_page_says_what_to_do(tmp_path: Path) -> None:
    nothing = Filled(tmp_path / "nothing here", "https://cvat.example.com")
    with browsing(nothing) as client:
        assert "hvsa-agent enroll 12" in page(client, "/")
        assert "Nothing to review yet" in page(client, "/review")
        assert "hvsa-agent enroll" in page(client, "/system")
        assert "is not enrolled" in page(client, "/tasks/1", 404)
    assert not nothing.workspace.exists()


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/tasks/99",
        "/tasks/x",
        "/tasks/99999999999999999999999",
        f"/tasks/{DONE}/frames/6",
        f"/tasks/{FRESH}/frames/0",
        f"/tasks/{FRESH}/review",
        f"/tasks/{DONE}/report.pdf",
        "/static/../app.py",
        "/static/nothing.css",
    ],
)
def test_what_is_not_there_is_a_page(browser: TestClient, path: str) -> None:
    text = page(browser, path, 404)
    assert "<h1>" in text
    assert "hvsa-cvat" in text


def test_a_workspace_of_another_version_says_so(copied: Filled) -> None:
    with closing(sqlite3.connect(copied.workspace / "workspace.db")) as database, database:
        database.execute("UPDATE version SET version = 99")
    with browsing(copied) as client:
        assert "install the newer hvsa-agent" in page(client, "/", 500)


def test_a_workspace_that_is_none_says_so(copied: Filled) -> None:
    (copied.workspace / "workspace.db").write_bytes(b"no database " * 100)
    with browsing(copied) as client:
        assert "is not a workspace" in page(client, "/", 500)


def test_what_is_pruned_is_missing_on_the_page_alone(copied: Filled) -> None:
    folder = run_of(copied, DONE).root
    (folder / "frames.npy").unlink()
    (folder / "rounds/2/label_maps/frame_000001.png").write_bytes(b"damaged")
    (folder / "rounds/2/certainty/frame_000002.png").unlink()
    shutil.rmtree(folder / "rounds/1/label_maps")
    shutil.rmtree(run_of(copied, WAITING).root)
    (run_of(copied, FAILED).root / "session.db").write_bytes(b"no database " * 100)
    with browsing(copied) as client:
        text = page(client, "/")
        assert "holds no session" in text
        assert "is not a session" in text
        page(client, f"/tasks/{DONE}")
        page(client, f"/tasks/{DONE}/frames/1")
        for picture in ("0/0/image", "2/1/masks", "2/2/doubt", "1/0/masks", "2/0/small"):
            answer = client.get(f"/tasks/{DONE}/pictures/{picture}")
            assert "This picture is missing" in answer.text
            assert answer.headers["cache-control"] == "no-store"
        assert "<b>" in judged(client)
        assert "cannot be read" in page(client, f"/tasks/{WAITING}", 500)
        assert "cannot be read" in page(client, f"/tasks/{FAILED}", 500)


def test_a_fault_that_nobody_foresaw_is_a_page_and_a_file(copied: Filled) -> None:
    def page_with_a_fault(site: Site, request: Request) -> Response:
        return {}[request]

    settings = load_local_settings(None, {"CVAT_HOST": copied.url}, workspace=copied.workspace)
    site = Site(settings, SiteOptions(), Clock())
    app = Starlette(routes=[Route("/", shown(site, page_with_a_fault))])
    text = page(TestClient(app, base_url="http://localhost"), "/", 500)
    site.close()
    assert "this should not happen: please report it" in text
    assert "KeyError" in (copied.workspace / "unexpected.txt").read_text()


# -- many tasks


def test_only_tasks_that_changed_are_read_again(copied: Filled) -> None:
    now = [0.0]
    tasks = EnrolledTasks(copied.workspace, copied.url, lambda: 0.0)
    overview = Overview(tasks, patience=60, clock=lambda: now[0])
    first = overview.rows()
    assert [row.task for row in first.summaries] == [DONE, WAITING, FRESH, FAILED]
    folder = tasks.one(FRESH).folder
    with closing(sqlite3.connect(folder / "session.db")) as database, database:
        database.execute("UPDATE sessions SET video = 'renamed'")
    now[0] += 0.9
    assert overview.rows() is first
    now[0] += 0.2
    second = overview.rows()
    assert second.summaries[2].name == "renamed"
    unchanged = (0, 1, 3)
    assert [second.summaries[i] for i in unchanged] == [first.summaries[i] for i in unchanged]


def test_what_people_did_to_a_task_is_shown_at_once(copied: Filled) -> None:
    tasks = EnrolledTasks(copied.workspace, copied.url, lambda: 0.0)
    overview = Overview(tasks, patience=60, clock=lambda: 0.0)
    assert overview.rows().summaries[2].state is not TaskState.PAUSED
    workspace = Workspace(copied.workspace, server_key(copied.url), "me", lambda: 0.0)
    workspace.pauses.pause(FRESH)
    assert overview.rows().summaries[2].state is TaskState.PAUSED


def test_a_page_does_not_wait_for_ten_thousand_tasks(copied: Filled) -> None:
    times = iter(range(100))
    overview = Overview(
        EnrolledTasks(copied.workspace, copied.url, lambda: 0.0),
        clock=lambda: float(next(times)),
        patience=2,
    )
    unread = []
    for _ in range(3):
        rows = overview.rows()
        unread.append(rows.unread)
        assert len(rows.summaries) == 4
        assert any(row.state is TaskState.UNREAD for row in rows.summaries) == (rows.unread > 0)
    assert unread[0] > unread[1] >= unread[2] == 0


def test_pages_of_a_hundred(copied: Filled) -> None:
    with closing(sqlite3.connect(copied.workspace / "workspace.db")) as database, database:
        (row,) = database.execute("SELECT * FROM tasks WHERE task = ?", (FRESH,)).fetchall()
        for task in range(100, 350):
            values = [row[0], task, *row[2:]]
            database.execute(f"INSERT INTO tasks VALUES ({', '.join('?' * len(row))})", values)
    with browsing(copied) as client:
        text = page(client, "/?sort=task&page=3")
        assert "page 3 of 3" in text
        assert len(re.findall('class="name"', text)) == 54


def test_the_cache_of_pictures_is_bounded() -> None:
    cache = PictureCache(most=100)
    for number in range(50):
        made = cache.get((number,), lambda: Encoded(b"x" * 30, "image/png"))
        assert made.content == b"x" * 30
    assert cache.size <= 100
    never = cache.get((49,), lambda: Encoded(b"not made again", "image/png"))
    assert never.content == b"x" * 30


def test_the_worst_frames_lie_apart() -> None:
    shares = {0: 0.1, 1: 0.9, 2: 0.8, 3: 0.2, 100: 0.5, 101: 0.6}
    ranking = Ranking(list(shares), [Doubt(*pair) for pair in shares.items()], 6)
    assert [one.frame for one in ranking.worst(60, 9)] == [1, 101, 3]
    assert [one.frame for one in ranking.worst(60, 2)] == [1, 101]


def test_frames_that_are_wrong_are_found(copied: Filled) -> None:
    """A frame whose masks are uncertain everywhere is worse than all others."""
    run = run_of(copied, DONE)
    folder = run.root / "rounds/2/certainty"
    for frame, name in enumerate(run.names):
        level = np.full((48, 64), 0 if frame == 4 else 7, np.uint8)
        PillowImage.fromarray(level).save(folder / f"{name}.png")
    rankings = Rankings()
    ranking = rankings.of(run, 2)
    for _ in range(200):
        if ranking.complete:
            break
        threading.Event().wait(0.05)
    rankings.close()
    assert ranking.worst(LENGTH, 1)[0].frame == 4


def test_commands_in_findings_are_shown_as_code(browser: TestClient) -> None:
    text = settled(browser, "/system")
    assert "<code>hvsa-agent pretrain</code>" in text
    assert "`" not in text


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("run `a <b>` & `c`", "run <code>a &lt;b&gt;</code> &amp; <code>c</code>"),
        ("one ` alone <b>", "one ` alone &lt;b&gt;"),
        ("`a` and ` alone", "<code>a</code> and ` alone"),
        ("", ""),
    ],
)
def test_what_stands_between_backticks_is_code(text: str, html: str) -> None:
    assert str(code(text)) == html
