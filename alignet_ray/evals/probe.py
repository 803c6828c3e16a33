"""Generalisation of frozen features to objects that no training saw: few-shot classification and nearest neighbours."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from alignet_ray.core import classify, similarity
from alignet_ray.core.scores import Score
from alignet_ray.evals import paired
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace, each_space

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""L2 penalties of logistic regression to choose from."""

DEFAULT_PENALTY = 1e-5
"""The penalty where there are no validation objects to choose one on."""

NEIGHBOURS = 5
"""Neighbours that vote."""

MIN_BACKGROUND = 50
"""Images of training objects that say how features are scaled; with fewer, a task is scaled by its own images."""

MIN_CLASSES = 5
"""Objects that a few-shot task needs."""

MAX_BACKGROUND = 500
"""Images of training objects, at most, by which features are scaled."""

MAX_TEST_IMAGES = 20
"""Test images of each object in a few-shot task, at most."""


class FewShotTask(NamedTuple):
    """Classification tasks over the same objects, a row for each draw of images; labels count from 0.

    Attributes:
        ids: image_ids of all objects.
        train, test: rows of `ids`.
        train_labels, test_labels: the object of each, counted from 0.
    """

    ids: Int[np.ndarray, " n"]
    train: Int[np.ndarray, "b k"]
    train_labels: Int[np.ndarray, "b k"]
    test: Int[np.ndarray, "b q"]
    test_labels: Int[np.ndarray, "b q"]


def evaluate(
    spaces: Sequence[EmbeddingSpace],
    test: AnnotatedObjects,
    validation: AnnotatedObjects,
    train: AnnotatedObjects,
    shots: Sequence[int],
    draws: int,
    seed: int,
) -> list[Score]:
    """Few-shot accuracy over objects, and nearest-neighbour accuracy over categories.

    few_shot_k: logistic regression from k images of every object to its other images, mean over draws of the images and
    over objects; the L2 penalty is the best one on the validation objects, and features are standardised by images of
    the training objects, so that no test image has a part in it. knn_category: the vote of the five nearest
    images of *other* objects on an image's category. same_object: whether the nearest other image shows the same
    object. Few-shot scores are left out with fewer than five objects that have enough images, knn_category with fewer
    than two categories, same_object where every object has one image.
    """
    rows: list[Score] = []
    background = _background(train, seed)
    for images_per_object in shots:
        task = draw_few_shot_task(test.images, images_per_object, draws, seed)
        if task is None:
            continue

        # On other objects than those that are scored, or the penalty would be fitted to the test.
        validation_task = draw_few_shot_task(validation.images, images_per_object, draws, seed)
        by_object = each_space(
            partial(_few_shot_accuracy, task=task, validation_task=validation_task, background=background), spaces
        )
        accuracy = dict(zip([space.name for space in spaces], by_object, strict=True))
        rows += paired.rows(accuracy, "objects", f"few_shot_{images_per_object}", seed)
    return rows + knn_category(spaces, test, seed) + same_object(spaces, test, seed)


def _background(train: AnnotatedObjects, seed: int) -> Int[np.ndarray, " k"] | None:
    """Images of training objects to scale features by; None where there are hardly any."""
    image_ids = np.unique(np.concatenate([*train.images, np.empty(0, np.int64)]))
    if len(image_ids) < MIN_BACKGROUND:
        return None
    return np.random.default_rng(seed).permutation(image_ids)[:MAX_BACKGROUND]


def _few_shot_accuracy(
    space: EmbeddingSpace,
    task: FewShotTask,
    validation_task: FewShotTask | None,
    background: Int[np.ndarray, " k"] | None,
) -> Float[np.ndarray, " o"]:
    """The share of each object's test images that are recognised."""
    # The penalty is chosen for each space by itself, or a comparison would favour the spaces whose scale fits it.
    penalty = _best_penalty(space, validation_task, background)
    correct = classify_few_shot(space, task, [penalty], background)[0]
    return paired.mean_by_object(correct.ravel(), task.test_labels.ravel())


def draw_few_shot_task(
    images: Sequence[Int[np.ndarray, " _"]], shots: int, draws: int, seed: int
) -> FewShotTask | None:
    """Draw `shots` training images of every object that has more than that; None with fewer than five such objects.

    Every object gives the same number of test images, so that no object with many images outweighs the others.

    Args:
        images: image_ids of every object.
        shots: training images of each object.
        draws: number of draws.
        seed: of these.
    """
    image_counts = np.array([len(image_ids) for image_ids in images], dtype=np.int64)
    classes = np.flatnonzero(image_counts > shots)
    if len(classes) < MIN_CLASSES:
        return None
    test_images = min(int(image_counts[classes].min()) - shots, MAX_TEST_IMAGES)

    # Training images come first in the last axis, test images after them.
    image_ids = np.concatenate(images)
    owner = np.repeat(np.arange(len(images)), image_counts)
    rng = np.random.default_rng([seed, shots])
    chosen = np.empty((draws, len(classes), shots + test_images), np.int64)
    for draw in range(draws):
        for label, row in enumerate(classes):
            own = np.flatnonzero(owner == row)
            chosen[draw, label] = rng.permutation(own)[: shots + test_images]
    labels = np.broadcast_to(np.arange(len(classes))[None, :, None], chosen.shape)

    return FewShotTask(
        ids=image_ids,
        train=chosen[..., :shots].reshape(draws, -1),
        train_labels=labels[..., :shots].reshape(draws, -1),
        test=chosen[..., shots:].reshape(draws, -1),
        test_labels=labels[..., shots:].reshape(draws, -1),
    )


