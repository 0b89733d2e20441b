"""Checks of what a checkpoint file holds, before a network is built from it.

A checkpoint may be damaged, or come from somebody else. Both functions raise a `ValueError` whose
text is one short reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from hvsa_cvat.types import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

_Side = Annotated[int, Field(ge=32, le=8192)]
_Name = Annotated[str, Field(min_length=1, max_length=256)]
_Share = Annotated[FiniteFloat, Field(gt=-10, lt=10)]


class _Metadata(BaseModel):
    """The metadata of a checkpoint that hvsa-agent wrote, as JSON."""

    model_config = ConfigDict(strict=True, extra="forbid")

    network: _Name
    labels: Annotated[list[_Name], Field(max_length=IGNORE)]
    size: Annotated[list[_Side], Field(min_length=2, max_length=2)]
    align_corners: bool
    round: Annotated[int, Field(ge=0, le=10**6)]
    mean: Annotated[list[_Share], Field(min_length=3, max_length=3)]
    std: Annotated[list[_Share], Field(min_length=3, max_length=3)]


def check_metadata(fields: object) -> None:
    """`ValueError` if the parsed JSON is no metadata of a checkpoint."""
    try:
        _Metadata.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = " ".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}".removeprefix(": ")) from None


def check_weights(tensors: Mapping[str, Tensor]) -> None:
    """`ValueError` if a tensor holds a NaN or an infinity, which training that failed leaves."""
    for name in sorted(tensors):
        value = tensors[name]
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name!r} holds values that are no finite numbers")
