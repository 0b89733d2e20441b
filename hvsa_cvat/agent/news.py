"""What people may want to be told of a task, read from the workspace after a pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from hvsa_cvat.agent.advice import next_command
from hvsa_cvat.agent.events import Event, read_events
from hvsa_cvat.agent.goal import target_words
from hvsa_cvat.agent.outbox import Notice
from hvsa_cvat.agent.settings import NoticeKind
from hvsa_cvat.agent.signs import silent
from hvsa_cvat.agent.workspace import Enrollment, Workspace
from hvsa_cvat.cvat.state import Request, TaskMemory, memory_stamps, read_memory
from hvsa_cvat.database import Place
from hvsa_cvat.errors import HvsaError, SessionError
from hvsa_cvat.plain_text import plural
from hvsa_cvat.session.rounds import Phase, Session
from hvsa_cvat.session.store import Store, session_stamps


@dataclass(frozen=True)
class TaskNews:
    """What is known of one task now."""

    url: str
    """Address of the server."""
    enrollment: Enrollment
    place: Place
    """Of the session."""
    session: Session
    memory: TaskMemory
    last: float | None
    """Seconds since 1970 when anything happened last; None where it is not known."""
    paused: bool

    @property
    def title(self) -> str:
        """The task, in one line whatever its name."""
        name = " ".join(self.session.video.split())
        return f"task {self.enrollment.task} ({name})"

    @property
    def request(self) -> Request | None:
        """What people are asked now."""
        current = self.session.current
        if current.phase is not Phase.ANNOTATE:
            return None
        return next((one for one in self.memory.requests if one.key == current.request), None)


_NO_MOVE = (Event.STOPPED, Event.GOES_ON, Event.WISHED, Event.REFUSED)


def read_news(workspace: Workspace, enrollment: Enrollment, url: str) -> TaskNews:
    """`SessionError` where the folder of the task cannot be read."""
    place = workspace.session_place(enrollment)
    session = Store.peek(place)
    if session is None:
        raise SessionError(f"{place.folder} holds no session")
    memory = read_memory(place / "cvat")
    events = read_events(workspace.place, workspace.server, enrollment.task)
    # a server that is down for a minute now and then does not move a task
    moved = (one for one in events if one.what not in _NO_MOVE)
    times = [one.time for one in moved if one.enrollment == enrollment.key]
    times += filter(None, map(_seconds, memory.answered_at.values()))
    paused = enrollment.task in workspace.pauses.all()
    last = max(times, default=None)
    return TaskNews(url, enrollment, place, session, memory, last, paused)


def _seconds(date: str) -> float | None:
    """Since 1970; None for a date of the server that cannot be read."""
    try:
        found = datetime.fromisoformat(date)
    except ValueError:
        return None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def notices(news: TaskNews, stuck_hours: float, now: float) -> Iterator[tuple[NoticeKind, Notice]]:
    """Each kind of news that there is now, with the notice of it."""
    makers: Mapping[NoticeKind, Iterator[tuple[str, str]]] = {
        NoticeKind.ASSIGNED: _assigned(news),
        NoticeKind.SENT_BACK: _sent_back(news),
        NoticeKind.READY: _ready(news),
        NoticeKind.BUDGET: _budget(news),
        NoticeKind.STUCK: _stuck(news, stuck_hours, now),
    }
    for kind, lines in makers.items():
        yield from _as_notices(news, kind, lines)


NO_TASK = 0
"""The task of a notice that is about none."""


def agents_down(
    workspace: Workspace, minutes: float, now: float
) -> Iterator[tuple[NoticeKind, Notice]]:
    """The agents that have given no sign of life for so long, each once; `now` in seconds since
    1970."""
    for one in silent(workspace.signs.all(), minutes, now):
        passed = (now - one.last) / 60
        yield (
            NoticeKind.DOWN,
            Notice(
                f"agent {one.owner} {one.last:.0f}",
                NO_TASK,
                f"agent {one.name} has given no sign of life for {passed:.0f} minutes; look at its "
                "machine, and start it again: hvsa-agent sync --watch",
            ),
        )


class NewsReader:
    """The notices there are, pass after pass. A task is read again when something was written about
    it; until then the only news can be that nothing happens."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[_Stamp, TaskNews]] = {}

    def read(
        self, workspace: Workspace, url: str, stuck_hours: float, now: float
    ) -> list[tuple[NoticeKind, Notice]]:
        """Of all tasks that can be read; of the others the pass has told. `url` is the address of
        the server, `now` seconds since 1970."""
        paused, newest = workspace.pauses.all(), workspace.events.newest()
        before, self._kept = self._kept, {}
        found: list[tuple[NoticeKind, Notice]] = []
        enrollments = workspace.enrollments()
        places = [workspace.session_place(one) for one in enrollments]
        sessions, memories = session_stamps(places), memory_stamps([at / "cvat" for at in places])
        for one, session, memory in zip(enrollments, sessions, memories, strict=True):
            # changes with everything that `read_news` reads
            stamp = one, one.task in paused, newest.get(one.task), session, memory
            kept = before.get(one.task)
            with suppress(HvsaError):
                if kept is not None and kept[0] == stamp:
                    found += _as_notices(
                        kept[1], NoticeKind.STUCK, _stuck(kept[1], stuck_hours, now)
                    )
                else:
                    kept = stamp, read_news(workspace, one, url)
                    found += notices(kept[1], stuck_hours, now)
                self._kept[one.task] = kept
        return found

    def forget(self) -> None:
        """Read all tasks again, because what was found was not noted."""
        self._kept = {}


