"""What people see of the agent's commands, against the stand-in."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hvsa_cvat.agent.compute import InProcess
from hvsa_cvat.cli import main
from hvsa_cvat.session.outlook import Advice, Outlook
from hvsa_cvat.session.store import Store
from tests import tiny
from tests.people import answer_job, open_jobs
from tests.standin import StandIn

NAMES = tuple(tiny.LABELS)
SECRETS = ("CVAT_HOST", "CVAT_ACCESS_TOKEN", "CVAT_USER", "CVAT_PASSWORD", "HVSA_WEBHOOK_SECRET")


@pytest.fixture
def cvat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A server with task 1; the agent starts in a folder of its own, with a token."""
    monkeypatch.chdir(tmp_path)
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    with StandIn() as server:
        frames = [tiny.COLOURS[tiny.truth(t)] for t in range(4)]
        server.add_task("kitchen [1]", list(NAMES), frames=frames)
        monkeypatch.setenv("CVAT_HOST", server.url)
        monkeypatch.setenv("CVAT_ACCESS_TOKEN", server.admin.token)
        yield server


def invoke(*args: object) -> Result:
    """The command, which computes in this process: to start a worker takes seconds."""
    return CliRunner().invoke(main, [str(arg) for arg in args], obj=InProcess())


def says(result: Result, *patterns: str) -> str:
    assert result.exit_code == 0, (result.output, result.stderr, result.exception)
    for pattern in patterns:
        assert pattern in result.stdout
    return result.stdout


def refuses(result: Result, code: int, *patterns: str) -> None:
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert line.startswith("Error: ")
    for pattern in patterns:
        assert pattern in line


def enroll(checkpoint: Path, *more: str) -> Result:
    return invoke(
        *("enroll", 1, "--checkpoint", checkpoint, "--granularity", "rectangle:16"),
        *("--method", "label-propagation", "--budget", "40%", "--rounds", 1),
        *("--device", "cpu", "--size", "48x64", *more),
    )


def answer(cvat: StandIn, who: str | None = None) -> None:
    for job in open_jobs(cvat):
        answer_job(cvat, cvat.person(who or cvat.admin), job, tiny.truth, NAMES)


def test_status_tells_what_the_masks_are_worth(cvat: StandIn, checkpoint: Path) -> None:
    enroll(checkpoint, "--rounds", 2)
    for _ in range(2):
        says(invoke("sync"), "waits for people")
        assert "expected" not in says(invoke("status"))
        answer(cvat)
    says(invoke("sync"), "all rounds are done")
    told = says(invoke("status"), "masks: mIoU", "% expected (", "1 % more clicks would bring")
    (found,) = json.loads(says(invoke("status", "--json")))
    assert f": {found['outlook']['advice']}" in told
    assert 0 <= found["outlook"]["low"] <= found["outlook"]["high"] <= 1


def test_a_finished_task_goes_on(cvat: StandIn, checkpoint: Path) -> None:
    enroll(checkpoint)
    says(invoke("sync"), "waits for people")
    answer(cvat)
    done = says(invoke("sync"), "all rounds are done", "to go on: hvsa-agent extend 1 --rounds 1 ")
    command = done.split("to go on: hvsa-agent ")[1].split()
    assert " ".join(command) in says(invoke("status"))
    refuses(invoke("extend", 1, "--budget", "0.5"), 2, "a fraction, or percent")
    refuses(invoke("extend", 1, "--budget", "10%"), 2, "name a larger total", " ".join(command))
    refuses(invoke("extend", 7, "--budget", "50%"), 2, "hvsa-agent enroll 7")
    says(invoke("extend", 1, "--budget", "90%", "--rounds", 2), "rounds 2 to 3 ask for rectangle")
    says(invoke("sync"), "round 2: select done", "waits for people")
    assert "2 of 3" in says(invoke("status"))


def test_a_task_whose_masks_are_good_enough_is_stopped(cvat: StandIn, checkpoint: Path) -> None:
    enroll(checkpoint)
    says(invoke("sync"), "waits for people")
    (database,) = Path.cwd().rglob("session.db")
    with Store(database.parent) as store:
        store.round(1).save_outlook(
            Outlook(
                miou_before=0.9,
                expected_miou=0.9,
                low=0.9,
                high=0.9,
                gain=0.001,
                advice=Advice.STOP,
            )
        )
    says(invoke("status"), ": stop", "to stop: hvsa-agent withdraw 1 --keep-masks")
    before = cvat.shapes(cvat.task(1).jobs[0])
    says(
        invoke("withdraw", 1, "--keep-masks"), f"{len(before)} shapes of ours stay", "is withdrawn"
    )
    assert cvat.shapes(cvat.task(1).jobs[0]) == before


