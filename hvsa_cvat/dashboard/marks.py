"""What people marked on the pages: frames that they have seen, and who did what when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from hvsa_cvat.database import Tables, Where, is_present, open_database, read_only

SCHEMA_VERSION = 1

_metadata = sa.MetaData()

_seen = sa.Table(
    "seen",
    _metadata,
    sa.Column("session", sa.String(300), primary_key=True),  # name of the session's folder
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("frame", sa.Integer, primary_key=True),
)

_actions = sa.Table(
    "actions",
    _metadata,
    sa.Column("entry", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("sender", sa.String(100), nullable=False),
    sa.Column("what", sa.Text, nullable=False),
)

_TABLES = Tables("dashboard.db", _metadata, SCHEMA_VERSION, "the memory of the dashboard")


@dataclass(frozen=True)
class Action:
    """Something that was done on the pages."""

    time: float
    """Seconds since 1970."""
    sender: str
    """Address of the browser, or of the proxy before it."""
    what: str


class Marks:
    """A database beside the workspace's own, made with the first mark."""

    def __init__(self, workspace: Where, clock: Callable[[], float]) -> None:
        """`clock` gives seconds since 1970."""
        self._workspace = workspace
        self._clock = clock

    def seen(self, session: str, number: int) -> frozenset[int]:
        """The frames of a round that are marked as seen."""
        if not is_present(self._workspace, _TABLES):
            return frozenset()
        query = sa.select(_seen.c.frame).where(_seen.c.session == session, _seen.c.round == number)
        with read_only(self._workspace, _TABLES) as connection:
            return frozenset(connection.scalars(query))

    def mark(self, session: str, number: int, frame: int, *, seen: bool, sender: str) -> None:
        """Mark a frame of a round as seen, or as not seen."""
        row = {"session": session, "round": number, "frame": frame}
        same = sa.and_(*(_seen.c[name] == value for name, value in row.items()))
        word = "seen" if seen else "not seen"
        what = f"{session}: round {number}: frame {frame} is marked as {word}"
        database = open_database(self._workspace, _TABLES)
        with database.transaction() as connection:
            connection.execute(sa.delete(_seen).where(same))
            if seen:
                connection.execute(sa.insert(_seen), row)
            entry = {"time": self._clock(), "sender": sender[:100], "what": what}
            connection.execute(sa.insert(_actions), entry)

    def actions(self, most: int) -> list[Action]:
        """What was done last, the newest first."""
        if not is_present(self._workspace, _TABLES):
            return []
        columns = (_actions.c.time, _actions.c.sender, _actions.c.what)
        query = sa.select(*columns).order_by(_actions.c.entry.desc()).limit(most)
        with read_only(self._workspace, _TABLES) as connection:
            return [Action(row.time, row.sender, row.what) for row in connection.execute(query)]
