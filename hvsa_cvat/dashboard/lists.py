"""The list of tasks: which rows are shown, in which order, and on which page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hvsa_cvat.dashboard.summaries import State, TaskSummary

PAGE = 100
"""Rows on one page."""

SORTS: Mapping[str, Callable[[TaskSummary], Any]] = {
    "task": lambda row: row.task,
    "name": lambda row: row.name.casefold(),
    "state": lambda row: list(State).index(row.state),
    "round": lambda row: (row.round, row.phase),
    "since": lambda row: row.since.timestamp() if row.since is not None else float("inf"),
    "clicks": lambda row: row.clicks,
    "minutes": lambda row: row.time.spent_minutes if row.time is not None else -1.0,
    "quality": lambda row: row.quality if row.quality is not None else -1.0,
}
"""Keys by the name of the column."""


@dataclass(frozen=True)
class Wish:
    """What the address of the page asks for; anything strange counts as not asked for."""

    text: str = ""
    state: str = ""
    person: str = ""
    project: str = ""
    sort: str = "state"
    down: bool = False
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Wish:
        sort, page = query.get("sort", ""), query.get("page", "")
        return cls(
            text=query.get("text", "")[:100],
            state=query.get("state", "") if query.get("state") in list(State) else "",
            person=query.get("person", "")[:150],
            project=query.get("project", "")[:300],
            sort=sort if sort in SORTS else "state",
            down=query.get("down") == "1",
            page=max(1, int(page)) if page.isdecimal() and len(page) < 7 else 1,
        )


@dataclass(frozen=True)
class Listed:
    """The rows of one page."""

    rows: tuple[TaskSummary, ...]
    matching: tuple[TaskSummary, ...]
    """Of all pages."""
    page: int
    pages: int


def listed(rows: tuple[TaskSummary, ...], wish: Wish) -> Listed:
    """The rows that match, sorted; of equal ones the task with the lowest number comes first."""
    text = wish.text.casefold().strip()
    matching = [
        row
        for row in rows
        if (not wish.state or row.state == wish.state)
        and (not wish.person or wish.person in row.people)
        and (not wish.project or wish.project == row.project)
        and (not text or text in row.name.casefold() or text == str(row.task))
    ]
    matching.sort(key=lambda row: row.task)
    matching.sort(key=SORTS[wish.sort], reverse=wish.down)
    pages = max(1, -(-len(matching) // PAGE))
    page = min(wish.page, pages)
    return Listed(tuple(matching[(page - 1) * PAGE : page * PAGE]), tuple(matching), page, pages)


def people(rows: tuple[TaskSummary, ...]) -> tuple[str, ...]:
    """Everybody who has a job that waits."""
    return tuple(sorted({name for row in rows for name in row.people}, key=str.casefold))


def projects(rows: tuple[TaskSummary, ...]) -> tuple[str, ...]:
    """The projects that tasks are in."""
    found = {row.project for row in rows if row.project is not None}
    return tuple(sorted(found, key=str.casefold))
