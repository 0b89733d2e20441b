"""A bucket belongs to one workspace, and is looked at before anything moves."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import sqlalchemy as sa

from hvsa_cvat.database import Place, Tables, open_database
from hvsa_cvat.objects.bucket import Bucket, BucketError, bucket_at

MARKER = "workspace.json"
"""The object that says whose the others are."""

IDENTITY = "artefacts.db"
"""The file with the name of a workspace, where its rows are in SQLite."""

_DATABASES = "databases."
"""Begins the names of copies of databases."""

_metadata = sa.MetaData()
_identity = sa.Table("identity", _metadata, sa.Column("id", sa.String(32), primary_key=True))
_TABLES = Tables(IDENTITY, _metadata, 1, "the name of a workspace")


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
    return _marker(bucket).get("id")


def _marker(bucket: Bucket) -> dict[str, str]:
    content = bucket.read(MARKER)
    if content is None:
        return {}
    try:
        read = json.loads(content)
        return {"id": str(read["id"]), **{key: str(value) for key, value in read.items()}}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BucketError(
            f"{bucket}/{MARKER} was not made by hvsa-agent; name another prefix by `artefacts`"
        ) from error


def note_databases(bucket: Bucket, packed: Path, checksum: str) -> None:
    """Keep a copy of the databases of the workspace whose files are there, in place of an older
    one."""
    before = _marker(bucket)
    name = f"{_DATABASES}{checksum}.zip"
    bucket.upload(name, packed)
    bucket.write(MARKER, json.dumps({**before, "databases": checksum}).encode())
    if (old := before.get("databases")) not in (None, checksum):
        bucket.remove(f"{_DATABASES}{old}.zip")


def copied_databases(bucket: Bucket, target: Path) -> str | None:
    """Write that copy to `target`. Its checksum; None where there is none."""
    checksum = _marker(bucket).get("databases")
    if checksum is None or not bucket.download(f"{_DATABASES}{checksum}.zip", target):
        return None
    return checksum


def is_ours(name: str) -> bool:
    """Whether an object is none of a session's files."""
    return name == MARKER or name.startswith(_DATABASES)


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
