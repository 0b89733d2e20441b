"""The ground truth job of a task: made from its audits, or read as an audit if it is people's."""

from __future__ import annotations

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.agent.events import Event
from hvsa_cvat.agent.task_pass import TaskPass
from hvsa_cvat.agent.workspace import Enrollment
from hvsa_cvat.config import RunConfig
from hvsa_cvat.cvat.answers.ground_truth import (
    find_truth_job,
    is_ours,
    make_truth_job,
    read_truth_job,
    tell_once,
)
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.plain_text import plural
from hvsa_cvat.session.answers import merge_answers
from hvsa_cvat.session.rounds import Phase
from hvsa_cvat.session.truth_audit import audit_by_truth
from hvsa_cvat.types import LabelMap
from hvsa_cvat.video.segments import granularity_by_round


def heed_truth_job(
    agent: AgentContext, enrollment: Enrollment, work: TaskPass, *, make: bool
) -> None:
    """Read the ground truth job of people, if there is one; else make one where `make` says so."""
    connection = work.connection
    row = find_truth_job(connection)
    if row is not None and not is_ours(connection, row):
        if make:
            connection.log(
                f"there is ground truth job {row['id']} already, and CVAT allows one; none is made"
            )
        _judge(work, row)
    elif row is not None and _is_made(work, row):
        _tell_of_edits(work, row)
    elif make:
        _make(agent, enrollment, work)


def _is_made(work: TaskPass, row: Json) -> bool:
    known = work.state.truth_jobs.get(row["id"])
    return known is not None and known.updated_date is not None


def _tell_of_edits(work: TaskPass, row: Json) -> None:
    known = work.state.truth_jobs.get(row["id"])
    if known is not None and known.updated_date != row["updated_date"]:
        tell_once(
            work.connection,
            f"ground truth job {row['id']} was edited since it was made; it stays as people left "
            "it, and teaches nothing",
        )


def _make(agent: AgentContext, enrollment: Enrollment, work: TaskPass) -> None:
    answers = _audited(work)
    if not answers:
        if work.session.done:
            tell_once(
                work.connection,
                "no audit was answered, so there is nothing to make a ground truth job of; audit "
                f"three frames: hvsa-agent extend {enrollment.task} --audit 3 --budget ...",
            )
        return
    job = make_truth_job(work.connection, answers)
    if job is None:
        return
    work.connection.log(
        f"ground truth job {job} holds the answers of the audits, on "
        f"{plural(len(answers), 'frame')}; our masks show the same answers there, so CVAT's "
        "quality page judges by it what others annotate, and `hvsa-agent status` our masks"
    )
    agent.workspace.events.add(
        enrollment.task, Event.TRUTH_MADE, enrollment=enrollment.key, job=job
    )


def _audited(work: TaskPass) -> dict[int, LabelMap]:
    """What people answered in audits, by frame."""
    config = RunConfig.model_validate(work.session.config)
    kinds = granularity_by_round(config.granularity, len(config.budgets))
    answers = merge_answers(
        one
        for done in work.session.rounds[1:]
        if done.clicks is not None and kinds[done.number - 1].frames is not None
        for one in work.store.round(done.number).answers().annotations
    )
    return {frame: one.label_map for frame, one in answers.items()}


def _judge(work: TaskPass, row: Json) -> None:
    """Judge the newest masks that are shown, where they or the job are new since the last time."""
    finished = [done.number for done in work.session.rounds if done.phase is Phase.DONE]
    if not finished:
        return
    connection, files = work.connection, work.store.round(finished[-1])
    known = work.state.truth_jobs.get(row["id"])
    useless = (
        f"ground truth job {row['id']} says nothing of the masks of round {finished[-1]}: it is "
        "empty, or people were asked about each of its frames"
    )
    if known is not None and known.updated_date == row["updated_date"]:
        if files.truth_audit() is not None:
            return
        if work.state.requests.told(connection.task.id) == useless:
            return
    truth = read_truth_job(connection, row)
    if truth is None:
        return
    names = connection.task.media.names
    found = audit_by_truth(work.session, work.store, finished[-1], names, truth)
    if found is None:
        tell_once(connection, useless)
        return
    files.save_truth_audit(found)
    tell_once(
        connection, f"ground truth job {row['id']}, which teaches nothing: {found.truth_words}"
    )
