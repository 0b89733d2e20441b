"""How the tasks in care stand: read from the workspace, and from the server if it answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hvsa_cvat.agent.workspace import Care, Workspace
from hvsa_cvat.cvat.answers.finished import CollectPolicy
from hvsa_cvat.cvat.answers.unfinished import UnfinishedJob, unfinished_jobs
from hvsa_cvat.cvat.http.client import CvatClient, Unreachable
from hvsa_cvat.cvat.state import Request, read_requests
from hvsa_cvat.errors import HvsaError
from hvsa_cvat.session.artefacts import NewestRecords, newest_records
from hvsa_cvat.session.outlook import Outlook
from hvsa_cvat.session.records import Agreement
from hvsa_cvat.session.rounds import Phase
from hvsa_cvat.session.store import Store


@dataclass(frozen=True)
class TaskStatus:
    """One task in care."""

    task: int
    name: str
    link: str
    round: int
    rounds: int
    """Rounds that ask people."""
    phase: str
    """What happens next; `done` when all rounds are over."""
    clicks: int
    """Spent so far."""
    budget_clicks: float | None
    """May be spent in all, as far as known; None before the first selection."""
    expected_clicks: float | None
    """Of the samples that people are asked about now."""
    owed: tuple[UnfinishedJob, ...]
    scores: Agreement | None
    """Of the last answered round: the predictions before it against its answers."""
    outlook: Outlook | None
    """Of the newest masks that have one."""
    worked_on_by: str | None
    """The agent that has the task just now."""
    error: str | None
    """What stopped the last pass, or why there is no more to say."""
    budget_from: str | None = None
    """How the clicks of annotating every frame, to which the budget relates, are known."""
    skipped: str | None = None
    """Why the newest round asks for nothing, if so."""


def read_status(workspace: Workspace, client: CvatClient | None) -> Iterator[TaskStatus]:
    """The status of every task in care. Without a client, or while the server does not answer,
    nobody knows who owes what, and the rest is told."""
    people = _People(client)
    for care in workspace.tasks():
        yield _status(workspace, care, client, people)


class _People:
    """Who owes what; a server that does not answer is not asked again."""

    def __init__(self, client: CvatClient | None) -> None:
        self._client = client
        self._silence: Unreachable | None = None

    def owe(self, request: Request, policy: CollectPolicy) -> list[UnfinishedJob]:
        if self._client is None:
            return []
        if self._silence is not None:
            raise self._silence
        try:
            return unfinished_jobs(self._client, request, policy)
        except Unreachable as error:
            self._silence = error
            raise


def _status(
    workspace: Workspace, care: Care, client: CvatClient | None, people: _People
) -> TaskStatus:
    folder = workspace.folder(care)
    session, error = None, care.error
    try:
        session = Store.peek(folder)
    except HvsaError as problem:
        error = str(problem)
    lease = workspace.lease(care.task)
    link = f"{client.address.url}/tasks/{care.task}" if client is not None else ""
    holder = lease.owner if lease is not None else None
    if session is None:
        error = error or f"{folder} holds no session; withdraw the task and enroll it again"
        return TaskStatus(
            care.task, "", link, 0, 0, "unknown", 0, None, None, (), None, None, holder, error
        )
    current = session.current
    jobs: tuple[UnfinishedJob, ...] = ()
    if current.phase is Phase.ANNOTATE and current.request is not None:
        try:
            requests = {one.key: one for one in read_requests(folder / "cvat")}
            request = requests.get(current.request)
            if request is not None:
                policy = CollectPolicy(accepted_only=care.options.accepted_only)
                jobs = tuple(people.owe(request, policy))
        except HvsaError as problem:
            error = error or str(problem)
    records = NewestRecords()
    try:
        records = newest_records(Store.peek_round(folder, current.number))
    except HvsaError as problem:
        error = error or str(problem)
    selection = records.selection
    budgets = session.config["budgets"]
    return TaskStatus(
        task=care.task,
        name=session.video,
        link=link,
        round=current.number,
        rounds=session.rounds_total,
        phase=current.phase.value,
        clicks=session.clicks,
        budget_clicks=budgets[-1] * selection.full_clicks if selection is not None else None,
        expected_clicks=current.expected_clicks if current.clicks is None else None,
        owed=jobs,
        scores=records.agreement,
        outlook=records.outlook,
        worked_on_by=holder,
        error=error,
        budget_from=selection.basis if selection is not None else None,
        skipped=selection.skipped if selection is not None else None,
    )
