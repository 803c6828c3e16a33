"""Every item gets its own result, and no more tasks are started at a time than asked for."""

from typing import Any

import ray

from alignet_ray.stages.ray_tasks import in_tasks

AT_ONCE = 2


def test_a_few_at_a_time_and_each_with_its_result(ray_session: None) -> None:
    @ray.remote(num_cpus=0)
    def square(number: int) -> int:
        return number**2

    started: list[int] = []

    def submit(number: int) -> Any:
        started.append(number)
        return square.remote(number)

    found: dict[int, int] = {}
    for number, result in in_tasks(range(7), submit, AT_ONCE):
        found[number] = result
        assert len(started) <= len(found) - 1 + AT_ONCE
    assert found == {number: number**2 for number in range(7)}


def test_without_items_nothing_is_started(ray_session: None) -> None:
    def submit(number: int) -> Any:
        raise AssertionError("started")

    assert list(in_tasks([], submit, AT_ONCE)) == []
