"""Forgetting: how much of the base's local and global structure a trained model keeps."""

from dataclasses import replace

import numpy as np

from alignet_ray.core import scores, similarity
from alignet_ray.core.scores import Score
from alignet_ray.evals.inputs import AnnotatedObjects, Space

NEIGHBOURS = 10


def evaluate(base: Space, others: list[Space], judged: AnnotatedObjects, draws: int, seed: int) -> list[Score]:
    """Share of the base's ten nearest neighbours kept, and linear CKA to the base (biased and unbiased), over all
    images.

    With `n` images a space that has nothing to do with the base keeps 10 / (n - 1).
    """
    ids, _ = judged.all_images()
    ids = np.unique(ids)
    k = min(NEIGHBOURS, len(ids) - 1)
    reference = base.rows(ids)
    near = similarity.similarity_matrix(reference, base.kind)
    rows = []
    for space in others:
        x = space.rows(ids)
        kept = similarity.neighbour_overlap(near, similarity.similarity_matrix(x, space.kind), k)
        low, high = scores.mean_interval(kept, draws, seed)
        row = Score(space.model, space.layer, "objects", "neighbours_kept", float(kept.mean()), low, high, len(ids))
        row = replace(row, seed=seed)
        rows.append(row)
        for metric, unbiased in (("cka_to_base", False), ("cka_to_base_unbiased", True)):
            value = similarity.linear_cka(x, reference, unbiased)
            rows.append(replace(row, metric=metric, value=value, low=float("nan"), high=float("nan")))
    return rows
