"""`hvsa-agent sync`: move the enrolled tasks on, once or until stopped."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hvsa_cvat.cli import sockets
from hvsa_cvat.cli.beside import dashboard_beside
from hvsa_cvat.cli.log_lines import LogLines, log_format_option
from hvsa_cvat.cli.opening import open_agent, open_settings
from hvsa_cvat.cli.options import PATH, TASK, settings_options
from hvsa_cvat.cli.task_lines import NOTHING_ENROLLED, ReportPrinter
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.plain_text import plural

if TYPE_CHECKING:
    from hvsa_cvat.agent.chores import Chores
    from hvsa_cvat.agent.compute import Compute
    from hvsa_cvat.agent.context import AgentContext
    from hvsa_cvat.agent.monitor import Monitor
    from hvsa_cvat.agent.notify import Notifier
    from hvsa_cvat.agent.reports import TaskReport
    from hvsa_cvat.agent.settings import AgentSettings, LogFormat
    from hvsa_cvat.agent.unchanged import Unchanged
    from hvsa_cvat.agent.watch import Watch


@click.command()
@click.option("--task", type=TASK, help="Only this task.")
@click.option(
    "--watch", is_flag=True, help="Go on, pass after pass, until stopped (Ctrl+C, SIGTERM)."
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds between passes. Default: 30.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes that compute, so many tasks at once; each takes about 0.6 GB of memory, and "
    "what its task takes. Default: 1.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Receive webhooks there; each begins a pass at once. HVSA_WEBHOOK_SECRET holds their "
    "secret.",
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="With --watch: answer GET /metrics (for Prometheus), /healthz and /readyz there. Whoever "
    "reaches it reads how many tasks there are; keep it inside.",
)
@click.option(
    "--dashboard",
    metavar="[HOST:PORT]",
    is_flag=False,
    flag_value="127.0.0.1:8088",
    help="With --watch: serve the pages of `hvsa-agent dashboard` there, from a process of their "
    "own. Without an address: 127.0.0.1:8088.",
)
@click.option(
    "--heartbeat",
    envvar="HVSA_HEARTBEAT",
    type=PATH,
    help="With --watch: touch this file while the agent works or waits, for health checks.",
)
@click.option(
    "--ask-again",
    is_flag=True,
    help="Make the open request of --task anew, after its child task was deleted.",
)
@click.option(
    "--accept",
    metavar="PERCENT",
    help="Where all rounds of a task are over, mark those of its jobs for validation of which at "
    "least so much is expected to be right and that nobody has begun, and list the frames to look "
    "at first, with links. `withdraw` takes it back where nobody has changed the job since.",
)
@click.option(
    "--rebalance",
    type=click.FloatRange(min=0, min_open=True),
    metavar="HOURS",
    help="Give jobs that nobody has begun for so long to people who have finished theirs.",
)
@click.option(
    "--ground-truth-job",
    is_flag=True,
    help="Make a ground truth job of the frames and the answers of the audits, for CVAT's own "
    "quality page.",
)
@log_format_option
@settings_options
def sync(
    task: int | None,
    watch: bool,
    interval: float | None,
    workers: int | None,
    listen: str | None,
    metrics: str | None,
    dashboard: str | None,
    heartbeat: Path | None,
    ask_again: bool,
    accept: str | None,
    rebalance: float | None,
    ground_truth_job: bool,
    log_format: LogFormat | None,
    **options: Any,
) -> None:
    """Move every enrolled task as far as it goes, and say what it waits for. Safe to repeat.

    \b
    Example:
      hvsa-agent sync --watch
    """
    for option, value in (("--listen", listen), ("--metrics", metrics), ("--dashboard", dashboard)):
        if value and not watch:
            raise ConfigError(f"{option} goes with --watch")
    if ask_again and task is None:
        raise ConfigError("--ask-again needs --task")
    config_file = options["config_file"]
    settings = open_settings(options)

    from hvsa_cvat.agent.chores import Chores, parse_share
    from hvsa_cvat.agent.monitor import Monitor
    from hvsa_cvat.agent.watch import Heartbeat, Watch

    interval = interval or settings.interval
    share = None if accept is None else parse_share(accept)
    chores = Chores(share, rebalance, ground_truth_job)
    lines = LogLines(log_format or settings.log_format, timed=watch)
    monitor = Monitor(interval, time.monotonic)
    beats = [monitor.beat]
    if watch and heartbeat:
        beats.append(Heartbeat(heartbeat).beat)

    def beat() -> None:
        for one in beats:
            one()

    passes = Watch(interval, random.Random(), beat)
    with ExitStack() as stack:
        stack.enter_context(_stopping_by_signal(passes.stop, lines))
        compute = stack.enter_context(
            _open_compute(settings, workers or settings.workers, passes, lines)
        )
        agent = stack.enter_context(
            open_agent(
                settings, lines=lines, beat=beat, watch=passes, monitor=monitor, compute=compute
            )
        )
        printer = ReportPrinter(settings.address.url, agent.log, lines.error)
        work = _Work(agent, passes, task, _notifier(agent), lines, printer, chores)
        if not watch:
            _once(work, ask_again)
            return
        if place := metrics or settings.metrics:
            stack.enter_context(sockets.metrics(agent, place, monitor))
        if listen:
            stack.enter_context(sockets.webhooks(agent, listen, passes, monitor))
        if dashboard:
            beside = dashboard_beside(settings, config_file, dashboard, lines.form)
            stack.enter_context(beside)
        beats.append(lambda: _give_sign(work, monitor, workers or settings.workers))
        _pass_after_pass(work, ask_again, monitor)
        agent.workspace.signs.end()
    lines.info("stopped")  # not before the workers have ended their steps


def _give_sign(work: _Work, monitor: Monitor, workers: int) -> None:
    """Tell the others that this agent lives, and what it does; one that was asked to stop need not
    be missed."""
    from hvsa_cvat.agent.signs import Doing

    signs, queued = work.agent.workspace.signs, list(work.computing.values())
    if work.passes.stopped:
        signs.end()
        return
    requests, failed = monitor.exchanges()
    signs.give(
        lambda: Doing(
            workers=workers,
            computing=queued.count(False),
            queued=queued.count(True),
            requests=requests,
            failed=failed,
        )
    )


@dataclass(frozen=True)
class _Work:
    """What all passes of the command share."""

    agent: AgentContext
    passes: Watch
    task: int | None
    notifier: Notifier | None
    lines: LogLines
    printer: ReportPrinter
    chores: Chores
    computing: dict[int, bool] = field(default_factory=dict)
    """The tasks of which the newest pass found that something is computed, and whether that waits
    for a worker."""

    def one_pass(self, *, ask_again: bool, unchanged: Unchanged | None = None) -> int:
        """Returns how many tasks could not go on."""
        from hvsa_cvat.agent.passes import sync

        reports = sync(
            self.agent,
            self.task,
            ask_again=ask_again,
            stopping=lambda: self.passes.stopped,
            unchanged=unchanged,
            to_the_end=unchanged is None,
            chores=self.chores,
        )
        failed = self.printer.print(map(self._noted, reports))
        if self.notifier is not None:
            self.notifier.tell(self.agent.workspace, self.agent.clock())
        return failed

    def _noted(self, report: TaskReport) -> TaskReport:
        self.computing.pop(report.task, None)
        if report.computing is not None:
            self.computing[report.task] = report.queued
        return report


@contextmanager
def _open_compute(
    settings: AgentSettings, workers: int, passes: Watch, lines: LogLines
) -> Iterator[Compute]:
    """Where the tasks are computed: in workers, on a Ray cluster, or, where `torchrun` has started
    this process, in it, because the processes beside it help with its trainings only."""
    from hvsa_cvat.agent.compute import InProcess
    from hvsa_cvat.agent.workers import WorkerPool

    given: Compute | None = click.get_current_context().obj
    if given is not None:
        yield given
    elif settings.compute.engine == "ray":
        if workers > 1 or "TORCHELASTIC_RUN_ID" in os.environ:
            raise ConfigError(
                'engine = "ray" goes with neither workers nor torchrun: the cluster decides how '
                "many tasks it computes at once; start `hvsa-agent sync` without them"
            )
        with _open_ray(settings, passes, lines) as pool:
            yield pool
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        if workers > 1:
            raise ConfigError("--workers does not go with torchrun, whose processes train together")
        yield InProcess()
    else:
        with WorkerPool(workers, passes.wake) as pool:
            yield pool


@contextmanager
def _open_ray(settings: AgentSettings, passes: Watch, lines: LogLines) -> Iterator[Compute]:
    """A Ray cluster; Ray is imported here and nowhere else."""
    from hvsa_cvat.agent.ray_environment import prepare_ray

    prepare_ray(settings.compute.address)
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'[compute] engine = "ray" needs Ray ({error}); install it: '
            "pip install 'hvsa-cvat[cluster]'"
        ) from error

    from hvsa_cvat.agent.ray_cluster import connected
    from hvsa_cvat.agent.ray_pool import RayPool

    # files in a bucket and rows in PostgreSQL need no folder that all machines see
    apart = settings.artefacts is not None and settings.database is not None
    with connected(settings.compute, None if apart else settings.workspace) as cluster:
        at_once = plural(cluster.places(), "task")
        lines.info(f"computes {at_once} at once on the Ray cluster at {settings.compute.address}")
        with RayPool(cluster, passes.wake) as pool:
            yield pool


def _notifier(agent: AgentContext) -> Notifier | None:
    """Who tells people what is new; None where nobody is to be told."""
    from hvsa_cvat.agent.notify import Notifier, open_services

    services = open_services(os.environ)
    url = agent.settings.address.url
    return Notifier(services, agent.settings.notify, url, agent.log) if services else None


def _once(work: _Work, ask_again: bool) -> None:
    from hvsa_cvat.agent.passes import has_work

    failed = work.one_pass(ask_again=ask_again)
    if not has_work(work.agent):
        work.lines.info(NOTHING_ENROLLED)
    if failed:
        raise HvsaError(f"{plural(failed, 'task')} could not go on; the lines above say why")


def _pass_after_pass(work: _Work, ask_again: bool, monitor: Monitor) -> None:
    from hvsa_cvat.agent.passes import has_work
    from hvsa_cvat.agent.unchanged import Unchanged

    agent, unchanged = work.agent, Unchanged(work.agent)
    if not has_work(agent):
        agent.log(NOTHING_ENROLLED)
    for number, _ in enumerate(work.passes.passes()):
        try:
            with monitor.passing():
                work.one_pass(ask_again=ask_again and number == 0, unchanged=unchanged)
        except HvsaError as error:
            work.lines.error(" ".join(str(error).split()))


@contextmanager
def _stopping_by_signal(stop: Callable[[], None], lines: LogLines) -> Iterator[None]:
    """The first SIGTERM or Ctrl+C ends after the current step, the second one at once."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        lines.info("stopping after the current step; once more to stop at once")
        stop()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
