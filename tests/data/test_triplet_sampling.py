"""Triplets sampled from a corpus, and the errors where it cannot give them."""

import numpy as np
import pytest

from alignet_ray.artifacts.label import Subset
from alignet_ray.core import sampling
from alignet_ray.data.triplet_sampling import TRIPLET_KINDS, ImagePool, SampledTriplets, sample_triplets
from alignet_ray.errors import UserError

ONLY_CLUSTER_BORDER = {"cluster_border": 1.0}


def sample(
    images: ImagePool, subset: Subset, count: int, weights: dict[str, float] | None = None, seed: int = 0
) -> SampledTriplets:
    """Kinds without a weight have weight 0."""
    all_weights = dict.fromkeys(TRIPLET_KINDS, 0.0) | (weights or ONLY_CLUSTER_BORDER)
    return sample_triplets(images, subset, count, all_weights, seed)


def pool(n: int = 200, clusters: int = 10, classes: int = 5, share: float = 0.2) -> ImagePool:
    ids = np.arange(n, dtype=np.int64) * 3
    return ImagePool(ids, np.arange(n) % clusters, np.arange(n) % classes, sampling.held_out(ids, share, 0))


def test_splits_share_no_image_and_counts_are_exact() -> None:
    images = pool()
    train = sample(images, "train", 500)
    valid = sample(images, "valid", 100)
    assert (len(train.triplets), len(valid.triplets)) == (500, 100)
    assert (train.warning, valid.warning) == ("", "")
    assert not np.intersect1d(train.triplets, valid.triplets).size
    assert np.isin(valid.triplets, images.ids[images.held_out]).all()


@pytest.mark.parametrize(
    ("kind", "groups", "different"),
    [
        ("cluster_border", 10, 2),
        ("within_cluster", 10, 1),
        ("class_border", 5, 2),
        ("within_class", 5, 1),
        ("between_class", 5, 3),
    ],
)
def test_each_kind(kind: str, groups: int, different: int) -> None:
    rows = sample(pool(), "train", 200, {kind: 1.0}, seed=1).triplets // 3 % groups
    assert {len(set(row)) for row in rows.tolist()} == {different}


def test_mixture_has_exact_shares() -> None:
    weights = {"within_class": 1.0, "between_class": 3.0}
    rows = sample(pool(), "train", 400, weights).triplets // 3 % 5
    different = np.array([len(set(row)) for row in rows.tolist()])
    assert ((different == 1).sum(), (different == 3).sum()) == (100, 300)


def test_few_images_set_aside() -> None:
    few = sample(pool(), "valid", 10_000)
    assert "40 images set aside" in few.warning
    assert len(few.triplets) == sampling.count("border", pool().groups("cluster", "valid"))
    anything = sample(pool(60, clusters=60, share=0.1), "valid", 10_000)
    assert len(anything.triplets) == 20
    assert "any three" in anything.warning


@pytest.mark.parametrize(
    ("images", "count", "weights", "message"),
    [
        (pool(), 10**7, {"cluster_border": 1.0}, r"--label\.train 10000000: the 160 images"),
        (pool(60, clusters=60), 5, {"cluster_border": 1.0}, "only 0 distinct"),
        (pool(), 100, {"cluster_border": 0.0}, "weight 0"),
        (pool(classes=1), 100, {"class_border": 1.0}, "class folders"),
        (pool(4, share=0.5), 100, {"cluster_border": 1.0}, "a triplet needs 3"),
    ],
)
def test_what_cannot_be_sampled(images: ImagePool, count: int, weights: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sample(images, "train", count, weights)
