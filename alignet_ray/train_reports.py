"""Carries the reports of training processes to the driver: a callback in Ray Train's controller fills a queue.

The controller and the queue are small processes of Ray's that import this module. A training waits for them before its
first step, so torch, whose import takes seconds, stays out of here.
"""

from typing import Any

import ray
from ray.train import UserCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from alignet_ray.store import JsonObject

Rows = list[JsonObject]
"""What the processes have reported at the same time, by rank: `ray_train.Reports` before they are read."""


class ForwardReports(UserCallback):
    """Callback in Train's controller that hands the processes' reports on to the driver."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    def after_report(self, run_context: Any, metrics: Rows, checkpoint: Any) -> None:
        """Called when all processes have reported."""
        self.queue.put.remote(metrics)


class ReportQueue:
    """An actor that holds reports until the driver takes them."""

    def __init__(self) -> None:
        self.reports: list[Rows] = []

    def __repr__(self) -> str:
        return "reports of training processes"  # its name in Ray's dashboard

    def put(self, rows: Rows) -> None:
        """Add what the processes have reported at the same time."""
        self.reports.append(rows)

    def take(self) -> list[Rows]:
        """All reports since the last call."""
        reports = self.reports
        self.reports = []
        return reports


def make_queue() -> Any:
    """Start the queue on the driver's node, because any other node may be lost."""
    node = ray.get_runtime_context().get_node_id()
    on_this_node = NodeAffinitySchedulingStrategy(node, soft=False)
    actor: Any = ray.remote(num_cpus=0)(ReportQueue)
    return actor.options(scheduling_strategy=on_this_node).remote()
