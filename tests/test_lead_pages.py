"""What a lead sees of targets, minutes, classes, projects, agents and the server."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hvsa_cvat.agent.settings import load_settings
from hvsa_cvat.agent.signs import Doing, Signs
from hvsa_cvat.agent.workspace import Workspace
from hvsa_cvat.cli import main
from hvsa_cvat.cvat.doctor import Finding
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.cvat.state import State
from hvsa_cvat.dashboard.charts import quality_curve
from hvsa_cvat.dashboard.machine_checks import MachineChecks
from hvsa_cvat.dashboard.server_checks import ServerChecks
from hvsa_cvat.dashboard.site import SiteOptions
from hvsa_cvat.enrolled.class_quality import by_class, changed_pixels, class_qualities
from hvsa_cvat.enrolled.links import frame_link
from hvsa_cvat.enrolled.people_time import minutes_by_round
from hvsa_cvat.enrolled.review import review_list
from hvsa_cvat.enrolled.runs import Run
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.session.records import Audit, Interval
from hvsa_cvat.types import IGNORE
from tests.lead import DONE, FAILED, FRESH, WAITING, Filled, run_of
from tests.standin import StandIn
from tests.test_dashboard import Clock, browsing, form_value, page, settled

NO_LOGIN = dict.fromkeys(("CVAT_ACCESS_TOKEN", "CVAT_USER", "CVAT_PASSWORD", "HVSA_CONFIG"))


def command(filled: Filled, *args: object) -> Result:
    environment = {**NO_LOGIN, **filled.environment()}
    return CliRunner().invoke(main, [*map(str, args)], env=environment)


# -- the curve


def with_target(run: Run, target: float) -> Run:
    return replace(
        run, session=replace(run.session, config={**run.session.config, "target": target})
    )


def test_the_curve_shows_the_target(filled: Filled) -> None:
    run = run_of(filled, DONE)
    plain = quality_curve(run)
    assert plain is not None
    assert plain.target is None
    curve = quality_curve(with_target(run, 0.97))
    assert curve is not None
    assert curve.target is not None
    assert curve.target.label == "97 %"
    assert curve.told.endswith("; the target is 97 %")
    # between the lines of its tenths, above 90 % and below 100 %
    lines = {tick.label: tick.at for tick in curve.y_ticks}
    assert lines["100 %"] < curve.target.at < lines["90 %"]


def test_the_curve_is_over_clicks_or_minutes(filled: Filled) -> None:
    run = run_of(filled, DONE)
    clicks, minutes = quality_curve(run), quality_curve(run, "minutes")
    assert clicks is not None
    assert minutes is not None
    assert [point.y for point in clicks.points] == [point.y for point in minutes.points]
    last = minutes_by_round(run)[-1]
    assert f"{last:,.0f} minutes: " in minutes.told
    with browsing(filled) as browser:
        assert "Quality over clicks" in page(browser, f"/tasks/{DONE}")
        text = page(browser, f"/tasks/{DONE}?over=minutes")
    assert "Quality over minutes of people" in text
    assert "Quality over clicks" in page_of(filled, f"/tasks/{DONE}?over=nonsense")


def page_of(filled: Filled, path: str) -> str:
    with browsing(filled, examine=all_well) as browser:
        return page(browser, path)


def all_well(settings: object) -> tuple[Finding, ...]:
    return (Finding("disk", "ok", "large"),)


# -- classes, and what people changed


def test_classes_by_hand() -> None:
    # 60 of 80 pixels shown as wall are wall, 20 are door; no door is shown
    counts = np.array([[60.0, 20.0, 0.0], [0, 0, 0], [0, 0, 0]])
    interval = Interval(estimate=0.5, low=0.4, high=0.6)
    audit = Audit(frames=3, miou=interval, classes=(interval, None, None))
    wall, door, sky = by_class(counts, ("wall", "door", "sky"), audit)
    assert (wall.shown, wall.iou, wall.changed, wall.mostly) == (80, 0.75, 0.25, "door")
    assert (door.shown, door.iou, door.changed, door.mostly) == (0, 0.0, None, None)
    assert (sky.iou, sky.audit) == (None, None)
    assert wall.audit == interval


def test_the_page_of_a_task_tells_of_classes(filled: Filled) -> None:
    run = run_of(filled, DONE)
    found = class_qualities(run)
    assert found is not None
    assert found.round == 2
    assert [one.name for one in found.classes] == list(run.session.labels)
    text = page_of(filled, f"/tasks/{DONE}")
    assert "Classes, and what people changed" in text
    assert "The masks of round 1, where people answered in round 2" in text
    assert class_qualities(run_of(filled, FRESH)) is None


def test_a_frame_shows_what_people_changed(filled: Filled) -> None:
    run = run_of(filled, DONE)
    asked = sorted({sample.frame for sample in run.rounds[2].round.queried})
    changed = {frame: changed_pixels(run, 2, frame) for frame in asked}
    for frame, pixels in changed.items():
        before = run.files(1).label_map(run.names[frame])
        expected = np.zeros(before.shape, bool)
        for one in run.files(2).answers().annotations:
            if one.frame == frame:
                expected |= (one.label_map != IGNORE) & (one.label_map != before)
        assert np.array_equal(pixels, expected)
    frame = next(frame for frame, pixels in changed.items() if pixels.any())
    with browsing(filled) as browser:
        assert "what people changed in round 2" in page(browser, f"/tasks/{DONE}/frames/{frame}")
        picture = browser.get(f"/tasks/{DONE}/pictures/2/{frame}/changed")
        assert picture.headers["content-type"] == "image/png"
        assert browser.get(f"/tasks/{DONE}/pictures/0/{frame}/changed").status_code == 404


# -- the list


def test_tasks_are_filtered_by_project(copied: Filled) -> None:
    for task, project in ((DONE, (7, "House <b>")), (WAITING, (8, None))):
        State(run_of(copied, task).root / "cvat").facts.set_project(project)
    with browsing(copied) as browser:

        def tasks(query: str) -> list[str]:
            return re.findall(r'class="name" href="/tasks/(\d+)"', page(browser, query))

        assert tasks("/?project=House+%3Cb%3E") == [str(DONE)]
        assert tasks("/?project=project+8") == [str(WAITING)]
        assert tasks("/?project=other") == []
        text = page(browser, "/")
        assert "<option>House &lt;b&gt;</option>" in text
        assert "House <b>" not in text


def test_the_list_tells_minutes(filled: Filled) -> None:
    run = run_of(filled, DONE)
    text = page_of(filled, "/?sort=minutes&down=1")
    assert "Minutes of people" in text
    assert "more asked for" in text
    first = re.findall(r'class="name" href="/tasks/(\d+)"', text)[0]
    assert first == str(DONE)
    assert minutes_by_round(run)[-1] > 0


# -- what to look at first


def test_the_review_and_its_list_have_the_same_tasks(filled: Filled) -> None:
    text = page_of(filled, "/review")
    for task in (DONE, WAITING, FRESH, FAILED):
        masks = run_of(filled, task).newest_shown is not None
        assert (f'href="/tasks/{task}/review"' in text) == masks


def test_the_command_lists_the_frames_to_look_at_first(filled: Filled) -> None:
    run = run_of(filled, DONE)
    result = command(filled, "status", "--review", "--task", DONE, "--frames", 2, "--json")
    assert result.exit_code == 0, result.stderr
    (found,) = json.loads(result.stdout)
    assert (found["task"], found["round"]) == (DONE, 2)
    shares = [one["wrong"] for one in found["frames"]]
    assert len(shares) == 2
    assert shares == sorted(shares, reverse=True)
    for one in found["frames"]:
        assert one["link"] == frame_link(filled.url, DONE, run, one["frame"])
    text = command(filled, "status", "--review").stdout
    assert f"task {DONE}: masks of round 2; frames to look at first:" in text
    assert f"task {FRESH}: has no masks yet" in text
    assert found["frames"][0]["link"] in text
    assert command(filled, "status", "--task", DONE).exit_code == 2


def test_frames_may_be_left_out_of_the_list(filled: Filled) -> None:
    run = run_of(filled, DONE)
    (first, *_) = review_list(filled.url, DONE, run, 1).frames
    left = review_list(filled.url, DONE, run, 50, leave_out=lambda at: at == first.frame).frames
    assert left
    assert first.frame not in {one.frame for one in left}


# -- the System page


def workspace_of(filled: Filled, owner: str, now: float) -> Workspace:
    return Workspace(filled.workspace, server_key(filled.url), owner, lambda: now)


def test_the_system_page_tells_of_agents(copied: Filled) -> None:
    clock = Clock()
    for owner, ago in (("eve@alpha:1:aa", 20.0), ("eve@beta:2:bb", 3600.0)):
        signs: Signs = workspace_of(copied, owner, clock() - ago).signs
        signs.give(lambda: Doing(workers=3, computing=2, queued=5, requests=1234, failed=7))
    with browsing(copied, clock=clock, examine=all_well) as browser:
        text = page(browser, "/system")
    assert re.search(r"eve@beta <span [^>]*>down</span>", text)
    assert not re.search(r"eve@alpha <span", text)
    assert '<td class="number">1,234</td>' in text
    assert "1 down" in text
    assert "aa" not in re.findall(r"eve@alpha[^<]*", text)[0]


def test_without_an_agent_the_system_page_says_how_to_start_one(filled: Filled) -> None:
    assert "No agent watches now" in page_of(filled, "/system")


def test_the_machine_is_checked_once_and_again_when_that_is_old(filled: Filled) -> None:
    settings = load_settings(None, {"CVAT_HOST": filled.url, "CVAT_ACCESS_TOKEN": "x"})
    settings = replace(settings, workspace=filled.workspace)
    now, calls = [0.0], []

    def examine(given: object) -> tuple[Finding, ...]:
        calls.append(given)
        return (Finding("disk", "ok", f"look {len(calls)}"),)

    checks = MachineChecks(settings, lambda: now[0], examine)

    def look() -> str:
        while not (found := checks()).findings:
            time.sleep(0.01)
        return found.findings[0].text

    assert look() == look() == "look 1"
    now[0] = 601
    assert look() == "look 1"  # shown until the new one is there
    while look() != "look 2":
        time.sleep(0.01)
    assert len(calls) == 2
    nowhere = replace(settings, workspace=Path("/nonexistent"))
    assert not MachineChecks(nowhere, lambda: 0.0, examine)().under_way


@pytest.fixture
def cvat() -> Iterator[StandIn]:
    with StandIn() as found:
        yield found


def test_a_button_asks_the_server(cvat: StandIn, copied: Filled) -> None:
    environment = {"CVAT_HOST": cvat.url, "CVAT_ACCESS_TOKEN": cvat.admin.token}
    login = load_settings(None, environment, workspace=copied.workspace)
    server = Filled(copied.workspace, cvat.url)
    with browsing(server, login=login, examine=all_well) as browser:
        text = page(browser, "/system")
        assert "Ask the server" in text
        form = {"csrf": form_value(text)}
        assert browser.post("/system/ask").status_code == 403
        assert browser.post("/system/ask", data=form).status_code == 303
        text = settled(browser, "/system")
    assert "login: logged in as admin" in text
    assert "Ask the server again" in text
    assert cvat.admin.token not in text


def test_without_a_login_the_page_names_the_command(filled: Filled) -> None:
    text = page_of(filled, "/system")
    assert "This dashboard has no login for the server." in text
    assert 'action="/system/ask"' not in text
    read_only = SiteOptions(read_only=True, patience=60)
    with browsing(filled, read_only, examine=all_well) as browser:
        assert "This dashboard only shows." in page(browser, "/system")
    with pytest.raises(ConfigError, match="no login"):
        ServerChecks(None, lambda: 0.0).begin()


def test_the_server_is_asked_once_at_a_time_and_not_for_long(tmp_path: Path) -> None:
    # a server that takes the connection and says nothing
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        login = load_settings(None, {"CVAT_HOST": url, "CVAT_ACCESS_TOKEN": "secret-token"})
        checks = ServerChecks(login, lambda: 0.0, limit=1.0)
        checks.begin()
        with pytest.raises(ConfigError, match="already"):
            checks.begin()
        for _ in range(600):
            if checks.last is not None and not checks.last.under_way:
                break
            time.sleep(0.05)
        assert checks.last is not None
        assert not checks.last.under_way
        assert checks.last.cut or checks.last.findings[0].level == "failure"
        assert "secret-token" not in str(checks.last)
        checks.close()
