"""PREDICT: the masks of a round, how certain they are, and the scores of the next samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hvsa_cvat.propagation.fusion import fuse, remember
from hvsa_cvat.propagation.propagate import Propagated, fill
from hvsa_cvat.segmentation.checkpoint import known_classes
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.predict import DensePrediction, predict
from hvsa_cvat.segmentation.scoring import score_segments
from hvsa_cvat.selection.strategy import Pool
from hvsa_cvat.session.annotate import all_answers
from hvsa_cvat.session.answers import answered_classes
from hvsa_cvat.session.artefacts import KeepMasks
from hvsa_cvat.session.carrying import carry_answers
from hvsa_cvat.session.context import CarryingInputs, RunContext
from hvsa_cvat.session.outlook import LEVELS, certainty_levels, outlook
from hvsa_cvat.session.records import Propagation
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.types import IGNORE, FrameAnnotation, FramePrediction


def predict_masks(session: Session, context: RunContext) -> None:
    """Keep the masks and scores of the current round, and its outlook."""
    number = session.current.number
    answers = all_answers(session, context.store)
    if number == 0:
        _keep_network_masks(number, {}, context)
    elif context.config.method == "label-propagation":
        _keep_propagated_masks(number, answers, context)
    else:
        _keep_network_masks(number, answers, context)
    _keep_outlook(session, context)
    # before the session moves on: a run killed here does this phase again and leaves nothing either
    context.files(number).remove_carried()


def _keep_network_masks(
    number: int, answers: Mapping[int, FrameAnnotation], context: RunContext
) -> None:
    """Masks and scores of the round's network, joined by the carried labels where there are any."""
    carried: Iterator[Propagated] | None = None
    if number > 0 and context.carrying is not None and context.config.carrying.fused:
        carried = iter(carry_answers(answers, context.carrying, number, context))
    network = context.load_network(number)
    unseen = unseen_classes(answers, context) if carried is not None else []
    first = context.load_network(0) if unseen else None

    def evidence(prediction: DensePrediction) -> NDArray[np.float32]:
        assert prediction.probabilities is not None
        if first is None:
            return prediction.probabilities
        before = _probabilities(first, prediction.frame, context)
        return remember(prediction.probabilities, before, unseen)

    def predictions(keep: KeepMasks) -> Iterator[FramePrediction]:
        dense = predict(
            network,
            context.frames,
            context.source.size,
            device=context.inputs.device,
            with_probabilities=carried is not None,
            known=context.features,
            progress=context.progress,
        )
        for prediction in dense:
            name = context.source.names[prediction.frame]
            if carried is not None:
                one = next(carried)
                shown = fuse(one, evidence(prediction))
                is_carried = shown.label_map == one.label_map
                keep(name, shown.label_map, certainty_levels(shown.certainty), is_carried)
            else:
                keep(name, prediction.label_map, _levels(prediction.uncertainty), None)
            yield _scored(prediction, number + 1, context)

    files = context.files(number)
    with files.new_masks(len(context.labels)) as keep:
        scores = Pool.of(predictions(keep))
    files.save_scores(scores)


def _probabilities(
    network: SegmentationNetwork, frame: int, context: RunContext
) -> NDArray[np.float32]:
    (dense,) = predict(
        network,
        context.frames,
        context.source.size,
        device=context.inputs.device,
        only=[frame],
        with_probabilities=True,
        known=context.features,
    )
    assert dense.probabilities is not None
    return dense.probabilities


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
    number: int, answers: Mapping[int, FrameAnnotation], context: RunContext
) -> None:
    """The people's labels carried along the flow; the pre-trained network where none arrive."""
    files, first, names = context.files(number), context.files(0), context.source.names
    inputs = context.carrying or CarryingInputs(context.flow, None)
    carried = carry_answers(answers, inputs, number, context)
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


def _keep_outlook(session: Session, context: RunContext) -> None:
    """Keep the outlook of the current round, where there is something to tell."""
    current, files = session.current, context.files(session.current.number)
    selection = files.selection()
    if current.number < 2 or not current.clicks or selection is None:
        return
    found = outlook(
        files.held_out(len(context.labels)),
        context.files(current.number - 1).level_counts(),
        (session.clicks - current.clicks, session.clicks),
        selection.full_clicks,
        not context.segments_of(current.number + 1).border_is_free,
        context.carrying is not None,
        context.rng(current.number),
    )
    if found is not None:
        files.save_outlook(found)
