"""REQUEST and ANNOTATE: ask people for the samples, and take in what they have answered."""

from __future__ import annotations

from collections.abc import Iterable

from hvsa_cvat.errors import SessionError
from hvsa_cvat.metrics import ConfusionMatrix
from hvsa_cvat.ports import AnnotationServer, Shown
from hvsa_cvat.session.answers import answered_classes, merge_answers
from hvsa_cvat.session.artefacts import RoundFiles
from hvsa_cvat.session.context import AskContext
from hvsa_cvat.session.effort import work_of
from hvsa_cvat.session.outlook import count_held_out
from hvsa_cvat.session.planted import without_errors
from hvsa_cvat.session.records import Agreement
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store
from hvsa_cvat.types import Answers, FrameAnnotation


def request_answers(
    session: Session, server: AnnotationServer, context: AskContext, shown: Shown | None
) -> str:
    """Ask people for the samples of the current round, who see `shown`; returns the request's
    id."""
    current = session.current
    key = f"hvsa://{session.id}/rounds/{current.number}"
    selection = context.files(current.number).selection()
    known = selection if current.queried else None
    return server.request(
        key,
        current.queried,
        context.segments_of(current.number),
        known.expected_clicks if known is not None else (),
        shown,
        known.expected_seconds if known is not None else (),
    )


def collect_answers(session: Session, server: AnnotationServer) -> Answers | None:
    """The finished answers of the current round; None while people are still at work."""
    request = session.current.request
    if request is None:
        raise SessionError(f"round {session.current.number} waits for a request it never made")
    return server.collect(request)


def keep_answers(
    session: Session, answers: Answers, server: AnnotationServer, context: AskContext
) -> dict[int, int]:
    """Keep the answers of the current round, what people have changed or drawn besides, and how
    the masks agree with what they had not seen.

    Returns:
        The clicks of each earlier round whose answers people have revised.
    """
    number = session.current.number
    recounted = {}
    for done in session.rounds[:number]:
        revised = server.revised(done.request) if done.request is not None else None
        if revised is not None:
            _keep_revised(revised, context.files(done.number), context)
            recounted[done.number] = revised.total_clicks
    corrections = Answers(tuple(server.corrections()))
    files, answers = context.files(number), _judged(answers, number, context)
    files.save_corrections(corrections)
    earlier = all_answers(session, context.store).values()
    _keep_agreement(number, answers, (*earlier, *corrections.annotations), context)
    files.save_work(work_of(answers))
    files.save_answers(answers)
    return recounted


def _keep_revised(revised: Answers, files: RoundFiles, context: AskContext) -> None:
    """Keep answers in place of those of before; the times of the jobs stay as they were."""
    answers, before = _judged(revised, files.number, context), files.work()
    timed = before.timed if before is not None else ()
    files.save_work(work_of(answers).model_copy(update={"timed": timed}))
    files.save_answers(answers)


def _judged(answers: Answers, number: int, context: AskContext) -> Answers:
    """The answers of a round without the planted errors that they still show, which are counted."""
    files = context.files(number)
    planted = files.planted_errors()
    if not planted:
        return answers
    answers, found = without_errors(answers, planted, context.segments_of(number))
    files.save_planted(found)
    return answers


def all_answers(session: Session, store: Store) -> dict[int, FrameAnnotation]:
    """Everything that people have answered so far, one annotation a frame; what they drew without
    being asked holds over what they answered."""
    answered = [done.number for done in session.rounds if done.clicks is not None]
    answers = [a for number in answered for a in store.round(number).answers().annotations]
    if answered:
        answers.extend(store.round(answered[-1]).corrections().annotations)
    return merge_answers(answers)


def _keep_agreement(
    number: int, answers: Answers, others: Iterable[FrameAnnotation], context: AskContext
) -> None:
    """Keep how the masks of the round before compare with answers that they had not seen."""
    classes = len(context.labels)
    seen = answered_classes((*others, *answers.annotations), classes)
    before, files = context.files(number - 1), context.files(number)
    matrix, tables = ConfusionMatrix(classes), []
    for answer in answers.annotations:
        name = context.source.names[answer.frame]
        shown = before.label_map(name)
        matrix.add(answer.label_map, shown)
        levels = before.certainty_levels(name)
        tables.append(count_held_out(shown, levels, answer.label_map, classes))
    pixels = int(matrix.counts.sum())
    if number > 1:  # the masks of round 0 know nothing of the video, so these tell nothing of later
        files.save_held_out(tables)
    files.save_agreement(
        Agreement(
            pixels=pixels,
            pixel_accuracy=matrix.pixel_accuracy if pixels else None,
            miou=matrix.miou if pixels else None,
            unseen=tuple(n for k, n in enumerate(context.labels.names) if not seen[k]),
        )
    )
