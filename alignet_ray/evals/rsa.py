"""Representational similarity analysis: does the whole similarity matrix look like people's?"""

from typing import Literal

import numpy as np
from jaxtyping import Float

from alignet_ray.core import scores, similarity
from alignet_ray.core.noise_ceiling import correlations, rsa_ceilings
from alignet_ray.core.scores import Score
from alignet_ray.evals.inputs import AnnotatedObjects, Space

METHODS: tuple[Literal["spearman", "pearson"], ...] = ("spearman", "pearson")


def object_similarity(space: Space, judged: AnnotatedObjects, centred: bool = False) -> Float[np.ndarray, "m m"]:
    """Expected similarity between random images of two objects; the diagonal is an object with itself.

    Args:
        space: whose similarity is taken: cosines or dot products.
        judged: the objects.
        centred: Pearson correlations of the features instead of cosines.
    """
    ids, owner = judged.all_images()
    x = space.rows(ids)
    if centred:
        x = x - x.mean(axis=1, keepdims=True)
    x = similarity.unit(x) if centred or space.kind == "cosine" else x
    means = np.zeros((len(judged), x.shape[1]), np.float32)
    np.add.at(means, owner, x)
    means /= np.bincount(owner)[:, None]
    return similarity.similarity_matrix(means, "dot")


def evaluate(
    spaces: list[Space],
    judged: AnnotatedObjects,
    draws: int,
    seed: int,
    human: Float[np.ndarray, "m m"] | None = None,
    dataset: str = "objects",
) -> list[Score]:
    """Spearman and Pearson correlation with people's similarities, over all pairs of objects.

    The similarity is the space's own (cosines; dot products for the teacher); where that is the cosine, the level
    `correlation` takes Pearson correlations of features instead.

    Args:
        spaces: what to judge.
        judged: the objects.
        draws: resamplings of objects behind an interval (200 at most).
        seed: of these.
        human: people's similarities; None: those of the human model.
        dataset: the name in the scores table.
    """
    human = judged.human_similarity() if human is None else human
    pairs = len(judged) * (len(judged) - 1) // 2
    rows = []
    for space in spaces:
        for level in ("", "correlation") if space.kind == "cosine" else ("",):
            matrix = object_similarity(space, judged, bool(level))
            for method in METHODS:
                value = similarity.rsa(matrix, human, method)
                low, high = scores.interval(similarity.rsa_bootstrap(matrix, human, min(draws, 200), seed, method))
                name = f"rsa_{method}"
                rows.append(Score(space.model, space.layer, dataset, name, value, low, high, pairs, level, seed=seed))
    return rows


def evaluate_people(
    spaces: list[Space],
    judged: AnnotatedObjects,
    people: Float[np.ndarray, "p m m"],
    seed: int,
    dataset: str = "matrix",
) -> list[Score]:
    """Mean correlation with the matrices of single people (NaN: not judged), intervals over people.

    `human` is what other people reach: `value` and `low` are the lower bound of the ceiling, `high` its upper bound.
    """
    rows = []
    for method in METHODS:
        name = f"rsa_{method}_participants"
        for space in spaces:
            found = correlations(object_similarity(space, judged), people, method)
            low, high = scores.mean_interval(found, seed=seed)
            value, n = float(found.mean()), len(people)
            rows.append(Score(space.model, space.layer, dataset, name, value, low, high, n, seed=seed))
        lower, upper = rsa_ceilings(people, method)
        rows.append(Score("human", "", dataset, name, lower, lower, upper, len(people), seed=seed))
    return rows
