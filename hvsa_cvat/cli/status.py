"""`hvsa-agent status`: how far the enrolled tasks are."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from hvsa_cvat.cli.console import OUT, printable, progress_bars, say, warn
from hvsa_cvat.cli.opening import (
    open_client,
    open_local_settings,
    open_present_workspace,
    open_settings,
)
from hvsa_cvat.cli.options import TASK, settings_options
from hvsa_cvat.cli.task_lines import (
    NOBODY_PICKS,
    NOTHING_ENROLLED,
    job_line,
    nobody_picks,
    span,
)
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.plain_text import plural

if TYPE_CHECKING:
    from hvsa_cvat.agent.settings import LocalSettings
    from hvsa_cvat.agent.status import TaskStatus
    from hvsa_cvat.enrolled.review import ReviewList
    from hvsa_cvat.session.outlook import Outlook

_COLUMNS = ("task", "name", "round", "next", "open jobs", "clicks", "mIoU on answers %")


@click.command()
@click.option(
    "--refresh", is_flag=True, help="Ask the server for the open jobs now. Needs a login."
)
@click.option(
    "--review",
    is_flag=True,
    help="List the frames to look at first, by the share of their pixels that are probably wrong.",
)
@click.option(
    "--frames",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="With --review: so many frames of each task.",
)
@click.option("--task", type=TASK, help="With --review: only this task.")
@click.option("--json", "as_json", is_flag=True, help="For other programs.")
@settings_options
def status(
    refresh: bool, review: bool, frames: int, task: int | None, as_json: bool, **options: Any
) -> None:
    """Show for each task its round and phase, the open jobs, clicks, scores and links.

    All of it is read from the workspace: the open jobs are those that the last pass of `sync`
    found, with their age.

    \b
    Example:
      hvsa-agent status --refresh
      hvsa-agent status --review --task 12
      hvsa-agent status --json
    """
    if task is not None and not review:
        raise ConfigError("--task goes with --review")
    if review:
        _review(open_local_settings(options), task, frames, as_json)
        return
    settings, failures = _refreshed(options) if refresh else (open_local_settings(options), {})

    from hvsa_cvat.agent.status import read_status

    url, now = settings.address.url, time.time()
    found = list(read_status(settings.place, url, now, failures))
    if as_json:
        click.echo(json.dumps([_as_json(one) for one in found], indent=2))
        return
    _print_status(found, now)
    if any(one.open_jobs for one in found):
        from hvsa_cvat.cvat.request.links import JOBS_PAGE

        say(f"all open jobs: {url}{JOBS_PAGE}")


def _review(settings: LocalSettings, task: int | None, most: int, as_json: bool) -> None:
    """The frames whose masks are most probably wrong, of one task or of all."""
    from hvsa_cvat.enrolled.review import review_list
    from hvsa_cvat.enrolled.runs import read_run
    from hvsa_cvat.enrolled.tasks import EnrolledTasks

    url = settings.address.url
    tasks = EnrolledTasks(settings.place, url, time.time)
    chosen = [tasks.one(task)] if task is not None else list(tasks.all().values())
    found, failed = [], 0
    with progress_bars() as progress:
        for one in chosen:
            try:
                run = read_run(one.place)
                found.append(review_list(url, one.number, run, most, progress))
            except HvsaError as error:
                warn(f"task {one.number}: {error}")
                failed += 1
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
    else:
        _print_review(found)
    if failed:
        raise HvsaError(f"{plural(failed, 'task')} could not be read; the lines above say why")


def _print_review(found: Sequence[ReviewList]) -> None:
    if not found:
        say(NOTHING_ENROLLED)
    for one in found:
        if one.round is None:
            say(f"task {one.task}: has no masks yet; `hvsa-agent sync` makes them")
            continue
        say(f"task {one.task}: masks of round {one.round}; frames to look at first:")
        for frame in one.frames:
            say(f"  frame {frame.frame}: {100 * frame.wrong:.1f} % probably wrong: {frame.link}")


def _refreshed(options: dict[str, Any]) -> tuple[LocalSettings, Mapping[int, str]]:
    """Ask the server for the open jobs; returns why that failed, by task."""
    settings = open_settings(options)
    workspace = open_present_workspace(settings)

    from hvsa_cvat.agent.refresh import refresh_open_jobs

    with open_client(settings) as client:
        return settings, refresh_open_jobs(workspace, client)


def _print_status(found: Sequence[TaskStatus], now: float) -> None:
    if not found:
        say(NOTHING_ENROLLED)
        return
    OUT.print(_table(found))
    for one in found:
        say(f"task {one.task}: {one.link}")
        if one.paused:
            say(f"  is paused; to go on: hvsa-agent resume {one.task}")
        if one.jobs_age is not None and one.open_jobs:
            say(f"  open jobs as of {span(one.jobs_age)} ago:")
        for job in one.open_jobs:
            say(f"  {job_line(job, open_for=span(now - job.since))}")
        if nobody_picks(one.open_jobs):
            say(f"  {NOBODY_PICKS}")
        if one.budget_clicks is not None and one.budget_from is not None:
            say(f"  the clicks of annotating every frame are {one.budget_from}")
        if one.target is not None:
            say(f"  {one.target}")
        if one.ground_truth is not None:
            say(f"  {one.ground_truth}")
        if one.people is not None:
            say(f"  people: {one.people.words}")
        if one.skipped is not None:
            say(f"  round {one.round} asks for nothing: {one.skipped}")
        if one.outlook is not None:
            say(f"  {_outlook_line(one.outlook)}")
        if one.next_command is not None:
            say(f"  {_purpose(one.outlook)}: {one.next_command}")
        if one.scores is not None and one.scores.unseen:
            say(f"  no answer shows {', '.join(one.scores.unseen)} yet")
        if one.planted.planted:
            say(f"  {one.planted.words}")
        if one.error:
            say(f"  {one.error}")


def _as_json(status: TaskStatus) -> dict[str, Any]:
    models = {name: getattr(status, name) for name in ("scores", "outlook", "planted", "people")}
    plain = {name: None if one is None else one.model_dump() for name, one in models.items()}
    seen = status.jobs_seen
    return {**asdict(status), **plain, "jobs_seen": seen and seen.isoformat()}


def _table(found: Sequence[TaskStatus]) -> Table:
    table = Table()
    for column in _COLUMNS:
        table.add_column(column)
    for one in found:
        budget = f" of {one.budget_clicks:.0f}" if one.budget_clicks is not None else ""
        miou = one.scores.miou if one.scores is not None else None
        table.add_row(
            str(one.task),
            escape(printable(one.name)),
            f"{one.round} of {one.rounds}",
            _next(one),
            str(len(one.open_jobs)),
            f"{one.clicks}{budget}",
            "-" if miou is None else f"{100 * miou:.1f}",
        )
    return table


def _next(status: TaskStatus) -> str:
    if status.computing_seconds is None:
        return status.phase
    return f"computing ({status.phase}, {span(status.computing_seconds)})"


def _purpose(outlook: Outlook | None) -> str:
    from hvsa_cvat.session.outlook import Advice

    stop = outlook is not None and outlook.advice is Advice.STOP
    return "to stop" if stop else "to go on"


def _outlook_line(outlook: Outlook) -> str:
    told = "" if outlook.audit is None else f"{outlook.audit.words}; "
    return (
        f"{told}masks: mIoU {100 * outlook.expected_miou:.1f} % expected "
        f"({100 * outlook.low:.1f} to {100 * outlook.high:.1f}); 1 % more clicks would bring "
        f"{100 * outlook.gain:.1f} points: {outlook.advice}"
    )