def classify_few_shot(
    space: EmbeddingSpace,
    task: FewShotTask,
    penalties: Sequence[float],
    background: Int[np.ndarray, " k"] | None = None,
) -> Bool[np.ndarray, "p b q"]:
    """Whether each test image is recognised, for each penalty and draw; all of them are fitted at once.

    Args:
        space: to be evaluated.
        task: which images are learned from, and which are to be recognised.
        penalties: of logistic regression.
        background: images that features are standardised by; None: those of the task itself.
    """
    scaled_by = None
    image_ids = task.ids
    if background is not None:
        image_ids = np.concatenate([task.ids, background])
        scaled_by = np.arange(len(task.ids), len(image_ids))
    features = classify.coordinates(space.features(image_ids), scaled_by)[: len(task.ids)]

    # Every combination of penalty and draw is a problem of its own.
    draws = len(task.train)
    train = np.tile(task.train, (len(penalties), 1))
    train_labels = np.tile(task.train_labels, (len(penalties), 1))
    test = np.tile(task.test, (len(penalties), 1))

    classes = int(train_labels.max()) + 1
    weights, bias = classify.fit_logistic(features[train], train_labels, classes, np.repeat(penalties, draws))
    predicted = (features[test] @ weights + bias).argmax(axis=-1)
    return np.asarray(predicted.reshape(len(penalties), draws, -1) == task.test_labels)


def _best_penalty(
    space: EmbeddingSpace, validation_task: FewShotTask | None, background: Int[np.ndarray, " k"] | None
) -> float:
    if validation_task is None:
        return DEFAULT_PENALTY

    # Every test object of every draw counts alike: a task has the same number of images for each.
    accuracy = classify_few_shot(space, validation_task, PENALTIES, background).mean(axis=(1, 2))
    return PENALTIES[int(accuracy.argmax())]


def knn_category(spaces: Sequence[EmbeddingSpace], annotated: AnnotatedObjects, seed: int) -> list[Score]:
    """Accuracy of the vote of the nearest images of other objects on the category, mean over objects."""
    # An object that is alone in its category cannot be recognised by others.
    names, sizes = np.unique(annotated.categories, return_counts=True)
    scored = names[(sizes > 1) & (names != "")]
    if len(scored) < 2:
        return []

    objects = annotated.take(np.flatnonzero(np.isin(annotated.categories, scored)))
    image_ids, owner = objects.all_images()
    _, category = np.unique(objects.categories, return_inverse=True)
    truth = category[owner]
    same_object = owner[:, None] == owner[None]

    accuracy = {}
    for space in spaces:
        similarities = similarity.similarity_matrix(space.features(image_ids), "dot")
        # Images of one object are near duplicates: with them as neighbours the task would be to find the object.
        similarities[same_object] = -np.inf
        predicted = classify.knn_predictions(similarities, truth, NEIGHBOURS)
        accuracy[space.name] = paired.mean_by_object(predicted == truth, owner)
    return paired.rows(accuracy, "objects", "knn_category", seed)


def same_object(spaces: Sequence[EmbeddingSpace], annotated: AnnotatedObjects, seed: int) -> list[Score]:
    """Share of images whose nearest other image shows the same object, mean over objects with several images."""
    accuracy = {}
    for space in spaces:
        accuracy[space.name] = same_object_hits(space, annotated.images)
    if not all(len(values) for values in accuracy.values()):
        return []
    return paired.rows(accuracy, "objects", "same_object", seed)


def same_object_hits(space: EmbeddingSpace, images: Sequence[Int[np.ndarray, " _"]]) -> Float[np.ndarray, " o"]:
    """For every object with several images, the share of them whose nearest other image shows it, too.

    Args:
        space: holds all images.
        images: image_ids of every object; those of objects with one image are candidates as well.
    """
    # An image may show two objects; twice in the list it would be its own nearest neighbour.
    image_ids = np.unique(np.concatenate([np.empty(0, np.int64), *images]))
    similarities = similarity.similarity_matrix(space.features(image_ids), "dot")
    np.fill_diagonal(similarities, -np.inf)
    nearest = similarities.argmax(axis=1)

    hits = []
    for members in images:
        if len(members) > 1:
            own = np.searchsorted(image_ids, members)
            hits.append(float(np.isin(nearest[own], own).mean()))
    return np.array(hits)
