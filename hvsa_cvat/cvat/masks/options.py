"""What is published how, and how much at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["masks", "polygons"]


@dataclass(frozen=True)
class WriteLimits:
    """How much one request, and one group of requests, may write.

    Right before each group the job is read again: our own writes change its date, which hides the
    writes of people. An edit is lost only if it is saved while its group is being deleted. Small
    groups make that time short, about a tenth of a second on an idle server; each takes one reading
    of the job.
    """

    shapes_per_request: int = 1000
    numbers_per_request: int = 2**20
    """Coordinates and run lengths, at about four bytes of JSON each. A request of this size passes
    the size and time limits of gateways."""
    shapes_per_group: int = 200
    numbers_per_group: int = 2**22
    shapes_without_deletions: int = 8000
    """Shapes of a group in a job where nothing is to be deleted."""
    groups_per_job: int = 20
    """In jobs with many shapes the groups grow instead of exceeding this number."""


@dataclass(frozen=True)
class PublishOptions:
    """Which shapes are made, and when a job counts as in use."""

    shapes: Kind = "masks"
    """For classes whose label takes both; those whose label is of type mask or polygon get that."""
    quiet_minutes: float = 15.0
    """A job that people work on is written to once nobody has saved it for this long."""
    limits: WriteLimits = WriteLimits()
