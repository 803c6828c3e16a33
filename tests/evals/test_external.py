from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import spearmanr

from alignet_ray.core import calibration, similarity
from alignet_ray.core.comparisons import Comparisons
from alignet_ray.evals import external
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace

POINTS = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.2, 1], [1, 0]], np.float32)
SPACE = EmbeddingSpace("base", "pre_logits", np.arange(5) * 10, POINTS)


def test_answers_worked_by_hand() -> None:
    triplets = np.array([[0, 10, 20], [20, 30, 0], [0, 20, 10], [0, 40, 20], [0, 10, 20]])
    levels = ["coarse", "coarse", "fine", "fine", "fine"]
    found = external.evaluate_responses([SPACE], triplets, levels, np.full(5, np.nan), 0)
    value = {(s.model, s.metric, s.level): s.value for s in found}
    assert value["base", "odd_one_out", ""] == pytest.approx(4 / 5)
    assert value["base", "odd_one_out", "coarse"] == 1
    assert value["base", "odd_one_out", "fine"] == pytest.approx(2 / 3)
    assert value["base", "ties", ""] == 0
    assert value["human", "odd_one_out", ""] == pytest.approx(
        1 / 3
    )  # three answers to one triplet: two agree, one differs
    assert not any(metric == "entropy_time" for _, metric, _ in value)


def test_equal_images_are_a_tie() -> None:
    s = external.triplet_similarities(SPACE, np.array([[0, 40, 40]]))
    assert s.tolist() == [[1, 1, 1]]
    found = external.evaluate_responses([SPACE], np.array([[0, 40, 40], [0, 10, 20]]), ["", ""], np.full(2, np.nan), 0)
    assert [s.value for s in found if s.metric == "odd_one_out" and s.model == "base"] == [0.5]
    assert [s.value for s in found if s.metric == "ties"] == [0.5]


def test_response_times_that_follow_doubt(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]
) -> None:
    annotated = make_annotated()
    space = make_space([annotated], 2, 0.3)
    rng = np.random.default_rng(0)
    triplets = rng.permuted(np.tile(annotated.all_images()[0], (500, 1)), axis=1)[:, :3]
    p = softmax(external.triplet_similarities(space, triplets).astype(np.float64) / 0.2, axis=1)
    odd = 2 - np.array([rng.choice(3, p=row) for row in p])  # people answer as the space does
    triplets = np.stack([np.append(np.delete(t, o), t[o]) for t, o in zip(triplets, odd, strict=True)])
    times = 500 + 400 * calibration.entropy(p) + rng.normal(0, 20, 500)  # and take longer where it is unsure
    found = external.evaluate_responses([space], triplets, [""] * 500, times, 0)
    assert next(s.value for s in found if s.metric == "entropy_time") > 0.8


def test_two_alternatives_worked_by_hand() -> None:
    found = external.evaluate_choices(
        [SPACE], Comparisons(np.array([[0, 10, 20], [20, 0, 30]]), np.array([[0.9, 0.1], [0.4, 0.6]])), 0
    )
    value = {s.model: s.value for s in found}
    assert value["base"] == pytest.approx((0.9 + 0.6) / 2)
    assert value["human"] == pytest.approx((0.9 + 0.6) / 2)
    tie = external.evaluate_choices([SPACE], Comparisons(np.array([[20, 0, 40]]), np.array([[1.0, 0.0]])), 0)
    assert tie[0].value == 0


def test_matrix(make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace]) -> None:
    annotated = make_annotated(objects=12, images=1)
    space = make_space([annotated], 1, 1)
    matrix = annotated.human_similarity()
    found = {s.metric: s for s in external.evaluate_matrix([space], annotated, matrix[None], 0) if not s.level}
    pairs = np.triu_indices(12, 1)
    ours = similarity.similarity_matrix(space.rows(annotated.all_images()[0]))
    assert found["rsa_spearman"].value == pytest.approx(spearmanr(ours[pairs], matrix[pairs])[0], abs=1e-4)
    assert found["rsa_spearman"].n == 66
