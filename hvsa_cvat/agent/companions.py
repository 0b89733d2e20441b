"""The projects in which people are asked about the enrolled tasks."""

from __future__ import annotations

from hvsa_cvat.agent.context import AgentContext
from hvsa_cvat.cvat.state import read_requests


def companion_projects(agent: AgentContext) -> list[int]:
    """Their numbers, ascending."""
    found: set[int] = set()
    for enrollment in agent.workspace.enrollments():
        requests = read_requests(agent.workspace.session_place(enrollment) / "cvat")
        found.update(request.project for request in requests)
    return sorted(found)
