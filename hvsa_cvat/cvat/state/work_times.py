"""How long people have worked in the jobs of requests, as far as the server lets us see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa

from hvsa_cvat.cvat.state import tables
from hvsa_cvat.database import Database

LONGEST_GAP = 100.0
"""Seconds between two saves that still count as work; CVAT's own log leaves out the same."""

_LEAST_GAPS = 2
"""Gaps that count, below which nothing can be said of a job."""


@dataclass(frozen=True)
class WorkTime:
    """What was seen of one job."""

    state: str = ""
    """Of the job when it was seen last, as the server calls it."""
    updated_date: str = ""
    """The same, as the server wrote it."""
    seconds: float = 0.0
    """The sum of the gaps between saves that count as work."""
    gaps: int = 0
    """How many these are."""
    pauses: int = 0
    """Longer gaps between saves; they are left out."""
    logged: float | None = None
    """Seconds of work by the server's own log; None where it does not tell."""

    def seen(self, state: str, updated_date: str) -> WorkTime:
        """The same after the job was seen again.

        Only what comes after a state that a person has set counts: the time between handing a job
        out and its first save, or between its end and its return, is not work.
        """
        same = (state, updated_date) == (self.state, self.updated_date)
        gap = 0.0
        if not same and self.state == "in progress" and state in ("in progress", "completed"):
            gap = _seconds_between(self.updated_date, updated_date)
        counts = 0 < gap <= LONGEST_GAP
        return WorkTime(
            state,
            updated_date,
            self.seconds + (gap if counts else 0.0),
            self.gaps + counts,
            self.pauses + (gap > LONGEST_GAP),
            self.logged,
        )

    def is_after(self, updated_date: str) -> bool:
        """Whether the job was seen last with a later date."""
        return _seconds_between(updated_date, self.updated_date) > 0

    @property
    def worked(self) -> float | None:
        """Seconds of work in the job; None where too little was seen of it.

        Between two saves people do about alike. So a gap with a pause counts as the mean of those
        without, and so does the time before the first save, of which the server says nothing.
        """
        if self.logged is not None:
            return self.logged
        if self.gaps < max(_LEAST_GAPS, self.pauses):
            return None
        return self.seconds / self.gaps * (self.gaps + self.pauses + 1)


def _seconds_between(before: str, after: str) -> float:
    """0 for dates that cannot be read."""
    try:
        return (datetime.fromisoformat(after) - datetime.fromisoformat(before)).total_seconds()
    except (TypeError, ValueError):  # one of them may lack its time zone
        return 0.0


class WorkTimes:
    """One row a job."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, job: int) -> WorkTime:
        table = tables.work_times
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(table).where(table.c.job == job)).first()
        if row is None:
            return WorkTime()
        return WorkTime(row.state, row.updated_date, row.seconds, row.gaps, row.pauses, row.logged)

    def save(self, found: Mapping[int, WorkTime]) -> None:
        """Keep what was seen of jobs, by their ids."""
        table = tables.work_times
        rows = [{"job": job, **asdict(one)} for job, one in found.items()]
        if rows:
            with self._database.transaction() as connection:
                connection.execute(sa.delete(table).where(table.c.job.in_(found)))
                connection.execute(sa.insert(table), rows)

    def refusal(self) -> str | None:
        """Why the server's log could not be read last; None where it could, or was not asked."""
        with self._database.transaction() as connection:
            return connection.scalar(sa.select(tables.log_refusals.c.reason))

    def set_refusal(self, reason: str | None) -> None:
        table = tables.log_refusals
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table))
            if reason is not None:
                connection.execute(sa.insert(table), {"reason": reason})
