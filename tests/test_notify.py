"""What people are told, when, and that nothing is told twice."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.enroll import enroll
from hvsa_cvat.agent.news import NewsReader, notices, read_news
from hvsa_cvat.agent.notify import Notifier, Service, open_services, telling
from hvsa_cvat.agent.passes import sync
from hvsa_cvat.agent.settings import NoticeKind, NotifySection, load_local_settings
from hvsa_cvat.agent.signs import Doing
from hvsa_cvat.agent.workspace import Workspace
from hvsa_cvat.cli import main
from hvsa_cvat.cvat.state import Reading, State
from hvsa_cvat.errors import ConfigError
from tests.standin import StandIn
from tests.team import Team, only, only_folder

# apprise reads pictures by it
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

SECRET = "s3cret-part-of-the-address"


@dataclass
class Sender:
    """Takes messages as apprise does; `broken` takes none."""

    broken: bool = False
    got: list[str] = field(default_factory=list)
    then: Any = None

    def notify(self, body: str, title: str, body_format: str) -> bool:
        if self.broken:
            return False
        self.got.append(body)
        if self.then is not None:
            self.then()
        return True


@pytest.fixture
def team(tmp_path: Path, checkpoint: Path) -> Iterator[Team]:
    """A server with one task, which is enrolled for one round."""
    with StandIn() as cvat:
        team = Team(cvat, tmp_path, checkpoint)
        enroll(team.agent(), team.task, {**team.options, "budget": "30%", "rounds": 1})
        yield team


def notifier(team: Team, *senders: Sender, **options: Any) -> Notifier:
    services = [Service("test", sender) for sender in senders]
    return Notifier(
        services,
        NotifySection.model_validate(options),
        team.cvat.url,
        team.lines.append,
        lambda now: datetime.fromtimestamp(now, UTC),
    )


def pass_and_tell(team: Team, agent: AgentContext, by: Notifier) -> None:
    assert only(sync(agent)).error is None
    by.tell(agent.workspace, team.now)


# -- what is told


def test_people_are_told_once_of_each_step(team: Team) -> None:
    agent, sender = team.agent(), Sender()
    by = notifier(team, sender)
    pass_and_tell(team, agent, by)
    (message,) = sender.got
    assert message.startswith("task 1 (clip): round 1 asks ann, bob: 2 jobs, about ")
    assert f"{team.cvat.url}/tasks/" in message
    pass_and_tell(team, agent, by)
    assert len(sender.got) == 1
    team.answer()
    pass_and_tell(team, agent, by)
    ready, done = sorted(sender.got[1].splitlines(), reverse=True)
    assert f"the masks of round 1 are ready: {team.cvat.url}/tasks/1" in ready
    assert "all 1 rounds are done" in done
    assert "to go on: hvsa-agent extend 1" in done
    for _ in range(2):
        team.now += 100 * 3600
        pass_and_tell(team, agent, by)  # what is done is not stuck
    assert len(sender.got) == 2


def test_only_what_is_asked_for_is_told(team: Team) -> None:
    agent, sender = team.agent(), Sender()
    by = notifier(team, sender, events=["budget reached"])
    pass_and_tell(team, agent, by)
    assert sender.got == []
    team.answer()
    pass_and_tell(team, agent, by)
    assert ["all 1 rounds are done" in message for message in sender.got] == [True]


def test_a_job_that_went_back_is_told(team: Team) -> None:
    agent, sender = team.agent(), Sender()
    by = notifier(team, sender, events=["sent back"])
    pass_and_tell(team, agent, by)
    state = State(only_folder(team, team.task) / "cvat")
    (request,) = state.requests.all()
    job = request.jobs[0]
    state.readings.begin_send_back(job.id, "2026-11-27T08:00:00Z")
    for _ in range(2):
        by.tell(agent.workspace, team.now)
    (message,) = sender.got
    assert f"job {job.id} went back to {job.assignee}" in message
    assert f"/tasks/{request.task}/jobs/{job.id}" in message


def test_a_task_in_which_nothing_happens_is_stuck(team: Team) -> None:
    agent, sender = team.agent(), Sender()
    by = notifier(team, sender, events=["stuck"], stuck_hours=5)
    pass_and_tell(team, agent, by)
    team.now += 5 * 3600 - 1
    by.tell(agent.workspace, team.now)
    assert sender.got == []
    team.now += 2
    for _ in range(2):
        by.tell(agent.workspace, team.now)
    assert sender.got == [
        "task 1 (clip): nothing has happened for 5 hours; it waits for people",
    ]
    agent.workspace.set_error(team.task, "the disk is full; free space")
    team.now += 6 * 3600  # a task that stops has not moved
    by.tell(agent.workspace, team.now)
    assert sender.got[1].endswith("nothing has happened for 11 hours; the disk is full; free space")
    agent.workspace.pauses.pause(team.task)
    team.now += 50 * 3600
    by.tell(agent.workspace, team.now)
    assert len(sender.got) == 2


def test_a_task_of_which_nothing_was_written_is_not_read_again(team: Team) -> None:
    agent, reader = team.agent(), NewsReader()
    other = team.add_task("other")
    enroll(agent, other, team.options)
    assert [report.error for report in sync(agent)] == [None, None]

    def told() -> list[tuple[int, NoticeKind]]:
        found = reader.read(agent.workspace, team.cvat.url, 5, team.now)
        return [(notice.task, kind) for kind, notice in found]

    first = told()
    assert {task for task, _ in first} == {team.task, other}
    # what cannot be read is told of no more, so it was not read
    database = only_folder(team, team.task) / "session.db"
    before = database.stat()
    content = database.read_bytes()
    database.write_bytes(b"x" * before.st_size)
    os.utime(database, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert told() == []
    team.now += 6 * 3600
    assert told() == [(team.task, NoticeKind.STUCK), (other, NoticeKind.STUCK)]
    # an event, an error, a pause and an answer are read
    agent.workspace.set_error(other, "the disk is full")
    assert (other, NoticeKind.ASSIGNED) in told()
    agent.workspace.pauses.pause(other)
    assert told()[1:] == [(other, kind) for task, kind in first if task == other]
    database.write_bytes(content)
    assert (team.task, NoticeKind.STUCK) in told()
    reader.forget()
    assert [one for one in told() if one[1] is not NoticeKind.STUCK] == first


def test_dates_that_cannot_be_read_stop_nothing(team: Team) -> None:
    agent, sender = team.agent(), Sender()
    state = State(only_folder(team, team.task) / "cvat")
    for job, date in ((1, "soon"), (2, "1970-01-12T13:46:40")):
        state.readings.save(job, Reading(date, sent_back=False))
    by = notifier(team, sender, events=["stuck"], stuck_hours=5)
    team.now += 6 * 3600
    by.tell(agent.workspace, team.now)
    assert "nothing has happened for 6 hours" in sender.got[0]


def test_a_name_cannot_make_a_line_of_its_own(team: Team) -> None:
    other = team.add_task("a\nb\r\n task 9: all is lost")
    agent = team.agent()
    enroll(agent, other, team.options)
    enrollment = agent.workspace.enrollment(other)
    assert enrollment is not None
    assert only(sync(agent, other)).error is None
    news = read_news(agent.workspace, enrollment, team.cvat.url)
    found = dict(notices(news, 24, team.now))
    assert found[NoticeKind.ASSIGNED].line.splitlines() == [found[NoticeKind.ASSIGNED].line]


# -- agents that are down


def test_an_agent_that_falls_silent_is_told_once(team: Team) -> None:
    dead, other, sender = team.agent("eve@alpha:1:aa"), team.agent("ann@beta:2:bb"), Sender()
    by = notifier(team, sender, events=["agent down"], down_minutes=15)
    dead.workspace.signs.give(Doing)
    team.now += 15 * 60
    by.tell(other.workspace, team.now)
    assert sender.got == []
    team.now += 60
    for _ in range(2):
        by.tell(other.workspace, team.now)
    assert sender.got == [
        "agent eve@alpha has given no sign of life for 16 minutes; look at its machine, and start "
        "it again: hvsa-agent sync --watch"
    ]
    # a notifier that begins after a crash knows what was told
    notifier(team, sender).tell(other.workspace, team.now)
    assert len([line for line in sender.got if "eve@alpha" in line]) == 1
    # it lives again, and dies again: that is news
    dead.workspace.signs.give(Doing)
    team.now += 3600
    by.tell(other.workspace, team.now)
    assert "for 60 minutes" in sender.got[-1]


def test_an_agent_that_was_stopped_or_started_again_is_not_down(team: Team) -> None:
    stopped, crashed = team.agent("eve@alpha:1:aa"), team.agent("ann@beta:2:bb")
    looker, sender = team.agent("bob@gamma:3:cc"), Sender()
    by = notifier(team, sender, events=["agent down"])
    for agent in (stopped, crashed):
        agent.workspace.signs.give(Doing)
    stopped.workspace.signs.end()
    team.now += 10
    again = team.agent("ann@beta:4:dd")
    team.now += 3600
    again.workspace.signs.give(Doing)
    by.tell(looker.workspace, team.now)
    assert sender.got == []
    assert [one.owner for one in looker.workspace.signs.all()] == [
        "ann@beta:2:bb",
        "ann@beta:4:dd",
    ]


def test_signs_are_few_and_old_ones_are_forgotten(team: Team) -> None:
    agent, asked = team.agent("eve@alpha:1:aa"), list[float]()

    def doing() -> Doing:
        asked.append(team.now)
        return Doing(queued=len(asked))

    begun = team.now
    for _ in range(61):
        agent.workspace.signs.give(doing)
        team.now += 1
    assert asked == [begun, begun + 30, begun + 60]
    (sign,) = agent.workspace.signs.all()
    assert (sign.name, sign.started, sign.last, sign.doing.queued) == (
        "eve@alpha",
        begun,
        begun + 60,
        3,
    )
    team.now += 8 * 86400
    team.agent("ann@beta:2:bb").workspace.signs.give(Doing)
    assert [one.name for one in agent.workspace.signs.all()] == ["ann@beta"]


def test_a_workspace_that_refuses_a_sign_stops_nothing(team: Team) -> None:
    agent = team.agent()
    agent.workspace.database.write_bytes(b"no database")
    agent.workspace.signs.give(Doing)
    agent.workspace.signs.end()
    assert agent.workspace.database.read_bytes() == b"no database"


def test_the_command_for_cron_tells_of_agents_that_are_down(team: Team) -> None:
    """Its clock is the machine's, by which the sign is from 1970."""
    team.agent("eve@alpha:1:aa").workspace.signs.give(Doing)
    environment = {
        "CVAT_HOST": team.cvat.url,
        "HVSA_CONFIG": None,
        "HVSA_WORKSPACE": str(team.root / "workspace"),
    }
    with receiver(200) as (url, got):
        environment["HVSA_NOTIFY_URLS"] = url
        first, second = (
            CliRunner().invoke(main, ["notify", "check"], env=environment) for _ in range(2)
        )
    assert first.exit_code == 0, first.stderr
    # the second line: nothing has happened in the task since 1970
    assert "2 lines sent, 0 to be sent later" in first.stdout
    assert "0 lines sent" in second.stdout
    (message,) = got
    assert "agent eve@alpha has given no sign of life for " in message["message"]


