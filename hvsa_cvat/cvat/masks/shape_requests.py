"""The requests that create and delete our shapes in one job, each shape exactly once.

The server offers no locks, and it may carry out a request without an answer. So every shape is in
the ledger before it is sent, and an answer that got lost is looked up. Right before anything is
deleted, the job's date must still be the one at which its shapes were read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hvsa_cvat.cvat.http.errors import Uncertain
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.masks.context import JobNotWritable, PublishContext
from hvsa_cvat.cvat.masks.job_shapes import JobShapes
from hvsa_cvat.cvat.masks.label_map_shapes import Proposal
from hvsa_cvat.errors import ServerError

_TRIES = 3
"""How often a request is sent. If its answer gets lost, only what is missing is sent again."""


class ShapeRequests:
    """Changes one job, and counts."""

    def __init__(self, context: PublishContext, job: int) -> None:
        self._context = context
        self._job = job
        self.created = self.deleted = 0
        self.in_doubt = False
        """Whether the server may still carry out a request that it has not answered."""

    def delete(self, shapes: JobShapes, unwanted: Mapping[int, int]) -> None:
        """Delete shapes of ours, id -> frame, which `shapes` found as we left them.

        `JobNotWritable` if the job has changed since `shapes` were read, even where `unwanted` is
        empty.
        """
        context, remaining = self._context, dict(unwanted)
        for attempt in range(_TRIES):
            if context.look(self._job)["updated_date"] != shapes.updated_date:
                raise JobNotWritable("somebody has just saved in it")
            if not remaining:
                break
            try:
                self._patch("delete", self._stubs(remaining))
            except Uncertain as error:
                if attempt == _TRIES - 1:
                    raise
                context.log(f"{error}; looking")
            else:
                context.state.ledger.disown(self._job, remaining)
                break
            shapes = context.read(context.look(self._job))
            there = shapes.all_ours()
            remaining = {shape: frame for shape, frame in remaining.items() if shape in there}
        self.deleted += len(unwanted)

    def create(self, batch: Sequence[Proposal]) -> None:
        """Create shapes, each once."""
        context, ledger, missing = self._context, self._context.state.ledger, batch
        for attempt in range(_TRIES):
            ledger.intend(self._job, [(one.frame, one.fingerprint) for one in missing])
            try:
                answer = self._patch("create", [one.to_json() for one in missing])
            except Uncertain as error:
                if attempt == _TRIES - 1:
                    raise
                context.log(f"{error}; looking")
                self.in_doubt = True
            except ServerError:
                # The server has surely not carried it out.
                ledger.forget_intents(self._job, [one.fingerprint for one in missing])
                raise
            else:
                ledger.settle(self._job, self._created(missing, answer))
                break
            # Reading finds the shapes that are there, and gives them their ids in the ledger.
            own = context.read(context.look(self._job)).own
            missing = [one for one in missing if one.fingerprint not in own.get(one.frame, {})]
            if not missing:
                break
        self.created += len(batch)

    def note_own_write(self, before: Json) -> Json:
        """Remember the date that our writes gave the job, unless people changed its state, too.

        `before` is what the server said of the job before our writes. Returns what it says now.
        """
        row = self._context.look(self._job)
        if all(row.get(key) == before.get(key) for key in ("state", "stage", "assignee")):
            self._context.state.ledger.set_own_write(self._job, row["updated_date"])
        return row

    def _stubs(self, shapes: Mapping[int, int]) -> list[Json]:
        # The server looks only at the id, but it refuses anything that is not a whole shape.
        label = min(self._context.labels.first_ids)
        stub = {"label_id": label, "type": "rectangle", "points": [0, 0, 1, 1]}
        return [stub | {"id": shape, "frame": frame} for shape, frame in shapes.items()]

    def _created(self, sent: Sequence[Proposal], answer: Json) -> list[tuple[str, int]]:
        """Fingerprint and id of each created shape."""
        context = self._context
        created = [(context.labels.fingerprint(one), one["id"]) for one in answer["shapes"]]
        if sorted(print_ for print_, _ in created) != sorted(one.fingerprint for one in sent):
            raise ServerError(
                f"{context.client.address.url} stores other shapes in job {self._job} than were "
                "sent, so ours cannot be told from people's; nothing more is published: report "
                "this with the server's version"
            )
        return created

    def _patch(self, action: str, shapes: Sequence[Json]) -> Json:
        answer: Json = self._context.client.send(
            "PATCH",
            f"jobs/{self._job}/annotations/",
            {"version": 0, "tags": [], "shapes": shapes, "tracks": []},
            action=action,
        )
        return answer
