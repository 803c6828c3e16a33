"""Runs Ray's tasks a few at a time: all of them at once would hold what they need in memory together."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


def in_tasks(items: Iterable[Item], submit: Callable[[Item], Any], at_once: int) -> Iterator[tuple[Item, Any]]:
    """Each item with the result of its task, in the order in which the tasks end.

    Args:
        items: one for each task.
        submit: starts the task of an item, and gives Ray's reference to its result.
        at_once: tasks that wait or run at a time, at most.
    """
    import ray

    waiting = iter(items)
    pending: dict[Any, Item] = {}
    while True:
        while len(pending) < at_once and (item := next(waiting, None)) is not None:
            pending[submit(item)] = item
        if not pending:
            return
        ready, _ = ray.wait(list(pending), num_returns=1)
        yield pending.pop(ready[0]), ray.get(ready[0])
