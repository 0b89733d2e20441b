"""What a pass does for a task beside its rounds, where it was asked to.

Options of `sync`, not of `enroll`: whoever runs the agent decides it for tasks that are enrolled
already, once (`sync --task 12 --accept 95`) or for all of them (`sync --watch`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.events import Event
from hvsa_cvat.agent.task_pass import TaskPass
from hvsa_cvat.agent.truth_job import heed_truth_job
from hvsa_cvat.agent.workspace import Enrollment
from hvsa_cvat.cvat.masks.accept import Accepted, accept_jobs, take_back
from hvsa_cvat.cvat.request.links import frame_link, stage_link
from hvsa_cvat.cvat.request.rebalance import rebalance
from hvsa_cvat.errors import ConfigError
from hvsa_cvat.plain_text import plural
from hvsa_cvat.session.doubt import expected_wrong, wrong_given
from hvsa_cvat.session.rounds import Phase

_NAMED = 10
"""Frames that are named as those to look at first."""
_APART = 60
"""Each of them hides its neighbours within this fraction of the video."""


@dataclass(frozen=True)
class Chores:
    """What a pass is asked to do beside the rounds."""

    accept: float | None = None
    """Mark jobs for validation of which this share is expected to be right."""
    rebalance_hours: float | None = None
    """Give jobs that nobody has begun for so long to others."""
    ground_truth_job: bool = False
    """Make a ground truth job of the audits."""


NO_CHORES = Chores()


def parse_share(text: str) -> float:
    """The share of `--accept`, from `95` or `95%`; `ConfigError` for another."""
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = float("nan")
    if not 1 < percent <= 100:
        raise ConfigError(
            f"--accept {text!r}: the share of pixels that must be expected to be right, in %; "
            "write 95"
        )
    return percent / 100


def open_for_masks(agent: AgentContext, work: TaskPass) -> None:
    """Where a task goes on after its jobs were marked for validation, take the marks back: nothing
    is written into jobs that are under review."""
    if not work.session.done and work.state.marks.all():
        take_back(agent.client, work.state, work.connection.log)


def do_chores(agent: AgentContext, enrollment: Enrollment, work: TaskPass, chores: Chores) -> None:
    if chores.rebalance_hours is not None:
        _rebalance(agent, enrollment, work, chores.rebalance_hours)
    heed_truth_job(agent, enrollment, work, make=chores.ground_truth_job)
    if chores.accept is not None and work.session.done:
        _accept(agent, enrollment, work, chores.accept)


def _rebalance(agent: AgentContext, enrollment: Enrollment, work: TaskPass, hours: float) -> None:
    current = work.session.current
    if current.phase is not Phase.ANNOTATE or current.request is None:
        return
    request = work.state.requests.get(current.request)
    if request is None:
        return
    for given in rebalance(work.connection, request, hours):
        agent.workspace.events.add(
            enrollment.task,
            Event.GIVEN_ON,
            enrollment=enrollment.key,
            round_number=current.number,
            job=given.job,
            of=given.before,
            to=given.after,
        )


def _accept(agent: AgentContext, enrollment: Enrollment, work: TaskPass, threshold: float) -> None:
    session, number = work.session, work.session.current.number
    files, names = work.store.round(number), work.connection.task.media.names

    def judge() -> Callable[[int], float]:
        given = wrong_given(files, number, len(session.labels))
        return lambda position: expected_wrong(files, names[position], given)

    accepted = accept_jobs(work.connection, number, judge, threshold)
    if not accepted.marked and not accepted.unsure:
        return
    url, task, log = agent.client.address.url, enrollment.task, work.connection.log
    marked = plural(len(accepted.marked), "job")
    log(
        f"{marked} of {len(accepted.marked) + len(accepted.unsure)} marked for validation, of "
        f"which at least {100 * threshold:g} % should be right: "
        f"{stage_link(url, task, 'validation')}"
    )
    if accepted.unsure:
        log(f"in the others more may be wrong: {stage_link(url, task, 'annotation')}")
    for line in _first_frames(accepted, url, task, len(names)):
        log(line)
    if accepted.marked:
        agent.workspace.events.add(
            task,
            Event.ACCEPTED,
            enrollment=enrollment.key,
            round_number=number,
            jobs=list(accepted.marked),
            percent=100 * threshold,
        )


def _first_frames(accepted: Accepted, url: str, task: int, length: int) -> list[str]:
    """A line for each frame to look at first: frames have one size, so the share that is expected
    to be wrong orders them as area times uncertainty does."""
    apart = length // _APART
    chosen: list[int] = []
    lines = []
    for doubt in sorted(accepted.doubts, key=lambda one: (-one.wrong, one.frame)):
        if len(chosen) == _NAMED:
            break
        if all(abs(doubt.frame - other) > apart for other in chosen):
            chosen.append(doubt.frame)
            link = frame_link(url, task, doubt.job, doubt.frame)
            lines.append(
                f"look first at frame {doubt.frame}, about {100 * doubt.wrong:.1f} % wrong: {link}"
            )
    return lines
