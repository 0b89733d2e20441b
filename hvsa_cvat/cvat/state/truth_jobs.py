"""Which ground truth jobs of the watched task we made, and how those of people stood when read."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from hvsa_cvat.cvat.state import tables
from hvsa_cvat.database import Database


@dataclass(frozen=True)
class TruthJob:
    """A ground truth job that we know."""

    ours: bool
    """Whether we made it."""
    updated_date: str | None = None
    """The server's date when we had made it, or read it; None before."""


class TruthJobs:
    """CVAT allows one a task; an earlier one may have been deleted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, job: int) -> TruthJob | None:
        table = tables.truth_jobs
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(table).where(table.c.job == job)).first()
        return None if row is None else TruthJob(row.ours, row.updated_date)

    def save(self, job: int, known: TruthJob) -> None:
        table = tables.truth_jobs
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table).where(table.c.job == job))
            connection.execute(sa.insert(table), {"job": job, **asdict(known)})
