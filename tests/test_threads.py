"""Work on a sequence in several threads."""

import threading
from collections.abc import Iterator

import pytest

from hvsa_cvat.threads import map_ahead


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    assert list(map_ahead(lambda item: item * item, range(20), workers)) == [
        item * item for item in range(20)
    ]


def test_no_more_results_wait_than_there_are_workers() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(20):
            taken.append(item)
            yield item

    results = map_ahead(lambda item: item, items(), 2)

    for done in range(10):
        assert next(results) == done
        assert len(taken) <= done + 3


def test_two_workers_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=10)

    assert list(map_ahead(lambda item: both.wait() >= 0, range(4), 2)) == [True] * 4


def test_an_error_is_raised_in_its_place() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("item 2")
        return item

    results = map_ahead(work, range(5), 2)

    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="item 2"):
        next(results)
