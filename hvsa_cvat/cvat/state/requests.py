"""What we asked people for: requests, what was on their cards, and the answers collected last."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from hvsa_cvat.annotation.effort import PUBLISHED
from hvsa_cvat.cvat.state import tables
from hvsa_cvat.database import Database, Where, is_present, place_of, read_only
from hvsa_cvat.errors import SessionError
from hvsa_cvat.files import atomic_write, write_npz
from hvsa_cvat.types import Sample, Size

UNMASKED = -1
"""In the content of a card: a pixel that was asked for and that no mask of ours covered."""


@dataclass(frozen=True)
class Card:
    """A frame of the child task: a frame of the video, or an enlarged part of one."""

    sample: Sample
    """What the card asks for."""
    top: int
    """Of the part of the frame that is shown, in pixels of the frame; `left` likewise."""
    left: int
    height: int
    """In pixels of the frame; `width` likewise."""
    width: int
    factor: int
    """By which it is enlarged."""
    suggests: bool
    """Whether people saw what the masks say. Else they saw nothing, or one mask to begin with."""

    @property
    def size(self) -> Size:
        """Of the picture, in its own pixels."""
        return self.height * self.factor, self.width * self.factor

    @property
    def window(self) -> tuple[slice, slice]:
        """Where the part lies in its frame."""
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )


@dataclass(frozen=True)
class Part:
    """A mask of ours that people saw on a card: pixels of one class, mostly connected."""

    number: int
    """1, 2, ... within its request; the `group` of its shape on the server."""
    card: int
    """Frame of the child task, 0-based."""
    label: int
    """Class index."""
    shape: int | None = None
    """The id that the server gave the shape; None where people deleted it before the request was
    saved."""


@dataclass(frozen=True)
class ChildJob:
    """What one annotator does in one sitting."""

    id: int
    start: int
    """First frame of the child task in it."""
    stop: int
    """Last frame, inclusive."""
    assignee: str | None
    """User name."""
    expected_clicks: float
    expected_seconds: float | None = None
    """None in a request that an older version saved."""

    @property
    def pictures(self) -> int:
        return self.stop - self.start + 1

    @property
    def expected_minutes(self) -> float:
        if self.expected_seconds is not None:
            return self.expected_seconds / 60
        return PUBLISHED.minutes(self.pictures, self.expected_clicks)


@dataclass(frozen=True)
class Request:
    """A child task, as we made it."""

    key: str
    project: int
    """The companion project that it is in."""
    task: int
    cards: tuple[Card, ...]
    """One for each frame of the child task. Empty in a request of version 0.1, which asked in
    another form."""
    parts: tuple[Part, ...]
    jobs: tuple[ChildJob, ...]
    tag: int | None = None
    """The label of the tag that a card has until somebody has checked it; None in a request that an
    older version saved."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Request:
        return cls(
            key=data["key"],
            project=data["project"],
            task=data["task"],
            cards=tuple(
                Card(**{**card, "sample": Sample(**card["sample"])})
                for card in data.get("cards", ())
            ),
            parts=tuple(Part(**part) for part in data.get("parts", ())),
            jobs=tuple(ChildJob(**job) for job in data["jobs"]),
            tag=data.get("tag"),
        )


@dataclass(frozen=True)
class CollectedAnswers:
    """Which answers of a request the session was given last."""

    digest: str
    """SHA-256 of the answers, as text."""
    revised: bool
    """Whether people changed them after they were first collected."""


class SharedFiles(Protocol):
    """Where files are kept that other machines need."""

    def keep(self, folder: Path) -> None:
        """Keep a file that was written."""

    def bring(self, folder: Path) -> None:
        """Fetch a file that is not on this machine, if it was kept."""


class Requests:
    """All requests about one watched task."""

    def __init__(self, folder: Path, database: Database, files: SharedFiles | None = None) -> None:
        self._folder = folder / "requests"
        self._database = database
        self._files = files

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

    # -- contents of the cards: a file for each request

    def save_contents(self, key: str, contents: Iterable[NDArray[np.int32]]) -> None:
        """Keep for each card of a request what was asked for and shown at each pixel.

        int32 (height, width) each, in pixels of the frame: 0 where nothing was asked, `UNMASKED`,
        or the number of a part.
        """
        kept = _contents_path(self._folder, key)
        with atomic_write(kept) as path:
            write_npz(path, ((f"arr_{card}", one) for card, one in enumerate(contents)))
        if self._files is not None:
            self._files.keep(kept)

    def content(self, key: str, card: int) -> NDArray[np.int32]:
        """int32 (height, width), see `save_contents`."""
        path = _contents_path(self._folder, key)
        if self._files is not None:
            self._files.bring(path)
        return _content(path, card)

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


def read_requests(where: Where) -> list[Request]:
    """All finished requests in the `State` of a place, oldest first; empty where there is none.

    For processes that only look: it makes no file, changes none and waits for no writer. The
    database may be of version 1.
    """
    if not is_present(where, tables.TABLES):
        return []
    with read_only(where, tables.TABLES) as connection:
        return all_requests(connection)


def read_content(
    where: Where, key: str, card: int, bring: Callable[[Path], object] = lambda path: None
) -> NDArray[np.int32]:
    """`Requests.content` in the `State` of a place, for processes that only look. `bring` is called
    for the file before it is read."""
    path = _contents_path(place_of(where).folder / "requests", key)
    bring(path)
    return _content(path, card)


def all_requests(connection: sa.Connection) -> list[Request]:
    """All finished requests in a database, oldest first."""
    rows = connection.scalars(sa.select(tables.requests.c.content)).all()
    return sorted((Request.from_json(row) for row in rows), key=lambda request: request.task)


def _delete(key: str) -> sa.Delete:
    return sa.delete(tables.requests).where(tables.requests.c.key == key)


def _contents_path(folder: Path, key: str) -> Path:
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return folder / f"{digest}.npz"


def _content(path: Path, card: int) -> NDArray[np.int32]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            content: NDArray[np.int32] = archive[f"arr_{card}"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise SessionError(f"{path} is missing or damaged; restore it from a copy") from error
    return content
