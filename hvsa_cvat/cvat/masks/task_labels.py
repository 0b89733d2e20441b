"""How a shape of ours is recognised: by a fingerprint, which changes when a person changes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.state import State

_DENSE = ("any", "mask", "polygon")
"""Types of labels whose shapes say what each pixel is. Labels of other types mark something on top:
boxes around objects, key points, lines."""


@dataclass(frozen=True)
class TaskLabels:
    """What the task's labels say of shapes."""

    first_ids: Mapping[int, int]
    """Present id of a class's label -> its id when we first wrote shapes. All ids change when a
    task is moved to a project."""
    defaults: Mapping[int, str]
    """Attribute spec id -> default value, which the server gives to shapes that have none."""
    beside: frozenset[int]
    """Label ids of types that cannot carry dense masks."""

    def fingerprint(self, shape: Json) -> str:
        """The same for a shape as we send it and as the server shows it later; another one after a
        person has changed it."""
        return fingerprint(
            {
                **shape,
                "label_id": self.first_ids.get(shape["label_id"], shape["label_id"]),
                "attributes": [
                    one
                    for one in shape.get("attributes") or ()
                    if one["value"] != self.defaults.get(one["spec_id"])
                ],
            }
        )


def read_labels(
    client: CvatClient, state: State, task: int, classes: Sequence[int | None]
) -> TaskLabels:
    """Ask the server. `classes` are the present ids of the classes' labels, None where a label is
    gone, and all its shapes with it. The ids of the first call are remembered."""
    first = state.facts.first_label_ids()
    if first is None:
        first = list(classes)
        state.facts.set_first_label_ids(first)
    rows = client.rows("labels", task_id=task)
    return TaskLabels(
        {
            now: before
            for now, before in zip(classes, first, strict=True)
            if now is not None and before is not None
        },
        {
            spec["id"]: spec.get("default_value", "")
            for row in rows
            for spec in row.get("attributes") or ()
        },
        frozenset(row["id"] for row in rows if row.get("type", "any") not in _DENSE),
    )


def fingerprint(shape: Json) -> str:
    """64 hexadecimal digits that change with anything a person can change about a shape.

    The same for a shape as it is sent and as the server gives it back: with floats, nulls, an id
    and further keys, its attributes in another order.
    """
    attributes = sorted(
        (int(one["spec_id"]), str(one["value"])) for one in shape.get("attributes") or ()
    )
    content = [
        shape["type"],
        int(shape["frame"]),
        int(shape["label_id"]),
        attributes,
        shape.get("source") or "manual",
        int(shape.get("group") or 0),
        int(shape.get("z_order") or 0),
        float(shape.get("rotation") or 0),
        bool(shape.get("occluded")),
        bool(shape.get("outside")),
    ]
    digest = hashlib.sha256(json.dumps(content).encode())
    # Adding zero makes one of the two zeros that floats have.
    digest.update((np.asarray(shape["points"], dtype="<f8") + 0.0).tobytes())
    return digest.hexdigest()
