"""Makes jobs show a round: frame by frame, what is missing created, what is outdated deleted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.masks.context import JobNotWritable, PublishContext
from hvsa_cvat.cvat.masks.job_frames import JobFrames
from hvsa_cvat.cvat.masks.job_shapes import JobShapes
from hvsa_cvat.cvat.masks.label_map_shapes import Proposer
from hvsa_cvat.cvat.masks.people_pixels import people_pixels
from hvsa_cvat.cvat.masks.shape_changes import ShapeChanges
from hvsa_cvat.cvat.masks.shape_requests import ShapeRequests
from hvsa_cvat.types import LabelMap, Mask


class RoundWriter:
    """Writes one round to the jobs of a task, in their order, and counts."""

    def __init__(self, context: PublishContext, proposer: Proposer, round_number: int) -> None:
        self._context = context
        self._proposer = proposer
        self._round = round_number
        self._readings: dict[int, JobShapes] = {}
        """Shapes of jobs that overlap the one that is written."""
        self.created = self.deleted = self.kept = 0

    def write(
        self,
        job: JobFrames,
        label_maps: Iterable[tuple[int, LabelMap]],
        closed: Collection[int],
    ) -> None:
        """Make a job show the round: (frame number, label map) of all frames that it holds.

        What people drew in jobs that overlap it is left free, too. A frame on which one of the
        `closed` jobs shows shapes of ours, and those must stay, is left as it is here as well: an
        export of the task would show both. An interrupted round continues after the last frame that
        it reached. May raise `JobNotWritable`.
        """
        near = {job.job, *job.overlapping}
        self._readings = {one: shapes for one, shapes in self._readings.items() if one in near}
        requests = ShapeRequests(self._context, job.job)
        try:
            self._write(job, label_maps, closed, requests)
        finally:
            self.created += requests.created
            self.deleted += requests.deleted

    def _write(
        self,
        one: JobFrames,
        label_maps: Iterable[tuple[int, LabelMap]],
        closed: Collection[int],
        requests: ShapeRequests,
    ) -> None:
        job = one.job
        row = self._context.look(job)
        self._context.check_writable(row)
        shapes = self._read_first(row)
        reached = self._begin(job)
        beside = [self._read_beside(other) for other in one.overlapping]
        fixed = {
            frame for shapes in beside if shapes.job in closed for frame in shapes.frames_of_ours
        }
        changes = self._new_group(shapes)
        drawn: dict[int, int] = {}
        """Frame -> what people had drawn there when our shapes were made."""
        for frame, label_map in label_maps:
            if frame <= reached or frame in fixed:
                continue
            if changes.is_full:
                row = self._carry_out(changes, row, shapes, requests)
                shapes = self._after(changes, row, shapes)
                changes = self._new_group(shapes)
            drawn[frame] = shapes.of_people(frame)
            people = self._people([shapes, *beside], frame, label_map)
            proposals = self._proposer.propose(frame, label_map, people, one.holders(frame))
            self.kept += changes.add(frame, proposals, shapes.own.get(frame, {}))
        row = self._carry_out(changes, row, shapes, requests)
        if requests.in_doubt or row["state"] != "new":
            shapes = self._context.read(row)
            if requests.in_doubt:
                requests.delete(shapes, shapes.surplus)
                requests.note_own_write(row)
            self._check_undisturbed(job, shapes, drawn)
        self._context.state.ledger.set_published_round(job, self._round)

    def _check_undisturbed(self, job: int, shapes: JobShapes, drawn: Mapping[int, int]) -> None:
        """`JobNotWritable` if people drew on frames while ours were written: the next pass writes
        those frames again.

        Not needed for a job whose state is new: the first save of a person changes it.
        """
        late = [frame for frame, before in drawn.items() if shapes.of_people(frame) != before]
        if late:
            self._context.state.ledger.set_reached(job, self._round, min(late) - 1)
            raise JobNotWritable(
                f"somebody drew on frame {min(late)} while it was written; the next pass corrects "
                "the masks there"
            )

    def _begin(self, job: int) -> int:
        """The last frame that the round has reached in a job; -1 at its beginning."""
        ledger = self._context.state.ledger
        reached = ledger.reached(job, self._round)
        if reached is not None:
            return reached
        # They are of an earlier round: had the server carried them out, they would be there now.
        ledger.forget_intents(job)
        ledger.set_reached(job, self._round, -1)
        return -1

    def _new_group(self, shapes: JobShapes) -> ShapeChanges:
        return ShapeChanges.of(shapes, self._context.options.limits)

    def _people(self, readings: Sequence[JobShapes], frame: int, label_map: LabelMap) -> Mask:
        context = self._context
        height, width = label_map.shape
        size = (height, width)
        return people_pixels(
            readings, frame, size, context.labels, context.deleted_frames, context.log
        )

    def _read_first(self, row: Json) -> JobShapes:
        shapes = self._readings.pop(row["id"], None)
        if shapes is not None and shapes.updated_date == row["updated_date"]:
            return shapes
        return self._context.read(row)

    def _read_beside(self, job: int) -> JobShapes:
        if job not in self._readings:
            self._readings[job] = self._context.read(self._context.look(job))
        return self._readings[job]

    def _carry_out(
        self, changes: ShapeChanges, row: Json, shapes: JobShapes, requests: ShapeRequests
    ) -> Json:
        """Delete and create; returns what the server says of the job afterwards."""
        job, ledger, reached = row["id"], self._context.state.ledger, -1
        if changes.delete or changes.create:
            requests.delete(shapes, changes.delete)
            for batch, reached in changes.batches():
                requests.create(batch)
                ledger.set_reached(job, self._round, reached)
            row = requests.note_own_write(row)
        if reached < changes.last:
            ledger.set_reached(job, self._round, changes.last)
        return row

    def _after(self, changes: ShapeChanges, row: Json, shapes: JobShapes) -> JobShapes:
        """The shapes after a group was carried out; `row` was asked for since then.

        They are not read again where nothing is left to be deleted.
        """
        self._context.check_writable(row)
        if any(frame > changes.last for frame in shapes.own):
            return self._context.read(row)
        return replace(shapes, updated_date=row["updated_date"], surplus={})
