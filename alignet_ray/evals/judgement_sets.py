"""Scores on sets of human judgements that came with images of their own: answers, choices and matrices alike."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from alignet_ray.core.scores import Score
from alignet_ray.core.similarity import MIN_ITEMS
from alignet_ray.evals import external, rsa
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace
from alignet_ray.human import matrices
from alignet_ray.human.benchmarks import ImageResponses
from alignet_ray.human.set_judgements import Judgements, Matrices, why_unusable


def evaluate(name: str, judgements: Judgements, spaces: Sequence[EmbeddingSpace], seed: int) -> list[Score]:
    """Scores of all spaces on one set; none where no judgements are left.

    Args:
        name: of the set, which is the data set in the scores table.
        judgements: about images that all spaces hold.
        spaces: to be evaluated.
        seed: of the resamplings.
    """
    if isinstance(judgements, Matrices):
        return _evaluate_matrices(name, judgements, spaces, seed)
    if isinstance(judgements, ImageResponses):
        if len(judgements.triplets) == 0:
            return []
        return external.evaluate_responses(
            spaces, judgements.triplets, judgements.levels, judgements.times, seed, judgements.participants, name
        )
    if len(judgements.rows) == 0:
        return []
    return external.evaluate_choices(spaces, judgements, seed, name)


def _evaluate_matrices(name: str, judgements: Matrices, spaces: Sequence[EmbeddingSpace], seed: int) -> list[Score]:
    """Correlations with the mean of the participants' matrices and, if there are several, with each one's."""
    if len(judgements.image_ids) < MIN_ITEMS:
        return []
    # The analysis of annotated objects serves as it is: an image is an object with one picture.
    items = _images_as_objects(judgements)
    rows = []
    average = matrices.mean(judgements.people, name)
    if not why_unusable(average):
        rows += rsa.evaluate(spaces, items, external.MATRIX_DRAWS, seed, average, name)

    # Without some of the images a participant may have too few ratings left, or only equal ones.
    informative = np.array([not why_unusable(person) for person in judgements.people], dtype=bool)
    if informative.sum() > 1:
        rows += rsa.evaluate_participants(spaces, items, judgements.people[informative], seed, name)
    return [replace(row, split="") for row in rows]


def _images_as_objects(judgements: Matrices) -> AnnotatedObjects:
    """Every image as an object of its own, of which nothing but the matrix is known."""
    size = len(judgements.image_ids)
    unknown = np.zeros((size, 1), dtype=np.float32)
    images = [np.array([image_id]) for image_id in judgements.image_ids.tolist()]
    return AnnotatedObjects(np.arange(size), [""] * size, [""] * size, images, unknown, unknown)
