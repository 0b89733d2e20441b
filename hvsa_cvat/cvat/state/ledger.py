"""The ledger: which shapes in the jobs of the watched task are ours, and how we left them.

A shape is intended before the request that creates it, and settled with its id by the answer. What
was surely not created is forgotten, what a person changed is disowned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from hvsa_cvat.cvat.state import tables
from hvsa_cvat.database import Database

_pushed, _published = tables.pushed, tables.published

_SPARE_INTENTS = 2
"""Of one shape: a request without an answer, and the one sent after it, may both be carried out."""

_AT: sa.BindParameter[int] = sa.bindparam("at")
"""The row that one of many equal statements is about."""


@dataclass(frozen=True)
class Pushed:
    """A shape that we created, or were about to create when the process ended."""

    frame: int
    fingerprint: str
    shape: int | None
    """The server's id; None while the answer to the creating request is not known."""


class Ledger:
    """What we wrote to the jobs of one watched task."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pushed(self, job: int) -> list[Pushed]:
        columns = (_pushed.c.frame, _pushed.c.fingerprint, _pushed.c.shape)
        query = sa.select(*columns).where(_pushed.c.job == job).order_by(_pushed.c.entry)
        with self._database.transaction() as connection:
            return [Pushed(*row) for row in connection.execute(query)]

    def jobs(self) -> list[int]:
        """Jobs in which the ledger has entries."""
        with self._database.transaction() as connection:
            jobs = connection.scalars(sa.select(_pushed.c.job).distinct())
            return sorted(jobs)

    def counts(self) -> dict[int, int]:
        """How many shapes are ours, by job."""
        query = sa.select(_pushed.c.job, sa.func.count().label("shapes"))
        query = query.where(_pushed.c.shape.is_not(None)).group_by(_pushed.c.job)
        with self._database.transaction() as connection:
            return {row.job: row.shapes for row in connection.execute(query)}

    def intend(self, job: int, shapes: Iterable[tuple[int, str]]) -> None:
        """Keep (frame, fingerprint) of shapes that the next request creates.

        They stay intended until they are settled or forgotten, also while others like them are
        intended anew: nobody knows when a request without an answer is carried out.
        """
        with self._database.transaction() as connection:
            open_ = self._intents(connection, job)
            rows = [
                {"job": job, "frame": frame, "fingerprint": print_}
                for frame, print_ in shapes
                if len(open_[print_]) < _SPARE_INTENTS
            ]
            if rows:
                connection.execute(sa.insert(_pushed), rows)

    def settle(self, job: int, created: Iterable[tuple[str, int]]) -> None:
        """Give (fingerprint, id) to intended shapes that turned out to be created."""
        with self._database.transaction() as connection:
            open_ = self._intents(connection, job)
            rows = []
            for fingerprint, shape in created:
                if not open_[fingerprint]:
                    raise ValueError(f"shape {shape} of job {job} was never intended")
                rows.append({"at": open_[fingerprint].pop(), "shape": shape})
            if rows:
                connection.execute(sa.update(_pushed).where(_pushed.c.entry == _AT), rows)

    def forget_intents(self, job: int, fingerprints: Iterable[str] | None = None) -> None:
        """Forget intended shapes that were surely not created: one of each given, or all."""
        with self._database.transaction() as connection:
            open_ = self._intents(connection, job)
            if fingerprints is None:
                rows = [{"at": entry} for entries in open_.values() for entry in entries]
            else:
                rows = [{"at": open_[one].pop()} for one in fingerprints]
            if rows:
                connection.execute(sa.delete(_pushed).where(_pushed.c.entry == _AT), rows)

    def _intents(self, connection: sa.Connection, job: int) -> defaultdict[str, list[int]]:
        """Entries without an id by fingerprint, the oldest last."""
        query = (
            sa.select(_pushed.c.fingerprint, _pushed.c.entry)
            .where(_pushed.c.job == job, _pushed.c.shape.is_(None))
            .order_by(_pushed.c.entry.desc())
        )
        open_ = defaultdict[str, list[int]](list)
        for fingerprint, entry in connection.execute(query):
            open_[fingerprint].append(entry)
        return open_

    def disown(self, job: int, shapes: Iterable[int]) -> None:
        """Forget shapes that are gone, or that a person has changed: they are not ours any more."""
        rows = [{"at": shape} for shape in shapes]
        if rows:
            with self._database.transaction() as connection:
                connection.execute(
                    sa.delete(_pushed).where(_pushed.c.job == job, _pushed.c.shape == _AT), rows
                )

    def forget_job(self, job: int) -> None:
        """Forget all that was ever published in a job."""
        with self._database.transaction() as connection:
            for table in (_pushed, _published):
                connection.execute(sa.delete(table).where(table.c.job == job))

    def published_rounds(self) -> dict[int, int]:
        """The rounds whose masks jobs of the parent task show in full, by job."""
        query = sa.select(_published.c.job, _published.c.round)
        query = query.where(_published.c.reached.is_(None))
        with self._database.transaction() as connection:
            return {row.job: row.round for row in connection.execute(query)}

    def set_published_round(self, job: int, round_number: int) -> None:
        self._set_published(job, round_number, None)

    def reached(self, job: int, round_number: int) -> int | None:
        """The last frame up to which a job shows a round that is begun there and not done."""
        with self._database.transaction() as connection:
            query = sa.select(_published.c.reached)
            return connection.scalar(
                query.where(_published.c.job == job, _published.c.round == round_number)
            )

    def set_reached(self, job: int, round_number: int, frame: int) -> None:
        """Note that a job shows a round up to and with a frame, -1 for none, and is not done."""
        self._set_published(job, round_number, frame)

    def _set_published(self, job: int, round_number: int, reached: int | None) -> None:
        row = {"job": job, "round": round_number, "reached": reached}
        with self._database.transaction() as connection:
            connection.execute(sa.delete(_published).where(_published.c.job == job))
            connection.execute(sa.insert(_published), row)

    def own_write(self, job: int) -> str | None:
        """The date that the job had after we had last written to it, as the server wrote it."""
        table = tables.own_writes
        with self._database.transaction() as connection:
            return connection.scalar(sa.select(table.c.updated_date).where(table.c.job == job))

    def set_own_write(self, job: int, updated_date: str) -> None:
        table = tables.own_writes
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table).where(table.c.job == job))
            connection.execute(sa.insert(table), {"job": job, "updated_date": updated_date})
