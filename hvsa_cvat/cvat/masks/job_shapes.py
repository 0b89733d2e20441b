"""Whose the shapes of a job are: ours, as the ledger knows them, or people's.

A shape is ours if it has the id of a shape that we created and is as we left it. It is also ours if
we were about to create exactly this shape when the answer to our request got lost. Every other
shape belongs to a person.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from functools import cached_property

from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.masks.annotations import check_annotation, read_annotations
from hvsa_cvat.cvat.masks.task_labels import TaskLabels
from hvsa_cvat.cvat.state import Pushed, State


@dataclass(frozen=True)
class JobShapes:
    """The shapes of a job at one moment. People's are kept as text: a tenth of the memory."""

    job: int
    updated_date: str
    """The job's date, asked for before the shapes: while it is the same, so are the shapes."""
    own: Mapping[int, Mapping[str, int]]
    """Frame -> fingerprint -> id of the shapes that are ours and as we left them."""
    surplus: Mapping[int, int]
    """Id -> frame of further copies of those: a lost request was carried out after all."""
    people: Mapping[int, Sequence[bytes]]
    """Frame -> people's shapes, as JSON."""
    tracks: Sequence[Json]
    """All of them are people's."""
    edited: int
    """Shapes of automatic origin that are people's now, because they have changed them."""

    def of_people(self, frame: int) -> int:
        """A number that changes when people draw or change anything on a frame, or any track."""
        return hash((frozenset(self.people.get(frame, ())), self._tracks))

    @cached_property
    def _tracks(self) -> int:
        return hash(json.dumps(self.tracks))

    @property
    def frames_of_ours(self) -> set[int]:
        """The frames on which a shape of ours is."""
        return {frame for frame, ids in self.own.items() if ids}

    def all_ours(self) -> dict[int, int]:
        """Id -> frame of our shapes, surplus copies included."""
        own = {shape: frame for frame, ids in self.own.items() for shape in ids.values()}
        return own | dict(self.surplus)


def read_shapes(client: CvatClient, state: State, labels: TaskLabels, row: Json) -> JobShapes:
    """Read a job's shapes, `row` being what the server has just said of the job.

    The ledger is corrected on the way: intended shapes that are there get their ids; shapes that
    are gone, or that a person has changed, are disowned.
    """
    job = row["id"]
    recogniser = _Recogniser(labels, state.ledger.pushed(job))
    own: dict[int, dict[str, int]] = defaultdict(dict)
    people: dict[int, list[bytes]] = defaultdict(list)
    surplus: dict[int, int] = {}
    tracks: list[Json] = []
    edited = 0
    for one in read_annotations(client, job, state.folder):
        check_annotation(client, job, one)
        if one.kind == "track":
            tracks.append(one.content)
            continue
        shape, frame = one.content, one.content["frame"]
        print_ = recogniser.ours(shape)
        if print_ is None:
            people[frame].append(one.text)
            edited += shape.get("source") in ("auto", "semi-auto")
        elif own[frame].setdefault(print_, shape["id"]) != shape["id"]:
            surplus[shape["id"]] = frame
    state.ledger.settle(job, recogniser.adopted)
    state.ledger.disown(job, [*recogniser.missing, *recogniser.changed])
    return JobShapes(job, row["updated_date"], own, surplus, people, tracks, edited)


@dataclass
class _Recogniser:
    """Tells our shapes from people's; is asked about each shape of a job once."""

    labels: TaskLabels
    ledger: InitVar[Sequence[Pushed]]
    missing: dict[int, str] = field(init=False)
    """Id -> fingerprint of our shapes that have not been met yet."""
    adopted: list[tuple[str, int]] = field(default_factory=list)
    """Fingerprint and id of intended shapes that turned out to be there."""
    changed: list[int] = field(default_factory=list)
    """Ids of shapes that were ours until a person changed them."""
    _intended: Counter[str] = field(init=False)

    def __post_init__(self, ledger: Sequence[Pushed]) -> None:
        self.missing = {one.shape: one.fingerprint for one in ledger if one.shape is not None}
        self._intended = Counter(one.fingerprint for one in ledger if one.shape is None)

    def ours(self, shape: Json) -> str | None:
        """The fingerprint of a shape that is ours; None for a shape of people."""
        known = self.missing.pop(shape["id"], None)
        if known is not None:
            if self._fingerprint(shape) == known:
                return known
            self.changed.append(shape["id"])
        elif self._intended and shape.get("source") == "auto":
            found = self._fingerprint(shape)
            if found is not None and self._intended[found] > 0:
                self._intended[found] -= 1
                self.adopted.append((found, shape["id"]))
                return found
        return None

    def _fingerprint(self, shape: Json) -> str | None:
        """None where the points are no numbers, which no shape of ours has."""
        try:
            return self.labels.fingerprint(shape)
        except (TypeError, ValueError, KeyError):
            return None