def test_a_thread_tells_and_goes_on_after_an_error(team: Team) -> None:
    asked, lines = threading.Event(), team.lines

    def workspace() -> Workspace | None:
        if asked.is_set():
            return None
        asked.set()
        raise ConfigError("no workspace there")

    with telling(notifier(team), workspace, lambda: team.now, every=0.01):
        assert asked.wait(10)
    assert lines[-1] == "notifications: no workspace there"


# -- when


def test_news_are_gathered_and_wait_for_the_end_of_quiet_hours(team: Team) -> None:
    agent, sender = team.agent(), Sender()
    # 1,000,000 s after 1970 it is 13:46
    by = notifier(team, sender, digest_minutes=30, quiet="14:00-15:00")
    pass_and_tell(team, agent, by)
    team.now += 29 * 60
    by.tell(agent.workspace, team.now)
    assert sender.got == []
    team.answer()
    team.now += 60
    pass_and_tell(team, agent, by)  # 14:16
    assert sender.got == []
    team.now += 45 * 60
    by.tell(agent.workspace, team.now)
    (message,) = sender.got
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize(
    ("quiet", "hours"),
    [
        ("19:00-07:30", [*range(8), *range(19, 24)]),
        ("12:00-13:00", [12]),
        (None, []),
        ("08:00-08:00", []),
    ],
)
def test_quiet_hours_may_pass_midnight(quiet: str | None, hours: list[int]) -> None:
    section = NotifySection(quiet=quiet)
    day = [datetime(2026, 11, 27, hour, 15) for hour in range(24)]
    assert [at.hour for at in day if section.is_quiet(at)] == hours


