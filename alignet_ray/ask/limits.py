"""Rate limits: so many requests at once, so many a second after that, for each name."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_NAMES = 10_000
"""Names that are remembered; the one that was used longest ago is forgotten first."""


class RateLimit:
    """A bucket of tokens for each name (token bucket). Nothing of it is stored: names may be addresses."""

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Set the limit.

        Args:
            burst: requests that are let through at once.
            per_second: how many more every second.
            clock: seconds, from a clock that never jumps.
        """
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, name: str) -> bool:
        """Whether one more request of this name is let through; it is counted if so."""
        # A bucket fills by the second, up to the burst; every request takes one token out.
        with self._lock:
            now = self._clock()
            tokens, since = self._buckets.pop(name, (float(self._burst), now))
            tokens = min(self._burst, tokens + (now - since) * self._per_second)
            is_allowed = tokens >= 1
            if is_allowed:
                tokens -= 1

            # The names asked for last are kept: whoever makes up names must not fill the memory.
            self._buckets[name] = (tokens, now)
            while len(self._buckets) > MAX_NAMES:
                self._buckets.popitem(last=False)
            return is_allowed
