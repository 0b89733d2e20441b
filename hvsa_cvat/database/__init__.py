"""Small SQL databases with a version: a file of SQLite each, or all of them in one PostgreSQL.

Whoever reads and writes knows a `Place` and its `Tables`, and never which of the two it is.
"""

from hvsa_cvat.database.opening import (
    Database,
    is_present,
    names_below,
    open_database,
    read_only,
    shared_time,
    stamps,
    table_names,
)
from hvsa_cvat.database.place import Fence, LeaseLostError, Place, Where, checked_address, place_of
from hvsa_cvat.database.tables import Tables, Upgrade

__all__ = [
    "Database",
    "Fence",
    "LeaseLostError",
    "Place",
    "Tables",
    "Upgrade",
    "Where",
    "checked_address",
    "is_present",
    "names_below",
    "open_database",
    "place_of",
    "read_only",
    "shared_time",
    "stamps",
    "table_names",
]
