"""Representational similarity analysis: correlation of a model's similarity matrix with the human one."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from alignet_ray.core import scores, similarity
from alignet_ray.core.noise_ceiling import correlations, rsa_ceilings
from alignet_ray.core.scores import Score
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace

METHODS: tuple[Literal["spearman", "pearson"], ...] = ("spearman", "pearson")

MAX_DRAWS = 200
"""Resamplings of objects behind an interval, at most."""


def object_similarity(
    space: EmbeddingSpace, annotated: AnnotatedObjects, centred: bool = False
) -> Float[np.ndarray, "m m"]:
    """Expected similarity between random images of two objects; the diagonal is an object with itself.

    Args:
        space: its own similarity is taken, cosines or dot products.
        annotated: the objects.
        centred: Pearson correlations of the features instead.
    """
    image_ids, owner = annotated.all_images()
    embeddings = space.rows(image_ids)
    if centred:
        embeddings = embeddings - embeddings.mean(axis=1, keepdims=True)
    if centred or space.kind == "cosine":
        embeddings = similarity.unit_rows(embeddings)

    # The mean dot product over pairs of images is the dot product of the means.
    means = np.zeros((len(annotated), embeddings.shape[1]), np.float32)
    np.add.at(means, owner, embeddings)
    means /= np.bincount(owner)[:, None]
    return similarity.similarity_matrix(means, "dot")


def evaluate(
    spaces: Sequence[EmbeddingSpace],
    annotated: AnnotatedObjects,
    draws: int,
    seed: int,
    human: Float[np.ndarray, "m m"] | None = None,
    dataset: str = "objects",
) -> list[Score]:
    """Spearman and Pearson correlation with the human similarities, over all pairs of objects.

    The similarity is the space's own (cosines; dot products for the teacher); where that is the cosine, the level
    `correlation` takes Pearson correlations of features instead.

    Args:
        spaces: to be evaluated.
        annotated: the objects.
        draws: resamplings of objects behind an interval (200 at most).
        seed: of these.
        human: human similarities; None: those of the human model.
        dataset: name in the scores table.
    """
    if human is None:
        human = annotated.human_similarity()
    pairs = len(annotated) * (len(annotated) - 1) // 2
    # Each resampling ranks all pairs anew, which is slow for thousands of objects.
    draws = min(draws, MAX_DRAWS)

    rows = []
    for space in spaces:
        matrices = {"": object_similarity(space, annotated)}
        if space.kind == "cosine":
            matrices["correlation"] = object_similarity(space, annotated, centred=True)
        for level, matrix in matrices.items():
            for method in METHODS:
                # Objects are resampled, not pairs: pairs that share an object are not independent.
                value = similarity.rsa(matrix, human, method)
                low, high = scores.interval(similarity.rsa_bootstrap(matrix, human, draws, seed, method))
                metric = f"rsa_{method}"
                rows.append(Score(space.model, space.layer, dataset, metric, value, low, high, pairs, level, seed=seed))
    return rows


def evaluate_participants(
    spaces: Sequence[EmbeddingSpace],
    annotated: AnnotatedObjects,
    participants: Float[np.ndarray, "p m m"],
    seed: int,
    dataset: str = "matrix",
) -> list[Score]:
    """Mean correlation with the matrices of single participants (NaN: not annotated), intervals over participants.

    `human` is the noise ceiling: `value` and `low` are its lower bound, `high` its upper bound.
    """
    # People are the sample here: correlations with each of them vary, the objects are the same for all.
    count = len(participants)
    rows = []
    for method in METHODS:
        metric = f"rsa_{method}_participants"
        for space in spaces:
            values = correlations(object_similarity(space, annotated), participants, method)
            low, high = scores.mean_interval(values, seed=seed)
            mean = float(values.mean())
            rows.append(Score(space.model, space.layer, dataset, metric, mean, low, high, count, seed=seed))

        # How well the mean of the other people predicts a person, and the mean of all.
        lower, upper = rsa_ceilings(participants, method)
        rows.append(Score("human", "", dataset, metric, lower, lower, upper, count, seed=seed))
    return rows
