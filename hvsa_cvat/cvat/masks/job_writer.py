"""Our shapes in one job: what is missing is created once, what is unwanted deleted, people's kept.

The server offers no locks, and its requests may be carried out without an answer. So every shape is
in the ledger before it is sent, an answer that got lost is looked up, and right before anything is
deleted the job's date must still be the one at which its shapes were read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from hvsa_cvat.cvat.http.client import CvatClient, Json, Uncertain
from hvsa_cvat.cvat.masks.label_map_shapes import Proposal, Proposer
from hvsa_cvat.cvat.masks.ownership import JobShapes, TaskLabels, people_pixels, read_shapes
from hvsa_cvat.cvat.state import State
from hvsa_cvat.errors import ServerError
from hvsa_cvat.types import LabelMap

_NUMBERS_A_REQUEST = 2**20
"""Coordinates and run lengths, at four bytes of JSON each: small enough for the limits of gateways
on size and time."""

_SHAPES_A_GROUP = 2000
_NUMBERS_A_GROUP = 2**22
"""A server takes about a second to delete a group, and a few to create it. After it the job is read
anew, for behind our own writes its date does not show those of others."""

_READINGS = 8
"""Groups are larger in jobs that would take more of them than this, and as many readings."""

_SHAPES_AT_ONCE = 8000
"""Of a group where nothing is to be deleted."""

_TRIES = 3
"""So often a request without an answer is looked up, and what is missing sent again."""


class LeaveForLater(Exception):
    """The job must not be written to now; says why."""


@dataclass(frozen=True)
class Desk:
    """What every job of a task is written with."""

    client: CvatClient
    state: State
    labels: TaskLabels
    batch: int
    """Shapes a request, at most."""
    reason_to_leave: Callable[[Json], str | None]
    """Given what the server says of a job: why it must not be written to now, if so."""
    log: Callable[[str], None]
    deleted_frames: Collection[int] = ()
    """Numbers."""
    readings: dict[int, JobShapes] = field(default_factory=dict)
    """Of jobs that overlap an earlier one, until it is their turn."""

    def look(self, job: int) -> Json:
        """What the server says of a job."""
        row: Json = self.client.get(f"jobs/{job}")
        return row

    def read(self, row: Json) -> JobShapes:
        return read_shapes(self.client, self.state, self.labels, row)


@dataclass
class _Group:
    """What is to be done in some frames in a row."""

    most: int
    """Shapes to be created, and to be deleted."""
    delete: dict[int, int]
    """Id -> frame."""
    create: list[Proposal] = field(default_factory=list)
    numbers: int = 0
    """Of the shapes to be created."""
    last: int = -1
    """The last frame."""
    of_last: int = 0
    """Shapes to be created or deleted there."""

    def add(self, frame: int, proposals: Sequence[Proposal], own: Mapping[str, int]) -> int:
        """Compare what a frame should have with what it has of ours; returns how many stay."""
        prints = {one.fingerprint for one in proposals}
        missing = [one for one in proposals if one.fingerprint not in own]
        unwanted = {shape: frame for print_, shape in own.items() if print_ not in prints}
        self.delete |= unwanted
        self.create += missing
        self.numbers += sum(one.points.size for one in missing)
        self.last, self.of_last = frame, max(len(missing), len(unwanted))
        return len(proposals) - len(missing)

    @property
    def is_full(self) -> bool:
        """Whether another frame like the last one would be too much."""
        shapes = max(len(self.create), len(self.delete)) + self.of_last
        return shapes > self.most or self.numbers >= _NUMBERS_A_GROUP

    def batches(self, most: int) -> Iterator[tuple[Sequence[Proposal], int]]:
        """What one request creates, and the last frame that is whole after it."""
        begin = numbers = 0
        for end, one in enumerate(self.create):
            numbers += one.points.size
            if end > begin and (end - begin == most or numbers > _NUMBERS_A_REQUEST):
                yield self.create[begin:end], one.frame - 1
                begin, numbers = end, one.points.size
        if begin < len(self.create):
            yield self.create[begin:], self.last


class JobWriter:
    """Writes to one job, and counts. Each method is called once, and may raise `LeaveForLater`."""

    def __init__(self, desk: Desk, job: int) -> None:
        self._desk = desk
        self._job = job
        self._in_doubt = False
        """Whether a request without an answer may still be carried out."""
        self.created = self.deleted = self.kept = 0

    def write(
        self,
        round_number: int,
        label_maps: Iterable[tuple[int, LabelMap]],
        proposer: Proposer,
        overlapping: Sequence[int],
    ) -> None:
        """Make the job show a round, (frame number, label map) of all frames that it is to show.

        What people drew in the `overlapping` jobs is left out, too. An interrupted round goes on
        after the last frame that it reached.
        """
        desk, state = self._desk, self._desk.state
        row = self._look()
        shapes = self._read_first(row)
        reached = state.ledger.reached(self._job, round_number)
        if reached is None:
            # Of an earlier round: had the server carried them out, they would have been there.
            state.ledger.forget_intents(self._job)
            state.ledger.set_reached(self._job, round_number, reached := -1)
        beside = [self._read_beside(job) for job in overlapping]
        most = _most(shapes)
        group = _Group(most, dict(shapes.surplus))
        for frame, label_map in label_maps:
            if frame <= reached:
                continue
            if group.is_full:
                row = self._carry_out(group, row, shapes, round_number)
                shapes = self._look_again(group, row, shapes)
                group = _Group(most, dict(shapes.surplus))
            height, width = label_map.shape
            people = people_pixels(
                [shapes, *beside],
                frame,
                (height, width),
                desk.labels,
                desk.deleted_frames,
                desk.log,
            )
            proposals = proposer.propose(frame, label_map, people)
            self.kept += group.add(frame, proposals, shapes.own.get(frame, {}))
        row = self._carry_out(group, row, shapes, round_number)
        if self._in_doubt:
            shapes = desk.read(row)
            self._delete(shapes, shapes.surplus)
            self._note_own_write(row)
        state.ledger.set_published_round(self._job, round_number)

    def retract(self) -> int:
        """Delete all that is ours; returns how many shapes of automatic origin are not."""
        row = self._look()
        shapes = self._desk.read(row)
        most = _most(shapes)
        while ours := _all_ours(shapes):
            self._delete(shapes, dict(islice(ours.items(), most)))
            row = self._note_own_write(row)
            self._check_free(row)
            shapes = self._desk.read(row)
        self._desk.state.ledger.forget_job(self._job)
        return shapes.edited

    def _look(self) -> Json:
        row = self._desk.look(self._job)
        self._check_free(row)
        return row

    def _check_free(self, row: Json) -> None:
        if reason := self._desk.reason_to_leave(row):
            raise LeaveForLater(reason)

    def _read_first(self, row: Json) -> JobShapes:
        shapes = self._desk.readings.pop(self._job, None)
        if shapes is not None and shapes.updated_date == row["updated_date"]:
            return shapes
        return self._desk.read(row)

    def _read_beside(self, job: int) -> JobShapes:
        if job not in self._desk.readings:
            self._desk.readings[job] = self._desk.read(self._desk.look(job))
        return self._desk.readings[job]

    def _look_again(self, group: _Group, row: Json, shapes: JobShapes) -> JobShapes:
        """The shapes after a group was carried out, `row` being asked for since.

        Not read anew where nothing is left to be deleted.
        """
        self._check_free(row)
        if any(frame > group.last for frame in shapes.own):
            return self._desk.read(row)
        return replace(shapes, updated_date=row["updated_date"], surplus={})

    def _carry_out(self, group: _Group, row: Json, shapes: JobShapes, round_number: int) -> Json:
        """Delete and create; returns what the server says of the job afterwards."""
        state, reached = self._desk.state, -1
        if group.delete or group.create:
            self._delete(shapes, group.delete)
            for batch, reached in group.batches(self._desk.batch):
                self._create(batch)
                state.ledger.set_reached(self._job, round_number, reached)
            row = self._note_own_write(row)
        if reached < group.last:
            state.ledger.set_reached(self._job, round_number, group.last)
        return row

    def _delete(self, shapes: JobShapes, unwanted: Mapping[int, int]) -> None:
        """Delete shapes of ours, id -> frame, which `shapes` found as we left them.

        Even where there are none the job must be as it was when `shapes` were read.
        """
        desk, remaining = self._desk, dict(unwanted)
        # The server looks at nothing but the id, and yet wants a whole shape.
        stub = {"label_id": min(desk.labels.first_ids), "type": "rectangle", "points": [0, 0, 1, 1]}
        for is_last in [False] * (_TRIES - 1) + [True]:
            if desk.look(self._job)["updated_date"] != shapes.updated_date:
                raise LeaveForLater("somebody has just saved in it")
            if not remaining:
                break
            try:
                self._patch("delete", [stub | {"id": i, "frame": f} for i, f in remaining.items()])
            except Uncertain as error:
                if is_last:
                    raise
                desk.log(f"{error}; looking")
            else:
                desk.state.ledger.disown(self._job, remaining)
                break
            shapes = desk.read(desk.look(self._job))
            there = _all_ours(shapes)
            remaining = {shape: frame for shape, frame in remaining.items() if shape in there}
        self.deleted += len(unwanted)

    def _create(self, batch: Sequence[Proposal]) -> None:
        """Create shapes, each once."""
        desk, state, missing = self._desk, self._desk.state, batch
        for is_last in [False] * (_TRIES - 1) + [True]:
            state.ledger.intend(self._job, [(one.frame, one.fingerprint) for one in missing])
            try:
                answer = self._patch("create", [one.to_json() for one in missing])
            except Uncertain as error:
                if is_last:
                    raise
                desk.log(f"{error}; looking")
                self._in_doubt = True
            except ServerError:
                # Surely not carried out.
                state.ledger.forget_intents(self._job, [one.fingerprint for one in missing])
                raise
            else:
                state.ledger.settle(self._job, self._created(missing, answer))
                break
            # Reading adopts what is there.
            own = desk.read(desk.look(self._job)).own
            missing = [one for one in missing if one.fingerprint not in own.get(one.frame, {})]
            if not missing:
                break
        self.created += len(batch)

    def _created(self, sent: Sequence[Proposal], answer: Json) -> list[tuple[str, int]]:
        """Fingerprints and ids."""
        created = [(self._desk.labels.fingerprint(one), one["id"]) for one in answer["shapes"]]
        if sorted(print_ for print_, _ in created) != sorted(one.fingerprint for one in sent):
            raise ServerError(
                f"{self._desk.client.address.url} keeps other shapes in job {self._job} than were "
                "sent, so that ours could not be told from people's; nothing more is published: "
                "report this with the server's version"
            )
        return created

    def _patch(self, action: str, shapes: Sequence[Json]) -> Json:
        answer: Json = self._desk.client.send(
            "PATCH",
            f"jobs/{self._job}/annotations/",
            {"version": 0, "tags": [], "shapes": shapes, "tracks": []},
            action=action,
        )
        return answer

    def _note_own_write(self, before: Json) -> Json:
        """Remember the date that our writes gave the job, unless people changed its state, too.

        `before` is what the server said of the job before them. Returns what it says now.
        """
        row = self._desk.look(self._job)
        if all(row.get(key) == before.get(key) for key in ("state", "stage", "assignee")):
            self._desk.state.ledger.set_own_write(self._job, row["updated_date"])
        return row


def _most(shapes: JobShapes) -> int:
    """Shapes of a group."""
    ours = len(_all_ours(shapes))
    return max(_SHAPES_A_GROUP, ours // _READINGS) if ours else _SHAPES_AT_ONCE


def _all_ours(shapes: JobShapes) -> dict[int, int]:
    """Id -> frame."""
    own = {shape: frame for frame, ids in shapes.own.items() for shape in ids.values()}
    return own | dict(shapes.surplus)
