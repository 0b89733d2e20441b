"""A PostgreSQL server that tests start on this machine, stop and start again."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import psycopg
import pytest

USER, PASSWORD = "hvsa", "secret-of-the-tests"


def _programs() -> Path:
    """The folder of `postgres` and `initdb`: of the wheel, else of the system's package."""
    wheel = importlib.util.find_spec("pgserver")
    if wheel is not None and wheel.origin is not None:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        return folder
    pytest.skip("no PostgreSQL: pgserver has no wheel here, and there is none in /usr/lib")


class LocalServer:
    """Its databases are new for each test. It refuses to run as root, and becomes nobody then."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hvsa-postgres-"))
        self.folder.chmod(0o755)
        self._programs = _programs()
        self._user = None
        if os.geteuid() == 0:
            self._user = "nobody"
            # nobody may not be allowed into the folder of the virtual environment
            if "pginstall" in self._programs.parts:
                wheel = self._programs.parent.parent
                for part in (wheel, wheel.with_name("pgserver.libs")):
                    shutil.copytree(part, self.folder / part.name, symlinks=True)
                self._programs = self.folder / "pgserver" / "pginstall" / "bin"
        self._data = self.folder / "data"
        self._data.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(self._data, self._user)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._numbers = itertools.count()

    def __enter__(self) -> LocalServer:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        self._run(
            *("initdb", "--no-sync", "-D", self._data, "-U", USER, "-E", "UTF8"),
            *("--locale=C", "--auth=scram-sha-256", "--pwfile", password),
        )
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
        }
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if (self._data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-l", self._data / "log")

    def stop(self) -> None:
        """At once: transactions that are under way are lost."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self._data)

    def new_database(self) -> str:
        """The address of an empty database, without the password."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.address(name)

    def address(self, name: str, user: str = USER) -> str:
        return f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str, name: str = "postgres") -> list[tuple[object, ...]]:
        """As the owner of everything."""
        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=PASSWORD,
            dbname=name,
            autocommit=True,
        ) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description is not None else []

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            user=self._user,
            extra_groups=[] if self._user is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,
            cwd=self.folder,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
