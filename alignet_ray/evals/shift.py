"""Subpopulation shift: learn a category from some of its objects, recognise it in others.

The protocol is that of BREEDS (Santurkar et al. 2021): superclasses stay, subclasses change. Superclasses are the
categories, subclasses the objects; the source are objects of training and validation, the target are test objects,
which no training saw.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import log_softmax

from alignet_ray.core import classify
from alignet_ray.core.scores import Score
from alignet_ray.evals import paired
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.probe import NEIGHBOURS, PENALTIES
from alignet_ray.evals.spaces import EmbeddingSpace, each_space

MAX_PROBE_IMAGES = 4000
"""Images that a probe is fitted on, at most; larger sets are sampled."""

MIN_SOURCE_IMAGES = 5
MIN_TARGET_IMAGES = 3
"""Images of a category that anomaly detection needs."""

FOLDS = 4
"""Parts of the source objects that are left out in turn to choose a penalty."""

MIN_SCORED_IMAGES = 10
"""Images below which recognising categories is not scored."""


class LabelledImages(NamedTuple):
    """Images of some objects: image_ids, and the object and category of each."""

    ids: Int[np.ndarray, " n"]
    owner: Int[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]


class ShiftData(NamedTuple):
    """Images of source objects (training and validation) and of target objects (test)."""

    source: LabelledImages
    target: LabelledImages


def evaluate(
    spaces: Sequence[EmbeddingSpace],
    train: AnnotatedObjects,
    validation: AnnotatedObjects,
    test: AnnotatedObjects,
    seed: int,
) -> list[Score]:
    """Accuracy on source and target objects, and anomaly detection (AUROC); nothing with fewer than two categories.

    shift_source: a quarter of the images of source objects that have several is held out. shift_target: all images
    of the test objects. Both are means over objects. anomaly_auroc: an image's similarity to the five nearest source
    images of a category separates the category's test objects from all others; mean over categories, which are also
    what its interval resamples.
    """
    categories = _shared_categories(train, validation, test)
    if len(categories) < 2:
        return []
    data = ShiftData(
        source=_joined(_labelled_images(train, categories), _labelled_images(validation, categories)),
        target=_labelled_images(test, categories),
    )

    # Metric -> space -> accuracy: what is paired are the spaces within a metric.
    accuracy: dict[str, dict[tuple[str, str], Float[np.ndarray, " o"]]] = {"shift_source": {}, "shift_target": {}}
    found = each_space(lambda space: _probe_accuracy(space, data, seed), spaces)
    for space, by_metric in zip(spaces, found, strict=True):
        for metric, by_object in by_metric.items():
            accuracy[metric][space.name] = by_object

    rows: list[Score] = []
    for metric, by_space in accuracy.items():
        rows += paired.rows(by_space, "objects", metric, seed)
    return rows + _anomaly_scores(spaces, data, seed)


def _shared_categories(train: AnnotatedObjects, validation: AnnotatedObjects, test: AnnotatedObjects) -> list[str]:
    """Categories with a target object and at least two source objects, one of them a training object."""
    # Of a training object, since the probe may have held out all validation images: a class needs examples.
    source = train.categories + validation.categories
    shared = set(test.categories) & set(train.categories) - {""}
    return sorted(category for category in shared if source.count(category) > 1)


def _labelled_images(annotated: AnnotatedObjects, categories: list[str]) -> LabelledImages:
    """Images of the objects whose category is among the given ones; a label is the position in that sorted list."""
    rows = np.flatnonzero(np.isin(annotated.categories, categories))
    if not len(rows):
        nothing = np.empty(0, np.int64)
        return LabelledImages(nothing, nothing, nothing)

    objects = annotated.take(rows)
    image_ids, owner = objects.all_images()
    labels = np.searchsorted(categories, objects.categories)
    return LabelledImages(image_ids, objects.objects[owner], labels[owner])


def _joined(first: LabelledImages, second: LabelledImages) -> LabelledImages:
    return LabelledImages(
        ids=np.concatenate([first.ids, second.ids]),
        owner=np.concatenate([first.owner, second.owner]),
        label=np.concatenate([first.label, second.label]),
    )


def _probe_accuracy(space: EmbeddingSpace, data: ShiftData, seed: int) -> dict[str, Float[np.ndarray, " o"]]:
    """Accuracy of a linear probe that is fitted on source images: metric -> share of correct images of every object."""
    image_ids, owner, label = _joined(data.source, data.target)
    is_source = np.arange(len(image_ids)) < len(data.source.ids)

    # Held-out images of source objects measure the category on known objects, target objects on new ones.
    held_out = _hold_out(owner, is_source, seed)
    fitted = _sample(is_source & ~held_out, seed)
    # Target images have no part in how features are scaled: a probe in use would not have seen them either.
    features = classify.coordinates(space.features(image_ids), fitted)
    penalty = _best_penalty(features[fitted], label[fitted], owner[fitted], seed)
    predicted = classify.logistic_predictions(features[fitted], label[fitted], features, penalty)

    accuracy = {}
    for metric, part in (("shift_source", held_out), ("shift_target", ~is_source)):
        # A few images would give a share with a wide interval and a place in every table.
        if part.sum() >= MIN_SCORED_IMAGES:
            accuracy[metric] = paired.mean_by_object(predicted[part] == label[part], owner[part])
    return accuracy


def _best_penalty(
    features: Float[np.ndarray, "n d"], label: Int[np.ndarray, " n"], owner: Int[np.ndarray, " n"], seed: int
) -> float:
    """The penalty with the lowest cross-entropy on objects left out (cross-validation over objects).

    Cross-entropy, not accuracy: on some dozens of objects the best accuracy is a matter of luck, and a penalty chosen
    by luck costs a space far more than what is to be measured.
    """
    # All images of an object fall into the same fold.
    objects, position = np.unique(owner, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(objects))[position] % FOLDS
    classes = int(label.max()) + 1

    loss = np.zeros(len(PENALTIES))
    for number in range(FOLDS):
        fitted = fold != number
        left_out = fold == number
        if not (fitted.any() and left_out.any()):
            continue

        # One problem for each penalty, fitted at once.
        batch = np.broadcast_to(features[fitted], (len(PENALTIES), *features[fitted].shape))
        batch_label = np.broadcast_to(label[fitted], batch.shape[:2])
        weights, bias = classify.fit_logistic(batch, batch_label, classes, np.array(PENALTIES))
        log_probability = log_softmax(features[left_out] @ weights + bias, axis=2)
        loss -= log_probability[:, np.arange(left_out.sum()), label[left_out]].sum(axis=1)
    return PENALTIES[int(loss.argmin())]


def _hold_out(owner: Int[np.ndarray, " n"], is_source: Bool[np.ndarray, " n"], seed: int) -> Bool[np.ndarray, " n"]:
    """A quarter (at least one) of the images of every source object that has several."""
    # Object by object, so that none loses all of its images.
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(owner), dtype=bool)
    for number in np.unique(owner[is_source]):
        images = np.flatnonzero(is_source & (owner == number))
        if len(images) > 1:
            held_out[rng.permutation(images)[: max(1, len(images) // 4)]] = True
    return held_out


def _sample(part: Bool[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " k"]:
    """Rows of `part`, ascending; a random sample where there are more than a probe is fitted on."""
    rows = np.flatnonzero(part)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:MAX_PROBE_IMAGES])


def _anomaly_scores(spaces: Sequence[EmbeddingSpace], data: ShiftData, seed: int) -> list[Score]:
    """k-NN anomaly detection in turn for every category that has enough images."""
    by_space = {}
    for space in spaces:
        similarities = space.features(data.target.ids) @ space.features(data.source.ids).T
        values = []
        for category in np.unique(data.target.label):
            normal = data.source.label == category
            inside = data.target.label == category
            if normal.sum() < MIN_SOURCE_IMAGES or inside.sum() < MIN_TARGET_IMAGES or inside.all():
                continue

            # The mean similarity to the nearest normal images: high for one more image of the category.
            nearest = np.sort(similarities[:, normal], axis=1)[:, -NEIGHBOURS:].mean(axis=1)
            values.append(classify.auroc(nearest, inside))
        if values:
            by_space[space.name] = np.array(values)
    return paired.rows(by_space, "objects", "anomaly_auroc", seed)
