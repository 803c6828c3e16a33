"""Labels: the right dot products, images and similarities moved together, entropies that match."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from alignet_ray.core import labelling, triplets


@given(st.integers(1, 100), st.integers(1, 40), st.sampled_from([np.float16, np.float32]))
@settings(max_examples=30, deadline=None)
def test_similarities_are_the_dot_products_of_the_pairs(n: int, p: int, dtype: type) -> None:
    rng = np.random.default_rng(n * p)
    x = rng.normal(size=(50, p)).astype(dtype)
    rows = rng.integers(0, 50, (n, 3))
    expected = triplets.pair_similarities(torch.from_numpy(x.astype(np.float64))[torch.from_numpy(rows)])
    assert np.allclose(labelling.similarities(x, rows), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_both_ways_to_the_dot_products_agree(dtype: type) -> None:
    rng = np.random.default_rng(0)
    x, rows = rng.normal(size=(60, 33)).astype(dtype), rng.integers(0, 60, (500, 3))
    other = labelling.resident_similarities(torch.from_numpy(x), rows, chunk=64)
    assert np.allclose(labelling.similarities(x, rows), other, rtol=1e-5, atol=1e-5)


def test_similarities_of_a_read_only_map(tmp_path: object) -> None:
    x = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float16)
    np.save(f"{tmp_path}/x.npy", x)
    rows = np.array([[0, 5, 19], [3, 2, 1]])
    mapped = np.load(f"{tmp_path}/x.npy", mmap_mode="r")
    assert np.array_equal(labelling.similarities(mapped, rows), labelling.similarities(x, rows))


def test_a_worked_triplet() -> None:
    found = labelling.odd_last(np.array([[10, 11, 12]]), np.array([[0.5, 3.0, 1.0]], dtype=np.float32))
    assert found.triplets.tolist() == [[12, 10, 11]]
    assert found.similarities.tolist() == [[3.0, 1.0, 0.5]]
    assert found.odd.tolist() == [1]
    assert not found.tied.any()


@given(st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=1, max_size=50))
def test_images_and_similarities_move_together(values: list[tuple[int, int, int]]) -> None:
    sims = np.array(values, dtype=np.float32)
    images = np.arange(3 * len(sims)).reshape(-1, 3)
    found = labelling.odd_last(images, sims)
    assert (np.diff(found.similarities, axis=1) <= 0).all()
    pairs = {}
    for row, s in zip(images.tolist(), sims.tolist(), strict=True):
        pairs |= {frozenset((row[a], row[b])): s[i] for i, (a, b) in enumerate(triplets.PAIRS)}
    for row, s in zip(found.triplets.tolist(), found.similarities.tolist(), strict=True):
        assert [pairs[frozenset((row[a], row[b]))] for a, b in triplets.PAIRS] == s
    assert np.array_equal(np.take_along_axis(images, found.odd[:, None], 1)[:, 0], found.triplets[:, 2])
    assert np.array_equal(found.tied, found.similarities[:, 0] == found.similarities[:, 1])
    again = labelling.odd_last(found.triplets, found.similarities)
    assert np.array_equal(again.triplets, found.triplets)


def test_entropy_is_that_of_the_choice_probabilities() -> None:
    sims = np.random.default_rng(0).normal(scale=4, size=(100, 3)).astype(np.float32)
    sims[0] = [1e4, -1e4, 300]
    sims[1] = 7
    found = labelling.entropy(sims, 0.5)
    assert np.allclose(found, stats.entropy(special.softmax(0.5 * sims.astype(np.float64), axis=1), axis=1), atol=1e-12)
    assert found[0] == 0
    assert found[1] == pytest.approx(np.log(3))


@given(st.floats(0.02, 50), st.floats(0.05, 1.0))
@settings(max_examples=25, deadline=None)
def test_matching_scale_gives_the_target_entropy(spread: float, target: float) -> None:
    sims = np.random.default_rng(1).normal(scale=spread, size=(2000, 3)).astype(np.float32)
    scale = labelling.matching_scale(sims, target)
    assert labelling.entropy(sims, scale).mean() == pytest.approx(target, abs=1e-6)


def test_descriptions_add_up_over_parts() -> None:
    rng = np.random.default_rng(0)
    sims = np.sort(rng.normal(size=(1000, 3)).astype(np.float32), axis=1)[:, ::-1]
    sims[:5, 1] = sims[:5, 0]
    whole = labelling.describe(sims)
    summed = labelling.describe(sims[:300]) + labelling.describe(sims[300:])
    assert (summed.triplets, summed.ties) == (whole.triplets, whole.ties) == (1000, 5)
    assert summed.entropy == pytest.approx(whole.entropy)
    assert summed.margin == pytest.approx(whole.margin)
    assert np.array_equal(summed.entropy_histogram, whole.entropy_histogram)
    assert np.array_equal(summed.margin_histogram, whole.margin_histogram)
    p = special.softmax(sims, axis=1)
    assert whole.margin / 1000 == pytest.approx(float((p[:, 0] - p[:, 1]).mean()), rel=1e-5)
    assert whole.entropy_histogram.sum() == 1000


def test_counts_that_are_known_of_both_parts_add_up() -> None:
    sums = labelling.describe(np.array([[2.0, 1.0, 0.0]], dtype=np.float32))
    counted = replace(sums, border=1, agreement=0)
    assert (counted + counted).border == 2
    assert (counted + counted).agreement == 0
    assert (counted + counted).odd_is_the_other is None
