"""Shift within categories: learn a category from some of its objects, recognise it in others.

The protocol is that of BREEDS (Santurkar et al. 2021): superclasses stay, subclasses change. Superclasses are the
objects' categories, subclasses the objects; the source are objects of training and validation, the target are test
objects, which no training saw in any role.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import log_softmax

from alignet_ray.core import classify
from alignet_ray.core.scores import Score
from alignet_ray.evals import paired
from alignet_ray.evals.inputs import AnnotatedObjects, Space
from alignet_ray.evals.probe import NEIGHBOURS, PENALTIES

MOST = 4000
"""Source images that a probe is fitted on; more are drawn at random."""
LEAST_SOURCE, LEAST_TARGET = 5, 3
"""Images of a category that anomaly detection needs."""
FOLDS = 4
"""Parts of the source objects that are left out in turn to choose a penalty."""
LEAST_IMAGES = 10
"""Images below which recognising categories is not scored."""


def evaluate(
    spaces: list[Space], train: AnnotatedObjects, validation: AnnotatedObjects, test: AnnotatedObjects, seed: int
) -> list[Score]:
    """Accuracy on source and target objects, and k-NN anomaly detection (AUROC); nothing with fewer than two
    categories.

    shift_source: a quarter of the images of source objects that have several is held back. shift_target: all images
    of the test objects. Both are means over objects. anomaly_auroc: an image's similarity to the five nearest source
    images of a category tells the category's test objects from all others, mean over categories, which are also what
    its interval draws anew.
    """
    categories = _shared(train, validation, test)
    if len(categories) < 2:
        return []
    sides = ShiftSides(*(_labelled(side, categories) for side in (train, validation, test)))
    recognised = {(space.model, space.layer): _probe(space, sides, seed) for space in spaces}
    rows: list[Score] = []
    for metric in ("shift_source", "shift_target"):
        found = {name: right[metric] for name, right in recognised.items() if metric in right}
        rows += paired.rows(found, "objects", metric, seed)
    return rows + _anomaly(spaces, sides, seed)


class ShiftSide(NamedTuple):
    """Images of some objects: image_ids, and the object and category of each."""

    ids: Int[np.ndarray, " n"]
    owner: Int[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]


class ShiftSides(NamedTuple):
    """Source objects (training, validation) and target objects (test)."""

    train: ShiftSide
    validation: ShiftSide
    test: ShiftSide


def _shared(train: AnnotatedObjects, validation: AnnotatedObjects, test: AnnotatedObjects) -> list[str]:
    """Categories with at least two source objects and a target object."""
    source = train.categories + validation.categories
    return sorted(c for c in set(test.categories) if c and source.count(c) > 1 and c in train.categories)


def _labelled(judged: AnnotatedObjects, categories: list[str]) -> ShiftSide:
    kept = [row for row, c in enumerate(judged.categories) if c in categories]
    if not kept:
        nothing = np.empty(0, np.int64)
        return ShiftSide(nothing, nothing, nothing)
    some = judged.take(np.array(kept))
    ids, owner = some.all_images()
    code = np.array([categories.index(c) for c in some.categories])
    return ShiftSide(ids, some.objects[owner], code[owner])


def _probe(space: Space, sides: ShiftSides, seed: int) -> dict[str, Float[np.ndarray, " o"]]:
    """metric -> share of right images of every object."""
    ids, owner, label = (np.concatenate(columns) for columns in zip(*sides, strict=True))
    role = np.repeat([0, 1, 2], [len(side.ids) for side in sides])
    x = classify.coordinates(space.features(ids))
    held = _held_back(owner, role < 2, seed)
    fitted = _some((role < 2) & ~held, seed)
    penalty = _best_penalty(x[fitted], label[fitted], owner[fitted], seed)
    found = classify.logistic_predictions(x[fitted], label[fitted], x, penalty)
    parts = {"shift_source": held, "shift_target": role == 2}
    return {
        metric: paired.by_object(found[part] == label[part], owner[part])
        for metric, part in parts.items()
        if part.sum() >= LEAST_IMAGES
    }


def _best_penalty(
    x: Float[np.ndarray, "n d"], label: Int[np.ndarray, " n"], owner: Int[np.ndarray, " n"], seed: int
) -> float:
    """The penalty with the lowest cross-entropy on objects left out (cross-validation over objects).

    Cross-entropy, not accuracy: on some dozens of objects the best accuracy is a matter of luck, and a penalty chosen
    by luck costs a space far more than what is to be measured.
    """
    objects, at = np.unique(owner, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(objects))[at] % FOLDS
    classes, loss = int(label.max()) + 1, np.zeros(len(PENALTIES))
    for out in range(FOLDS):
        fitted, check = fold != out, fold == out
        if not (fitted.any() and check.any()):
            continue
        batch = np.broadcast_to(x[fitted], (len(PENALTIES), *x[fitted].shape))
        known = np.broadcast_to(label[fitted], batch.shape[:2])
        weights, bias = classify.fit_logistic(batch, known, classes, np.array(PENALTIES))
        guess = log_softmax(x[check] @ weights + bias, axis=2)
        loss -= guess[:, np.arange(check.sum()), label[check]].sum(axis=1)
    return PENALTIES[int(loss.argmin())]


def _held_back(owner: Int[np.ndarray, " n"], source: Bool[np.ndarray, " n"], seed: int) -> Bool[np.ndarray, " n"]:
    """A quarter (at least one) of the images of every source object that has several."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(owner), dtype=bool)
    for o in np.unique(owner[source]):
        rows = np.flatnonzero(source & (owner == o))
        if len(rows) > 1:
            held[rng.permutation(rows)[: max(1, len(rows) // 4)]] = True
    return held


def _some(part: Bool[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " k"]:
    rows = np.flatnonzero(part)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:MOST])


def _anomaly(spaces: list[Space], sides: ShiftSides, seed: int) -> list[Score]:
    train, validation, test = sides
    source = np.concatenate([train.ids, validation.ids])
    label = np.concatenate([train.label, validation.label])
    found = {}
    for space in spaces:
        close, values = space.features(test.ids) @ space.features(source).T, []
        for category in np.unique(test.label):
            normal, inside = label == category, test.label == category
            if normal.sum() < LEAST_SOURCE or inside.sum() < LEAST_TARGET or inside.all():
                continue
            nearest = np.sort(close[:, normal], axis=1)[:, -NEIGHBOURS:].mean(axis=1)
            values.append(classify.auroc(nearest, inside))
        if values:
            found[space.model, space.layer] = np.array(values)
    return paired.rows(found, "objects", "anomaly_auroc", seed)
