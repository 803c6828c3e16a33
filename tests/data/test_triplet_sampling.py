"""Which triplets a corpus gives, and what is said where it cannot give them."""

import numpy as np
import pytest

from alignet_ray.config import Label
from alignet_ray.core import sampling
from alignet_ray.data.triplet_sampling import SampledCorpus, draw
from alignet_ray.errors import UserError


def corpus(n: int = 200, clusters: int = 10, classes: int = 5, share: float = 0.2) -> SampledCorpus:
    ids = np.arange(n, dtype=np.int64) * 3
    return SampledCorpus(ids, np.arange(n) % clusters, np.arange(n) % classes, sampling.held_out(ids, share, 0))


def test_sides_share_no_image_and_counts_are_exact() -> None:
    images = corpus()
    train, valid = (draw(Label(train=500, valid=100), images, 0, side) for side in ("train", "valid"))
    assert (len(train.triplets), len(valid.triplets)) == (500, 100)
    assert (train.note, valid.note) == ("", "")
    assert not np.intersect1d(train.triplets, valid.triplets).size
    assert np.isin(valid.triplets, images.ids[images.held_out]).all()


@pytest.mark.parametrize(
    ("weight", "groups", "different"),
    [
        ("cluster_border", 10, 2),
        ("within_cluster", 10, 1),
        ("class_border", 5, 2),
        ("within_class", 5, 1),
        ("between_class", 5, 3),
    ],
)
def test_each_kind(weight: str, groups: int, different: int) -> None:
    label = Label(**({"cluster_border": 0.0, weight: 1.0} | {"train": 200}))
    rows = draw(label, corpus(), 1, "train").triplets // 3 % groups
    assert {len(set(r)) for r in rows.tolist()} == {different}


def test_mixture_has_exact_shares() -> None:
    label = Label(cluster_border=0, within_class=1, between_class=3, train=400)
    rows = draw(label, corpus(), 1, "train").triplets // 3 % 5
    different = np.array([len(set(r)) for r in rows.tolist()])
    assert ((different == 1).sum(), (different == 3).sum()) == (100, 300)


def test_few_images_set_aside() -> None:
    few = draw(Label(train=500, valid=10_000), corpus(), 0, "valid")
    assert "40 images set aside" in few.note
    assert len(few.triplets) == sampling.count("border", corpus().groups("cluster", "valid"))
    alone = corpus(60, clusters=60, share=0.1)
    anything = draw(Label(valid=10_000), alone, 0, "valid")
    assert len(anything.triplets) == 20
    assert "any three" in anything.note


@pytest.mark.parametrize(
    ("label", "images", "message"),
    [
        (Label(train=10**7), corpus(), r"--label\.train 10000000: the 160 images"),
        (Label(train=5), corpus(60, clusters=60), "only 0 distinct"),
        (Label(cluster_border=0), corpus(), "weight 0"),
        (Label(class_border=1), corpus(classes=1), "class folders"),
        (Label(), corpus(4, share=0.5), "a triplet needs 3"),
    ],
)
def test_what_cannot_be_drawn(label: Label, images: SampledCorpus, message: str) -> None:
    with pytest.raises(UserError, match=message):
        draw(label, images, 0, "train")
