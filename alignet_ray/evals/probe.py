"""Generalisation of frozen features to objects that no training saw: few-shot classifiers and nearest neighbours."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from alignet_ray.core import classify, similarity
from alignet_ray.core.scores import Score
from alignet_ray.evals import paired
from alignet_ray.evals.inputs import AnnotatedObjects, Space

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
NEIGHBOURS = 5
LEAST_CLASSES = 5


class Task(NamedTuple):
    """An n-way task: `train` and `test` hold rows of the images, a line a draw; labels count from 0."""

    ids: Int[np.ndarray, " n"]
    train: Int[np.ndarray, "b k"]
    train_labels: Int[np.ndarray, "b k"]
    test: Int[np.ndarray, "b q"]
    test_labels: Int[np.ndarray, "b q"]


def evaluate(
    spaces: list[Space],
    test: AnnotatedObjects,
    validation: AnnotatedObjects,
    shots: Sequence[int],
    draws: int,
    seed: int,
) -> list[Score]:
    """Few-shot accuracy over objects with enough images, and k-NN over categories.

    few_shot_k: logistic regression from k images of every object to its other images, mean over draws of the images and
    over objects; the L2 penalty is the best one on the validation objects. knn_category: the vote of the five nearest
    images of *other* objects on an image's category. Both are left out where there are fewer than five classes.
    """
    rows: list[Score] = []
    for k in shots:
        task = few_shot_task(test, k, draws, seed)
        if task is None:
            continue
        tuning, found = few_shot_task(validation, k, draws, seed), {}
        for space in spaces:
            right = few_shot(space, task, [_penalty(space, tuning)])[0]
            found[space.model, space.layer] = paired.by_object(right.ravel(), task.test_labels.ravel())
        rows += paired.rows(found, "objects", f"few_shot_{k}", seed)
    return rows + knn_category(spaces, test, seed)


def few_shot_task(judged: AnnotatedObjects, shots: int, draws: int, seed: int) -> Task | None:
    """Draw `shots` images of every object that has more than that; None with fewer than five such objects.

    Every object gives the same number of test images, so that no object with many images outweighs the others.
    """
    ids, owner = judged.all_images()
    classes = [o for o, images in enumerate(judged.images) if len(images) > shots]
    if len(classes) < LEAST_CLASSES:
        return None
    rng = np.random.default_rng([seed, shots])
    spare = min(min(len(judged.images[o]) for o in classes) - shots, 20)
    order = np.stack(
        [[rng.permutation(np.flatnonzero(owner == o))[: shots + spare] for o in classes] for _ in range(draws)]
    )
    labels = np.broadcast_to(np.arange(len(classes))[None, :, None], order.shape)

    def flat(x: Int[np.ndarray, "b c s"]) -> Int[np.ndarray, "b k"]:
        return x.reshape(draws, -1)

    train, test = slice(None, shots), slice(shots, None)
    return Task(ids, flat(order[..., train]), flat(labels[..., train]), flat(order[..., test]), flat(labels[..., test]))


def few_shot(space: Space, task: Task, penalties: Sequence[float]) -> Float[np.ndarray, "p b q"]:
    """1 where a test image is recognised, 0 where not, for each penalty; all draws and penalties are fitted at once."""
    x = classify.coordinates(space.features(task.ids))
    times, draws = len(penalties), len(task.train)
    labels = np.tile(task.train_labels, (times, 1))
    strength = np.repeat(penalties, draws)
    weights, bias = classify.fit_logistic(x[np.tile(task.train, (times, 1))], labels, int(labels.max()) + 1, strength)
    found = (x[np.tile(task.test, (times, 1))] @ weights + bias).argmax(axis=-1).reshape(times, draws, -1)
    return np.asarray(found == task.test_labels, dtype=np.float64)


def _penalty(space: Space, tuning: Task | None) -> float:
    if tuning is None:
        return PENALTIES[1]
    return PENALTIES[int(few_shot(space, tuning, PENALTIES).mean(axis=(1, 2)).argmax())]


def knn_category(spaces: list[Space], judged: AnnotatedObjects, seed: int) -> list[Score]:
    """Accuracy of the vote of the nearest images of other objects on the category, mean over objects."""
    named = np.array([row for row, c in enumerate(judged.categories) if c and judged.categories.count(c) > 1])
    if len({judged.categories[r] for r in named}) < 2:
        return []
    some = judged.take(named)
    ids, owner = some.all_images()
    _, category = np.unique(some.categories, return_inverse=True)
    right = {}
    for space in spaces:
        s = similarity.similarity_matrix(space.features(ids), "dot")
        s[owner[:, None] == owner[None]] = -np.inf
        found = classify.knn_predictions(s, category[owner], NEIGHBOURS)
        right[space.model, space.layer] = paired.by_object(found == category[owner], owner)
    return paired.rows(right, "objects", "knn_category", seed)
