"""What every database knows of the tables in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

Upgrade = Callable[[sa.Connection], None]
"""Changes tables of one version to the next; tables that are missing are made afterwards. In
PostgreSQL one table holds the rows of all places, so an upgrade must not insert rows there."""


@dataclass(frozen=True)
class Tables:
    """Tables that belong together: a file of SQLite, or a schema of PostgreSQL."""

    file: str
    """Such as `session.db`."""
    metadata: sa.MetaData
    version: int
    holds: str
    """What the file is, for messages about a file that is something else."""
    version_table: str = "version"
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)
    """`upgrades[n]` leads from version n to n + 1; where there is none, the new version only adds
    tables."""

    def newer(self, told: str, known: int) -> str:
        """The message about tables of a version that we do not know."""
        return (
            f"{told} has schema version {known}, this hvsa-agent knows up to {self.version}; "
            "install the newer hvsa-agent that made it"
        )
