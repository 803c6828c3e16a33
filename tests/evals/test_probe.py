from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from alignet_ray.evals import probe
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace


def test_few_shot_tasks_are_balanced_and_disjoint(make_annotated: Callable[..., AnnotatedObjects]) -> None:
    annotated = make_annotated(objects=7, images=4)
    task = probe.draw_few_shot_task(annotated.images, 1, draws=5, seed=0)
    assert task is not None
    assert task.train.shape == (5, 7)
    assert task.test.shape == (5, 21)
    owner = annotated.all_images()[1]
    for train, labels, test in zip(task.train, task.train_labels, task.test, strict=True):
        assert not set(train) & set(test)
        assert owner[train].tolist() == labels.tolist()
        assert np.bincount(owner[test]).tolist() == [3] * 7
    assert probe.draw_few_shot_task(annotated.images, 4, 5, 0) is None  # no image would be left to test on
    assert probe.draw_few_shot_task(make_annotated(objects=4).images, 1, 5, 0) is None  # too few classes


def test_accuracy_follows_what_the_space_knows(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    test, valid = make_annotated(images=4), make_annotated(first=24, images=4)
    train = make_annotated(first=48, images=4)
    spaces = [make_space([test, valid, train], m, 0.3, name) for name, m in (("base", 0.0), ("student", 2.0))]
    found = {(s.model, s.metric): s for s in probe.evaluate(spaces, test, valid, train, (1, 3), 4, 0)}
    assert found["base", "few_shot_1"].value == pytest.approx(1 / 24, abs=0.06)
    assert found["student", "few_shot_1"].value > 0.2
    assert found["student", "few_shot_3"].value > found["student", "few_shot_1"].value
    assert found["student", "knn_category"].value == 1
    assert found["base", "knn_category"].value == pytest.approx(0.25, abs=0.15)
    assert probe.evaluate(spaces, test, valid, train, (9,), 4, 0)[0].metric == "knn_category"
    assert found["student", "same_object"].value > found["base", "same_object"].value


def test_the_nearest_other_image_of_an_object() -> None:
    """Worked by hand: object 0's images are each other's nearest, object 1's second one is nearer to object 2."""
    points = np.array([[0, 0], [1, 0], [10, 0], [20, 0], [19, 0]], dtype=np.float32)
    unit = np.stack([np.cos(points[:, 0] / 20), np.sin(points[:, 0] / 20)], axis=1).astype(np.float32)
    space = EmbeddingSpace("base", "pre_logits", np.arange(5), unit)
    images = [np.array([0, 1]), np.array([2, 3]), np.array([4])]
    assert probe.same_object_hits(space, images).tolist() == [1.0, 0.0]

    # Image 1 shows both objects; its nearest one shows the first of them alone.
    shared = [np.array([0, 1]), np.array([1, 2])]
    assert probe.same_object_hits(space, shared).tolist() == [1.0, 0.5]
    assert probe.same_object_hits(space, [np.array([0])]).tolist() == []


def test_neighbours_of_the_same_object_do_not_count(
    make_annotated: Callable[..., AnnotatedObjects],
    make_space: Callable[..., EmbeddingSpace],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    annotated = make_annotated(objects=8, images=1)
    space = make_space([annotated], 0.5, 1)
    x, y = space.features(annotated.all_images()[0]), np.array(annotated.categories)
    right = []
    for row in range(8):
        others = np.arange(8) != row
        oracle = KNeighborsClassifier(1, metric="cosine").fit(x[others], y[others])
        right.append(oracle.predict(x[row : row + 1])[0] == y[row])
    monkeypatch.setattr(probe, "NEIGHBOURS", 1)
    assert probe.knn_category([space], annotated, 0)[0].value == pytest.approx(np.mean(right))


def test_without_categories_there_is_nothing_to_score(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated(objects=4, images=1)
    annotated.categories[:] = [""] * 4
    assert probe.evaluate([make_space([annotated], 1, 1)], annotated, annotated, annotated, (1,), 2, 0) == []


def test_features_are_scaled_by_images_that_no_task_has(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    test, train = make_annotated(images=4), make_annotated(first=48, images=4)
    space = make_space([test, train], 2.0, 0.3, "student")
    task = probe.draw_few_shot_task(test.images, 1, 4, 0)
    assert task is not None
    background, _ = train.all_images()
    alone = probe.classify_few_shot(space, task, [1e-3], background)

    # The test images that are not learned from may be anything: what is learned stays the same.
    asked = np.setdiff1d(task.test[0], task.train[0])[0]
    embeddings = space.embeddings.copy()
    embeddings[np.searchsorted(space.ids, task.ids[asked])] = 1e3
    changed = probe.classify_few_shot(replace(space, embeddings=embeddings), task, [1e-3], background)
    differs = alone[0, 0] != changed[0, 0]
    assert set(task.test[0][differs].tolist()) <= {int(asked)}
