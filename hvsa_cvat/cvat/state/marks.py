"""Which jobs of the watched task we have judged, and marked for validation."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from hvsa_cvat.cvat.state import tables
from hvsa_cvat.database import Database


@dataclass(frozen=True)
class Mark:
    """What was decided about a job."""

    round: int
    """The round whose masks it shows."""
    threshold: float
    """The share of right pixels that was asked for."""
    right: float
    """The share that is expected."""
    marked: bool
    """Whether we set its stage."""
    updated_date: str | None = None
    """The server's date of the job when we had set it; None where its answer is not known."""


class Marks:
    """One mark a job, the last."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[int, Mark]:
        """The marks by job."""
        table = tables.job_marks
        with self._database.transaction() as connection:
            rows = connection.execute(sa.select(table).order_by(table.c.job)).all()
        return {
            row.job: Mark(row.round, row.threshold, row.right, row.marked, row.updated_date)
            for row in rows
        }

    def save(self, job: int, mark: Mark) -> None:
        table = tables.job_marks
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table).where(table.c.job == job))
            connection.execute(sa.insert(table), {"job": job, **asdict(mark)})

    def forget(self, job: int) -> None:
        table = tables.job_marks
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table).where(table.c.job == job))
