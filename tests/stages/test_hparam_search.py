"""The search for a map's settings, without Ray: one trial's scores are means over the folds; what is searched."""

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alignet_ray.core import alignment
from alignet_ray.core.triplet_set import TripletSet
from alignet_ray.stages import hparam_search

SETTINGS = alignment.FitSettings(
    kind="affine", rank=10, identity_penalty=1e-3, alpha=0.0, tau=1.0, lr=0.01, batch_size=8, steps=5, patience=2
)


@pytest.mark.parametrize(
    ("changes", "searched"),
    [
        ({}, {"identity_penalty", "lr"}),
        ({"kind": "low_rank"}, {"identity_penalty", "lr", "rank"}),
        ({"alpha": 0.1}, {"identity_penalty", "lr", "alpha", "tau"}),
    ],
)
def test_only_what_changes_the_map_is_searched(changes: dict[str, Any], searched: set[str]) -> None:
    settings = alignment.FitSettings(**(vars(SETTINGS) | changes))
    space = hparam_search._search_space(settings)
    assert set(space) == searched
    assert searched <= {field.name for field in fields(alignment.FitSettings)}


def test_a_trial_fits_every_fold_with_its_settings_and_reports_the_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds whose held-out scores are 1 and 2 (cross-entropy), 0.5 and 0.9 (accuracy)."""
    scores = iter([(1.0, 0.5), (2.0, 0.9)])
    fitted: list[tuple[Any, ...]] = []
    reported: list[dict[str, float]] = []

    def fit(features: np.ndarray, train: Any, held_out: Any, settings: Any, seed: int) -> SimpleNamespace:
        fitted.append((train, held_out, settings.lr, settings.steps, seed))
        cross_entropy, accuracy = next(scores)
        return SimpleNamespace(score=SimpleNamespace(cross_entropy=cross_entropy, accuracy=accuracy))

    monkeypatch.setattr(alignment, "fit", fit)
    monkeypatch.setattr("ray.tune.report", reported.append)
    one, two = empty(0), empty(1)
    three, four = empty(2), empty(3)
    hparam_search.run_trial({"lr": 0.5}, np.eye(3, dtype=np.float32), [(one, two), (three, four)], SETTINGS, seed=7)
    assert fitted == [(one, two, 0.5, 5, 7), (three, four, 0.5, 5, 7)]
    assert reported == [{"cross_entropy": 1.5, "accuracy": pytest.approx(0.7)}]


def empty(number: int) -> TripletSet:
    """A set of one triplet, which differs from the others by its rows."""
    images = [np.array([row + number]) for row in range(3)]
    return TripletSet.of(images, np.array([[0, 1, 2]]), np.full((1, 3), 1 / 3, np.float32))
