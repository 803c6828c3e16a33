"""Ray Tune over the settings of a transform: every trial runs every fold of the training objects. Part of `align`."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from alignet_ray.core import alignment
from alignet_ray.core.triplet_set import TripletSet
from alignet_ray.stages import Work

Fold = tuple[TripletSet, TripletSet]
"""Objects to learn from, and objects held out."""


def search(
    work: Work, x: np.ndarray, folds: Sequence[Fold], settings: alignment.FitSettings
) -> tuple[alignment.FitSettings, list[dict[str, Any]]]:
    """Try `align.search` settings, the given ones first; lowest mean held-out cross-entropy over all folds wins.

    Args:
        work: the stage's work; what Tune writes goes under its folder and is removed.
        x: features of all images, which all trials of a machine share.
        folds: sides of every fold.
        settings: where the search starts.

    Returns:
        The winner, and one row a trial, best first.
    """
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    space = _space(settings)
    start = {name: getattr(settings, name) for name in space}
    cfg, name = work.cfg, "search"
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(trial, x=x, folds=list(folds), settings=settings, seed=cfg.seed), {"CPU": 1}
        ),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="cross_entropy",
            mode="min",
            num_samples=cfg.align.search,
            search_alg=BasicVariantGenerator(points_to_evaluate=[start], random_state=cfg.seed),
        ),
        run_config=tune.RunConfig(name=name, storage_path=work.out.uri, verbose=0),
    )
    try:
        grid = tuner.fit()
        results = [grid[n] for n in range(len(grid))]
        rows = [_row(result, space) for result in results if result.metrics and "accuracy" in result.metrics]
    finally:
        work.out.remove_folder(name)
    assert rows, "every trial failed"
    rows.sort(key=lambda row: float(row["cross_entropy"]))
    return replace(settings, **{name: rows[0][name] for name in space}), rows


def trial(config: dict[str, Any], x: np.ndarray, folds: list[Fold], settings: alignment.FitSettings, seed: int) -> None:
    """One trial: fit on every fold, report the means."""
    from ray import tune

    tried = replace(settings, **config)
    scores = [alignment.fit(x, train, held, tried, seed).score for train, held in folds]
    means = {name: float(np.mean([getattr(s, name) for s in scores])) for name in ("cross_entropy", "accuracy")}
    tune.report(means)


def _space(settings: alignment.FitSettings) -> dict[str, Any]:
    """What is searched: pull and step size, the rank of low-rank maps, and the local term where there is one."""
    from ray import tune

    space: dict[str, Any] = {"identity_penalty": tune.loguniform(1e-5, 1e-2), "lr": tune.loguniform(3e-3, 3e-2)}
    if settings.kind == "low_rank":
        space["rank"] = tune.choice([10, 20, 50, 100, 200, 400])
    if settings.alpha:
        space |= {"alpha": tune.choice([0.1, 0.25, 0.5]), "tau": tune.choice([0.1, 0.5, 1.0])}
    return space


def _row(result: Any, space: dict[str, Any]) -> dict[str, Any]:
    return {n: result.config[n] for n in space} | {n: result.metrics[n] for n in ("cross_entropy", "accuracy")}
