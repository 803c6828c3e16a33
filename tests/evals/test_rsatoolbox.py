"""An independent oracle: rsatoolbox computes the same matrices, correlations and noise ceilings."""

from collections.abc import Callable

import numpy as np
import pytest

from alignet_ray.core import noise_ceiling, similarity
from alignet_ray.evals import rsa
from alignet_ray.evals.annotated_objects import AnnotatedObjects
from alignet_ray.evals.spaces import EmbeddingSpace

rsatoolbox = pytest.importorskip("rsatoolbox", reason="the extra `test` brings it")

METHODS = {"spearman": "spearman", "pearson": "corr"}


@pytest.fixture
def people() -> np.ndarray:
    """Similarities of ten people between twelve items: what all share, and each one's own."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(12, 4))
    each = [np.hstack([common, 0.7 * rng.normal(size=(12, 2))]) for _ in range(10)]
    return np.stack([x @ x.T for x in each])


def rdms(similarities: np.ndarray) -> "rsatoolbox.rdm.RDMs":
    """Dissimilarities of a stack of similarity matrices."""
    rows, columns = np.triu_indices(similarities.shape[-1], 1)
    return rsatoolbox.rdm.RDMs(20 - similarities[..., rows, columns])


def test_correlation_distances(people: np.ndarray) -> None:
    x = np.random.default_rng(1).normal(size=(9, 30)).astype(np.float32)
    theirs = rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(x), method="correlation").get_matrices()[0]
    assert 1 - similarity.similarity_matrix(x, "correlation") == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_rsa(people: np.ndarray, method: str) -> None:
    theirs = rsatoolbox.rdm.compare(rdms(people[:1]), rdms(people[1:2]), method=METHODS[method])[0, 0]
    assert similarity.rsa(people[0], people[1], method) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_ceilings_of_participants(people: np.ndarray, method: str) -> None:
    lower, upper = rsatoolbox.inference.boot_noise_ceiling(rdms(people), method=METHODS[method])
    assert noise_ceiling.rsa_ceilings(people, method) == pytest.approx((float(lower), float(upper)), abs=1e-9)


def test_models_against_single_people(
    make_annotated: Callable[..., AnnotatedObjects], make_space: Callable[..., EmbeddingSpace], people: np.ndarray
) -> None:
    annotated = make_annotated(objects=12, images=1)
    space = make_space([annotated], 1, 1)
    found = {(s.model, s.metric): s for s in rsa.evaluate_participants([space], annotated, people, 0)}
    ours = rsa.object_similarity(space, annotated)[None].astype(np.float64)
    for method, name in METHODS.items():
        row = found["base", f"rsa_{method}_participants"]
        assert row.value == pytest.approx(rsatoolbox.rdm.compare(rdms(ours), rdms(people), method=name).mean())
        assert row.n == 10
        assert row.low < row.value < row.high
        human = found["human", f"rsa_{method}_participants"]
        assert human.low == human.value < human.high


def test_pairs_that_a_person_did_not_judge_are_left_out(people: np.ndarray) -> None:
    whole = noise_ceiling.rsa_ceilings(people, "spearman")
    people[0, 2, 5] = people[0, 5, 2] = np.nan
    gaps = noise_ceiling.rsa_ceilings(people, "spearman")
    assert gaps == pytest.approx(whole, abs=0.02)
    assert gaps != whole
    seen = np.delete(similarity.upper(people[0]), np.flatnonzero(np.isnan(similarity.upper(people[0]))))
    model = similarity.upper(people[1])[np.isfinite(similarity.upper(people[0]))]
    expected = similarity.correlation(model, seen)
    assert noise_ceiling.correlations(people[1], people, "spearman")[0] == pytest.approx(expected)
