"""Work on a sequence in several threads, with bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

_limit: int | None = None


def limit_processors(count: int) -> None:
    """Let this process use so many processor cores, because others use the rest."""
    global _limit
    _limit = count


def processors() -> int:
    """How many processor cores this process uses."""
    return _limit or os.cpu_count() or 1


def map_ahead(work: Callable[[S], T], items: Iterable[S], workers: int) -> Iterator[T]:
    """`map(work, items)` by `workers` threads; results come in the order of the items.

    At most `workers` results wait for the caller, because all results of a long video would not fit
    into memory. An error of `work` is raised at its place in the order.
    """
    if workers < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[T]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
