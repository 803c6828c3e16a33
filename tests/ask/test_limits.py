"""Rate limits by a clock that the test moves."""

from alignet_ray.ask import limits
from alignet_ray.ask.limits import RateLimit


def test_a_burst_passes_and_then_so_many_a_second() -> None:
    now = [0.0]
    limit = RateLimit(burst=3, per_second=2, clock=lambda: now[0])
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False]
    assert limit.allows("b")  # everybody has a bucket
    now[0] = 0.5
    assert [limit.allows("a") for _ in range(2)] == [True, False]
    now[0] = 1000.0
    assert [limit.allows("a") for _ in range(4)] == [True, True, True, False]


def test_few_names_are_remembered() -> None:
    limit = RateLimit(burst=1, per_second=0)
    for number in range(limits.MAX_NAMES + 5):
        assert limit.allows(str(number))
    assert limit.allows("0")  # forgotten
    assert not limit.allows(str(limits.MAX_NAMES))
