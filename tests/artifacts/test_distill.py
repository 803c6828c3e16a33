"""Metrics of a training run come back as they were written."""

from alignet_ray.artifacts.distill import DistillArtifact
from alignet_ray.store import Store


def test_metrics_are_one_line_a_row(store: Store) -> None:
    view = DistillArtifact(store.draft("distill", "d"))
    assert view.metrics() == []
    rows = [{"step": 1.0, "loss": 0.5}, {"step": 2.0, "loss": 0.25}]
    view.write_metrics(rows)
    assert view.metrics() == rows
