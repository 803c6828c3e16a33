"""Representational similarity analysis: does the whole similarity matrix look like people's?"""

import numpy as np
from jaxtyping import Float

from alignet_ray.core import scores, similarity
from alignet_ray.core.scores import Score
from alignet_ray.evals.spaces import Judged, Space


def object_similarity(space: Space, judged: Judged) -> Float[np.ndarray, "m m"]:
    """Expected similarity between random images of two objects; the diagonal is an object with itself."""
    ids, owner = judged.all_images()
    x = space.features(ids)
    means = np.zeros((len(judged), x.shape[1]), np.float32)
    np.add.at(means, owner, x)
    means /= np.bincount(owner)[:, None]
    return similarity.similarity_matrix(means, "dot")


def evaluate(spaces: list[Space], judged: Judged, draws: int, seed: int) -> list[Score]:
    """Spearman and Pearson correlation with the human model's similarities, over all pairs of objects."""
    human = judged.human_similarity()
    pairs = len(judged) * (len(judged) - 1) // 2
    rows = []
    for space in spaces:
        matrix = object_similarity(space, judged)
        for method in ("spearman", "pearson"):
            value = similarity.rsa(matrix, human, method)
            low, high = scores.interval(similarity.rsa_bootstrap(matrix, human, min(draws, 200), seed, method))
            rows.append(Score(space.model, space.layer, "objects", f"rsa_{method}", value, low, high, pairs, seed=seed))
    return rows
