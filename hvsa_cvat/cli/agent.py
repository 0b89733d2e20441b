"""`hvsa-agent doctor`, `enroll`, `sync`, `status`, `withdraw` and `webhook`: the loop in CVAT."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from rich.markup import escape
from rich.table import Table

from hvsa_cvat.cli.console import ERR, OUT, bars
from hvsa_cvat.config import FLOW_NAMES, Method, Strategy
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.name_lists import split_names

if TYPE_CHECKING:
    from hvsa_cvat.agent.settings import AgentSettings
    from hvsa_cvat.agent.status import TaskStatus
    from hvsa_cvat.agent.sync import Agent, TaskReport
    from hvsa_cvat.agent.workspace import Workspace
    from hvsa_cvat.cvat.answers.unfinished import UnfinishedJob
    from hvsa_cvat.cvat.http.client import CvatClient
    from hvsa_cvat.session.outlook import Outlook

F = TypeVar("F", bound=Callable[..., Any])

_SECRET = "HVSA_WEBHOOK_SECRET"

_NOTHING_IN_CARE = "no task is in care; begin with: hvsa-agent enroll TASK"


def _settings_options(command: F) -> F:
    options = [
        click.option(
            "--config",
            "config_file",
            envvar="HVSA_CONFIG",
            type=click.Path(path_type=Path),
            help="Settings file; default: HVSA_CONFIG, or hvsa.toml here, if there is one.",
        ),
        click.option("--server", help="CVAT's address, https://...; default: CVAT_HOST."),
        click.option("--organization", help="Short name; default: your personal space."),
        click.option(
            "--workspace",
            envvar="HVSA_WORKSPACE",
            type=click.Path(path_type=Path),
            help="Folder of the agent's memory; default: HVSA_WORKSPACE, or hvsa-workspace.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _care_options(command: F) -> F:
    """Those of `CareOptions`; what is not given comes from hvsa.toml, or is the default there."""
    options = [
        click.option(
            "--granularity",
            help="What people are asked for: frame, rectangle:40 (or HxW), superpixel:300, "
            "superpixel-merged:300, or one a round, comma separated, of which the last holds on "
            "(rectangle:40,frame); default: squares of a sixth of the frames' height.",
        ),
        click.option(
            "--budget",
            help="Clicks, in % of annotating every frame: a total, or the totals after each "
            "round (2%,5%,10%); default: 5%.",
        ),
        click.option("--rounds", type=click.IntRange(min=1), help="Default: 3."),
        click.option(
            "--annotators", help="User names, comma separated; default: jobs are for anyone."
        ),
        click.option(
            "--checkpoint",
            type=click.Path(path_type=Path),
            help="The network to start from, made by `hvsa-agent pretrain`, or an official HRNet "
            ".pth; default: the small one of the package.",
        ),
        click.option(
            "--new-classes",
            is_flag=True,
            default=None,
            help="Take a checkpoint that knows none of the task's classes; its backbone is used.",
        ),
        click.option(
            "--method",
            type=click.Choice(get_args(Method)),
            help="Default: hvsa, which carries labels along the flow beside training.",
        ),
        click.option(
            "--strategy",
            type=click.Choice([one.value for one in Strategy]),
            help="How samples are chosen; default: uniform (evenly spaced) for whole frames by "
            "hvsa, else active.",
        ),
        click.option(
            "--size", help="HEIGHTxWIDTH in pixels at which the network works; default: by device."
        ),
        click.option("--flow", type=click.Choice(FLOW_NAMES), help="Default: auto."),
        click.option(
            "--flow-weights",
            type=click.Path(path_type=Path),
            help="State dict of torchvision's RAFT, for machines without a model hub.",
        ),
        click.option("--seed", type=click.IntRange(min=0), help="Default: 0."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"])),
        click.option(
            "--accepted-only",
            is_flag=True,
            default=None,
            help="Count answers only when a reviewer has accepted their job.",
        ),
        click.option(
            "--gap-percent",
            type=click.FloatRange(0, 100),
            help="A job with a sample of which more is left without a class goes back, once; "
            "default: 5.",
        ),
        click.option(
            "--shapes",
            type=click.Choice(["masks", "polygons"]),
            help="What pre-annotations are made of; default: masks.",
        ),
        click.option("--background", help="Classes to learn but not to show, comma separated."),
        click.option(
            "--quiet-minutes",
            type=click.FloatRange(min=0),
            help="Write to a job in progress only when nobody has saved it for so long; "
            "default: 15.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_settings_options
def doctor(**where: Any) -> None:
    """Check server, account, rights, GPU, weights and disk: one line each, with the mend."""
    settings = _settings(where)

    from hvsa_cvat.agent.doctor import examine_machine
    from hvsa_cvat.cvat.doctor import examine

    failures = 0
    with _client(settings) as client:
        for finding in (*examine(client), *examine_machine(settings)):
            failures += finding.level == "failure"
            style = {"ok": "green", "warning": "yellow", "failure": "red"}[finding.level]
            mend = f" -> {finding.fix}" if finding.fix else ""
            OUT.print(
                f"[{style}]{finding.level:8}[/] {escape(finding.name)}: "
                f"{escape(finding.text)}{escape(mend)}",
                soft_wrap=True,
                highlight=False,
            )
    if failures:
        raise HvsaError(f"{failures} of these must be mended before the agent can work")


@click.command()
@click.argument("task", type=click.IntRange(min=1), required=False)
@click.option(
    "--project",
    type=click.IntRange(min=1),
    help="All tasks of this project, now and later, instead of one task.",
)
@_care_options
@click.option(
    "--again", is_flag=True, help="Even if another workspace has asked about the task before."
)
@_settings_options
def enroll(task: int | None, project: int | None, again: bool, **options: Any) -> None:
    """Take TASK (video or images) into care. Nothing on the server changes before `sync`.

    \b
    Example:
      hvsa-agent enroll 12 --budget 5% --annotators ann,bob --checkpoint pretrained.safetensors
    """
    if (task is None) == (project is None):
        raise ConfigError("name a task, or a project by --project")
    settings = _settings(options)
    care = _care(options)
    with _agent(settings) as agent:
        if project is not None:
            failed = _tell_passes(agent.enroll_project(project, care), settings)
            _say(f"project {project} is in care: its new tasks will be, too")
            if failed:
                raise HvsaError(f"{failed} of its tasks cannot be; the lines above say why")
            return
        assert task is not None
        taken, watched = agent.enroll(task, care, again=again)
        config = taken.options.run_config(watched.size, "cpu")
        height, width = watched.size
        _say(
            f"task {task} ({watched.name!r}) is in care: {len(watched.media.numbers)} frames of "
            f"{width}x{height}, {len(watched.classes)} classes ({', '.join(watched.labels)}), "
            f"{config.granularity}, {taken.options.rounds} rounds, budget {taken.options.budget}"
        )
        _say("next: hvsa-agent sync")


@click.command()
@click.option("--task", type=click.IntRange(min=1), help="Only this one.")
@click.option(
    "--watch", is_flag=True, help="Go on, pass after pass, until stopped (Ctrl+C, SIGTERM)."
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds between passes; default: 30.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help=f"Take webhooks there, which begin a pass at once; their secret is in {_SECRET}.",
)
@click.option(
    "--heartbeat",
    envvar="HVSA_HEARTBEAT",
    type=click.Path(path_type=Path),
    help="With --watch: touch this file whenever the agent gets anywhere, for health checks.",
)
@click.option(
    "--ask-again",
    is_flag=True,
    help="Make the open request of --task anew, after its child task was deleted.",
)
@_settings_options
def sync(
    task: int | None,
    watch: bool,
    interval: float | None,
    listen: str | None,
    heartbeat: Path | None,
    ask_again: bool,
    **where: Any,
) -> None:
    """Move every task in care as far as it goes, and say what waits for whom. Safe to repeat."""
    if listen and not watch:
        raise ConfigError("--listen goes with --watch")
    if ask_again and task is None:
        raise ConfigError("--ask-again needs --task")
    settings = _settings(where)

    from hvsa_cvat.agent.settings import read_secret
    from hvsa_cvat.agent.watch import Heartbeat, Watch, listening
    from hvsa_cvat.cvat.webhook import Listener

    beat = Heartbeat(heartbeat).beat if watch and heartbeat else lambda: None
    passes = Watch(interval or settings.interval, random.Random(), beat)
    with ExitStack() as stack:
        stack.enter_context(_ending(passes.stop))
        agent = stack.enter_context(_agent(settings, timed=watch, beat=beat))
        if listen:
            me = int(agent.client.me()["id"])
            listener = Listener(read_secret(_SECRET) or "", me, passes.wake)
            stack.enter_context(listening(listen, listener, agent.log))
        if not watch:
            reports = agent.sync(task, ask_again=ask_again, stopping=lambda: passes.stopped)
            failed = _tell_passes(reports, settings)
            if not agent.has_work():
                _say(_NOTHING_IN_CARE)
            if failed:
                raise HvsaError(f"{failed} of the tasks could not go on; the lines above say why")
            return
        told: dict[int, str] = {}
        if not agent.has_work():
            agent.log(_NOTHING_IN_CARE)
        for _ in passes.passes():
            try:
                reports = agent.sync(task, ask_again=ask_again, stopping=lambda: passes.stopped)
                _tell_passes(reports, settings, agent.log, told)
            except HvsaError as error:
                agent.log(" ".join(str(error).split()))
            ask_again = False
        agent.log("stopped")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For other programs.")
@_settings_options
def status(as_json: bool, **where: Any) -> None:
    """Show per task: round, phase, who owes which job, clicks of the budget, scores, links."""
    settings = _settings(where)

    from hvsa_cvat.agent.status import read_status

    with _client(settings) as client:
        found = list(read_status(_workspace(settings), client))
        if as_json:
            click.echo(json.dumps([asdict_of(one) for one in found], indent=2))
            return
        if not found:
            _say(_NOTHING_IN_CARE)
            return
        OUT.print(_status_table(found))
        for one in found:
            _say(f"task {one.task}: {one.link}")
            for job in one.owed:
                _say(f"  {_owed_line(job)}")
            if one.budget_clicks is not None and one.budget_from is not None:
                _say(f"  the clicks of annotating every frame are {one.budget_from}")
            if one.skipped is not None:
                _say(f"  round {one.round} asks for nothing: {one.skipped}")
            if one.outlook is not None:
                _say(f"  {_outlook_line(one.outlook)}")
            if one.scores is not None and one.scores.unseen:
                _say(f"  no answer shows {', '.join(one.scores.unseen)} yet")
            if one.error:
                _say(f"  {one.error}")
        if any(one.owed for one in found):
            from hvsa_cvat.cvat.request.links import list_link

            _say(f"all open jobs: {list_link(client)}")


@click.command()
@click.argument("task", type=click.IntRange(min=1), required=False)
@click.option("--project", type=click.IntRange(min=1), help="Take no further tasks of it.")
@click.option(
    "--children", is_flag=True, help="Delete our child tasks too, with the answers in them."
)
@_settings_options
def withdraw(task: int | None, project: int | None, children: bool, **where: Any) -> None:
    """Let go of TASK: remove only what we pushed and still own; people's shapes stay."""
    if (task is None) == (project is None):
        raise ConfigError("name a task, or a project by --project")
    settings = _settings(where)
    if project is not None:
        if not _workspace(settings).drop_project(project):
            raise ConfigError(f"project {project} is not in care")
        _say(f"project {project}: no further tasks are taken; those in care stay in care")
        return
    assert task is not None
    with _agent(settings) as agent:
        retracted = agent.withdraw(task, children=children)
        for line in [] if retracted is None else retracted.lines():
            _say(line)
        if retracted is not None and retracted.waits:
            raise HvsaError(
                f"task {task} stays in care, because people are at work in it; withdraw it again "
                "when they are done"
            )
        _say(f"task {task} is out of care")


