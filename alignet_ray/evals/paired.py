"""Scores that are means over items, and paired tests of every model against the base on the same items."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from alignet_ray.core import scores
from alignet_ray.core.scores import Score

Found = Mapping[tuple[str, str], Float[np.ndarray, " n"]]
"""(model, layer) -> one value an item, the same items in the same order for all."""
BASE = ("base", "pre_logits")


def rows(found: Found, dataset: str, metric: str, seed: int, level: str = "", split: str = "test") -> list[Score]:
    """Means with 95 % intervals over items; and, over all levels, the gains over the base (`gains`).

    Args:
        found: values of every model.
        dataset, metric, level, split: of the rows.
        seed: of the resamplings, which are the same for all models.
    """
    result = []
    for (model, layer), values in found.items():
        low, high = scores.interval(scores.mean_draws(values, seed=seed))
        result.append(
            Score(model, layer, dataset, metric, float(values.mean()), low, high, len(values), level, split, seed)
        )
    return result if level else result + gains(found, dataset, metric, seed, split)


def gains(found: Found, dataset: str, metric: str, seed: int, split: str = "test") -> list[Score]:
    """`<metric>_gain`: mean difference to the base on the same items; `_gain_p`: p values, Holm-corrected over models.

    An item is what is drawn anew: an object where its images are not independent, else an answer.
    """
    base = found.get(BASE)
    others = {name: values for name, values in found.items() if name[0] not in ("base", "human")}
    if base is None or not others:
        return []
    drawn = {name: scores.mean_draws(values - base, seed=seed) for name, values in others.items()}
    p_values = scores.holm(np.array([scores.paired_p_value(d) for d in drawn.values()]))
    result = []
    for (name, values), p in zip(others.items(), p_values, strict=True):
        (low, high), value, n = scores.interval(drawn[name]), float((values - base).mean()), len(values)
        result.append(Score(*name, dataset, f"{metric}_gain", value, low, high, n, "over:base", split, seed))
        result.append(
            Score(*name, dataset, f"{metric}_gain_p", float(p), n=n, level="over:base", split=split, seed=seed)
        )
    return result


def by_object(right: np.ndarray, owner: np.ndarray) -> Float[np.ndarray, " o"]:
    """The share of right answers of every object that occurs: answers on images of one object are no independent
    items.
    """
    _, at = np.unique(owner, return_inverse=True)
    return np.asarray(np.bincount(at, right.astype(np.float64)) / np.bincount(at))
