"""Connections of one process to one PostgreSQL database, and what becomes of their errors."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
import tenacity

from hvsa_cvat.database.tables import Tables
from hvsa_cvat.errors import ConfigError, SessionError

T = TypeVar("T")

_log = logging.getLogger(__name__)

_PATIENCE = 120.0
"""Seconds for which a database that was there before may be away."""

_SILENCE = 40
"""Seconds without a sign of life after which a connection counts as lost."""

_CONNECT_SECONDS = 10
"""For which one attempt to connect may take."""


class PostgresServer:
    """A pool of connections. Safe to use from several threads."""

    def __init__(
        self,
        address: str,
        *,
        patience: float = _PATIENCE,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`address`: SQLAlchemy's URL of the database, without a password: libpq takes that from
        PGPASSWORD or a password file."""
        self._patience = patience
        self._sleep = sleep
        self._url = sa.make_url(address)
        self._lock = threading.Lock()
        self._reached = False
        self._done: set[str] = set()
        self._there: set[str] = set()
        try:
            self._engine = sa.create_engine(
                self._url,
                pool_pre_ping=True,
                max_overflow=-1,
                connect_args={
                    "connect_timeout": _CONNECT_SECONDS,
                    # milliseconds after which a machine that is gone is no longer waited for
                    "tcp_user_timeout": 1000 * _SILENCE,
                    "keepalives_idle": _SILENCE // 2,
                    # statements that a server keeps by name are lost behind a pooler
                    "prepare_threshold": None,
                },
            )
        except ImportError as error:
            raise ConfigError(
                f"{self}: the driver of PostgreSQL is not installed; run: "
                "pip install 'hvsa-cvat[cluster]'"
            ) from error
        sa.event.listen(self._engine, "before_execute", _note_writing)

    def __str__(self) -> str:
        return self._url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._engine.dispose()

    def connect(self) -> sa.Connection:
        """A connection that works."""
        connection = self._engine.connect()
        self._reached = True
        return connection

    def once(self, name: str, work: Callable[[sa.Connection], None]) -> None:
        """Do `work` within a transaction, the first time in this process that it is asked for by
        this name. It must be safe to repeat."""

        def whole() -> None:
            with self.connect() as connection:
                work(connection)
                connection.commit()

        with self._lock:
            if name not in self._done:
                with self.refusals():
                    self.retried(whole)
                self._done.add(name)

    def has(self, tables: Tables) -> bool:
        """Whether the tables are there."""
        if tables.file in self._done | self._there:
            return True
        name = f"hvsa_{tables.file.removesuffix('.db')}.{tables.version_table}"
        query = sa.text("SELECT to_regclass(:name) IS NOT NULL")
        found = bool(self.rows(query, {"name": name})[0][0])
        if found:
            self._there.add(tables.file)
        return found

    def rows(self, query: sa.TextClause, parameters: Mapping[str, object]) -> Sequence[sa.Row[Any]]:
        """What one query finds, without a transaction around it."""

        def look() -> Sequence[sa.Row[Any]]:
            with self.connect() as connection:
                alone = connection.execution_options(isolation_level="AUTOCOMMIT")
                return alone.execute(query, dict(parameters)).all()

        with self.refusals():
            return self.retried(look)

    def retried(self, work: Callable[[], T]) -> T:
        """What `work` gives; it is called again while the database is away, if it was there
        before: what is wrong from the start does not mend itself."""

        def is_away(error: BaseException) -> bool:
            return self._reached and isinstance(error, sa.exc.OperationalError)

        def tell(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome is not None else None
            _log.warning("%s does not answer, trying again: %s", self, _line(error))

        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_away),
            stop=tenacity.stop_after_delay(self._patience),
            wait=tenacity.wait_exponential(0.2, 4.0) + tenacity.wait_random(0, 1),
            sleep=self._sleep,
            before_sleep=tell,
            reraise=True,
        )
        return attempts(work)

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn errors of the database into one line."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise SessionError(f"cannot use {self}: {_line(error)}; {self._fix(error)}") from error

    def _fix(self, error: sa.exc.DBAPIError) -> str:
        text, user, name = _line(error), self._url.username, self._url.database
        if getattr(error.orig, "sqlstate", None) == "42501":
            return f'let its owner run: GRANT CREATE ON DATABASE "{name}" TO "{user}"'
        if not isinstance(error, sa.exc.OperationalError):
            return "if its tables were changed by hand, restore it from a copy; else report this"
        if "password" in text:
            return f"set PGPASSWORD to the password of {user}"
        if "resolve" in text or "translate host name" in text:
            return "correct the host in `database`"
        if "does not exist" in text and "database" in text:
            return f"create it: createdb {name}"
        if self._reached:
            return "see whether PostgreSQL runs; the next pass tries again"
        return "see whether PostgreSQL runs there and lets this machine in"


def _line(error: BaseException | None) -> str:
    """The text of the driver's error, without the statement that SQLAlchemy adds."""
    told = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return " ".join(str(told).split())


def _note_writing(connection: sa.Connection, statement: Any, *_: Any) -> None:
    if getattr(statement, "is_dml", False):
        connection.info["wrote"] = True
