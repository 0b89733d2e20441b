"""What the adapter must remember of one watched task, so that a killed process knows what it did.

SQL in `folder/cvat.db`; the number maps of requests as files beside it. The server is the truth
about shapes and jobs; kept here is only what the server cannot tell: which shapes are ours and how
we left them, which pixels we asked for, and what has been read already.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from hvsa_cvat.database import Database
from hvsa_cvat.errors import SessionError
from hvsa_cvat.files import atomic_write, write_npz
from hvsa_cvat.types import Sample

SCHEMA_VERSION = 1

_metadata = sa.MetaData()

_notes = sa.Table(
    "notes",
    _metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("value", sa.JSON, nullable=False),
)

_requests = sa.Table(
    "requests",
    _metadata,
    sa.Column("key", sa.String(500), primary_key=True),
    sa.Column("content", sa.JSON, nullable=False),
)

_readings = sa.Table(
    "readings",
    _metadata,
    sa.Column("job", sa.Integer, primary_key=True),
    sa.Column("updated_date", sa.String(40), nullable=False),
    sa.Column("sent_back", sa.Boolean, nullable=False),
)

_pushed = sa.Table(
    "pushed",
    _metadata,
    sa.Column("entry", sa.Integer, primary_key=True),
    sa.Column("job", sa.Integer, nullable=False),
    sa.Column("frame", sa.Integer, nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("shape", sa.Integer),
    sa.Index("pushed_shape", "job", "shape"),
)

_published = sa.Table(
    "published",
    _metadata,
    sa.Column("job", sa.Integer, primary_key=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("reached", sa.Integer),  # the last frame so far; NULL: all of them
)

_SPARE_INTENTS = 2
"""Of one shape: a request without an answer, and the one sent after it, may both be carried out."""

_AT: sa.BindParameter[int] = sa.bindparam("at")
"""The row that one of many equal statements is about."""


@dataclass(frozen=True)
class Region:
    """One connected part of a requested sample, as annotators see it."""

    number: int
    """1, 2, ... within its request; the `group` of its outline on the server."""
    sample: Sample
    child_frame: int
    """Frame of the child task, 0-based."""
    points: tuple[float, ...]
    """The closed polyline as sent: x, y, ..., last point = first; empty for a whole frame, which
    needs no outline."""
    shape: int | None = None
    """The id that the server gave the outline."""


@dataclass(frozen=True)
class ChildJob:
    """One annotator's part of a request."""

    id: int
    start: int
    """First frame of the child task in it."""
    stop: int
    """Last frame, inclusive."""
    assignee: str | None
    """User name."""
    expected_clicks: float


