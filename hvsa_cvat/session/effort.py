"""How long people have worked for a session, and how long they still will.

The figures are the published ones until enough jobs of the session have a known time; whole frames
and smaller samples have figures of their own. Where the time of a job is known, that counts; the
other answers count by the figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, chain

from hvsa_cvat.annotation.effort import PUBLISHED, Effort, Work, sample_work
from hvsa_cvat.annotation.fit_effort import TimedWork, fit_effort
from hvsa_cvat.budgets import BudgetUnit
from hvsa_cvat.config import RunConfig
from hvsa_cvat.rates import Rate
from hvsa_cvat.session.artefacts import RoundFiles, newest_records
from hvsa_cvat.session.people_time import PeopleTime, tell_time
from hvsa_cvat.session.records import RoundWork, Selection, TeamWork, TimedRecord, WorkRecord
from hvsa_cvat.session.rounds import Round, Session
from hvsa_cvat.types import AnswerKind, Answers, Sample
from hvsa_cvat.video.segments import Granularity, granularity_by_round


@dataclass(frozen=True)
class Efforts:
    """The figures of a session."""

    whole: Effort = PUBLISHED
    """Of whole frames."""
    small: Effort = PUBLISHED
    """Of smaller samples."""

    def of(self, whole: bool) -> Effort:
        return self.whole if whole else self.small

    @property
    def drawing(self) -> Effort:
        """The figures by which drawing every frame is told: those of whole frames, or else of the
        team, so that both sides of the comparison are of the same people."""
        return self.small if self.small.fitted_to and not self.whole.fitted_to else self.whole

    @property
    def name(self) -> str:
        """Where the figures come from, for people."""
        if self.whole.name == self.small.name:
            return self.whole.name
        return f"frames: {self.whole.name}; smaller samples: {self.small.name}"


def work_of(answers: Answers) -> RoundWork:
    """What the answers to a request took, in parts."""
    parts = {sample: sample_work(clicks) for sample, clicks in answers.clicks.items()}
    by_kind: dict[AnswerKind, Work] = {}
    for sample, work in parts.items():
        kind = answers.kind(sample)
        by_kind[kind] = by_kind.get(kind, Work()) + work

    def together(samples: tuple[Sample, ...]) -> WorkRecord:
        return WorkRecord.of(sum((parts[one] for one in samples if one in parts), Work()))

    return RoundWork(
        by_kind={kind: WorkRecord.of(work) for kind, work in sorted(by_kind.items())},
        timed=tuple(
            TimedRecord(work=together(job.samples), seconds=job.seconds) for job in answers.timed
        ),
    )


@dataclass(frozen=True)
class AnsweredWork:
    """The work of one answered round."""

    round: int
    whole: bool
    """Whether it asked for whole frames."""
    work: RoundWork


def answered_work(
    session: Session, config: RunConfig, files: RoundFiles
) -> tuple[AnsweredWork, ...]:
    """The work of all answered rounds; `files` are those of any round of the session."""
    kinds = granularity_by_round(config.granularity, len(config.budgets))
    return tuple(
        AnsweredWork(done.number, kinds[done.number - 1].whole, _work(done, files))
        for done in session.rounds
        if done.clicks is not None
    )


def _work(done: Round, files: RoundFiles) -> RoundWork:
    """What was kept; of rounds that an older version took in, only samples and clicks are known."""
    kept = files.of_round(done.number).work()
    if kept is not None:
        return kept
    samples, clicks = len(done.queried), done.clicks or 0
    counted = WorkRecord(samples=samples, vertices=max(clicks - samples, 0))
    return RoundWork(by_kind={AnswerKind.DRAWN: counted})


def efforts_of(rounds: tuple[AnsweredWork, ...], team: TeamWork | None = None) -> Efforts:
    """The figures by the jobs of these rounds, and by those of the same people elsewhere."""
    others = team or TeamWork()
    return Efforts(*(fit_effort(list(_timed(rounds, others, whole))) for whole in (True, False)))


def _timed(rounds: tuple[AnsweredWork, ...], team: TeamWork, whole: bool) -> Iterator[TimedWork]:
    own = (job for one in rounds if one.whole is whole for job in one.work.timed)
    for job in chain(own, team.of(whole)):
        yield TimedWork(job.work.work(jobs=1), job.seconds)


def seconds_of(one: AnsweredWork, efforts: Efforts) -> float:
    """What a round took: the known times, and the figures for the rest."""
    effort = efforts.of(one.whole)
    every = sum((each.work() for each in one.work.by_kind.values()), Work())
    known = sum((job.work.work() for job in one.work.timed), Work())
    unknown = max(effort.seconds(every) - effort.seconds(known), 0.0)
    return sum(job.seconds for job in one.work.timed) + unknown


def click_seconds(
    rounds: tuple[AnsweredWork, ...], whole: bool, effort: Effort
) -> Mapping[AnswerKind, float]:
    """Seconds of a click beyond the first of a sample, by kind of answer, as such samples were
    answered in these rounds; kinds that nobody gave yet are left out."""
    found: dict[AnswerKind, Work] = {}
    for one in rounds:
        if one.whole is whole:
            for kind, record in one.work.by_kind.items():
                found[kind] = found.get(kind, Work()) + record.work()
    return {
        kind: (effort.seconds(work) - effort.confirm * work.samples) / work.further_clicks
        for kind, work in found.items()
        if work.further_clicks
    }


def people_time(
    session: Session,
    config: RunConfig,
    files: RoundFiles,
    frames: int,
    rate: Rate | None = None,
    asked_minutes: float | None = None,
) -> PeopleTime:
    """The time of people as a session stands; `files` are those of its current round, and `frames`
    the frames of the video. `asked_minutes` is what the jobs of the open request should take, where
    that is known."""
    rounds = answered_work(session, config, files)
    efforts = efforts_of(rounds, files.team_work())
    selection = newest_records(files).selection
    every = None if selection is None else efforts.drawing.minutes(frames, selection.full_clicks)
    in_time = config.budget_unit is BudgetUnit.SECONDS
    current, kinds = session.current, granularity_by_round(config.granularity, len(config.budgets))
    kind = kinds[max(current.number, 1) - 1]
    return tell_time(
        spent=sum(seconds_of(one, efforts) for one in rounds) / 60,
        expected=asked_minutes or _expected_minutes(current, selection, kind, efforts),
        every_frame=every,
        figures=efforts.name,
        budget=config.budgets[-1] / 60 if in_time else None,
        rate=rate,
    )


def minutes_so_far(session: Session, config: RunConfig, files: RoundFiles) -> list[float]:
    """How long people have worked up to and with each round of the session, from round 0 on."""
    rounds = answered_work(session, config, files)
    efforts = efforts_of(rounds, files.team_work())
    took = {one.round: seconds_of(one, efforts) / 60 for one in rounds}
    return list(accumulate(took.get(one.number, 0.0) for one in session.rounds))


def _expected_minutes(
    current: Round, selection: Selection | None, kind: Granularity, efforts: Efforts
) -> float | None:
    """What the open request should take; None where nobody is asked."""
    if current.clicks is not None or current.expected_clicks is None or not current.queried:
        return None
    if selection is not None and len(selection.expected_seconds) == len(current.queried):
        return sum(selection.expected_seconds) / 60
    return efforts.of(kind.whole).minutes(len(current.queried), current.expected_clicks)
