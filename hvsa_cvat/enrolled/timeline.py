"""What was done with a task, by whom and when: from the log of the workspace, and from what the
sessions and the memory of their requests keep."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from hvsa_cvat.agent.events import Event, Recorded, read_events
from hvsa_cvat.agent.workspace import enrollment_places
from hvsa_cvat.config import RunConfig
from hvsa_cvat.cvat.keys import server_key
from hvsa_cvat.database import Where, place_of
from hvsa_cvat.enrolled.runs import RoundFacts, Run, read_run
from hvsa_cvat.errors import ConfigError, HvsaError
from hvsa_cvat.session.rounds import Phase
from hvsa_cvat.video.segments import granularity_by_round

COLUMNS = ("time", "who", "what", "round", "job", "enrollment", "detail")


@dataclass(frozen=True)
class Entry:
    """Something that was done."""

    time: datetime
    """UTC. Of answers it is the server's clock, else that of the agent's machine."""
    who: str
    what: Event
    enrollment: str
    """Key of the enrollment; it ends the name of the folder of its session."""
    round: int | None = None
    job: int | None = None
    detail: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """The details, for people."""
        pairs = [(name, one) for name, one in (self.detail or {}).items() if one is not None]
        return ", ".join(f"{name.replace('_', ' ')}: {_shown(one)}" for name, one in pairs)

    def to_json(self) -> dict[str, Any]:
        return {
            "time": self.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "who": self.who,
            "what": self.what.value,
            "round": self.round,
            "job": self.job,
            "enrollment": self.enrollment,
            "detail": dict(self.detail or {}),
        }


def read_timeline(
    workspace: Where, url: str, task: int, read: Callable[[Where], Run] = read_run
) -> list[Entry]:
    """Everything that is known of a task of the server at `url`, the oldest first; also where the
    task is withdrawn. `read` reads a session. `ConfigError` where the workspace knows nothing of
    it."""
    server = server_key(url)
    recorded = read_events(workspace, server, task)
    places = enrollment_places(workspace, server, task)
    if not places and not recorded:
        raise ConfigError(
            f"task {task} of {url} was never enrolled in {place_of(workspace).folder}; see "
            "`hvsa-agent status`"
        )
    entries = [_of_log(one) for one in recorded]
    for place in places:
        with suppress(HvsaError):  # what the log has is told all the same
            run = read(place)
            entries += _of_session(run, entries)
            entries = [_with_what_was_asked(one, run) for one in entries]
    return _with_who_had_it(sorted(entries, key=lambda one: one.time))


def _of_log(one: Recorded) -> Entry:
    time = datetime.fromtimestamp(one.time, UTC)
    detail = dict(one.detail)
    job = detail.pop("job", None)
    if one.what is Event.REASSIGNED:
        detail = {name: detail[name] or "nobody" for name in ("from", "to")}
    return Entry(time, one.who, one.what, one.enrollment or "", one.round, job, detail)


def _of_session(run: Run, known: Sequence[Entry]) -> Iterator[Entry]:
    """What people answered; and what the agent did, where the log does not have it: it is younger
    than some workspaces, and a process may end right before it writes there."""
    key = _key(run)
    logged = {(one.what, one.round) for one in known if one.enrollment == key}
    for one in run.rounds:
        for what, time in _phases(one):
            if time is not None and (what, one.number) not in logged:
                yield Entry(time, "agent", what, key, one.number)
    yield from _of_jobs(run, key)


def _phases(one: RoundFacts) -> Iterator[tuple[Event, datetime | None]]:
    if one.round.request is not None:
        yield Event.ASKED, one.asked
    if one.round.clicks is not None:
        yield Event.TAKEN, one.answered
    if one.round.phase is Phase.DONE:
        yield Event.PUBLISHED, one.shown


def _of_jobs(run: Run, key: str) -> Iterator[Entry]:
    memory = run.memory
    numbers = {one.request: one.number for one in run.session.rounds if one.request is not None}
    for request in memory.requests:
        for job in request.jobs:
            detail = {"child_task": request.task, "expected_minutes": round(job.expected_minutes)}
            for what, dates in (
                (Event.SENT_BACK, memory.sent_back_at),
                (Event.ANSWERED, memory.answered_at),
            ):
                time = _date(dates.get(job.id))
                if time is not None:
                    who = job.assignee or "anyone"
                    number = numbers.get(request.key)
                    yield Entry(time, who, what, key, number, job.id, detail)


def _with_what_was_asked(entry: Entry, run: Run) -> Entry:
    """An entry of people being asked in a round of `run`, with how much and of whom; others as they
    are."""
    number = entry.round
    if (
        entry.what is not Event.ASKED
        or entry.enrollment != _key(run)
        or number is None
        or number >= len(run.rounds)
    ):
        return entry
    return replace(entry, detail={**(entry.detail or {}), **dict(_asked(run, number))})


def _with_who_had_it(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, in order of time; what was answered after a job was reassigned is of the person
    who had it then."""
    has: dict[int, str] = {}
    found = []
    for one in entries:
        if one.what is Event.REASSIGNED and one.job is not None:
            has[one.job] = str((one.detail or {})["to"])
        if one.what in (Event.ANSWERED, Event.SENT_BACK) and one.job in has:
            one = replace(one, who=has[one.job])
        found.append(one)
    return found


def _asked(run: Run, number: int) -> Iterator[tuple[str, Any]]:
    """What people were asked in a round, and who."""
    config = RunConfig.model_validate(run.session.config)
    kinds = granularity_by_round(config.granularity, len(config.budgets))
    asked = run.rounds[number].round.queried
    if number > 0 and not kinds[number - 1].whole:
        yield "regions", len(asked)
    yield "frames", len({sample.frame for sample in asked})
    request = run.request_of(number)
    if request is not None:
        yield "of", list(dict.fromkeys(job.assignee or "anyone" for job in request.jobs))
        yield "child_task", request.task
        yield "expected_minutes", round(sum(job.expected_minutes for job in request.jobs))


def _key(run: Run) -> str:
    """Of the enrollment."""
    return run.root.name.rpartition("-")[2]


def _date(text: str | None) -> datetime | None:
    """The server's date; None for one that cannot be read."""
    if text is None:
        return None
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)


def _as_csv(entries: Sequence[Entry]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for one in entries:
        writer.writerow({**one.to_json(), "who": _safe(one.who), "detail": _safe(one.text)})
    return file.getvalue()


def _safe(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _as_json(entries: Sequence[Entry]) -> str:
    return json.dumps([one.to_json() for one in entries], indent=1, ensure_ascii=False) + "\n"


FORMS: Mapping[str, Callable[[Sequence[Entry]], str]] = {"csv": _as_csv, "json": _as_json}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_shown(one)}" for name, one in value.items()) or "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
