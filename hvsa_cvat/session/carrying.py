"""People's answers, carried through the video for a round."""

from __future__ import annotations

from collections.abc import Mapping

from hvsa_cvat.propagation.doubted import Doubted
from hvsa_cvat.propagation.propagate import Carried, carry
from hvsa_cvat.session.context import CarryingInputs, RunContext
from hvsa_cvat.types import FrameAnnotation


def carry_answers(
    answers: Mapping[int, FrameAnnotation],
    inputs: CarryingInputs,
    round_number: int,
    context: RunContext,
    doubted: Doubted | None = None,
) -> Carried:
    """Everything that people have answered, carried along the flow: once a round, by the phase
    that asks first. It lies in the round's folder until the round's masks are stored."""
    return carry(
        list(answers.values()),
        inputs.flow,
        context.source.size,
        len(context.source),
        context.files(round_number).carried,
        progress=context.progress,
        pictures=inputs.pictures,
        colours=inputs.colours,
        doubted=doubted,
    )
