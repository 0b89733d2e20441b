"""What the jobs of a project took, for all tasks of the project: who annotates one of them mostly
annotates the others, too."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from hvsa_cvat.agent import tables
from hvsa_cvat.database import Database
from hvsa_cvat.session.records import TeamWork, TimedRecord

_job_times = tables.job_times

_NEWEST = 200
"""Jobs of other tasks that count, for whole frames and for smaller samples each."""


class ProjectTimes:
    """The jobs with a known time of all tasks of one server, by project."""

    def __init__(self, database: Database, server: str, clock: Callable[[], float]) -> None:
        self._database = database
        self._server = server
        self._clock = clock

    def keep(
        self, project: int, enrollment: str, round_number: int, whole: bool, team: TeamWork
    ) -> None:
        """Keep the jobs of one round of an enrolled task, in place of what was kept of it before.
        `whole`: the round asked for whole frames."""
        mine = (
            (_job_times.c.server == self._server)
            & (_job_times.c.enrollment == enrollment)
            & (_job_times.c.round == round_number)
        )
        rows = [
            {
                "server": self._server,
                "project": project,
                "enrollment": enrollment,
                "round": round_number,
                "whole": whole,
                "record": one.model_dump(mode="json"),
                "time": self._clock(),
            }
            for one in team.of(whole)
        ]
        with self._database.transaction() as connection:
            connection.execute(sa.delete(_job_times).where(mine))
            if rows:
                connection.execute(sa.insert(_job_times), rows)

    def of_others(self, project: int, enrollment: str) -> TeamWork:
        """The newest jobs of the other tasks of a project."""

        def newest(connection: sa.Connection, whole: bool) -> tuple[TimedRecord, ...]:
            query = (
                sa.select(_job_times.c.record)
                .where(_job_times.c.server == self._server)
                .where(_job_times.c.project == project)
                .where(_job_times.c.enrollment != enrollment)
                .where(_job_times.c.whole == whole)
                .order_by(_job_times.c.entry.desc())
                .limit(_NEWEST)
            )
            found = connection.scalars(query)
            return tuple(TimedRecord.model_validate(one) for one in found)

        with self._database.transaction() as connection:
            return TeamWork(whole=newest(connection, True), small=newest(connection, False))
