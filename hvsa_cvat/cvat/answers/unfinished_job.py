"""A job of a request that somebody has still to finish; in a module that needs no client."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UnfinishedJob:
    """A job of a request that somebody has still to finish."""

    job: int
    assignee: str | None
    """User name of whoever has it now."""
    state: str
    """As the server calls it, or `deleted`."""
    stage: str
    pictures: int
    expected_clicks: float
    expected_minutes: float
    link: str
    """Its web page; of a job that went back, at the first picture with a note for the annotator."""
