"""`hvsa-agent sync`: move the enrolled tasks on, once or until stopped."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hvsa_cvat.cli import sockets
from hvsa_cvat.cli.log_lines import LogLines, log_format_option
from hvsa_cvat.cli.opening import open_agent, open_settings
from hvsa_cvat.cli.options import PATH, TASK, settings_options
from hvsa_cvat.cli.task_lines import NOTHING_ENROLLED, ReportPrinter
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.plain_text import plural

if TYPE_CHECKING:
    from hvsa_cvat.agent.compute import Compute
    from hvsa_cvat.agent.context import AgentContext
    from hvsa_cvat.agent.monitor import Monitor
    from hvsa_cvat.agent.notify import Notifier
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
@log_format_option
@settings_options
def sync(
    task: int | None,
    watch: bool,
    interval: float | None,
    workers: int | None,
    listen: str | None,
    metrics: str | None,
    heartbeat: Path | None,
    ask_again: bool,
    log_format: LogFormat | None,
    **options: Any,
) -> None:
    """Move every enrolled task as far as it goes, and say what it waits for. Safe to repeat.

    \b
    Example:
      hvsa-agent sync --watch
    """
    for option, value in (("--listen", listen), ("--metrics", metrics)):
        if value and not watch:
            raise ConfigError(f"{option} goes with --watch")
    if ask_again and task is None:
        raise ConfigError("--ask-again needs --task")
    settings = open_settings(options)

    from hvsa_cvat.agent.monitor import Monitor
    from hvsa_cvat.agent.watch import Heartbeat, Watch

    interval = interval or settings.interval
    lines = LogLines(log_format or settings.log_format, timed=watch)
    monitor = Monitor(interval, time.monotonic)
    heart = Heartbeat(heartbeat).beat if watch and heartbeat else lambda: None

    def beat() -> None:
        heart()
        monitor.beat()

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
        work = _Work(agent, passes, task, _notifier(agent), lines, printer)
        if not watch:
            _once(work, ask_again)
            return
        if place := metrics or settings.metrics:
            stack.enter_context(sockets.metrics(agent, place, monitor))
        if listen:
            stack.enter_context(sockets.webhooks(agent, listen, passes, monitor))
        _pass_after_pass(work, ask_again, monitor)


@dataclass(frozen=True)
class _Work:
    """What all passes of the command share."""

    agent: AgentContext
    passes: Watch
    task: int | None
    notifier: Notifier | None
    lines: LogLines
    printer: ReportPrinter

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
        )
        failed = self.printer.print(reports)
        if self.notifier is not None:
            self.notifier.tell(self.agent.workspace, self.agent.clock())
        return failed


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
    agent.log("stopped")


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
