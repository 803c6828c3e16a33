import numpy as np
from support.mixed_features import world

from alignet_ray.core import similarity, teacher_metrics, triplet_set
from alignet_ray.core.affine import AffineTransform


def test_neighbours_kept_is_one_for_a_rotation() -> None:
    x, _, _ = world()
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0].astype(np.float32)
    assert teacher_metrics.neighbours_kept(x, AffineTransform(0.0, 1.0, rotation, np.zeros(24, np.float32))) == 1
    shuffled = np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32)
    assert teacher_metrics.neighbours_kept(x, AffineTransform(0.0, 1.0, shuffled, np.zeros(24, np.float32))) < 1


def test_intervals_hold_their_figure() -> None:
    x, human, rows = world()
    examples = triplet_set.soft_targets(range(20), rows, human, 2000)
    found = teacher_metrics.figures(similarity.unit_rows(x), examples)
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    assert found["cross_entropy_low"] < found["cross_entropy"] < found["cross_entropy_high"]