@click.group()
def webhook() -> None:
    """Let CVAT wake the agent."""


@webhook.command()
@click.argument("url")
@_settings_options
def install(url: str, **where: Any) -> None:
    """Register URL, where `sync --watch --listen` is reached from the server, with CVAT.

    \b
    Example:
      HVSA_WEBHOOK_SECRET=... hvsa-agent webhook install https://agent.example.com/
    """
    settings = _settings(where)

    from hvsa_cvat.agent.settings import read_secret

    secret = read_secret(_SECRET)
    if not secret:
        raise ConfigError(
            f"set {_SECRET} to a long random text, here and where `sync --listen` runs; for "
            f"example: export {_SECRET}=$(openssl rand -hex 32)"
        )

    from hvsa_cvat.cvat.webhook import install as install_at

    with _agent(settings) as agent:
        for hook in install_at(agent.client, url, secret, agent.companion_projects()):
            whole = hook.get("project_id") is None
            _say(
                f"webhook {hook['id']} delivers to {url} for "
                + ("the organisation" if whole else f"project {hook['project_id']}")
            )


def _settings(options: dict[str, Any]) -> AgentSettings:
    """Takes the options of `_settings_options` out of `options`."""
    from hvsa_cvat.agent.settings import load_settings

    return load_settings(
        options.pop("config_file"),
        server=options.pop("server"),
        organization=options.pop("organization"),
        workspace=options.pop("workspace"),
    )


