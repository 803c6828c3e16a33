"""One Lloyd step against scikit-learn, and the same centroids whatever the shards."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances

from alignet_ray.core import kmeans


def blobs(n: int = 3000, k: int = 12, d: int = 20, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (3 * rng.normal(size=(k, d))[rng.integers(0, k, n)] + rng.normal(size=(n, d))).astype(np.float32)


def step(x: np.ndarray, centroids: np.ndarray, shards: int = 1, spherical: bool = False) -> kmeans.Partial:
    c = torch.from_numpy(centroids)
    splits = np.array_split(x, shards)
    return kmeans.merge([kmeans.step(torch.from_numpy(rows), c, spherical, far=32)[0] for rows in splits])


def lloyd(x: np.ndarray, centroids: np.ndarray, passes: int, shards: int = 1, spherical: bool = False) -> np.ndarray:
    for _ in range(passes):
        centroids = kmeans.update(step(x, centroids, shards, spherical), centroids, spherical)
    return centroids


def test_labels_and_distances_are_those_of_the_nearest_centroid() -> None:
    x = blobs()
    centroids = kmeans.seed_centroids(x, 12, 0)
    labels, distances = kmeans.assign(torch.from_numpy(x), torch.from_numpy(centroids))
    exact = pairwise_distances(x.astype(np.float64), centroids.astype(np.float64)) ** 2
    assert np.array_equal(labels, exact.argmin(1))
    assert np.allclose(distances, exact.min(1), rtol=1e-4, atol=1e-3)


def test_ten_steps_as_scikit_learn() -> None:
    x = blobs(5000, 30, 16)
    start = x[np.random.default_rng(1).permutation(5000)[:30]]
    oracle = KMeans(30, init=start, n_init=1, max_iter=10, tol=0, algorithm="lloyd").fit(x)
    ours = lloyd(x, start, 10)
    assert np.abs(ours - oracle.cluster_centers_).max() < 1e-5 * np.abs(x).max()
    labels, distances = kmeans.assign(torch.from_numpy(x), torch.from_numpy(oracle.cluster_centers_))
    assert np.array_equal(labels, oracle.predict(x))
    assert float(distances.sum()) == pytest.approx(oracle.inertia_, rel=1e-3)


@pytest.mark.parametrize("shards", [2, 7])
def test_shards_do_not_matter(shards: int) -> None:
    x = blobs(10_000, 20, 8)
    start = kmeans.seed_centroids(x[:500], 20, 3)
    one, several = step(x, start), step(x, start, shards)
    assert np.array_equal(one.counts, several.counts)
    assert one.inertia == pytest.approx(several.inertia, rel=1e-12)
    assert np.allclose(one.sums, several.sums, rtol=1e-6, atol=1e-4)
    assert np.allclose(one.far_distances, several.far_distances)
    assert np.allclose(lloyd(x, start, 5), lloyd(x, start, 5, shards), atol=1e-5)


def test_half_precision_rows_are_added_in_full_precision() -> None:
    x = np.full((40_000, 3), 0.1, dtype=np.float16)
    partial, labels = kmeans.step(torch.from_numpy(x), torch.zeros(1, 3))
    assert not labels.any()
    assert np.allclose(partial.sums / 40_000, np.float64(np.float16(0.1)), rtol=1e-6)


def test_an_empty_cluster_takes_the_furthest_row() -> None:
    x = np.array([[0.0, 0], [1, 0], [0, 1], [50, 50], [51, 50]], dtype=np.float32)
    start = np.array([[0.3, 0.3], [-500, -500]], dtype=np.float32)
    merged = step(x, start)
    assert merged.counts.tolist() == [5, 0]
    centroids = kmeans.update(merged, start)
    assert centroids[1].tolist() == [51, 50]
    assert np.allclose(centroids[0], x[:4].mean(0))
    oracle = KMeans(2, init=start, n_init=1, tol=0).fit(x)
    assert np.allclose(lloyd(x, start, 6), oracle.cluster_centers_)


def test_several_empty_clusters_take_different_rows() -> None:
    x = blobs(200, 4, 5)
    start = np.concatenate([x[:2], np.full((3, 5), 1e4, dtype=np.float32)])
    centroids = kmeans.update(step(x, start), start)
    assert len(np.unique(centroids, axis=0)) == 5
    assert step(x, lloyd(x, start, 8)).counts.min() > 0


def test_as_many_clusters_as_distinct_rows_and_more() -> None:
    x = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    start = np.concatenate([np.eye(3), np.full((2, 3), 9.0)]).astype(np.float32)
    found = lloyd(x, start, 3)
    assert np.isfinite(found).all()
    assert step(x, found).inertia == pytest.approx(0, abs=1e-6)


def test_inertia_never_rises() -> None:
    x = blobs(4000, 25, 10)
    centroids, inertias = kmeans.seed_centroids(x, 25, 0), []
    for _ in range(12):
        merged = step(x, centroids, 3)
        inertias.append(merged.inertia)
        centroids = kmeans.update(merged, centroids)
    assert (np.diff(inertias) <= 1e-6 * inertias[0]).all()


def test_spherical_clusters_directions() -> None:
    rng = np.random.default_rng(0)
    directions = np.eye(4, 6)[rng.integers(0, 4, 500)]
    x = ((directions + 0.02 * rng.normal(size=(500, 6))) * rng.uniform(0.1, 30, (500, 1))).astype(np.float32)
    start = x[[int(np.flatnonzero(directions[:, i])[0]) for i in range(4)]]
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    found = lloyd(x, start, 5, spherical=True)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    labels, _ = kmeans.assign(torch.from_numpy(x), torch.from_numpy(found), spherical=True)
    assert np.array_equal(labels, directions.argmax(1))


def test_composition() -> None:
    found = kmeans.composition(np.array([0, 0, 0, 1, 1]), np.array([2, 2, 0, 1, 0]), 3)
    assert found.purity == pytest.approx(3 / 5)
    assert found.commonest == [[(2, 2), (0, 1)], [(0, 1), (1, 1)], []]


def test_fit_ends_where_scikit_learn_ends() -> None:
    x = blobs(2000, 8, 10)
    start = kmeans.seed_centroids(x, 8, 0)
    found = kmeans.fit(torch.from_numpy(x), start, 100, 0.0)
    oracle = KMeans(8, init=start, n_init=1, tol=0).fit(x)
    assert np.allclose(found.centroids, oracle.cluster_centers_, atol=1e-3)
    assert found.inertia == pytest.approx(oracle.inertia_, rel=1e-4)
    assert 0 < found.silhouette < 1


def test_the_bend_of_the_curve_is_the_true_number_of_clusters() -> None:
    x = torch.from_numpy(blobs(3000, 12, 40))
    ks = [2, 4, 8, 12, 24, 48]
    fits = [kmeans.fit(x, kmeans.seed_centroids(x.numpy(), k, 0), 50) for k in ks]
    assert ks[kmeans.elbow(ks, [f.inertia for f in fits])] == 12
    assert ks[int(np.argmax([f.silhouette for f in fits]))] == 12


@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_the_largest_are_those_of_a_stable_sort(count: int) -> None:
    values = torch.from_numpy(np.random.default_rng(count).integers(0, 6, 40).astype(np.float32))
    expected = torch.argsort(values, descending=True, stable=True)[:count]
    assert torch.equal(kmeans._largest(values, count), expected)
