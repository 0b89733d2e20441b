"""FINETUNE: the network learns from what people have answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.files import scratch_directory
from hvsa_cvat.propagation.doubted import Doubted
from hvsa_cvat.segmentation.checkpoint import describe, save_checkpoint
from hvsa_cvat.segmentation.finetune import finetune
from hvsa_cvat.segmentation.pairs import TrainingData, shrink_labels, shrink_weights
from hvsa_cvat.session.annotate import all_answers
from hvsa_cvat.session.carrying import carry_answers
from hvsa_cvat.session.confirmed import doubted_labels
from hvsa_cvat.session.context import RunContext
from hvsa_cvat.session.refine import fit_head
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.types import IGNORE, LabelMap
from hvsa_cvat.video.frames import npy_writer


def finetune_network(session: Session, context: RunContext) -> None:
    """Train the network of the round before on all answers, and keep it; nothing where the method
    trains none."""
    training, number = context.config.training, session.current.number
    if training is None:
        return
    files = context.files(number)
    with scratch_directory(files.folder) as scratch:
        data = _training_data(session, context, scratch)
        if not data.targets:
            return
        network = context.load_network(number - 1)
        finetune(
            network,
            data,
            training,
            seed=(context.config.seed, number),
            device=context.inputs.device,
            state=files.training_state,
            progress=context.progress,
        )
    info = describe(network, context.labels.names, context.config.size, number)
    save_checkpoint(network, info, files.network)
    files.note_network()
    fit_head(session, context, network)
    # last: a run killed above trains the last epoch again, not all of them
    files.training_state.unlink(missing_ok=True)


_Taught = tuple[int, LabelMap, NDArray[np.float32] | None]
"""(frame, its labels, how much each pixel counts)."""


def _training_data(session: Session, context: RunContext, scratch: Path) -> TrainingData:
    """The people's labels; or the carried ones, which are theirs where they gave some.

    Those of a long video would fill the memory, so they are mapped from files in `scratch`.
    """
    size = context.config.size
    count, labels = _taught(session, context)
    files = scratch / "targets.npy", scratch / "weights.npy"
    frames, weighted = [], False
    with (
        npy_writer(files[0], (count, *size), np.uint8) as add_target,
        npy_writer(files[1], (count, *size), np.float32) as add_weights,
    ):
        for frame, label_map, confidence in labels:
            target = shrink_labels(label_map, size)
            frames.append(frame if (target != IGNORE).any() else None)
            add_target(target)
            if confidence is not None:
                weighted = True
                add_weights(shrink_weights(confidence, size))
            context.progress("making targets", len(frames), count)

    rows = {frame: row for row, frame in enumerate(frames) if frame is not None}

    def by_frame(file: Path) -> Mapping[int, NDArray[Any]]:
        return _Rows(rows, np.load(file, mmap_mode="r")) if rows else {}

    weights = by_frame(files[1]) if weighted else None
    return TrainingData(context.frames, by_frame(files[0]), context.flow, weights, context.features)


def _taught(session: Session, context: RunContext) -> tuple[int, Iterator[_Taught]]:
    """How many frames are taught, and what."""
    answers, doubted = all_answers(session, context.store), doubted_labels(session, context)
    if context.carrying is None or not context.config.carrying.taught:
        return len(answers), (
            (frame, one.label_map, counted(frame, one.label_map, doubted))
            for frame, one in answers.items()
        )
    carried = carry_answers(answers, context.carrying, session.current.number, context, doubted)
    return len(carried), ((one.frame, one.label_map, carried.teaching(one)) for one in carried)


def counted(frame: int, label_map: LabelMap, doubted: Doubted | None) -> NDArray[np.float32] | None:
    """How much each pixel of an answer counts; None where all count the same."""
    if doubted is None:
        return None
    return np.full(label_map.shape, doubted.confidence(frame), np.float32)


@dataclass(frozen=True, eq=False)
class _Rows(Mapping[int, NDArray[Any]]):
    """Rows of one mapped array by their frames; processes that share the machine share the file."""

    rows: Mapping[int, int]
    array: NDArray[Any]

    def __getitem__(self, frame: int) -> NDArray[Any]:
        row: NDArray[Any] = self.array[self.rows[frame]]
        return row

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)