_Stamp = tuple[Enrollment, bool, int | None, tuple[int, ...], tuple[int, ...]]


def _as_notices(
    news: TaskNews, kind: NoticeKind, lines: Iterator[tuple[str, str]]
) -> Iterator[tuple[NoticeKind, Notice]]:
    task, key = news.enrollment.task, news.enrollment.key
    for what, text in lines:
        name = f"{task} {key} {kind.value} {what}"
        yield kind, Notice(name, task, f"{news.title}: {text}")


def _assigned(news: TaskNews) -> Iterator[tuple[str, str]]:
    request = news.request
    if request is not None:
        people = dict.fromkeys(job.assignee or "anyone" for job in request.jobs)
        minutes = sum(job.expected_minutes for job in request.jobs)
        yield (
            f"{request.key} {request.task}",
            f"round {news.session.current.number} asks {', '.join(people)}: "
            f"{plural(len(request.jobs), 'job')}, about {minutes:.0f} min: "
            f"{news.url}/tasks/{request.task}",
        )


def _sent_back(news: TaskNews) -> Iterator[tuple[str, str]]:
    request = news.request
    for job in request.jobs if request is not None else ():
        if request is not None and job.id in news.memory.sent_back:
            yield (
                f"{job.id} {news.memory.sent_back_at[job.id]}",
                f"job {job.id} went back to {job.assignee or 'its annotator'}, because a picture "
                f"is not checked or lacks a class: {news.url}/tasks/{request.task}/jobs/{job.id}",
            )


def _ready(news: TaskNews) -> Iterator[tuple[str, str]]:
    finished = [one.number for one in news.session.rounds if one.phase is Phase.DONE]
    if finished and finished[-1] > 0:
        outlook = Store.peek_round(news.place, finished[-1]).outlook()
        worth = ""
        if outlook is not None:
            worth = (
                f", mIoU {100 * outlook.expected_miou:.1f} % expected "
                f"({100 * outlook.low:.1f} to {100 * outlook.high:.1f})"
            )
        where = f"{news.url}/tasks/{news.enrollment.task}"
        yield str(finished[-1]), f"the masks of round {finished[-1]} are ready{worth}: {where}"


def _budget(news: TaskNews) -> Iterator[tuple[str, str]]:
    session = news.session
    if session.done:
        files = Store.peek_round(news.place, session.current.number)
        command = next_command(news.enrollment.task, session, files)
        text = f"all {session.rounds_total} rounds are done, {session.clicks} clicks are spent"
        goal = target_words(news.enrollment.task, session, files)
        if goal is not None:
            text = f"{goal}; {text}"
        yield str(session.rounds_total), text + (f"; to go on: {command}" if command else "")


def _stuck(news: TaskNews, hours: float, now: float) -> Iterator[tuple[str, str]]:
    if news.session.done or news.paused or news.last is None or now - news.last < 3600 * hours:
        return
    error = news.enrollment.error
    why = f"; {error}" if error is not None else ""
    waits = "; it waits for people" if error is None and news.request is not None else ""
    passed = (now - news.last) / 3600
    kind = "" if error is None else " failing"
    yield f"{news.last:.0f}{kind}", f"nothing has happened for {passed:.0f} hours{why}{waits}"
