"""PREDICT: the masks of a round, how certain they are, and the scores of the next samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hvsa_cvat.propagation.doubted import Doubted
from hvsa_cvat.propagation.propagate import fill
from hvsa_cvat.segmentation.checkpoint_info import known_classes
from hvsa_cvat.segmentation.predict import DensePrediction, predict
from hvsa_cvat.segmentation.scoring import score_segments
from hvsa_cvat.selection.pool import Pool
from hvsa_cvat.session.annotate import all_answers
from hvsa_cvat.session.answers import answered_classes, merge_answers
from hvsa_cvat.session.artefacts import KeepMasks
from hvsa_cvat.session.audit import audit
from hvsa_cvat.session.carrying import carry_answers
from hvsa_cvat.session.confirmed import doubted_labels
from hvsa_cvat.session.context import CarryingInputs, RunContext
from hvsa_cvat.session.fusing import Fusing
from hvsa_cvat.session.outlook import LEVELS, Audited, certainty_levels, outlook
from hvsa_cvat.session.planted import planted_so_far
from hvsa_cvat.session.records import Audit, Propagation
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.types import IGNORE, FrameAnnotation, FramePrediction


def predict_masks(session: Session, context: RunContext) -> None:
    """Keep the masks and scores of the current round, and its outlook."""
    number = session.current.number
    if _nothing_is_new(session, context):
        _keep_masks_of_before(number, context)
        return
    answers = all_answers(session, context.store)
    if number == 0:
        _keep_network_masks(number, {}, context)
    elif context.config.method == "label-propagation":
        _keep_propagated_masks(number, answers, context, doubted_labels(session, context))
    else:
        _keep_network_masks(number, answers, context, doubted_labels(session, context))
    _keep_outlook(session, context)
    # before the session moves on: a run killed here does this phase again and leaves nothing either
    context.files(number).remove_carried()


def _nothing_is_new(session: Session, context: RunContext) -> bool:
    """Whether the round has asked nobody, and the next one may ask for the same samples."""
    number = session.current.number
    same = context.segments_of(number + 1) is context.segments_of(number)
    return number > 0 and not session.current.queried and same


def _keep_masks_of_before(number: int, context: RunContext) -> None:
    files, before = context.files(number), context.files(number - 1)
    with files.new_masks(len(context.labels)) as keep:
        for name in context.source.names:
            levels = before.certainty_levels(name)
            keep(name, before.label_map(name), levels, before.carried_pixels(name))
    files.save_scores(before.scores())
    if (propagation := before.propagation()) is not None:
        files.save_propagation(propagation)


def _keep_network_masks(
    number: int,
    answers: Mapping[int, FrameAnnotation],
    context: RunContext,
    doubted: Doubted | None = None,
) -> None:
    """Masks and scores of the round's network, joined by the carried labels where there are any."""
    network, files = context.load_network(number), context.files(number)
    fusing = None
    if number > 0 and context.carrying is not None and context.config.carrying.fused:
        unseen = unseen_classes(answers, context)
        fusing = Fusing(number, answers, context.carrying, unseen, context, doubted)

    def predictions(keep: KeepMasks) -> Iterator[FramePrediction]:
        names = iter(context.source.names)
        dense = predict(
            network,
            context.frames,
            context.source.size,
            device=context.inputs.device,
            with_probabilities=fusing is not None,
            known=context.features,
            progress=context.progress,
        )
        for prediction in dense:
            if fusing is None:
                keep(next(names), prediction.label_map, _levels(prediction.uncertainty), None)
            else:
                for shown, is_carried in fusing.add(prediction):
                    levels = certainty_levels(shown.certainty)
                    keep(next(names), shown.label_map, levels, is_carried)
            yield _scored(prediction, number + 1, context)

    with files.new_masks(len(context.labels)) as keep:
        scores = Pool.of(predictions(keep))
    files.save_scores(scores)


def unseen_classes(answers: Mapping[int, FrameAnnotation], context: RunContext) -> list[int]:
    """Classes that no answer shows yet, and for which the network of round 0 is asked.

    Where it showed them, answers have refuted it; if half as often as answers would that lay
    anywhere, its other claims are not believed either.
    """
    remembered = context.config.carrying.remembered
    believed = known_classes(context.inputs.checkpoint, context.labels) if remembered else ()
    if not believed:
        return []
    count, first = len(context.labels), context.files(0)
    claimed = first.level_counts().sum(axis=1)
    seen = answered_classes(answers.values(), count)
    refuted, pixels = np.zeros(count, np.int64), 0
    for frame, answer in answers.items():
        known = answer.label_map != IGNORE
        shown = first.label_map(context.source.names[frame])[known]
        refuted += np.bincount(shown, minlength=count)
        pixels += shown.size
    expected = claimed * pixels / claimed.sum()
    open_claims = ~seen & (refuted < expected / 2)
    return [label for label in believed if open_claims[label]]


