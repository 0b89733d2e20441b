"""The masks of a round whose answers are carried: the network's probabilities are refined, joined
by the carried labels and smoothed over time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hvsa_cvat.propagation.doubted import Doubted
from hvsa_cvat.propagation.fusion import Fused, fuse, remember, remember_refined
from hvsa_cvat.propagation.propagate import Propagated
from hvsa_cvat.propagation.smoothing import Smoother
from hvsa_cvat.segmentation.network import SegmentationNetwork
from hvsa_cvat.segmentation.predict import DensePrediction, predict
from hvsa_cvat.segmentation.refine import refine
from hvsa_cvat.session.carrying import carry_answers
from hvsa_cvat.session.context import CarryingInputs, RunContext
from hvsa_cvat.types import FrameAnnotation, LabelMap, Mask


class Fusing:
    """Takes the predictions of all frames in order, and gives their masks in the same order."""

    def __init__(
        self,
        number: int,
        answers: Mapping[int, FrameAnnotation],
        inputs: CarryingInputs,
        unseen: Sequence[int],
        context: RunContext,
        doubted: Doubted | None = None,
    ) -> None:
        """`unseen` are the classes for which the network of round 0 is asked."""
        self._context = context
        self._unseen = unseen
        self._carried = iter(carry_answers(answers, inputs, number, context, doubted))
        self._first = context.load_network(0) if unseen else None
        self._head = context.load_head(number) if context.config.carrying.refined else None
        if self._head is not None:
            self._head.to(context.inputs.device)
        self._waiting: deque[LabelMap] = deque()
        self._smoother = None
        if inputs.smoothing is not None:
            self._smoother = Smoother(inputs.flow, inputs.smoothing, len(context.frames))

    def add(self, prediction: DensePrediction) -> Iterator[tuple[Fused, Mask]]:
        """Add the next frame. Gives the masks that are finished, and where they show the label that
        was carried there: with smoothing, a frame waits for the two after it."""
        carried, probabilities = next(self._carried), self._evidence(prediction)
        self._waiting.append(carried.label_map)
        for shown in self._shown(carried, probabilities):
            yield shown, shown.label_map == self._waiting.popleft()

    def _shown(self, carried: Propagated, probabilities: NDArray[np.float32]) -> Iterator[Fused]:
        if self._smoother is None:
            yield fuse(carried, probabilities)
        else:
            yield from self._smoother.add(carried, probabilities)

    def _evidence(self, prediction: DensePrediction) -> NDArray[np.float32]:
        """float32 (C, H, W): the network's probabilities, refined; for classes that no answer shows
        those of round 0."""
        assert prediction.probabilities is not None
        found, frame = prediction.probabilities, prediction.frame
        if self._first is not None:
            first = _probabilities(self._first, frame, self._context)
            found = remember(found, first, self._unseen)
        if self._head is None:
            return found
        image = self._context.source[frame]
        refined = refine(self._head, image, prediction.probabilities)
        return remember_refined(refined, found, self._unseen) if self._unseen else refined


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