# -- at most once


def test_a_process_that_ends_while_it_sends_tells_nothing_twice(team: Team) -> None:
    agent = team.agent()

    def end() -> None:
        raise KeyboardInterrupt

    broken_off = Sender(then=end)
    with pytest.raises(KeyboardInterrupt):
        pass_and_tell(team, agent, notifier(team, broken_off))
    assert len(broken_off.got) == 1
    again = Sender()
    pass_and_tell(team, team.agent(owner="next"), notifier(team, again))
    assert again.got == []


def test_what_nobody_took_is_sent_again(team: Team) -> None:
    agent, sender = team.agent(), Sender(broken=True)
    by = notifier(team, sender)
    pass_and_tell(team, agent, by)
    assert team.lines[-1] == "notifications: test took no message; the next pass tries again"
    sender.broken = False
    pass_and_tell(team, agent, by)
    assert len(sender.got) == 1


def test_one_broken_service_does_not_make_the_others_hear_twice(team: Team) -> None:
    agent, good, bad = team.agent(), Sender(), Sender(broken=True)
    by = notifier(team, bad, good)
    for _ in range(2):
        pass_and_tell(team, agent, by)
    assert len(good.got) == 1
    assert team.lines[-1] == "notifications: test took no message"


# -- settings and services


def test_the_settings_hold_no_addresses(tmp_path: Path) -> None:
    path = tmp_path / "hvsa.toml"
    head = '[server]\nurl = "https://cvat.example.com"\n[notify]\n'
    path.write_text(head + 'events = ["stuck"]\nquiet = "19:00-07:00"\n')
    section = load_local_settings(path, {}).notify
    assert section.events == (NoticeKind.STUCK,)
    for wrong, message in (
        ('urls = "json://x"', "known are"),
        ('quiet = "7pm"', "write hours as 19:00-07:30"),
        ('events = ["everything"]', "notify.events"),
    ):
        path.write_text(head + wrong)
        with pytest.raises(ConfigError, match=message):
            load_local_settings(path, {})


