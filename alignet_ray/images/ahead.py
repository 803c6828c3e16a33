"""Results of functions in order, computed ahead of their use in threads: for what waits for disks and servers."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def prefetch(jobs: Iterable[Callable[[], Result]], ahead: int, threads: int) -> Generator[Result]:
    """Results in order, with at most `ahead` of them computed before they are asked for: memory stays flat.

    To be used with `contextlib.closing`. A generator that an error leaves behind would be ended by the garbage
    collector in any thread, even in one of its own, for whose end it would then wait for ever.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(job))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # After an error nobody asks for the rest.
            for future in waiting:
                future.cancel()
