"""The sessions of a workspace, whatever server their tasks are on and whether they are enrolled."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from hvsa_cvat.agent import tables
from hvsa_cvat.agent.workspace import LEASE_SECONDS
from hvsa_cvat.database import Place, is_present, read_only, shared_time
from hvsa_cvat.errors import SessionError
from hvsa_cvat.session.store import Store, session_places


def places_of(workspace: Place, task: int | None = None) -> list[Place]:
    """Where the sessions of a workspace are, or those of one task."""
    found = session_places(workspace / "tasks")
    if task is None:
        return found
    mine = [one for one in found if one.folder.name.split("-")[-2:-1] == [str(task)]]
    if not mine:
        raise SessionError(
            f"{workspace.folder} holds no session of task {task}; see `hvsa-agent status`"
        )
    return mine


def title(place: Place) -> str:
    """What people call a session."""
    session = Store.peek(place)
    return place.folder.name if session is None else f"{session.video} ({place.folder.name})"


def check_idle(workspace: Place, clock: Callable[[], float]) -> None:
    """A `SessionError` that names an agent that works on a task of the workspace now."""
    if not is_present(workspace, tables.TABLES):
        raise SessionError(
            f"there is no workspace at {workspace.told(tables.TABLES.file)}; correct the path"
        )
    with read_only(workspace, tables.TABLES) as connection:
        now = shared_time(connection, clock)
        for row in connection.execute(sa.select(tables.leases)):
            if 0 < row.expires - now <= LEASE_SECONDS:
                raise SessionError(
                    f"{row.owner} works on task {row.task} now; stop it (SIGTERM ends it after its "
                    "step), or try again when it is done"
                )
