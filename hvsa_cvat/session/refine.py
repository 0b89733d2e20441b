"""The refinement head of a round: what it learns from, and its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hvsa_cvat.files import scratch_directory
from hvsa_cvat.propagation.propagate import Carried
from hvsa_cvat.segmentation.crops import (
    BATCH,
    Crops,
    choose_corners,
    choose_frames,
    crop_size,
    steps_for,
    target_weights,
)
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.predict import predict
from hvsa_cvat.segmentation.refine import fit, new_head, save_head
from hvsa_cvat.session.annotate import all_answers
from hvsa_cvat.session.carrying import carry_answers
from hvsa_cvat.session.confirmed import doubted_labels
from hvsa_cvat.session.context import RunContext
from hvsa_cvat.session.rounds import Session


def fit_head(session: Session, context: RunContext, network: SegmentationNetwork) -> None:
    """Train the refinement head of the round before on the carried labels, and keep it; nothing
    where the method has none. `network` is the round's, fine-tuned."""
    if context.carrying is None or not context.config.carrying.refined:
        return
    number = session.current.number
    files, classes = context.files(number), len(context.labels)
    answers = all_answers(session, context.store)
    doubted = doubted_labels(session, context)
    carried = carry_answers(answers, context.carrying, number, context, doubted)
    head = context.load_head(number - 1) or new_head(classes, context.config.seed)
    with scratch_directory(files.folder) as scratch:
        crops = _cut(carried, network, context, number, scratch)
        fit(head, crops, device=context.inputs.device, progress=context.progress)
    save_head(head, files.head)
    files.note_head()


def _cut(
    carried: Carried,
    network: SegmentationNetwork,
    context: RunContext,
    number: int,
    scratch: Path,
) -> Crops:
    """The crops of a round, in files in `scratch`: those of many classes would fill the memory."""
    length, size, classes = len(context.source), context.source.size, len(context.labels)
    # another stream of random numbers than that of selection
    (rng,) = context.rng(number).spawn(1)
    count, crop = BATCH * steps_for(length, size), crop_size(size)
    frames = choose_frames(length, carried.annotated, count, rng)
    crops = Crops.in_files(scratch, count, crop, classes)
    predicted = predict(
        network,
        context.frames,
        size,
        device=context.inputs.device,
        only=sorted(set(frames.tolist())),
        with_probabilities=True,
        known=context.features,
        progress=context.progress,
    )
    for prediction in predicted:
        assert prediction.probabilities is not None
        frame = prediction.frame
        rows = np.flatnonzero(frames == frame)
        labels = carried[frame]
        corners = choose_corners(labels.label_map, crop, len(rows), rng)
        weights = target_weights(labels.label_map, carried.teaching(labels))
        image = context.source[frame]
        for row, corner in zip(rows.tolist(), corners, strict=True):
            crops.cut(row, corner, image, prediction.probabilities, labels.label_map, weights)
    return crops
