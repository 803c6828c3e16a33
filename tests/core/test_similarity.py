import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from scipy.stats import pearsonr, spearmanr
from sklearn.neighbors import NearestNeighbors

from alignet_ray.core import similarity
from alignet_ray.errors import UserError


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(14, 6)).astype(np.float32)


@pytest.mark.parametrize("kind", ["cosine", "correlation"])
def test_similarities_equal_scipy(x: np.ndarray, kind: str) -> None:
    distances = squareform(pdist(x.astype(np.float64), kind))
    assert 1 - similarity.similarity_matrix(x, kind) == pytest.approx(distances, abs=1e-5)


def test_dot_products_and_zero_rows(x: np.ndarray) -> None:
    assert similarity.similarity_matrix(x, "dot") == pytest.approx(x @ x.T)
    x[3] = 0
    cosine = similarity.similarity_matrix(x)
    assert np.isfinite(cosine).all()
    assert (cosine[3] == 0).all()


@pytest.mark.parametrize(("method", "oracle"), [("spearman", spearmanr), ("pearson", pearsonr)])
def test_rsa_equals_scipy(x: np.ndarray, method: str, oracle: object) -> None:
    a = similarity.similarity_matrix(x).astype(np.float64)
    b = np.round(similarity.similarity_matrix(x[:, :3]), 1).astype(np.float64)  # ties
    rows, columns = np.triu_indices(14, 1)
    expected = oracle(a[rows, columns], b[rows, columns])[0]  # type: ignore[operator]
    assert similarity.rsa(a, b, method) == pytest.approx(expected, abs=1e-9)


def test_rsa_bootstrap_surrounds_the_value(x: np.ndarray) -> None:
    a, b = similarity.similarity_matrix(x), similarity.similarity_matrix(x[:, :4])
    drawn = similarity.rsa_bootstrap(a, b, 100)
    assert drawn.min() < similarity.rsa(a, b) < drawn.max()
    assert similarity.rsa_bootstrap(a, a, 5) == pytest.approx(np.ones(5))


@pytest.mark.parametrize("method", ["spearman", "pearson"])
@given(seed=st.integers(0, 10_000), items=st.integers(3, 12), levels=st.sampled_from([2, 5, 1000]))
@settings(max_examples=40, deadline=None)
def test_rsa_bootstrap_equals_correlations_of_the_pairs_written_out(
    method: str, seed: int, items: int, levels: int
) -> None:
    """Few levels make ties, and few items draws in which all pairs are of an item with its own copy."""
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, levels, (2, items, items)).astype(np.float64)
    a, b = squares + squares.transpose(0, 2, 1)
    expected = []
    again = np.random.default_rng(seed)
    for _ in range(20):
        drawn = again.integers(0, items, items)
        pairs = [(i, j) for i, j in itertools.combinations(drawn.tolist(), 2) if i != j]
        left, right = (np.array([matrix[pair] for pair in pairs]) for matrix in (a, b))
        if len(pairs) < 2 or left.std() == 0 or right.std() == 0:
            expected.append(np.nan)
        else:
            oracle = {"spearman": spearmanr, "pearson": pearsonr}[method]
            expected.append(oracle(left, right).statistic)
    found = similarity.rsa_bootstrap(a, b, 20, seed, method)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_cka_is_one_for_rotations_and_small_for_noise() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 5))
    few = rng.normal(size=(40, 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    noise = rng.normal(size=(40, 50))
    assert similarity.linear_cka(x, 3 * x @ turn + 2) == pytest.approx(1, abs=1e-5)
    assert similarity.linear_cka(few, noise) > 0.2  # the plain estimator grows with the width
    assert abs(similarity.linear_cka(few, noise, unbiased=True)) < 0.1


def test_cka_equals_the_formula_on_features() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 7))
    a, b = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert similarity.linear_cka(x, y) == pytest.approx(expected, abs=1e-5)


def test_neighbours_equal_sklearn(x: np.ndarray) -> None:
    oracle = NearestNeighbors(n_neighbors=4, metric="cosine").fit(x).kneighbors(return_distance=False)
    assert np.array_equal(similarity.nearest(similarity.similarity_matrix(x), 4), oracle)


def test_overlap_of_a_space_with_itself_and_with_chance() -> None:
    rng = np.random.default_rng(3)
    a, b = (similarity.similarity_matrix(rng.normal(size=(300, 8))) for _ in range(2))
    assert similarity.neighbour_overlap(a, a, 10).tolist() == [1.0] * 300
    assert similarity.neighbour_overlap(a, b, 10).mean() == pytest.approx(10 / 299, abs=0.01)


@given(st.permutations(range(6)))
def test_order_keeps_labels_together(order: list[int]) -> None:
    labels = [["a", "b", "c"][i % 3] for i in order]
    matrix = similarity.similarity_matrix(np.random.default_rng(0).normal(size=(6, 3)))
    found = similarity.category_order(matrix, labels)
    assert sorted(found.tolist()) == list(range(6))
    assert [labels[i] for i in found] == sorted(labels)


def test_tree_clusters_find_blocks() -> None:
    matrix = np.kron(np.eye(3), np.ones((4, 4)))
    member = similarity.tree_clusters(matrix, 3)
    assert len(set(member.tolist())) == 3
    assert all(len(set(member[g * 4 : g * 4 + 4].tolist())) == 1 for g in range(3))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((3, 4)), "square"),
        (np.eye(2), "at least 3"),
        (np.arange(16.0).reshape(4, 4), "not symmetric"),
        (np.full((4, 4), np.nan), "not numbers"),
    ],
)
def test_bad_matrices(matrix: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        similarity.check_matrix(matrix)
