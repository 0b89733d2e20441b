"""People and their jobs: who is meant by a user name, and giving each person a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvsa_cvat.cvat.connection import TaskConnection
from hvsa_cvat.cvat.http.client import CvatClient
from hvsa_cvat.cvat.http.errors import Forbidden, Refused
from hvsa_cvat.cvat.http.exchange import Json
from hvsa_cvat.cvat.request.child_task import ChildTask
from hvsa_cvat.cvat.state import ChildJob
from hvsa_cvat.errors import ServerError


@dataclass(frozen=True)
class Person:
    """A user of the server."""

    id: int
    name: str


def find_person(client: CvatClient, name: str) -> Person:
    """The user of this name: this account itself, or one that it sees where it works."""
    me = client.me()
    # in the personal space, CVAT does not list users who are in an organisation
    if me["username"] == name:
        return Person(me["id"], name)
    for row in client.rows("users", search=name):
        if row["username"] == name:
            return Person(row["id"], name)
    address = client.address
    raise ServerError(
        f"no user {name!r} in {address.space} on {address.url}; add this person there, or change "
        "the annotators"
    )


def assign_jobs(
    connection: TaskConnection, wanted: ChildTask, jobs: Sequence[Json], people: Sequence[Person]
) -> tuple[ChildJob, ...]:
    """Give the jobs to `people` as planned. A job that somebody has stays with them."""
    shares = wanted.plan.shares
    if idle := [person.name for person in people[shares[-1].person + 1 :]]:
        connection.log(
            f"fewer frames than annotators: nothing for {', '.join(idle)} in {wanted.name}"
        )
    assigned = []
    for job, share in zip(jobs, shares, strict=True):
        name = _assign(connection, job, people[share.person] if people else None)
        expected = share.expected_clicks, share.expected_seconds
        assigned.append(ChildJob(job["id"], share.start, share.stop, name, *expected))
    return tuple(assigned)


def _assign(connection: TaskConnection, job: Json, person: Person | None) -> str | None:
    """Returns who has the job now."""
    holder: str | None = (job["assignee"] or {}).get("username")
    if holder is None and person is not None:
        _give(connection.client, job, person)
        return person.name
    if holder is not None and (person is None or holder != person.name):
        connection.log(f"job {job['id']} stays with {holder}, who has it already")
    return holder


def _give(client: CvatClient, job: Json, person: Person) -> None:
    try:
        client.change("PATCH", f"jobs/{job['id']}", {"assignee": person.id})
    except (Forbidden, Refused) as error:
        address = client.address
        raise ServerError(
            f"job {job['id']} cannot be given to {person.name!r} ({error}); make them a member and "
            f"this account a maintainer of {address.space} on {address.url}, or change the "
            "annotators"
        ) from error
