"""Hyperparameter search for a map by Ray Tune: every trial fits all folds of the training objects. Part of `align`."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from alignet_ray.core import alignment
from alignet_ray.core.triplet_set import TripletSet
from alignet_ray.stages import Work

Fold = tuple[TripletSet, TripletSet]
"""Triplets to learn from, and triplets of held-out objects."""

TUNE_FOLDER = "search"
"""Folder that Ray Tune writes to; removed at the end."""

METRICS = ("cross_entropy", "accuracy")


def search(
    work: Work, features: np.ndarray, folds: Sequence[Fold], settings: alignment.FitSettings
) -> tuple[alignment.FitSettings, list[dict[str, float]]]:
    """Try `align.search` settings, starting with the given ones; the lowest mean held-out cross-entropy wins.

    Args:
        work: the stage's work.
        features: features of all images, which all trials of a machine share.
        folds: triplets of every fold.
        settings: the given settings.

    Returns:
        The best settings, and one row for each trial, best first.
    """
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    space = _search_space(settings)
    start = {name: getattr(settings, name) for name in space}
    seed = work.cfg.seed

    # with_parameters puts the features into Ray's object store once, instead of into every trial.
    trainable = tune.with_parameters(run_trial, features=features, folds=list(folds), settings=settings, seed=seed)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"CPU": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="cross_entropy",
            mode="min",
            num_samples=work.cfg.align.search,
            search_alg=BasicVariantGenerator(points_to_evaluate=[start], random_state=seed),
        ),
        run_config=tune.RunConfig(name=TUNE_FOLDER, storage_path=work.out.uri, verbose=0),
    )

    trials: list[dict[str, float]] = []
    try:
        results = tuner.fit()
        for number in range(len(results)):
            result = results[number]
            # A trial that failed has no scores; the others decide.
            if result.config and result.metrics and "accuracy" in result.metrics:
                trials.append(_only(space, result.config) | _only(METRICS, result.metrics))
    finally:
        work.out.remove_folder(TUNE_FOLDER)

    assert trials, "every trial failed"
    trials.sort(key=lambda trial: float(trial["cross_entropy"]))
    return replace(settings, **_only(space, trials[0])), trials


def _only(names: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in names}


def run_trial(
    config: dict[str, Any], features: np.ndarray, folds: list[Fold], settings: alignment.FitSettings, seed: int
) -> None:
    """One trial of Ray Tune: fit every fold, report the mean scores of the held-out objects."""
    from ray import tune

    trial_settings = replace(settings, **config)
    scores = [alignment.fit(features, train, held_out, trial_settings, seed).score for train, held_out in folds]
    means = {}
    for name in METRICS:
        values = [getattr(score, name) for score in scores]
        means[name] = float(np.mean(values))
    tune.report(means)


def _search_space(settings: alignment.FitSettings) -> dict[str, Any]:
    """Penalty and learning rate, the rank of low-rank maps, and the local term if there is one."""
    from ray import tune

    space: dict[str, Any] = {"identity_penalty": tune.loguniform(1e-5, 1e-2), "lr": tune.loguniform(3e-3, 3e-2)}
    if settings.kind == "low_rank":
        space["rank"] = tune.choice([10, 20, 50, 100, 200, 400])
    if settings.alpha:
        space["alpha"] = tune.choice([0.1, 0.25, 0.5])
        space["tau"] = tune.choice([0.1, 0.5, 1.0])
    return space