def _keep_propagated_masks(
    number: int,
    answers: Mapping[int, FrameAnnotation],
    context: RunContext,
    doubted: Doubted | None,
) -> None:
    """The people's labels carried along the flow; the pre-trained network where none arrive."""
    files, first, names = context.files(number), context.files(0), context.source.names
    inputs = context.carrying or CarryingInputs(context.flow, None)
    carried = carry_answers(answers, inputs, number, context, doubted)
    reached = []
    with files.new_masks(len(context.labels)) as keep:
        for one in carried:
            reached.append(one.reached)
            guess = first.label_map(names[one.frame])
            levels = certainty_levels(np.sqrt(np.sqrt(one.confidence)))
            keep(names[one.frame], fill(one, guess), levels, one.label_map != IGNORE)
            context.progress("reading carried labels", one.frame + 1, len(carried))
    files.save_propagation(Propagation(reached_percent=100 * float(np.mean(reached))))
    files.save_scores(_scores_without_training(number, context))


def _scores_without_training(number: int, context: RunContext) -> Pool:
    """The network has learnt nothing, so what it said of the samples stands, unless the next ones
    are others."""
    if context.segments_of(number + 1) is context.segments_of(number):
        return context.files(number - 1).scores()
    dense = predict(
        context.load_network(number),
        context.frames,
        context.source.size,
        device=context.inputs.device,
        known=context.features,
        progress=context.progress,
    )
    return Pool.of(_scored(prediction, number + 1, context) for prediction in dense)


def _scored(prediction: DensePrediction, round_number: int, context: RunContext) -> FramePrediction:
    """What the network says of the samples of a round in one frame."""
    segments, frame = context.segments_of(round_number), prediction.frame
    return score_segments(prediction, segments[frame], segments.count(frame))


def _levels(uncertainty: Tensor) -> NDArray[np.uint8]:
    """`certainty_levels` of what the network says, taken before it leaves the device."""
    levels = ((1 - uncertainty) * LEVELS).clamp(max=LEVELS - 1).to(torch.uint8)
    return levels.cpu().numpy()


def _audit(session: Session, context: RunContext) -> Audit | None:
    """What the answers of the current round say of the masks before it."""
    number, classes = session.current.number, len(context.labels)
    answered = np.zeros(classes, np.int64)
    # masks show what people answered; what they corrected may be wrong within the tolerance
    if context.config.carries and not context.config.correcting_tolerance:
        earlier = [
            one
            for done in session.rounds[:number]
            if done.clicks is not None
            for one in context.files(done.number).answers().annotations
        ]
        for one in merge_answers(earlier).values():
            known = one.label_map[one.label_map != IGNORE]
            answered += np.bincount(known, minlength=classes)[:classes]
    found, before = context.files(number).held_out(classes), context.files(number - 1)
    audited = audit(found, before.level_counts(), answered, context.rng(number))
    return audited and audited.by_people_who_find(planted_so_far(session, context.store).trust)


def _newest_audit(session: Session, context: RunContext) -> Audited | None:
    """What the newest audit says of the masks before it; None before the first."""
    for done in reversed(session.rounds[2:]):
        if context.audit_of(done.number) is not None and done.clicks is not None:
            if done is session.current:
                found = _audit(session, context)
            else:
                kept = context.files(done.number).outlook()
                found = None if kept is None else kept.audit
            if found is not None:
                before = sum(one.clicks or 0 for one in session.rounds[: done.number])
                return Audited(found, before)
    return None


def _keep_outlook(session: Session, context: RunContext) -> None:
    """Keep the outlook of the current round, where there is something to tell."""
    current, files = session.current, context.files(session.current.number)
    selection = files.selection()
    if current.number < 2 or not current.clicks or selection is None:
        return
    number = current.number
    found = outlook(
        files.held_out(len(context.labels)),
        context.files(current.number - 1).level_counts(),
        (session.clicks - current.clicks, session.clicks),
        selection.full_clicks,
        not context.segments_of(current.number + 1).border_is_free,
        context.carrying is not None,
        context.rng(number),
        _newest_audit(session, context),
    )
    if found is not None:
        files.save_outlook(found)
