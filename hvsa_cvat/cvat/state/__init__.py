"""What the adapter remembers of one watched task, so that a killed process knows what it did.

The server is the truth about shapes and jobs. Kept here is only what the server cannot tell: which
shapes are ours and how we left them, which pixels we asked for, and what has been read already.
"""

from hvsa_cvat.cvat.state.ledger import Ledger, Pushed
from hvsa_cvat.cvat.state.looking import JobFrames, TaskMemory, memory_stamps, read_memory
from hvsa_cvat.cvat.state.marks import Mark, Marks
from hvsa_cvat.cvat.state.readings import Reading, Readings
from hvsa_cvat.cvat.state.requests import (
    UNMASKED,
    Card,
    ChildJob,
    CollectedAnswers,
    Part,
    Request,
    Requests,
    read_content,
    read_requests,
)
from hvsa_cvat.cvat.state.state import State
from hvsa_cvat.cvat.state.task_facts import TaskFacts
from hvsa_cvat.cvat.state.truth_jobs import TruthJob, TruthJobs
from hvsa_cvat.cvat.state.work_times import WorkTime, WorkTimes

__all__ = [
    "UNMASKED",
    "Card",
    "ChildJob",
    "CollectedAnswers",
    "JobFrames",
    "Ledger",
    "Mark",
    "Marks",
    "Part",
    "Pushed",
    "Reading",
    "Readings",
    "Request",
    "Requests",
    "State",
    "TaskFacts",
    "TaskMemory",
    "TruthJob",
    "TruthJobs",
    "WorkTime",
    "WorkTimes",
    "memory_stamps",
    "read_content",
    "read_memory",
    "read_requests",
]
