"""Frees what finished tasks no longer need, and objects that no database names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from hvsa_cvat.agent.workspace import Workspace
from hvsa_cvat.agent.workspace_sessions import check_idle, places_of, title
from hvsa_cvat.database import Place
from hvsa_cvat.objects import Bucket, bucket_at, is_ours, objects_of
from hvsa_cvat.session.checksums import file_checksum
from hvsa_cvat.session.prune import Spare, find_spare, free
from hvsa_cvat.session.store import Store

_GRACE = 3600.0
"""Seconds for which an object may wait for the row that names it."""


@dataclass(frozen=True)
class Freed:
    """What is freed of one session, or of the bucket."""

    title: str
    rounds: tuple[int, ...]
    """Whose masks are removed."""
    bytes: int


def prune(
    workspace: Workspace,
    clock: Callable[[], float],
    *,
    keep_rounds: int = 1,
    dry_run: bool = False,
) -> Iterator[Freed]:
    """Free it, or with `dry_run` say what would be. Tasks that are not finished lose nothing.

    `SessionError` where an agent works in the workspace.
    """
    check_idle(workspace.place, clock)
    for enrollment in workspace.enrollments():
        with ExitStack() as held:
            lease = held.enter_context(workspace.leased(enrollment.task))
            if lease is None:
                continue
            place = workspace.session_place(enrollment, lease)
            session = Store.peek(place)
            if session is None or not session.done:
                continue
            with Store(place) as store:
                spare = find_spare(session, store, keep_rounds)
                size = spare.bytes + _in_bucket(store, spare)
                if not dry_run:
                    _free(store, spare)
            if spare.names or spare.paths:
                yield Freed(title(place), spare.rounds, size)
    if workspace.place.artefacts is not None:
        bucket = bucket_at(workspace.place.artefacts)
        names, size = unnamed(workspace.place, bucket, clock)
        for name in names if not dry_run else ():
            bucket.remove(name)
        if names:
            yield Freed(f"{len(names)} objects that no database names", (), size)


def unnamed(workspace: Place, bucket: Bucket, clock: Callable[[], float]) -> tuple[list[str], int]:
    """The objects to which no row points, which may be removed, and their bytes. Young ones may be
    of an agent that has not recorded them yet."""
    stored = bucket.stored()  # before the rows: what comes later is not looked at
    named: set[str] = set()
    for place in places_of(workspace):
        objects = objects_of(place, file_checksum)
        checksums = Store.peek_checksums(place)
        if objects is not None:
            named |= {
                objects.object_name(name, one)
                for name, known in checksums.below(place.folder).items()
                for one in known
            }
    lost = [
        one
        for one in stored
        if one.name not in named
        and not is_ours(one.name)
        and (one.written is None or clock() - one.written > _GRACE)
    ]
    return [one.name for one in lost], sum(one.size for one in lost)


def _in_bucket(store: Store, spare: Spare) -> int:
    """Bytes of what can be freed there."""
    objects = objects_of(store.place, file_checksum)
    if objects is None:
        return 0
    sizes = {one.name: one.size for one in objects.bucket.stored(store.place.name)}
    names = [(name, one) for name in spare.names for one in store.checksums.of(name)]
    return sum(sizes.get(objects.object_name(*one), 0) for one in names)


def _free(store: Store, spare: Spare) -> None:
    objects = objects_of(store.place, file_checksum)
    for name, checksum in free(store, spare):
        if objects is not None:
            objects.remove(name, checksum)
