"""Centroids, statistics and the state of an unfinished fit come back as they were written."""

import numpy as np

from alignet_ray.artifacts.cluster import ClusterArtifact, ClusterStats, CurvePoint
from alignet_ray.store import Store


def test_a_finished_fit_replaces_its_state(store: Store) -> None:
    view = ClusterArtifact(store.draft("cluster", "c"))
    assert view.fit_state() is None
    view.write_fit_state(b"state")
    assert view.fit_state() == b"state"
    view.write_fit(np.eye(2, dtype=np.float32), [[{"inertia": 1.0, "moved": 0.5}]])
    assert view.fit_state() is None
    assert view.has_centroids()
    np.testing.assert_array_equal(view.centroids(), np.eye(2))
    assert view.history() == [[{"inertia": 1.0, "moved": 0.5}]]


def test_cluster_statistics_come_back(store: Store) -> None:
    view = ClusterArtifact(store.draft("cluster", "c"))
    assert view.curve() is None
    curve = [CurvePoint(2, 3.0, 0.5)]
    view.write_curve(curve)
    assert view.curve() == curve
    stats = ClusterStats(3, 2, 1.5, 1, 2, [1, 2], 0.9, [[("cat", 1)], [("dog", 2)]], [[]], curve)
    view.write_stats(stats)
    assert view.stats() == stats