def _care(options: dict[str, Any]) -> dict[str, Any]:
    """Options as `CareOptions` names and types them; None where not given."""
    for name in ("annotators", "background"):
        if options[name] is not None:
            options[name] = split_names(options[name])
    for name in ("checkpoint", "flow_weights"):
        if options[name] is not None:
            options[name] = str(options[name].resolve())
    return options


@contextmanager
def _client(
    settings: AgentSettings, log: Callable[[str], None] | None = None
) -> Iterator[CvatClient]:
    from hvsa_cvat.cvat.http.client import CvatClient

    client = CvatClient(
        settings.address,
        settings.credentials,
        sleep=time.sleep,
        rng=random.Random(),
        log=log or _say_aside,
    )
    with client:
        yield client


def _workspace(settings: AgentSettings) -> Workspace:
    from hvsa_cvat.agent.workspace import Workspace
    from hvsa_cvat.cvat.keys import server_key

    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    return Workspace(settings.workspace, server_key(settings.address.url), owner, time.time)


@contextmanager
def _agent(
    settings: AgentSettings, timed: bool = False, beat: Callable[[], None] = lambda: None
) -> Iterator[Agent]:
    """`beat` is called whenever there is something to log, and at each bit of progress."""
    from hvsa_cvat.agent.sync import Agent

    def log(line: str) -> None:
        beat()
        (_say_timed if timed else _say)(line)

    def progress(step: str, done: int, total: int) -> None:
        beat()
        show(step, done, total)

    with _client(settings, log) as client, bars() as show:
        yield Agent(
            settings, _workspace(settings), client, clock=time.time, log=log, progress=progress
        )


