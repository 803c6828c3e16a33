"""Representation drift: how much of the base's local and global structure a trained model keeps."""

from collections.abc import Sequence

import numpy as np

from alignet_ray.core import scores, similarity
from alignet_ray.core.scores import Score
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace

NEIGHBOURS = 10


def evaluate(
    base: EmbeddingSpace, others: Sequence[EmbeddingSpace], annotated: AnnotatedObjects, draws: int, seed: int
) -> list[Score]:
    """Share of the base's ten nearest neighbours kept, and linear CKA to the base, over all images of the objects.

    With n images a space that has nothing to do with the base keeps 10 / (n - 1). CKA (Kornblith et al. 2019) comes
    in its biased and its unbiased form.

    Args:
        base: the network before training.
        others: spaces to compare with it.
        annotated: the objects whose images are compared.
        draws: resamplings of images behind an interval.
        seed: of these.
    """
    # An image may stand for two objects; twice in the list it would be its own nearest neighbour.
    image_ids = np.unique(annotated.all_images()[0])
    neighbours = min(NEIGHBOURS, len(image_ids) - 1)
    base_embeddings = base.rows(image_ids)
    base_similarity = similarity.similarity_matrix(base_embeddings, base.kind)

    rows = []
    for space in others:
        embeddings = space.rows(image_ids)
        own_similarity = similarity.similarity_matrix(embeddings, space.kind)
        # Local structure by neighbours, global structure by CKA: training can keep one and lose the other.
        kept = similarity.neighbour_overlap(base_similarity, own_similarity, neighbours)
        low, high = scores.mean_interval(kept, draws, seed)
        # The biased estimate grows towards 1 where there are fewer images than features, so both are given.
        cka = similarity.linear_cka(embeddings, base_embeddings)
        unbiased_cka = similarity.linear_cka(embeddings, base_embeddings, unbiased=True)

        model, layer = space.name
        images = len(image_ids)
        mean = float(kept.mean())
        rows += [
            Score(model, layer, "objects", "neighbours_kept", mean, low, high, images, seed=seed),
            Score(model, layer, "objects", "cka_to_base", cka, n=images, seed=seed),
            Score(model, layer, "objects", "cka_to_base_unbiased", unbiased_cka, n=images, seed=seed),
        ]
    return rows
