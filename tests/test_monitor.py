"""What an agent tells Prometheus and health checks, over real sockets."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.monitor import SILENT_SECONDS, Monitor
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.subject import about
from hvsa_cvat.agent.watch import Watch
from hvsa_cvat.cli import main, sockets
from hvsa_cvat.cli.log_lines import LogLines, json_line
from hvsa_cvat.cvat.http.errors import NotFound, Unauthorized, Unreachable
from hvsa_cvat.cvat.http.outcome import Outcome
from hvsa_cvat.session.rounds import Phase
from tests.standin import Fault, StandIn
from tests.team import Team, only

Samples = dict[tuple[str, str], float]
"""Value by name and the value of the only label."""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def team(tmp_path: Path, checkpoint: Path) -> Iterator[Team]:
    with StandIn() as cvat:
        yield Team(cvat, tmp_path, checkpoint)


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def get(address: str, path: str, method: str = "GET") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            assert len(one.labels) <= 2
            label = next((v for name, v in one.labels.items() if name != "le"), "")
            if one.labels.get("le", "+Inf") == "+Inf":
                found[one.name, label] = one.value
    return found


@contextmanager
def told(agent: AgentContext, monitor: Monitor) -> Iterator[str]:
    """The address of its metrics."""
    address = free_address()
    with sockets.metrics(agent, address, monitor):
        yield address


def test_the_metrics_of_a_round(team: Team, clock: Clock) -> None:
    monitor = Monitor(30, clock)
    agent = team.agent(monitor=monitor)
    other = team.add_task("a second <task>")
    for task in (team.task, other):
        enroll(agent, task, team.options)
    with told(agent, monitor) as address:
        status, text = get(address, "/metrics")
        assert status == 200
        first = samples(text)
        assert first["hvsa_tasks", "predict"] == 2
        assert first["hvsa_jobs_waiting", ""] == 0
        assert first["hvsa_last_pass_age_seconds", ""] != first["hvsa_last_pass_age_seconds", ""]
        with monitor.passing():
            assert all(report.open_jobs for report in sync(agent))
            clock.now += 7
        clock.now += 5
        agent.workspace.pauses.pause(other)
        agent.workspace.set_error(other, "the disk is full; free space")
        asked = samples(get(address, "/metrics")[1])
        assert asked["hvsa_tasks", "annotate"] == 2
        assert asked["hvsa_tasks", "predict"] == 0
        assert asked["hvsa_jobs_waiting", ""] == 4
        assert asked["hvsa_tasks_paused", ""] == asked["hvsa_tasks_stopped", ""] == 1
        assert asked["hvsa_tasks_held", ""] == 0
        assert asked["hvsa_phase_seconds_count", "predict"] == 2
        assert asked["hvsa_phase_seconds_count", "annotate"] == 0
        assert asked["hvsa_rounds_done_total", ""] == 0
        assert asked["hvsa_pass_seconds_count", ""] == 1
        assert asked["hvsa_pass_seconds_sum", ""] == 7
        assert asked["hvsa_last_pass_age_seconds", ""] == 5
        assert asked["hvsa_requests_total", "2xx"] > 10
        assert asked["hvsa_requests_total", "unreachable"] == 0
        assert asked["hvsa_connections", "metrics"] >= 1
        assert asked["process_resident_memory_bytes", ""] > 1e6
        team.answer()
        list(sync(agent))
        text = get(address, "/metrics")[1]
        done = samples(text)
        assert done["hvsa_rounds_done_total", ""] == 1
        assert done["hvsa_phase_seconds_count", "finetune"] == 1
    for name in ("clip", "<task>", "ann", "bob", team.cvat.admin.token):
        assert name not in text.replace("annotate", "")
    phases = {label for name, label in done if name == "hvsa_tasks"}
    assert phases == {*map(str, Phase), "unreadable"}


def test_a_session_that_cannot_be_read_is_counted_as_such(team: Team, clock: Clock) -> None:
    monitor = Monitor(30, clock)
    agent = team.agent(monitor=monitor)
    enrolled = enroll(agent, team.task, team.options)
    (agent.workspace.folder(enrolled.enrollment) / "session.db").write_text("no database" * 999)
    with told(agent, monitor) as address:
        assert samples(get(address, "/metrics")[1])["hvsa_tasks", "unreadable"] == 1
        agent.workspace.database.write_text("no database" * 999)
        status, text = get(address, "/metrics")
    assert status == 200
    assert ("hvsa_tasks", "predict") not in samples(text)
    assert ("hvsa_requests_total", "2xx") in samples(text)


def test_what_came_of_requests_is_counted(team: Team, clock: Clock) -> None:
    monitor = Monitor(30, clock)
    client = team.agent(monitor=monitor).client
    with told(team.agent(), monitor) as address:
        team.cvat.requests.clear()
        team.cvat.faults = {0: Fault.ERROR, 1: Fault.BAD_GATEWAY}
        client.server_time()
        with pytest.raises(NotFound):
            client.get("tasks/999")
        first = samples(get(address, "/metrics")[1])
        team.cvat.down()
        with pytest.raises(Unreachable):
            client.server_time()
        last = samples(get(address, "/metrics")[1])
    expected = {"2xx": 1, "4xx": 1, "5xx": 2, "retried": 2, "unreachable": 0, "3xx": 0}
    assert {name: first["hvsa_requests_total", name] for name in expected} == expected
    assert last["hvsa_requests_total", "unreachable"] == 6
    assert last["hvsa_requests_total", "retried"] == 2 + 5


def test_an_agent_is_ready_when_a_pass_has_ended_and_the_server_answers(
    team: Team, clock: Clock
) -> None:
    monitor = Monitor(30, clock)
    agent = team.agent(monitor=monitor)
    enroll(agent, team.task, team.options)

    def one_pass() -> None:
        with monitor.passing():
            only(sync(agent))

    with told(agent, monitor) as address:
        assert get(address, "/readyz") == (503, "no pass has ended yet\n")
        one_pass()
        assert get(address, "/readyz")[0] == 200
        team.cvat.down()
        one_pass()
        status, line = get(address, "/readyz")
        assert (status, line) == (503, "the server does not answer; the log says why\n")
        assert get(address, "/healthz")[0] == 200
        team.cvat.up()
        one_pass()
        assert get(address, "/readyz")[0] == 200
        with pytest.raises(Unauthorized), monitor.passing():
            raise Unauthorized("no")
        assert get(address, "/readyz") == (503, "the last pass failed; the log says why\n")


@pytest.mark.parametrize(("interval", "silent"), [(30, SILENT_SECONDS), (120, 7200)])
def test_an_agent_is_ill_when_it_is_silent(
    team: Team, clock: Clock, interval: float, silent: float
) -> None:
    monitor = Monitor(interval, clock)
    with told(team.agent(), monitor) as address:
        clock.now += silent
        assert get(address, "/healthz") == (200, "passes go on\n")
        clock.now += 1
        status, line = get(address, "/healthz")
        assert (status, line) == (503, f"no sign of life for {silent + 1:.0f} s\n")
        monitor.beat()  # a step of training
        assert get(address, "/healthz")[0] == 200


def test_each_address_answers_what_it_is_for(
    team: Team, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HVSA_WEBHOOK_SECRET", "a long random text")
    monitor, agent, address = Monitor(30, clock), team.agent(), free_address()
    watch = Watch(30, random.Random(0))
    with told(agent, monitor) as inside, sockets.webhooks(agent, address, watch, monitor):
        assert get(inside, "/metrics", "POST") == (405, "only GET is answered here\n")
        status, line = get(inside, "/")
        assert status == 200
        assert line.startswith("hvsa-agent listens; 1 of 256 connections are open")
        assert get(address, "/healthz")[0] == 200
        assert get(address, "/readyz")[0] == 503
        assert get(address, "/metrics")[0] == 404
        assert get(address, "/")[1].startswith("hvsa-agent listens; ")
        assert get(address, "/metrics", "POST") == (401, "wrong or missing signature\n")
        assert ("hvsa_connections", "webhooks") in samples(get(inside, "/metrics")[1])


# -- the command


def invoke(team: Team, *args: str) -> tuple[int, str]:
    environment = {"CVAT_HOST": team.cvat.url, "CVAT_ACCESS_TOKEN": team.cvat.admin.token}
    environment["HVSA_WORKSPACE"] = str(team.root / "workspace")
    result = CliRunner().invoke(main, ["sync", *args], env=environment)
    return result.exit_code, result.stderr


def test_wrong_places_are_one_line(team: Team) -> None:
    assert invoke(team, "--metrics", "127.0.0.1:9464") == (
        2,
        "Error: --metrics goes with --watch\n",
    )
    code, line = invoke(team, "--watch", "--metrics", "9464")
    assert code == 2
    assert line.startswith("Error: --metrics '9464': write HOST:PORT")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        code, line = invoke(team, "--watch", "--metrics", place)
    assert code == 2
    assert "the port is not free" in line


def test_watching_with_metrics_and_a_log_for_programs(team: Team, tmp_path: Path) -> None:
    name = 'hall\n{"level": "error"}\x1b[31m \u202e kitchen\x7f'
    enroll(team.agent(), team.task, team.options)
    enroll(team.agent(), team.add_task(name), team.options)
    address, log = free_address(), tmp_path / "log"
    (tmp_path / "hvsa.toml").write_text(
        f'workspace = "workspace"\ninterval = 0.2\nlog_format = "json"\nmetrics = "{address}"\n'
        f'[server]\nurl = "{team.cvat.url}"\n'
    )
    command = [sys.executable, "-m", "hvsa_cvat", "sync", "--watch", "--config", "hvsa.toml"]
    variables = {"CVAT_ACCESS_TOKEN": team.cvat.admin.token}
    variables["PYTHONPATH"] = ":".join(filter(None, sys.path))
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=tmp_path, env=variables
        )
    try:
        deadline = time.monotonic() + 120
        while "waits for people" not in log.read_text() or ready(address) != 200:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        found = samples(get(address, "/metrics")[1])
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    text = log.read_text()
    assert found["hvsa_tasks", "annotate"] >= 1
    assert found["hvsa_requests_total", "2xx"] > 0
    assert found["hvsa_compute_busy_seconds_total", ""] > 0
    assert found["hvsa_compute_places", ""] == 1
    # of the two tasks one waits for people
    assert found["hvsa_compute_running", ""] + found["hvsa_compute_waiting", ""] <= 1
    assert text.isascii()
    assert not set(text) & set("\x1b\x7f\r")
    assert team.cvat.admin.token not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[-1]["message"] == "stopped"
    phases = {(one.get("task"), one.get("round"), one.get("phase")) for one in lines}
    assert (team.task, None, None) in phases
    assert any(one["message"].startswith(f"task {team.task}: round 0: predict") for one in lines)


def ready(address: str) -> int:
    try:
        return get(address, "/readyz")[0]
    except OSError:
        return 0


# -- lines of the log


def test_a_line_says_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    lines = LogLines("json", clock=lambda: 1_000_000.25)
    with about(task=7):
        lines.info("one")
        with about(round=2, phase="finetune"):
            lines.warning("two")
        lines.error("three")
    lines.info("four")
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    time = {"time": "1970-01-12T13:46:40.250+00:00"}
    assert found == [
        {**time, "level": "info", "message": "one", "task": 7},
        {**time, "level": "warning", "message": "two", "task": 7, "round": 2, "phase": "finetune"},
        {**time, "level": "error", "message": "three", "task": 7},
        {**time, "level": "info", "message": "four"},
    ]


@pytest.mark.parametrize(
    "odd", ["\n", "\x00", "\x1b[2J", "\x7f", "\x9b", "\u2028", "\u202e", "\ud800"]
)
def test_no_character_leaves_its_line(odd: str) -> None:
    line = json_line(0.0, "info", f"a{odd}b")
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == f"a{odd}b"


def test_lines_for_people_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with about(task=7):
        LogLines().error("task 7: the disk is full")
    assert capsys.readouterr().out == "task 7: the disk is full\n"


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_an_answer_makes_ready(outcome: Outcome, clock: Clock) -> None:
    monitor = Monitor(30, clock)
    with monitor.passing():
        monitor.request(outcome)
    good = outcome in (Outcome.ANSWERED, Outcome.REDIRECTED, Outcome.REFUSED)
    assert (monitor.readiness().status == 200) is good
