"""Images from elsewhere (ImageNet-A, say): are they told from the judged objects' images, and are they recognised?"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from alignet_ray.core import classify, scores
from alignet_ray.core.scores import Score
from alignet_ray.errors import UserError
from alignet_ray.evals import paired
from alignet_ray.evals.inputs import Space
from alignet_ray.evals.probe import NEIGHBOURS, PENALTIES
from alignet_ray.evals.shift import MOST

DATASET = "elsewhere"
DRAWS = 200
LEAST = 10
"""Images on either side below which nothing is scored."""


class OodFolder(NamedTuple):
    """A folder of images in the spaces of several models.

    Attributes:
        spaces: (model, layer) -> embeddings of its images.
        labels: image_id -> class folder.
    """

    spaces: Mapping[tuple[str, str], Space]
    labels: Mapping[int, str]


def evaluate(spaces: list[Space], labels: Mapping[int, str], folder: OodFolder, seed: int) -> list[Score]:
    """Scores of the spaces in which the folder was embedded, too.

    ood_auroc: a quarter of the known images is held back; does an image's mean similarity to its five nearest of the
    other known ones tell those held back from the folder's? ood_knn, ood_probe: where a class folder has the name of a
    known one, the share of its images that the vote of the five nearest known images, and a logistic regression on the
    known images, put into that class.

    Args:
        spaces: embeddings of the known images.
        labels: class folder of every known image.
        folder: the images from elsewhere.
        seed: of the quarter and of intervals.

    Raises:
        UserError: the folder has too few images.
    """
    known = np.array(sorted(labels), dtype=np.int64)
    for space in spaces:
        known = np.intersect1d(known, space.ids)
    others = np.array(sorted(folder.labels), dtype=np.int64)
    for space in folder.spaces.values():
        others = np.intersect1d(others, space.ids)
    if min(len(others), len(known)) < LEAST:
        raise UserError(f"evaluate.ood has {len(others)} readable images, {len(known)} are known; {LEAST} are needed")
    held = np.zeros(len(known), dtype=bool)
    held[np.random.default_rng(seed).permutation(len(known))[: max(LEAST // 2, len(known) // 4)]] = True
    names = [labels[i] for i in known.tolist()]
    theirs = [folder.labels[i] for i in others.tolist()]
    rows: list[Score] = []
    right: dict[str, dict[tuple[str, str], np.ndarray]] = {"ood_knn": {}, "ood_probe": {}}
    for space in spaces:
        name = (space.model, space.layer)
        if name in folder.spaces:
            near, far = space.features(known), folder.spaces[name].features(others)
            rows += _told(space, near, far, held, seed)
            for metric, values in _recognised(near, names, far, theirs, held, seed).items():
                right[metric][name] = values
    for metric, found in right.items():
        rows += paired.rows(found, DATASET, metric, seed, split="")
    return rows


def _told(
    space: Space, near: Float[np.ndarray, "n d"], far: Float[np.ndarray, "k d"], held: np.ndarray, seed: int
) -> list[Score]:
    close = np.concatenate([near[held], far]) @ near[~held].T
    nearest = np.sort(close, axis=1)[:, -NEIGHBOURS:].mean(axis=1)
    inside = np.arange(len(nearest)) < held.sum()
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        pick = rng.integers(0, len(nearest), len(nearest))
        drawn.append(classify.auroc(nearest[pick], inside[pick]))
    low, high = scores.interval(np.array(drawn))
    value, n = classify.auroc(nearest, inside), len(nearest)
    return [Score(space.model, space.layer, DATASET, "ood_auroc", value, low, high, n, split="", seed=seed)]


def _recognised(
    near: Float[np.ndarray, "n d"],
    names: list[str],
    far: Float[np.ndarray, "k d"],
    theirs: list[str],
    held: np.ndarray,
    seed: int,
) -> dict[str, Float[np.ndarray, " s"]]:
    """For each of two readers, whether an image whose class is known is put into it."""
    classes = sorted(set(names))
    shared = np.isin(theirs, classes)
    if len(classes) < 2 or shared.sum() < LEAST:
        return {}
    label, truth = np.searchsorted(classes, names), np.searchsorted(classes, np.array(theirs)[shared])
    far = far[shared]
    x = classify.coordinates(np.concatenate([near, far]))
    guesses = {
        "ood_knn": classify.knn_predictions(far @ near.T, label, NEIGHBOURS),
        "ood_probe": _probe(x[: len(near)], label, x[len(near) :], held, seed),
    }
    return {metric: (guess == truth).astype(np.float64) for metric, guess in guesses.items()}


def _probe(
    x: Float[np.ndarray, "n r"],
    label: Int[np.ndarray, " n"],
    far: Float[np.ndarray, "k r"],
    held: np.ndarray,
    seed: int,
) -> Int[np.ndarray, " k"]:
    """Labels by a regression whose penalty recognises the known images that were held back best."""

    def right(penalty: float) -> float:
        guess = classify.logistic_predictions(x[~held][:MOST], label[~held][:MOST], x[held], penalty)
        return float((guess == label[held]).mean())

    some = np.sort(np.random.default_rng(seed).permutation(len(x))[:MOST])
    return classify.logistic_predictions(x[some], label[some], far, max(PENALTIES, key=right))
