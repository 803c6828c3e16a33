from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from alignet_ray.errors import UserError
from alignet_ray.evals import ood
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.ood import OodFolder
from alignet_ray.evals.spaces import EmbeddingSpace

OTHERS = 40


@pytest.fixture
def known(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> tuple[EmbeddingSpace, dict[int, str]]:
    """72 images of 24 objects in four classes, in a space that knows the classes."""
    annotated = make_annotated()
    ids, owner = annotated.all_images()
    return make_space([annotated], 1, 0.3), {int(i): annotated.categories[o] for i, o in zip(ids, owner, strict=True)}


def folder(space: EmbeddingSpace, labels: dict[int, str], far: float) -> OodFolder:
    """Copies of known images, moved off by `far` along one direction; a quarter of them of a class of their own."""
    pick = np.random.default_rng(1).permutation(len(space.ids))[:OTHERS]
    x = space.embeddings[pick] + far * np.eye(space.embeddings.shape[1], dtype=np.float32)[-1]
    own = {i: "unknown" if i % 4 == 0 else labels[int(space.ids[p])] for i, p in enumerate(pick)}
    return OodFolder({(space.model, space.layer): replace(space, ids=np.arange(OTHERS), embeddings=x)}, own)


def test_detection_improves_with_the_distance_of_the_images(known: tuple[EmbeddingSpace, dict[int, str]]) -> None:
    space, labels = known
    value = {}
    for far in (0.0, 1.0, 9.0):
        rows = {s.metric: s for s in ood.evaluate([space], labels, folder(space, labels, far), 0)}
        value[far] = rows["ood_auroc"].value
        assert rows["ood_auroc"].low <= rows["ood_auroc"].value <= rows["ood_auroc"].high
    assert value[0.0] < value[1.0] < value[9.0]
    assert value[9.0] == 1


def test_auroc_and_neighbours_equal_sklearn(known: tuple[EmbeddingSpace, dict[int, str]]) -> None:
    space, labels = known
    there = folder(space, labels, 0.8)
    rows = {s.metric: s for s in ood.evaluate([space], labels, there, 0)}
    held = np.zeros(72, dtype=bool)
    held[np.random.default_rng(0).permutation(72)[:18]] = True
    near, far = space.features(space.ids), there.spaces["base", "pre_logits"].features(np.arange(OTHERS))
    close = np.sort(np.concatenate([near[held], far]) @ near[~held].T, axis=1)[:, -5:].mean(axis=1)
    assert rows["ood_auroc"].value == pytest.approx(roc_auc_score(np.arange(len(close)) < 18, close))
    shared = np.array([there.labels[i] != "unknown" for i in range(OTHERS)])
    truth = np.array([there.labels[i] for i in range(OTHERS)])[shared]
    oracle = KNeighborsClassifier(5, metric="cosine").fit(near, [labels[int(i)] for i in space.ids])
    assert rows["ood_knn"].value == pytest.approx((oracle.predict(far[shared]) == truth).mean(), abs=0.04)
    assert rows["ood_knn"].n == shared.sum()
    assert rows["ood_probe"].value > 0.9


def test_without_common_classes_only_the_auroc_is_left(known: tuple[EmbeddingSpace, dict[int, str]]) -> None:
    space, labels = known
    there = folder(space, labels, 1)
    strange = OodFolder(there.spaces, dict.fromkeys(there.labels, "n0"))
    assert [s.metric for s in ood.evaluate([space], labels, strange, 0)] == ["ood_auroc"]


def test_too_few_images_are_a_clear_error(known: tuple[EmbeddingSpace, dict[int, str]]) -> None:
    space, labels = known
    there = folder(space, labels, 1)
    with pytest.raises(UserError, match="3 readable images"):
        ood.evaluate([space], labels, OodFolder(there.spaces, {0: "a", 1: "a", 2: "b"}), 0)
