"""Whose the shapes of a job are: ours, as the ledger knows them, or people's.

Ours is what has the id of a shape that we created and is as we left it, or what we were about to
create when the answer got lost and is exactly that. All else belongs to a person.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from hvsa_cvat.annotation.polygons import Window
from hvsa_cvat.cvat.http.client import CvatClient, Json
from hvsa_cvat.cvat.shapes import fill_shape, fingerprint
from hvsa_cvat.cvat.state import State
from hvsa_cvat.cvat.tracks import expand_tracks
from hvsa_cvat.errors import AnnotationError, ServerError
from hvsa_cvat.types import Mask, Size

_DENSE = ("any", "mask", "polygon")
"""Types of labels whose shapes say of every pixel what it is; others stand beside them: boxes
around objects, key points, lines."""

_BLOCK = 2**20
"""Characters."""


@dataclass(frozen=True)
class TaskLabels:
    """What the task's labels say of shapes."""

    first_ids: Mapping[int, int]
    """Id of a class's label now -> its id when we first wrote shapes: all ids change when a task is
    moved to a project."""
    defaults: Mapping[int, str]
    """Attribute spec id -> default value, which the server gives to shapes that have none."""
    beside: frozenset[int]
    """Label ids of types that cannot carry dense masks."""

    def fingerprint(self, shape: Json) -> str:
        """The same for a shape as we send it and as the server shows it later, and another one once
        a person has changed it."""
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
    """Ask the server. `classes` are the ids of the classes' labels now, None where a label is gone
    and all its shapes with it; they are noted at the first time."""
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


@dataclass(frozen=True)
class JobShapes:
    """The shapes of a job at one moment. People's are kept as text, a tenth of the memory."""

    job: int
    updated_date: str
    """Of the job, asked for before the shapes: while it is the same, so are they."""
    own: Mapping[int, Mapping[str, int]]
    """Frame -> fingerprint -> id of the shapes that are ours and as we left them."""
    surplus: Mapping[int, int]
    """Id -> frame of further copies of those: a lost request was carried out after all."""
    people: Mapping[int, Sequence[str]]
    """Frame -> people's shapes, as JSON."""
    tracks: Sequence[Json]
    """All of them are people's."""
    edited: int
    """Shapes of automatic origin that are people's now, for they have changed them."""


def read_shapes(client: CvatClient, state: State, labels: TaskLabels, row: Json) -> JobShapes:
    """Read a job's shapes, `row` being what the server has just said of the job.

    The ledger is put right on the way: intended shapes that are there get their ids; those that are
    gone, or that a person has changed, are disowned.
    """
    job = row["id"]
    ledger = state.ledger.pushed(job)
    known = {one.shape: one.fingerprint for one in ledger if one.shape is not None}
    intended = defaultdict[str, int](int)
    for one in ledger:
        intended[one.fingerprint] += one.shape is None
    adopted: list[tuple[str, int]] = []

    def ours(shape: Json) -> str | None:
        if shape["id"] in known:
            expected = known.pop(shape["id"])
            if labels.fingerprint(shape) == expected:
                return expected
            changed.append(shape["id"])
        elif intended and shape.get("source") == "auto":
            found = labels.fingerprint(shape)
            if intended[found]:
                intended[found] -= 1
                adopted.append((found, shape["id"]))
                return found
        return None

    own: dict[int, dict[str, int]] = defaultdict(dict)
    people: dict[int, list[str]] = defaultdict(list)
    surplus: dict[int, int] = {}
    changed: list[int] = []
    tracks = []
    edited = 0
    for kind, text, content in _annotations(client, job, state.folder):
        if kind == "tracks":
            tracks.append(content)
        elif kind == "shapes":
            frame, print_ = content["frame"], ours(content)
            if print_ is None:
                people[frame].append(text)
                edited += content.get("source") in ("auto", "semi-auto")
            elif own[frame].setdefault(print_, content["id"]) != content["id"]:
                surplus[content["id"]] = frame
    state.ledger.settle(job, adopted)
    state.ledger.disown(job, [*known, *changed])
    return JobShapes(job, row["updated_date"], own, surplus, people, tracks, edited)


def people_pixels(
    readings: Sequence[JobShapes],
    frame: int,
    size: Size,
    labels: TaskLabels,
    deleted: Collection[int],
    log: Callable[[str], None],
) -> Mask:
    """The pixels of a frame that people labelled in any of the jobs: bool (H, W).

    Of a mask that cannot be read it is the whole box; other shapes that cannot be read are left
    out. Both are told.
    """
    claimed = np.zeros(size, dtype=np.bool_)
    for one in readings:
        shapes = [json.loads(text) for text in one.people.get(frame, ())]
        shapes += expand_tracks(one.tracks, [frame], deleted) if one.tracks else []
        for shape in shapes:
            if shape["label_id"] not in labels.beside:
                filled = _fill(shape, size, one.job, log)
                if filled is not None:
                    window, inside = filled
                    claimed[window] |= inside
    return claimed


def _fill(
    shape: Json, size: Size, job: int, log: Callable[[str], None]
) -> tuple[Window, Mask] | None:
    try:
        return fill_shape(shape, size)
    except AnnotationError as error:
        log(f"job {job}: {error}")
    if shape["type"] == "mask":
        box = (shape.get("points") or [])[-4:]
        around = [*box[:2], *(value + 1 for value in box[2:])]
        with suppress(AnnotationError):
            return fill_shape({**shape, "type": "rectangle", "points": around}, size)
    return None


def _annotations(client: CvatClient, job: int, folder: Path) -> Iterator[tuple[str, str, Json]]:
    """Kind, text and content of each tag, shape and track of a job, one at a time in memory."""
    path = folder / "annotations.json"
    try:
        client.download(f"jobs/{job}/annotations/", path)
        with path.open(encoding="utf-8") as file:
            yield from _elements(_Text(file))
    except ValueError as error:
        raise ServerError(
            f"{client.address.url}: the annotations of job {job} cannot be understood ({error}); "
            "check the server address"
        ) from error
    finally:
        path.unlink(missing_ok=True)


def _elements(text: _Text) -> Iterator[tuple[str, str, Json]]:
    """Key, text and content of all elements of the lists in a JSON object."""
    text.take("{")
    mark = ","
    while mark == ",":
        key, _ = text.value()
        text.take(":")
        if text.peek() != "[":
            text.value()
        else:
            text.take("[")
            while text.peek() != "]":
                element, source = text.value()
                yield key, source, element
                if text.peek() == ",":
                    text.take(",")
            text.take("]")
        mark = text.take(",}")


class _Text:
    """JSON that is read from a file block by block, as it is needed."""

    _decoder = json.JSONDecoder()

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            following = self._text[self._at : self._at + 1]
            if following.isspace():
                self._at += 1
            elif following or not self._read_on():
                return following

    def take(self, expected: str) -> str:
        """The same, and go past it; it must be one of `expected`."""
        following = self.peek()
        if not following or following not in expected:
            raise ValueError(f"{following or 'the end'!r} in place of {expected!r}")
        self._at += 1
        return following

    def value(self) -> tuple[Any, str]:
        """The next value and its text, and go past it."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._read_on():
                    raise
                continue
            # a number that ends where the block ends may go on
            if end == len(self._text) and self._read_on():
                continue
            text, self._at = self._text[self._at : end], end
            return value, text

    def _read_on(self) -> bool:
        rest = self._text[self._at :]
        block = self._file.read(max(_BLOCK, len(rest)))
        self._text, self._at = rest + block, 0
        return bool(block)
