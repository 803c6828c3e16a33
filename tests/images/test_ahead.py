"""Results come in order, and no more of them are computed ahead than asked for."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

from alignet_ray.images.ahead import prefetch

AHEAD = 3


def test_results_come_in_order_and_no_further_ahead_than_asked_for() -> None:
    begun: list[int] = []

    def jobs() -> Iterator[Callable[[], int]]:
        for number in range(20):
            begun.append(number)
            yield partial(pow, number, 2)

    with closing(prefetch(jobs(), AHEAD, threads=2)) as results:
        for number, square in enumerate(results):
            assert square == number**2
            assert len(begun) <= number + AHEAD + 1, "memory would grow with the number of jobs"


def test_jobs_wait_side_by_side() -> None:
    """Each job waits for the others, so that one thread alone would never finish."""
    barrier = threading.Barrier(AHEAD)
    jobs = [partial(barrier.wait, timeout=10) for _ in range(AHEAD)]
    with closing(prefetch(jobs, AHEAD, threads=AHEAD)) as results:
        assert sorted(results) == list(range(AHEAD))