@contextmanager
def _ending(stop: Callable[[], None]) -> Iterator[None]:
    """The first SIGTERM or Ctrl+C ends after the current step, the second one at once."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        _say("stopping after the current step; once more to stop at once")
        stop()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    OUT.print(escape(line), soft_wrap=True, highlight=False)


def _say_aside(line: str) -> None:
    """Where stdout is the result."""
    ERR.print(escape(line), soft_wrap=True, highlight=False)


def _say_timed(line: str) -> None:
    _say(f"{time.strftime('%H:%M:%S')} {line}")


def _tell_passes(
    reports: Iterator[TaskReport],
    settings: AgentSettings,
    say: Callable[[str], None] = _say,
    told: dict[int, str] | None = None,
) -> int:
    """Say what each task waits for, and return how many could not go on.

    With `told`, what was said of a task in the pass before is not said again.
    """
    failed = 0
    for report in reports:
        failed += report.error is not None
        lines = list(_report_lines(report, settings.address.url))
        text = "\n".join(lines)
        if told is not None and told.get(report.task) == text:
            continue
        if told is not None:
            told[report.task] = text
        for line in lines:
            say(line)
    return failed


def _report_lines(report: TaskReport, url: str) -> Iterator[str]:
    name = f"task {report.task}" + (f" ({report.name})" if report.name else "")
    if report.error is not None:
        yield f"{name}: {report.error}"
    elif report.held_by is not None:
        yield f"{name}: {report.held_by} works on it"
    elif report.owed:
        yield f"{name}: waits for people"
        for job in report.owed:
            yield f"  {_owed_line(job)}"
    elif report.enrolled:
        yield f"{name}: is in care"
    elif report.done:
        yield f"{name}: all rounds are done; the masks are at {url}/tasks/{report.task}"
    if report.unpublished:
        yield f"{name}: masks wait for jobs that somebody is at work on"


def _owed_line(job: UnfinishedJob) -> str:
    if job.state == "deleted":
        return f"job {job.job} is gone from the server"
    who = job.assignee or "anyone"
    return (
        f"{who} owes job {job.job} ({job.state}, {job.frames} frames, about "
        f"{job.expected_clicks:.0f} clicks): {job.link}"
    )


def asdict_of(status: TaskStatus) -> dict[str, Any]:
    """As JSON; scores and outlook are models of their own."""
    models = {"scores": status.scores, "outlook": status.outlook}
    plain = {name: None if one is None else one.model_dump() for name, one in models.items()}
    return {**asdict(status), **plain}


def _status_table(found: list[TaskStatus]) -> Table:
    table = Table()
    for column in ("task", "name", "round", "next", "open jobs", "clicks", "mIoU on answers %"):
        table.add_column(column)
    for one in found:
        budget = f" of {one.budget_clicks:.0f}" if one.budget_clicks is not None else ""
        miou = one.scores.miou if one.scores is not None else None
        table.add_row(
            str(one.task),
            escape(one.name),
            f"{one.round} of {one.rounds}",
            one.phase,
            str(len(one.owed)),
            f"{one.clicks}{budget}",
            "–" if miou is None else f"{100 * miou:.1f}",
        )
    return table


def _outlook_line(outlook: Outlook) -> str:
    """What the masks are worth by the session's own data, and what to do."""
    return (
        f"masks: mIoU {100 * outlook.expected_miou:.1f} % expected "
        f"({100 * outlook.low:.1f} to {100 * outlook.high:.1f}); 1 % more clicks would bring "
        f"{100 * outlook.gain:.1f} points: {outlook.advice}"
    )
