"""Scores that are means over items, and paired tests of every model against the base on the same items."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from alignet_ray.core import scores
from alignet_ray.core.scores import Score

ItemValues = Mapping[tuple[str, str], Float[np.ndarray, " n"]]
"""(model, layer) -> a value for each item; the same items in the same order for all."""

BASE = ("base", "pre_logits")


def rows(values: ItemValues, dataset: str, metric: str, seed: int, level: str = "", split: str = "test") -> list[Score]:
    """Means with 95 % intervals over items; over all levels also the gains over the base (`gains`).

    Args:
        values: of every model.
        dataset, metric, level, split: of the scores.
        seed: of the resamplings, which are the same for all models.
    """
    means = []
    for (model, layer), items in values.items():
        low, high = scores.interval(scores.mean_draws(items, seed=seed))
        mean = float(items.mean())
        means.append(Score(model, layer, dataset, metric, mean, low, high, len(items), level, split, seed))
    if level:
        return means
    return means + gains(values, dataset, metric, seed, split)


def gains(values: ItemValues, dataset: str, metric: str, seed: int, split: str = "test") -> list[Score]:
    """`<metric>_gain`: mean difference to the base on the same items; `_gain_p`: p values, Holm-corrected over models.

    An item is what is drawn anew: an object where its images are not independent, else a response.
    """
    base = values.get(BASE)
    if base is None:
        return []
    differences = {name: items - base for name, items in values.items() if name[0] not in ("base", "human")}
    if not differences:
        return []

    # all models see the same resamplings, and their tests are one family
    resampled = {name: scores.mean_draws(difference, seed=seed) for name, difference in differences.items()}
    p_values = scores.holm(np.array([scores.paired_p_value(draws) for draws in resampled.values()]))

    result = []
    for (name, difference), p_value in zip(differences.items(), p_values, strict=True):
        model, layer = name
        mean = float(difference.mean())
        low, high = scores.interval(resampled[name])
        items = len(difference)
        level = "over:base"
        result += [
            Score(model, layer, dataset, f"{metric}_gain", mean, low, high, items, level, split, seed),
            Score(
                model, layer, dataset, f"{metric}_gain_p", float(p_value), n=items, level=level, split=split, seed=seed
            ),
        ]
    return result


def mean_by_object(correct: Bool[np.ndarray, " n"], owner: Int[np.ndarray, " n"]) -> Float[np.ndarray, " o"]:
    """The share of correct answers of every object that occurs: images of one object are not independent items.

    Args:
        correct: for each image.
        owner: the object of each image.
    """
    _, position = np.unique(owner, return_inverse=True)
    return np.asarray(np.bincount(position, correct.astype(np.float64)) / np.bincount(position))
