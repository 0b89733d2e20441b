"""Which jobs of requests have been read, and which went back to their annotators."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from hvsa_cvat.cvat.state import tables
from hvsa_cvat.database import Database


@dataclass(frozen=True)
class Reading:
    """How a job stood when its answers were taken."""

    updated_date: str
    """As the server wrote it."""
    sent_back: bool
    """Whether it went back to its annotator for gaps; that happens once."""


class Readings:
    """One reading a job, the last."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, job: int) -> Reading | None:
        table = tables.readings
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(table).where(table.c.job == job)).first()
        return None if row is None else Reading(row.updated_date, row.sent_back)

    def save(self, job: int, reading: Reading) -> None:
        table = tables.readings
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table).where(table.c.job == job))
            connection.execute(sa.insert(table), {"job": job, **asdict(reading)})

    def send_back_begun(self, job: int) -> str | None:
        """The job's date when we were about to send it back; None if we never were.

        It is kept before the server is told: a process that ends in between finds it here.
        """
        table = tables.send_backs
        with self._database.transaction() as connection:
            return connection.scalar(sa.select(table.c.updated_date).where(table.c.job == job))

    def begin_send_back(self, job: int, updated_date: str) -> None:
        table = tables.send_backs
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table).where(table.c.job == job))
            connection.execute(sa.insert(table), {"job": job, "updated_date": updated_date})
