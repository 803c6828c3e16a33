"""Ray Train as the driver sees it: a run in a thread, and what its processes report. Part of `align` and `distill`."""

import threading
from typing import Any

import ray
from ray.train import UserCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class Background:
    """A trainer at work in a thread, which leaves Ctrl-C to the driver's own thread.

    Attributes:
        failure: what ended it, if it did not end well.
    """

    def __init__(self, trainer: Any) -> None:
        self.failure: BaseException | None = None
        self.trainer = trainer
        self.thread = threading.Thread(target=self._fit, daemon=True)
        self.thread.start()

    def _fit(self) -> None:
        try:
            self.trainer.fit()
        except BaseException as error:  # for the driver's thread
            self.failure = error

    def works(self, seconds: float = 0.5) -> bool:
        """Whether it still works after at most so many seconds."""
        self.thread.join(seconds)
        return self.thread.is_alive()


class Report(UserCallback):
    """In Train's controller: what the processes report goes to the driver's board."""

    def __init__(self, board: Any) -> None:
        self.board = board

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """All processes have reported."""
        self.board.post.remote(metrics)


class MetricsQueue:
    """An actor that hands rows from the controller to the driver."""

    def __init__(self) -> None:
        self.rows: list[list[dict[str, Any]]] = []

    def post(self, row: list[dict[str, Any]]) -> None:
        """Add a row: a dictionary from each process."""
        self.rows.append(row)

    def take(self) -> list[list[dict[str, Any]]]:
        """All rows since the last call."""
        rows, self.rows = self.rows, []
        return rows


def make_board() -> Any:
    """A board on the driver's node, since any other node may be lost."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board: Any = ray.remote(num_cpus=0)(MetricsQueue)
    return board.options(scheduling_strategy=here).remote()
