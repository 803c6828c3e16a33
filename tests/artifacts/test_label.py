"""Labelled triplets and their statistics come back as they were written."""

import json

import numpy as np
import pytest

from alignet_ray.artifacts.base import part_name
from alignet_ray.artifacts.label import LabelArtifact, LabelStats, SubsetStats
from alignet_ray.store import Store


def test_label_statistics_come_back_without_what_is_unknown(store: Store) -> None:
    view = LabelArtifact(store.draft("label", "l"))
    assert not view.has_stats()
    subset = SubsetStats(2, 0, 0.5, 0.25, [2], [2], border=0.5)
    stats = LabelStats(2.0, 1, subset, SubsetStats(1, 1, 1.0, 0.0, [1], [1], agreement=1.0))
    view.write_stats(stats)
    assert view.stats() == stats
    stored = json.loads(view.files.read_bytes("stats.json"))
    assert "images" not in stored
    assert "agreement" not in stored["train"]


def test_labelled_triplets_must_have_the_odd_one_last(store: Store) -> None:
    view = LabelArtifact(store.draft("label", "l"))
    name = part_name(0, "train")
    with pytest.raises(AssertionError, match="largest similarity"):
        view.write_part(name, np.array([[0, 1, 2]]), np.array([[0.0, 1.0, 0.0]], np.float32))
    view.write_part(name, np.array([[0, 1, 2]]), np.array([[1.0, 0.5, 0.0]], np.float32))
    assert view.part_names("train") == [name]
    assert view.part_names("valid") == []
    assert len(next(view.triplets("train"))) == 1
