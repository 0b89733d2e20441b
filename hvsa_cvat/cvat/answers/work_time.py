"""How long people have worked in the jobs of a request: by the server's log, or by their saves."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.saves import Save
from hvsa_cvat.cvat.state import Request
from hvsa_cvat.errors import ServerError
from hvsa_cvat.types import TimedJob

_SCOPE = "send:working_time"
_LARGEST_LOG = 1 << 26
"""Bytes; a day of one annotator has a few hundred thousand."""


def note_saves(connection: TaskConnection, rows: Iterable[Json]) -> None:
    """Note the state and the date of jobs: as webhooks told them since the last time, and as the
    server has just told them."""
    times = connection.state.work_times
    now = [Save(int(one["id"]), str(one["state"]), str(one["updated_date"])) for one in rows]
    before = {one.job: times.get(one.job) for one in now}
    seen = dict(before)
    for one in (*connection.saves.take(seen), *now):
        if not seen[one.job].is_after(one.updated_date):  # deliveries may come late
            seen[one.job] = seen[one.job].seen(one.state, one.updated_date)
    times.save({job: after for job, after in seen.items() if after != before[job]})


def timed_jobs(connection: TaskConnection, request: Request) -> tuple[TimedJob, ...]:
    """The jobs of an answered request whose time is known."""
    times = connection.state.work_times
    logged = _logged(connection, request)
    times.save({job: replace(times.get(job), logged=seconds) for job, seconds in logged.items()})
    found = []
    for job in request.jobs:
        worked = times.get(job.id).worked
        if worked is not None and worked > 0:
            cards = request.cards[job.start : job.stop + 1]
            found.append(TimedJob(tuple(card.sample for card in cards), worked))
    return tuple(found)


def _logged(connection: TaskConnection, request: Request) -> dict[int, float]:
    """Seconds of work by job, by the server's log; empty where it does not tell, and then the log
    of the agent says why, unless it has said so before."""
    times = connection.state.work_times
    try:
        logged = _read_log(connection, request)
    except ServerError as error:
        reason = " ".join(str(error).split())
        if times.refusal() is None:
            connection.log(
                "the server does not tell how long people worked, so their saves count "
                f"(docs/effort.md): {reason}"
            )
        times.set_refusal(reason)
        return {}
    times.set_refusal(None)
    return {job.id: logged[job.id] for job in request.jobs if logged.get(job.id)}


def _read_log(connection: TaskConnection, request: Request) -> Mapping[int, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.csv"
        connection.client.export("events/export", path, most=_LARGEST_LOG, task_id=request.task)
        try:
            with path.open(encoding="utf-8", newline="") as file:
                return read_working_time(csv.DictReader(file))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ServerError(f"the log of events is no table ({error})") from error


def read_working_time(rows: Iterable[Mapping[str, str | None]]) -> dict[int, float]:
    """Seconds of work by job, of rows of the server's log; rows that lack a number are left out."""
    found: dict[int, float] = {}
    for row in rows:
        if row.get("scope") == _SCOPE:
            try:
                job, seconds = int(row.get("job_id") or ""), float(row.get("duration") or "") / 1000
            except ValueError:
                continue
            if 0 < seconds < float("inf"):
                found[job] = found.get(job, 0.0) + seconds
    return found
