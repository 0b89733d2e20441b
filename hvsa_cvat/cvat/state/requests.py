"""What we asked people for: the requests, their number maps and the answers collected last."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from hvsa_cvat.cvat.state import tables
from hvsa_cvat.database import Database, read_only
from hvsa_cvat.errors import SessionError
from hvsa_cvat.files import atomic_write, write_npz
from hvsa_cvat.types import Sample


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
    """The companion project that it is in."""
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
class CollectedAnswers:
    """Which answers of a request the session was given last."""

    digest: str
    """SHA-256 of the answers, as text."""
    revised: bool
    """Whether people changed them after they were first collected."""


class Requests:
    """All requests about one watched task."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder = folder / "requests"
        self._database = database

    def get(self, key: str) -> Request | None:
        """The finished request of this key; None while it is not wholly made."""
        table = tables.requests
        with self._database.transaction() as connection:
            content = connection.scalar(sa.select(table.c.content).where(table.c.key == key))
        return None if content is None else Request.from_json(content)

    def all(self) -> list[Request]:
        """All finished requests, oldest first."""
        with self._database.transaction() as connection:
            return all_requests(connection)

    def save(self, request: Request) -> None:
        """Keep a request that is wholly made, in place of one of the same key."""
        row = {"key": request.key, "content": request.to_json()}
        with self._database.transaction() as connection:
            connection.execute(_delete(request.key))
            connection.execute(sa.insert(tables.requests), row)

    def forget(self, key: str) -> None:
        with self._database.transaction() as connection:
            connection.execute(_delete(key))

    # -- number maps: a file for each request

    def save_numbers(self, key: str, numbers: Iterable[NDArray[np.int32]]) -> None:
        """Keep for each frame of a child task the region's number at each pixel, 0 outside.

        int32 (H, W) each.
        """
        with atomic_write(self._numbers_path(key)) as path:
            write_npz(path, ((f"arr_{frame}", one) for frame, one in enumerate(numbers)))

    def numbers(self, key: str, child_frame: int) -> NDArray[np.int32]:
        """int32 (H, W), see `save_numbers`."""
        path = self._numbers_path(key)
        try:
            with np.load(path, allow_pickle=False) as archive:
                numbers: NDArray[np.int32] = archive[f"arr_{child_frame}"]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise SessionError(f"{path} is missing or damaged; restore it from a copy") from error
        return numbers

    # -- what became of a request, by the number of its child task

    def collected(self, child_task: int) -> CollectedAnswers | None:
        """The answers that were given last; None while none have been collected."""
        table = tables.collected_answers
        with self._database.transaction() as connection:
            row = connection.execute(sa.select(table).where(table.c.task == child_task)).first()
        return None if row is None else CollectedAnswers(row.digest, row.revised)

    def set_collected(self, child_task: int, answers: CollectedAnswers) -> None:
        table = tables.collected_answers
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table).where(table.c.task == child_task))
            connection.execute(sa.insert(table), {"task": child_task, **asdict(answers)})

    def told(self, child_task: int) -> str | None:
        """The line that the log has about the jobs, so that it is not said at every pass."""
        table = tables.told
        with self._database.transaction() as connection:
            return connection.scalar(sa.select(table.c.line).where(table.c.task == child_task))

    def set_told(self, child_task: int, line: str | None) -> None:
        table = tables.told
        with self._database.transaction() as connection:
            connection.execute(sa.delete(table).where(table.c.task == child_task))
            if line is not None:
                connection.execute(sa.insert(table), {"task": child_task, "line": line})

    def _numbers_path(self, key: str) -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        return self._folder / f"{digest}.npz"


def read_requests(folder: Path) -> list[Request]:
    """All finished requests in the `State` of a folder, oldest first; empty where there is none.

    For processes that only look: it makes no file, changes none and waits for no writer. The
    database may be of version 1, in which the requests were the same.
    """
    path = folder / "cvat.db"
    if not path.exists():
        return []
    with read_only(path, tables.HOLDS) as connection:
        return all_requests(connection)


def all_requests(connection: sa.Connection) -> list[Request]:
    """All finished requests in a database, oldest first."""
    rows = connection.scalars(sa.select(tables.requests.c.content)).all()
    return sorted((Request.from_json(row) for row in rows), key=lambda request: request.task)


def _delete(key: str) -> sa.Delete:
    return sa.delete(tables.requests).where(tables.requests.c.key == key)