def test_a_wrong_address_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="address 2 of 2") as caught:
        open_services({"HVSA_NOTIFY_URLS": f"json://127.0.0.1 nonsense://{SECRET}"})
    assert SECRET not in str(caught.value)
    assert open_services({}) == []


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError, match=r"pip install 'hvsa-cvat\[notify\]'"):
        open_services({"HVSA_NOTIFY_URLS": "json://127.0.0.1"})


@contextmanager
def receiver(status: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that takes messages of the kind json://."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"json://127.0.0.1:{server.server_port}/{SECRET}", got
        finally:
            server.shutdown()
            thread.join()


def command(urls: str | None) -> Result:
    environment = {
        "CVAT_HOST": "https://cvat.example.com",
        "HVSA_NOTIFY_URLS": urls,
        "HVSA_CONFIG": None,
    }
    return CliRunner().invoke(main, ["notify", "test"], env=environment)


def test_the_command_sends_a_message_to_every_address() -> None:
    with receiver(200) as (good, got), receiver(500) as (bad, _):
        result = command(good)
        assert result.exit_code == 0, (result.output, result.exception)
        (message,) = got
        assert "cvat.example.com" in message["message"]
        mixed = command(f"{good} {bad}")
    assert mixed.exit_code == 1
    assert "address 2 (JSON): failed" in mixed.stdout
    assert "1 of 2 addresses failed" in mixed.stderr
    assert SECRET not in result.output + mixed.output


def test_without_addresses_the_command_says_where_they_go() -> None:
    result = command(None)
    assert result.exit_code == 2
    assert "HVSA_NOTIFY_URLS is not set" in result.stderr