def test_status_names_classes_that_nobody_has_shown(cvat: StandIn, checkpoint: Path) -> None:
    enroll(checkpoint)
    says(invoke("sync"), "waits for people")
    for job in open_jobs(cvat):
        answer_job(
            cvat, cvat.person(cvat.admin), job, lambda *at: np.zeros_like(tiny.truth(*at)), NAMES
        )
    says(invoke("sync"), "all rounds are done")
    told = says(invoke("status"), f"no answer shows {NAMES[1]}, {NAMES[2]} yet")
    assert f"shows {NAMES[0]}" not in told


def test_from_enroll_to_withdraw(cvat: StandIn, checkpoint: Path) -> None:
    says(invoke("status"), "no task is enrolled", "hvsa-agent enroll")
    says(invoke("sync"), "no task is enrolled")
    says(enroll(checkpoint), "task 1 ('kitchen [1]') is enrolled", "4 frames of 64x48", *NAMES)
    asked = says(
        invoke("sync"), "waits for people", "assigned to nobody, not finished", "openGuide"
    )
    (job,) = open_jobs(cvat)
    assert f"/jobs/{job}?" in asked
    waiting = says(invoke("status"), "kitchen [1]", "annotate", "1 of 1", f"/jobs/{job}?", "/jobs?")
    assert "Traceback" not in waiting
    (told,) = json.loads(says(invoke("status", "--json")))
    assert told["task"] == 1
    assert told["phase"] == "annotate"
    assert [job_["job"] for job_ in told["open_jobs"]] == [job]
    assert told["link"] == f"{cvat.url}/tasks/1"
    answer(cvat)
    says(invoke("sync", "--task", 1), "all rounds are done", f"{cvat.url}/tasks/1")
    (told,) = json.loads(says(invoke("status", "--json")))
    assert told["phase"] == "done"
    assert told["clicks"] > 0
    assert 0 <= told["scores"]["miou"] <= 1
    kept = [path for path in Path("hvsa-workspace").rglob("*") if path.is_file()]
    assert len(kept) > 5
    assert not [path for path in kept if cvat.admin.token.encode() in path.read_bytes()]
    says(invoke("withdraw", 1, "--children"), "task 1 is withdrawn", "shapes of ours are deleted")
    says(invoke("status"), "no task is enrolled")
    assert list(cvat.world.tasks) == [1]
    assert cvat.shapes(cvat.task(1).jobs[0]) == []