@dataclass(frozen=True)
class Request:
    """A child task, as we made it."""

    key: str
    project: int
    task: int
    frames: tuple[int, ...]
    """Position in the video's `FrameSource` of each frame of the child task."""
    regions: tuple[Region, ...]
    jobs: tuple[ChildJob, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Request:
        return cls(
            key=data["key"],
            project=data["project"],
            task=data["task"],
            frames=tuple(data["frames"]),
            regions=tuple(
                Region(**{**r, "sample": Sample(**r["sample"]), "points": tuple(r["points"])})
                for r in data["regions"]
            ),
            jobs=tuple(ChildJob(**job) for job in data["jobs"]),
        )


@dataclass(frozen=True)
class Reading:
    """How a job stood when its answers were taken."""

    updated_date: str
    """As the server wrote it."""
    sent_back: bool
    """Whether it went back to its annotator for gaps; that happens once."""


@dataclass(frozen=True)
class Pushed:
    """A shape that we created, or were about to create when the process ended."""

    frame: int
    fingerprint: str
    shape: int | None
    """The server's id; None while the answer to the creating request is not known."""


class State:
    """The memory of one task. One process at a time; its owner holds the folder's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "cvat.db"
        self._database = Database(
            self.database, _metadata, SCHEMA_VERSION, "the memory of a watched task"
        )

    # -- notes: small facts by name

    def note(self, name: str) -> Any:
        """What was noted under `name` last (JSON), or None."""
        with self._database.transaction() as connection:
            return connection.scalar(sa.select(_notes.c.value).where(_notes.c.name == name))

    def set_note(self, name: str, value: Any) -> None:
        with self._database.transaction() as connection:
            connection.execute(sa.delete(_notes).where(_notes.c.name == name))
            connection.execute(sa.insert(_notes), {"name": name, "value": value})

    # -- requests: what we asked people for

    def request(self, key: str) -> Request | None:
        """The finished request of this key; None while it is not wholly made."""
        with self._database.transaction() as connection:
            content = connection.scalar(
                sa.select(_requests.c.content).where(_requests.c.key == key)
            )
        return None if content is None else Request.from_json(content)

    def requests(self) -> list[Request]:
        """All finished requests, oldest first."""
        with self._database.transaction() as connection:
            rows = connection.scalars(sa.select(_requests.c.content)).all()
        return sorted((Request.from_json(row) for row in rows), key=lambda r: r.task)

    def save_request(self, request: Request) -> None:
        """Keep a request that is wholly made, in place of one of the same key."""
        with self._database.transaction() as connection:
            connection.execute(sa.delete(_requests).where(_requests.c.key == request.key))
            connection.execute(
                sa.insert(_requests), {"key": request.key, "content": request.to_json()}
            )

    def forget_request(self, key: str) -> None:
        with self._database.transaction() as connection:
            connection.execute(sa.delete(_requests).where(_requests.c.key == key))

    def save_numbers(self, key: str, numbers: Iterable[NDArray[np.int32]]) -> None:
        """Keep for each frame of a child task the region's number at each pixel, 0 outside.

        int32 (H, W) each.
        """
        with atomic_write(self._numbers(key)) as path:
            write_npz(path, ((f"arr_{frame}", one) for frame, one in enumerate(numbers)))

    def numbers(self, key: str, child_frame: int) -> NDArray[np.int32]:
        """int32 (H, W), see `save_numbers`."""
        path = self._numbers(key)
        try:
            with np.load(path, allow_pickle=False) as archive:
                numbers: NDArray[np.int32] = archive[f"arr_{child_frame}"]
        except (OSError, ValueError, KeyError) as error:
            raise SessionError(f"{path} is missing or damaged; restore it from a copy") from error
        return numbers

    # -- readings: which jobs have been read

    def reading(self, job: int) -> Reading | None:
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(_readings).where(_readings.c.job == job)).first()
        return None if row is None else Reading(row.updated_date, row.sent_back)

    def save_reading(self, job: int, reading: Reading) -> None:
        with self._database.transaction() as connection:
            connection.execute(sa.delete(_readings).where(_readings.c.job == job))
            connection.execute(sa.insert(_readings), {"job": job, **asdict(reading)})

    # -- the ledger: which shapes are ours, and how we left them

    def pushed(self, job: int) -> list[Pushed]:
        columns = (_pushed.c.frame, _pushed.c.fingerprint, _pushed.c.shape)
        query = sa.select(*columns).where(_pushed.c.job == job).order_by(_pushed.c.entry)
        with self._database.transaction() as connection:
            return [Pushed(*row) for row in connection.execute(query)]

    def pushed_jobs(self) -> list[int]:
        """Jobs in which the ledger has entries."""
        with self._database.transaction() as connection:
            jobs = connection.scalars(sa.select(_pushed.c.job).distinct())
            return sorted(jobs)

    def pushed_counts(self) -> dict[int, int]:
        """How many shapes are ours, by job."""
        query = sa.select(_pushed.c.job, sa.func.count().label("shapes"))
        query = query.where(_pushed.c.shape.is_not(None)).group_by(_pushed.c.job)
        with self._database.transaction() as connection:
            return {row.job: row.shapes for row in connection.execute(query)}

    def intend(self, job: int, shapes: Iterable[tuple[int, str]]) -> None:
        """Note (frame, fingerprint) of shapes that the next request creates.

        They stay intended until they are settled or forgotten, also while others like them are
        intended anew: nobody knows when a request without an answer is carried out.
        """
        with self._database.transaction() as connection:
            open_ = self._intents(connection, job)
            rows = [
                {"job": job, "frame": frame, "fingerprint": print_}
                for frame, print_ in shapes
                if len(open_[print_]) < _SPARE_INTENTS
            ]
            if rows:
                connection.execute(sa.insert(_pushed), rows)

    def settle(self, job: int, created: Iterable[tuple[str, int]]) -> None:
        """Give (fingerprint, id) to intended shapes that turned out to be created."""
        with self._database.transaction() as connection:
            open_ = self._intents(connection, job)
            rows = []
            for fingerprint, shape in created:
                if not open_[fingerprint]:
                    raise ValueError(f"shape {shape} of job {job} was never intended")
                rows.append({"at": open_[fingerprint].pop(), "shape": shape})
            if rows:
                connection.execute(sa.update(_pushed).where(_pushed.c.entry == _AT), rows)

    def forget_intents(self, job: int, fingerprints: Iterable[str] | None = None) -> None:
        """Forget intended shapes that were surely not created: one of each given, or all."""
        with self._database.transaction() as connection:
            open_ = self._intents(connection, job)
            if fingerprints is None:
                rows = [{"at": entry} for entries in open_.values() for entry in entries]
            else:
                rows = [{"at": open_[one].pop()} for one in fingerprints]
            if rows:
                connection.execute(sa.delete(_pushed).where(_pushed.c.entry == _AT), rows)

    def _intents(self, connection: sa.Connection, job: int) -> defaultdict[str, list[int]]:
        """Entries without an id by fingerprint, the oldest last."""
        query = (
            sa.select(_pushed.c.fingerprint, _pushed.c.entry)
            .where(_pushed.c.job == job, _pushed.c.shape.is_(None))
            .order_by(_pushed.c.entry.desc())
        )
        open_ = defaultdict[str, list[int]](list)
        for fingerprint, entry in connection.execute(query):
            open_[fingerprint].append(entry)
        return open_

    def disown(self, job: int, shapes: Iterable[int]) -> None:
        """Forget shapes that are gone, or that a person has changed: they are not ours any more."""
        rows = [{"at": shape} for shape in shapes]
        if rows:
            with self._database.transaction() as connection:
                connection.execute(
                    sa.delete(_pushed).where(_pushed.c.job == job, _pushed.c.shape == _AT), rows
                )

    def forget_job(self, job: int) -> None:
        """Forget all that was ever published in a job."""
        with self._database.transaction() as connection:
            for table in (_pushed, _published):
                connection.execute(sa.delete(table).where(table.c.job == job))

    def published_rounds(self) -> dict[int, int]:
        """The rounds whose masks jobs of the parent task show in full, by job."""
        query = sa.select(_published.c.job, _published.c.round)
        query = query.where(_published.c.reached.is_(None))
        with self._database.transaction() as connection:
            return {row.job: row.round for row in connection.execute(query)}

    def set_published_round(self, job: int, round_number: int) -> None:
        self._set_published(job, round_number, None)

    def reached(self, job: int, round_number: int) -> int | None:
        """The last frame up to which a job shows a round that is begun there and not done."""
        with self._database.transaction() as connection:
            query = sa.select(_published.c.reached)
            return connection.scalar(
                query.where(_published.c.job == job, _published.c.round == round_number)
            )

    def set_reached(self, job: int, round_number: int, frame: int) -> None:
        """Note that a job shows a round up to and with a frame, -1 for none, and is not done."""
        self._set_published(job, round_number, frame)

    def _set_published(self, job: int, round_number: int, reached: int | None) -> None:
        row = {"job": job, "round": round_number, "reached": reached}
        with self._database.transaction() as connection:
            connection.execute(sa.delete(_published).where(_published.c.job == job))
            connection.execute(sa.insert(_published), row)

    def _numbers(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        return self.folder / "requests" / f"{digest}.npz"
