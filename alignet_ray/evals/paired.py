"""Scores that are means over items, and paired tests of every model against the base on the same items."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from alignet_ray.core import scores
from alignet_ray.core.scores import Score

ItemValues = Mapping[tuple[str, str], Float[np.ndarray, " n"]]
"""(model, layer) -> a value for each item; the same items in the same order for all."""

BASE = ("base", "pre_logits")
NAN = float("nan")


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
    # Tests on every part would make the family of tests large, and the correction would hide what is there.
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

    # Paired bootstrap: differences item by item, and the same items drawn for every model (same seed).
    gain_rows = []
    p_values = []
    for (model, layer), items in values.items():
        if model in ("base", "human"):
            continue

        differences = items - base
        resampled = scores.mean_draws(differences, seed=seed)
        low, high = scores.interval(resampled)
        mean = float(differences.mean())
        gain = f"{metric}_gain"
        gain_rows.append(
            Score(model, layer, dataset, gain, mean, low, high, len(differences), "over:base", split, seed)
        )
        p_values.append(scores.paired_p_value(resampled))

    # The tests of all models are one family.
    result = []
    for gain_row, p_value in zip(gain_rows, scores.holm(np.array(p_values)), strict=True):
        p_row = replace(gain_row, metric=f"{metric}_gain_p", value=float(p_value), low=NAN, high=NAN)
        result += [gain_row, p_row]
    return result


def mean_by_object(correct: Bool[np.ndarray, " n"], owner: Int[np.ndarray, " n"]) -> Float[np.ndarray, " o"]:
    """The share of correct answers of every object that occurs: images of one object are not independent items.

    Args:
        correct: for each image.
        owner: the object of each image.
    """
    # Numbers of objects have gaps, and bincount would count objects without images.
    _, position = np.unique(owner, return_inverse=True)
    return np.asarray(np.bincount(position, correct.astype(np.float64)) / np.bincount(position))
