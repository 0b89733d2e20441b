"""`hvsa-agent sync`: move the enrolled tasks on, once or until stopped."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hvsa_cvat.cli.console import say
from hvsa_cvat.cli.opening import open_agent, open_settings
from hvsa_cvat.cli.options import PATH, TASK, settings_options
from hvsa_cvat.cli.task_lines import NOTHING_ENROLLED, ReportPrinter
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.plain_text import plural

if TYPE_CHECKING:
    from hvsa_cvat.agent.compute import Compute
    from hvsa_cvat.agent.context import AgentContext
    from hvsa_cvat.agent.notify import Notifier
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
@settings_options
def sync(
    task: int | None,
    watch: bool,
    interval: float | None,
    workers: int | None,
    listen: str | None,
    heartbeat: Path | None,
    ask_again: bool,
    **options: Any,
) -> None:
    """Move every enrolled task as far as it goes, and say what it waits for. Safe to repeat.

    \b
    Example:
      hvsa-agent sync --watch
    """
    if listen and not watch:
        raise ConfigError("--listen goes with --watch")
    if ask_again and task is None:
        raise ConfigError("--ask-again needs --task")
    settings = open_settings(options)

    from hvsa_cvat.agent.watch import Heartbeat, Watch

    beat = Heartbeat(heartbeat).beat if watch and heartbeat else lambda: None
    passes = Watch(interval or settings.interval, random.Random(), beat)
    with ExitStack() as stack:
        stack.enter_context(_stopping_by_signal(passes.stop))
        compute = stack.enter_context(_open_compute(workers or settings.workers, passes))
        agent = stack.enter_context(
            open_agent(settings, timed=watch, beat=beat, watch=passes, compute=compute)
        )
        notifier = _notifier(agent)
        if listen:
            stack.enter_context(_webhooks(agent, listen, passes))
        if watch:
            _pass_after_pass(agent, passes, task, ask_again, notifier)
        else:
            _one_pass(agent, passes, task, ask_again, notifier)


@contextmanager
def _open_compute(workers: int, passes: Watch) -> Iterator[Compute]:
    """Where the tasks are computed: in workers, or, where `torchrun` has started this process, in
    it, because the processes beside it help with its trainings only."""
    from hvsa_cvat.agent.compute import InProcess
    from hvsa_cvat.agent.workers import WorkerPool

    given: Compute | None = click.get_current_context().obj
    if given is not None:
        yield given
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        if workers > 1:
            raise ConfigError("--workers does not go with torchrun, whose processes train together")
        yield InProcess()
    else:
        with WorkerPool(workers, passes.wake) as pool:
            yield pool


def _notifier(agent: AgentContext) -> Notifier | None:
    """Who tells people what is new; None where nobody is to be told."""
    from hvsa_cvat.agent.notify import Notifier, open_services

    services = open_services(os.environ)
    url = agent.settings.address.url
    return Notifier(services, agent.settings.notify, url, agent.log) if services else None


def _tell(agent: AgentContext, notifier: Notifier | None) -> None:
    if notifier is not None:
        notifier.tell(agent.workspace, agent.clock())


def _one_pass(
    agent: AgentContext,
    passes: Watch,
    task: int | None,
    ask_again: bool,
    notifier: Notifier | None,
) -> None:
    from hvsa_cvat.agent.passes import has_work, sync

    printer = ReportPrinter(agent.settings.address.url)
    reports = sync(
        agent, task, ask_again=ask_again, stopping=lambda: passes.stopped, to_the_end=True
    )
    failed = printer.print(reports)
    _tell(agent, notifier)
    if not has_work(agent):
        say(NOTHING_ENROLLED)
    if failed:
        raise HvsaError(f"{plural(failed, 'task')} could not go on; the lines above say why")


def _pass_after_pass(
    agent: AgentContext,
    passes: Watch,
    task: int | None,
    ask_again: bool,
    notifier: Notifier | None,
) -> None:
    from hvsa_cvat.agent.passes import has_work, sync
    from hvsa_cvat.agent.unchanged import Unchanged

    printer, unchanged = ReportPrinter(agent.settings.address.url, agent.log), Unchanged(agent)
    if not has_work(agent):
        agent.log(NOTHING_ENROLLED)
    for number, _ in enumerate(passes.passes()):
        anew = ask_again and number == 0
        try:
            printer.print(
                sync(
                    agent,
                    task,
                    ask_again=anew,
                    stopping=lambda: passes.stopped,
                    unchanged=unchanged,
                )
            )
            _tell(agent, notifier)
        except HvsaError as error:
            agent.log(" ".join(str(error).split()))
    agent.log("stopped")


@contextmanager
def _webhooks(agent: AgentContext, address: str, passes: Watch) -> Iterator[None]:
    from hvsa_cvat.agent.listen import Seldom, listening
    from hvsa_cvat.agent.settings import WEBHOOK_SECRET, read_secret
    from hvsa_cvat.cvat.webhook import Listener

    me = int(agent.client.me()["id"])
    odd = Seldom(agent.log, time.monotonic)
    listener = Listener(read_secret(WEBHOOK_SECRET) or "", me, passes.wake, odd)
    with listening(address, listener, agent.log):
        yield


@contextmanager
def _stopping_by_signal(stop: Callable[[], None]) -> Iterator[None]:
    """The first SIGTERM or Ctrl+C ends after the current step, the second one at once."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        say("stopping after the current step; once more to stop at once")
        stop()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
