"""A bucket belongs to one workspace, and is looked at before anything moves."""

from __future__ import annotations

import json
import secrets

import sqlalchemy as sa

from hvsa_cvat.database import Place, Tables, open_database
from hvsa_cvat.objects.bucket import Bucket, BucketError, bucket_at

MARKER = "workspace.json"
"""The object that says whose the others are."""

_metadata = sa.MetaData()
_identity = sa.Table("identity", _metadata, sa.Column("id", sa.String(32), primary_key=True))
_TABLES = Tables("artefacts.db", _metadata, 1, "the name of a workspace")


def claim(place: Place) -> None:
    """See that the bucket of a workspace takes and gives objects, and that no other workspace
    keeps its files there; a `BucketError` says in one line what is wrong. Nothing without one."""
    if place.artefacts is None:
        return
    bucket, name = bucket_at(place.artefacts), identity(place)
    _probe(bucket)
    owner = owner_of(bucket)
    if owner is None:
        bucket.write(MARKER, json.dumps({"id": name}).encode())
        owner = owner_of(bucket)  # of two that begin at once, one sees the other's
    if owner != name:
        raise BucketError(
            f"{bucket} holds the files of another workspace; name another prefix by `artefacts`, "
            "or the workspace that they belong to by `workspace` or `database`"
        )


def owner_of(bucket: Bucket) -> str | None:
    """The identity of the workspace whose files are there."""
    content = bucket.read(MARKER)
    if content is None:
        return None
    try:
        return str(json.loads(content)["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise BucketError(
            f"{bucket}/{MARKER} was not made by hvsa-agent; name another prefix by `artefacts`"
        ) from error


def identity(place: Place) -> str:
    """What tells a workspace from others, made once."""
    with open_database(place, _TABLES).transaction() as connection:
        found = connection.scalar(sa.select(_identity.c.id))
        if found is None:
            found = secrets.token_hex(8)
            connection.execute(sa.insert(_identity), {"id": found})
        return str(found)


def _probe(bucket: Bucket) -> None:
    name = f"probe-{secrets.token_hex(8)}"
    bucket.write(name, b"hvsa")
    try:
        if bucket.read(name) != b"hvsa":
            raise BucketError(f"{bucket} does not give back what was written; use another one")
    finally:
        bucket.remove(name)
