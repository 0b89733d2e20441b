"""Work on a sequence in several threads, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


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
