"""What a transaction costs in SQLite files and in PostgreSQL.

    python -m benchmarks.databases --tasks 200

Starts a PostgreSQL server on this machine, as the tests do; a network in between adds its own way
there and back, about seven of them a transaction. Prints Markdown.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from hvsa_cvat.agent.looking import look_into
from hvsa_cvat.agent.options import EnrollOptions
from hvsa_cvat.agent.workspace import Workspace
from hvsa_cvat.cvat.state import State
from hvsa_cvat.database import Place, Where
from hvsa_cvat.database.postgres import close_all
from hvsa_cvat.session.rounds import Session
from hvsa_cvat.session.store import Store, session_stamps
from hvsa_cvat.types import LabelSet
from tests.postgres import PASSWORD, LocalServer

_REPEATS = 20
_SHAPES = [(frame, f"fingerprint {frame}") for frame in range(30)]


@click.command()
@click.option("--tasks", default=200, show_default=True)
def main(tasks: int) -> None:
    os.environ["PGPASSWORD"] = PASSWORD
    with tempfile.TemporaryDirectory() as scratch, LocalServer() as server:
        files = _measured(Path(scratch) / "files", tasks)
        shared = _measured(Place(Path(scratch) / "shared", server.new_database()), tasks)
        close_all()
    click.echo("| milliseconds, the median | SQLite | PostgreSQL |\n| --- | ---: | ---: |")
    for name, value in files.items():
        click.echo(f"| {name} | {1000 * value:.1f} | {1000 * shared[name]:.1f} |")


def _measured(where: Where, tasks: int) -> dict[str, float]:
    """Seconds of each step."""
    workspace = Workspace(where, "cvat.example.com", "agent", time.time)
    places = []
    for task in range(1, tasks + 1):
        enrollment = workspace.add_task(task, "key", [(1, "road")], EnrollOptions())
        places.append(workspace.session_place(enrollment))
        with Store(places[-1]) as store:
            store.create(Session(f"s{task}", "clip", LabelSet(("road", "sky")), {}, 3))
    with (
        workspace.leased(1) as lease,
        Store(workspace.session_place(enrollment := workspace.enrollments()[0], lease)) as store,
    ):
        assert enrollment.task == 1
        session = store.load()
        assert session is not None
        ledger = State(store.place / "cvat").ledger
        made = iter(range(10_000))

        def write() -> None:
            ledger.intend(7, _SHAPES)
            ledger.settle(7, [(print_, next(made)) for _, print_ in _SHAPES])

        def lease_another() -> None:
            with workspace.leased(2):
                pass

        return {
            "take a lease and give it back": _median(lease_another),
            "save a session": _median(lambda: store.save(session)),
            "intend 30 shapes and settle them": _median(write),
            f"see which of {tasks} sessions have changed": _median(
                lambda: session_stamps(places), 5
            ),
            f"what `status` reads first of {tasks} tasks": _median(
                lambda: look_into(where, "cvat.example.com", time.time()), 5
            ),
        }


def _median(work: Callable[[], object], repeats: int = _REPEATS) -> float:
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
