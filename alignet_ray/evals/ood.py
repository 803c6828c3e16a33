"""Out-of-distribution detection and classification, on a folder of other images such as ImageNet-A."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from alignet_ray.core import classify, scores
from alignet_ray.core.scores import Score
from alignet_ray.errors import UserError
from alignet_ray.evals import paired
from alignet_ray.evals.probe import NEIGHBOURS, PENALTIES
from alignet_ray.evals.shift import MAX_PROBE_IMAGES
from alignet_ray.evals.spaces import EmbeddingSpace, shared_ids

DATASET = "ood"

DRAWS = 200
"""Resamplings of images behind an interval."""

MIN_IMAGES = 10
"""Images of either kind below which nothing is scored."""


@dataclass(frozen=True)
class OodFolder:
    """A folder of out-of-distribution images in the spaces of several models.

    Attributes:
        spaces: (model, layer) -> embeddings of its images.
        labels: image_id -> class folder.
    """

    spaces: Mapping[tuple[str, str], EmbeddingSpace]
    labels: Mapping[int, str]


@dataclass(frozen=True)
class OodSplit:
    """The images that all spaces hold: the known ones, a quarter of them held out, and those of the folder.

    Attributes:
        known: image_ids of the known images.
        known_classes: class folder of each.
        held_out: which of the known images are held out.
        ood: image_ids of the folder.
        ood_classes: class folder of each.
    """

    known: Int[np.ndarray, " n"]
    known_classes: list[str]
    held_out: Bool[np.ndarray, " n"]
    ood: Int[np.ndarray, " k"]
    ood_classes: list[str]


def evaluate(spaces: Sequence[EmbeddingSpace], labels: Mapping[int, str], folder: OodFolder, seed: int) -> list[Score]:
    """Scores of the spaces in which the folder was embedded, too.

    ood_auroc: detection by the mean similarity to the five nearest known images; negatives are known images that were
    held out. ood_knn, ood_probe: where a class folder has the name of a known one, accuracy on its images of the vote
    of the five nearest known images, and of a logistic regression fitted on known images.

    Args:
        spaces: embeddings of the known images.
        labels: class folder of every known image.
        folder: the out-of-distribution images.
        seed: of the quarter that is held out, and of intervals.

    Raises:
        UserError: the folder has too few images.
    """
    split = _split(spaces, labels, folder, seed)
    rows: list[Score] = []
    by_vote: dict[tuple[str, str], np.ndarray] = {}
    by_probe: dict[tuple[str, str], np.ndarray] = {}
    for space in spaces:
        if space.name not in folder.spaces:
            continue

        known = space.features(split.known)
        ood = folder.spaces[space.name].features(split.ood)
        rows.append(_detection(space, known, ood, split.held_out, seed))

        # Only images whose class is known can be classified.
        classes = sorted(set(split.known_classes))
        is_shared = np.isin(split.ood_classes, classes)
        if len(classes) < 2 or is_shared.sum() < MIN_IMAGES:
            continue

        label = np.searchsorted(classes, split.known_classes)
        truth = np.searchsorted(classes, np.array(split.ood_classes)[is_shared])
        shared = ood[is_shared]
        voted = classify.knn_predictions(shared @ known.T, label, NEIGHBOURS)
        by_vote[space.name] = (voted == truth).astype(np.float64)
        probed = _probe_predictions(known, label, shared, split.held_out, seed)
        by_probe[space.name] = (probed == truth).astype(np.float64)

    rows += paired.rows(by_vote, DATASET, "ood_knn", seed, split="")
    rows += paired.rows(by_probe, DATASET, "ood_probe", seed, split="")
    return rows


def _split(spaces: Sequence[EmbeddingSpace], labels: Mapping[int, str], folder: OodFolder, seed: int) -> OodSplit:
    """Draw the quarter of the known images that is held out, the same one for all spaces.

    Raises:
        UserError: the folder has too few images.
    """
    known = np.intersect1d(np.array(sorted(labels), dtype=np.int64), shared_ids(list(spaces)))
    ood = np.array(sorted(folder.labels), dtype=np.int64)
    for space in folder.spaces.values():
        ood = np.intersect1d(ood, space.ids)
    if min(len(ood), len(known)) < MIN_IMAGES:
        raise UserError(f"evaluate.ood has {len(ood)} readable images, {len(known)} are known; {MIN_IMAGES} are needed")

    # Known images are needed twice: as the reference, and, unseen, as those that should be recognised as known.
    held_out = np.zeros(len(known), dtype=bool)
    order = np.random.default_rng(seed).permutation(len(known))
    held_out[order[: max(MIN_IMAGES // 2, len(known) // 4)]] = True
    return OodSplit(
        known=known,
        known_classes=[labels[image_id] for image_id in known.tolist()],
        held_out=held_out,
        ood=ood,
        ood_classes=[folder.labels[image_id] for image_id in ood.tolist()],
    )


def _detection(
    space: EmbeddingSpace,
    known: Float[np.ndarray, "n d"],
    ood: Float[np.ndarray, "k d"],
    held_out: Bool[np.ndarray, " n"],
    seed: int,
) -> Score:
    """AUROC of held-out known images against those of the folder, with its interval over images."""
    # Deep nearest neighbours (Sun et al. 2022) as the detector: no fitting, so that only the features are compared.
    similarities = np.concatenate([known[held_out], ood]) @ known[~held_out].T
    nearest = np.sort(similarities, axis=1)[:, -NEIGHBOURS:].mean(axis=1)
    is_known = np.arange(len(nearest)) < held_out.sum()

    # Images are resampled with both kinds together, so their numbers vary as well.
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(DRAWS):
        images = rng.integers(0, len(nearest), len(nearest))
        resampled.append(classify.auroc(nearest[images], is_known[images]))
    low, high = scores.interval(np.array(resampled))
    value = classify.auroc(nearest, is_known)
    return Score(space.model, space.layer, DATASET, "ood_auroc", value, low, high, len(nearest), split="", seed=seed)


def _probe_predictions(
    known: Float[np.ndarray, "n d"],
    label: Int[np.ndarray, " n"],
    ood: Float[np.ndarray, "k d"],
    held_out: Bool[np.ndarray, " n"],
    seed: int,
) -> Int[np.ndarray, " k"]:
    """Classes of `ood` by a logistic regression whose L2 penalty is the best one on held-out known images."""
    # In the axes of the known images: a probe in use would not have seen the folder's either.
    coordinates = classify.coordinates(np.concatenate([known, ood]), np.arange(len(known)))
    known_coordinates = coordinates[: len(known)]
    ood_coordinates = coordinates[len(known) :]
    train = np.flatnonzero(~held_out)[:MAX_PROBE_IMAGES]

    accuracy = []
    for penalty in PENALTIES:
        predicted = classify.logistic_predictions(
            known_coordinates[train], label[train], known_coordinates[held_out], penalty
        )
        accuracy.append(float((predicted == label[held_out]).mean()))
    best = PENALTIES[int(np.argmax(accuracy))]

    # With the penalty settled, the held-out images serve for training, too.
    sample = np.sort(np.random.default_rng(seed).permutation(len(known))[:MAX_PROBE_IMAGES])
    return classify.logistic_predictions(known_coordinates[sample], label[sample], ood_coordinates, best)
