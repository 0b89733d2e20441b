"""The memory of one watched task: one database and a few files in one folder."""

from __future__ import annotations

from hvsa_cvat.cvat.state import tables
from hvsa_cvat.cvat.state.ledger import Ledger
from hvsa_cvat.cvat.state.readings import Readings
from hvsa_cvat.cvat.state.requests import Requests, SharedFiles
from hvsa_cvat.cvat.state.task_facts import TaskFacts
from hvsa_cvat.cvat.state.work_times import WorkTimes
from hvsa_cvat.database import Where, open_database, place_of


class State:
    """The memory of one task, made if it is not there.

    One process at a time uses it: the one that holds the lease of the task. Other processes read
    the requests with `read_requests`.
    """

    def __init__(self, where: Where, files: SharedFiles | None = None) -> None:
        """`files`: where files are kept for other machines, if they are."""
        self.place = place_of(where)
        self.folder = self.place.folder
        self.path = self.folder / tables.TABLES.file
        database = open_database(where, tables.TABLES)
        self.requests = Requests(self.folder, database, files)
        """What we asked people for."""
        self.readings = Readings(database)
        """Which jobs have been read."""
        self.ledger = Ledger(database)
        """Which shapes are ours, and how we left them."""
        self.work_times = WorkTimes(database)
        """How long people have worked in the jobs of requests."""
        self.facts = TaskFacts(database)
        """What the task was like at other times."""
