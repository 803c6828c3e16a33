"""The only module that talks to MLflow's tracking server; it imports neither ray nor, until it is used, mlflow."""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Tracker:
    """Where a stage's metrics go: strings only, so that it travels to workers and callbacks.

    An empty `uri` tracks nothing (unit tests).
    """

    uri: str = ""
    run_id: str = ""

    def log_batch(self, metrics: dict[str, float], step: int) -> None:
        """Log metrics at a step; numbers only."""
        if not self.uri:
            return
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(k, float(v), now, step) for k, v in metrics.items()]
        MlflowClient(tracking_uri=self.uri).log_batch(self.run_id, metrics=rows)