def test_doctor(cvat: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = says(invoke("doctor"), "2.54", "disk", "GPU", "optical flow", "start network")
    assert "failure" not in fine
    assert cvat.admin.token not in fine
    assert list(cvat.world.tasks) == [1]
    assert cvat.world.projects == {}
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", "a-wrong-token")
    wrong = invoke("doctor")
    assert wrong.exit_code == 1
    assert "failure" in wrong.stdout
    assert "->" in wrong.stdout
    assert "a-wrong-token" not in wrong.output


def test_wrong_use_is_one_line(
    cvat: StandIn, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses(invoke("enroll", 99), 1, "task 99")
    refuses(invoke("enroll"), 2, "--project")
    refuses(invoke("enroll", 1, "--project", 2), 2, "--project")
    refuses(invoke("sync", "--task", 1), 2, "not enrolled", "enroll 1")
    refuses(invoke("sync", "--listen", "0.0.0.0:80"), 2, "--watch")
    refuses(invoke("sync", "--dashboard"), 2, "--dashboard goes with --watch")
    refuses(invoke("sync", "--ask-again"), 2, "--task")
    refuses(invoke("withdraw", 1), 2, "not enrolled")
    refuses(invoke("withdraw", "--project", 1), 2, "not enrolled")
    for option in ("--children", "--keep-masks"):
        refuses(invoke("withdraw", "--project", 1, option), 2, "each task of the project")
    refuses(invoke("webhook", "install", "http://x.example/"), 2, "HVSA_WEBHOOK_SECRET")
    refuses(invoke("status", "--server", "cvat.example.com"), 2, "https://cvat.example.com")
    refuses(invoke("status", "--config", "nowhere.toml"), 2, "nowhere.toml")
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", "a-wrong-token")
    refuses(invoke("enroll", 1), 1, "CVAT_ACCESS_TOKEN")
    monkeypatch.delenv("CVAT_ACCESS_TOKEN")
    refuses(invoke("enroll", 1), 2, "CVAT_ACCESS_TOKEN")
    monkeypatch.delenv("CVAT_HOST")
    refuses(invoke("sync"), 2, "CVAT_HOST")
    assert list(cvat.world.tasks) == [1]
    assert cvat.world.projects == {}


def test_a_task_that_cannot_go_on_fails_the_pass(cvat: StandIn, checkpoint: Path) -> None:
    says(enroll(checkpoint))
    cvat.world.drop(cvat.task(1))
    result = invoke("sync")
    assert "task 1" in result.stdout
    refuses(result, 1, "1 task could not go on")
    assert says(invoke("status"), "task 1")


def test_a_project_brings_what_can_be_enrolled(cvat: StandIn, checkpoint: Path) -> None:
    project = cvat.add_project("videos", list(NAMES))
    frames = [tiny.COLOURS[tiny.truth(t)] for t in range(2)]
    cvat.add_task("good", project=project, frames=frames)
    cvat.add_task("sizes", project=project, frames=[frames[0], frames[1][:9]])
    result = invoke("enroll", "--project", project.id, "--checkpoint", checkpoint)
    assert "task 2 (good): is enrolled" in result.stdout
    assert "task 3 (sizes): frame 1 of task 3" in result.stdout
    refuses(result, 1, "1 task of the project cannot be enrolled")


def test_withdrawing_waits_for_people(cvat: StandIn, checkpoint: Path) -> None:
    says(enroll(checkpoint))
    says(invoke("sync"))
    job = cvat.task(1).jobs[0]
    label = cvat.shapes(job)[0]["label_id"]
    drawn = {"frame": 0, "label_id": label, "points": [1, 1, 9, 1, 9, 9]}
    cvat.person(cvat.admin).draw(job, drawn)
    result = invoke("withdraw", 1)
    assert "is at work in it" in result.stdout
    refuses(result, 1, "stays enrolled")
    cvat.person(cvat.admin).finish(job)
    says(invoke("withdraw", 1), "has finished it", "child task 2 stays", "is withdrawn")


def test_status_needs_no_server(
    cvat: StandIn, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(enroll(checkpoint))
    says(invoke("sync"))
    cvat.down()
    (told,) = json.loads(says(invoke("status", "--json")))
    assert (told["phase"], told["error"]) == ("annotate", None)
    (job,) = told["open_jobs"]
    monkeypatch.setattr("hvsa_cvat.cli.opening.time.sleep", lambda seconds: None)
    (asked,) = json.loads(says(invoke("status", "--json", "--refresh")))
    assert asked["open_jobs"] == [job]
    assert "check that the server runs" in asked["error"]
    cvat.up()


def test_options_and_files_are_the_same(cvat: StandIn, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "hvsa.toml").write_text(
        f"workspace = 'memory'\n[server]\nurl = '{cvat.url}'\n"
        f"[defaults]\ncheckpoint = '{checkpoint}'\nbudget = '40%'\nrounds = 1\n"
        "granularity = 'frame'\nmethod = 'label-propagation'\ndevice = 'cpu'\n"
    )
    says(invoke("enroll", 1, "--granularity", "rectangle:24"), "rectangle:24", "budget 40%")
    assert (tmp_path / "memory" / "workspace.db").exists()


def test_watching_ends_when_told(cvat: StandIn, checkpoint: Path, tmp_path: Path) -> None:
    says(enroll(checkpoint))
    command = [sys.executable, "-m", "hvsa_cvat", "sync", "--watch", "--interval", "0.2"]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        wait_until(lambda: "not finished (" in log.read_text(), process)
        answer(cvat)
        wait_until(lambda: "all rounds are done" in log.read_text(), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    text = log.read_text()
    assert text.rstrip().endswith("stopped")
    assert text.count("not finished (") == 1  # said once, not at every pass
    assert os.environ["CVAT_ACCESS_TOKEN"] not in text


def test_a_webhook_wakes(
    cvat: StandIn, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next pass by the clock would come in an hour."""
    monkeypatch.setenv("HVSA_WEBHOOK_SECRET", "a long random text")
    cvat.add_user("ann")  # what the agent itself does, does not wake it
    says(enroll(checkpoint, "--annotators", "ann"))
    says(invoke("sync"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    says(invoke("webhook", "install", f"http://{place}/"), "delivers to", "for project")
    command = [sys.executable, "-m", "hvsa_cvat", "sync", "--watch", "--interval", "3600"]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--listen", place], stdout=file, stderr=subprocess.STDOUT, cwd=tmp_path
        )
    try:
        wait_until(lambda: "not finished (" in log.read_text(), process)
        answer(cvat, "ann")
        wait_until(lambda: "all rounds are done" in log.read_text(), process)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert "a long random text" not in log.read_text()


def wait_until(happened: object, process: subprocess.Popen[bytes]) -> None:
    assert callable(happened)
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, "ended early"
        assert time.monotonic() < deadline
        time.sleep(0.05)
