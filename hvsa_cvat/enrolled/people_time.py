"""How long people have worked for a task, from its folder."""

from __future__ import annotations

from hvsa_cvat.config import RunConfig
from hvsa_cvat.enrolled.runs import Run
from hvsa_cvat.rates import Rate
from hvsa_cvat.session.effort import minutes_so_far, people_time
from hvsa_cvat.session.people_time import PeopleTime


def people_time_of(run: Run, rate: Rate | None = None) -> PeopleTime:
    """The time of people as the task stands; `rate` is what it costs."""
    config = RunConfig.model_validate(run.session.config)
    files = run.files(run.current.number)
    current = run.current
    request = run.request_of(current.number) if current.round.clicks is None else None
    asked = None if request is None else sum(job.expected_minutes for job in request.jobs)
    return people_time(run.session, config, files, len(run.names), rate, asked)


def minutes_by_round(run: Run) -> list[float]:
    """How long people have worked up to and with each round, from round 0 on."""
    config = RunConfig.model_validate(run.session.config)
    return minutes_so_far(run.session, config, run.files(run.current.number))
