"""Draws: exact counts, distinct, the promised joint distribution, and the same rows however they are asked for."""

from collections import Counter
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from alignet_ray.core import sampling
from alignet_ray.core.sampling import Exhausted, Groups, group_by, sample
from alignet_ray.core.triplet_rows import set_keys

KINDS = list(sampling.DRAWS)


def kind_fits(kind: str, g: np.ndarray) -> np.ndarray:
    """Whether each row of groups (n, 3) is what the kind promises."""
    different = np.array([len(set(row)) for row in g.tolist()])
    return {"border": different == 2, "within": different == 1, "between": different == 3}.get(kind, different > 0)


def odds(kind: str, groups: Groups) -> dict[tuple[int, ...], float]:
    """Probability of every set of three images in one draw, by the definition of the kind, image by image."""
    found: dict[tuple[int, ...], float] = {}
    pairs, triples = int((groups.size >= 2).sum()), int((groups.size >= 3).sum())
    number = len(groups.size)
    for t in combinations(groups.members.tolist(), 3):
        g = groups.group[list(t)]
        sizes = Counter(g.tolist())
        n = {k: int(groups.size[k]) for k in sizes}
        if kind == "uniform":
            found[t] = 1 / comb(len(groups.members), 3)
        elif kind == "within" and len(sizes) == 1:
            found[t] = 1 / triples / comb(n[g[0]], 3)
        elif kind == "between" and len(sizes) == 3:
            found[t] = 1 / comb(number, 3) / np.prod(list(n.values()))
        elif kind == "border" and len(sizes) == 2:
            (two, _), (one, _) = sizes.most_common()
            found[t] = 1 / pairs / comb(n[two], 2) / (number - 1) / n[one]
    assert sum(found.values()) == pytest.approx(1)
    return found


@given(
    sizes=st.lists(st.integers(1, 6), min_size=3, max_size=6),
    kind=st.sampled_from(KINDS),
    share=st.floats(0.05, 1),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=60, deadline=None)
def test_exact_distinct_and_of_its_kind(sizes: list[int], kind: str, share: float, seed: int) -> None:
    groups = group_by(np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes)))
    exist = sampling.count(kind, groups)
    n = int(share * exist)
    drawn = sample(kind, groups, n, seed)
    assert drawn.shape == (n, 3)
    assert len({tuple(sorted(t)) for t in drawn.tolist()}) == n
    assert all(len(set(t)) == 3 for t in drawn.tolist())
    assert kind_fits(kind, groups.group[drawn]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_all_there_are_and_not_one_more(kind: str) -> None:
    groups = group_by(np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 3]))
    exist = sampling.count(kind, groups)
    assert exist == len(odds(kind, groups))
    everything = sample(kind, groups, exist, 5)
    assert {tuple(sorted(t)) for t in everything.tolist()} == set(odds(kind, groups))
    with pytest.raises(Exhausted) as error:
        sample(kind, groups, exist + 1, 5)
    assert error.value.found == exist


@pytest.mark.parametrize("kind", KINDS)
def test_joint_distribution_of_a_draw(kind: str) -> None:
    """Not the marginals: every set of three images comes as often as the definition says."""
    groups = group_by(np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, -1]))
    draw = sampling.DRAWS[kind](np.random.default_rng(3), groups, 200_000)
    seen = Counter(tuple(sorted(t)) for t in draw.tolist())
    expected = odds(kind, groups)
    assert set(seen) <= set(expected)
    observed = [seen[t] for t in expected]
    assert stats.chisquare(observed, 200_000 * np.array(list(expected.values()))).pvalue > 1e-3


@pytest.mark.parametrize("exhaustive", [True, False])
def test_draws_without_repetition_follow_the_same_law_both_ways(
    exhaustive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing all triplets in the order of weighted waiting times is drawing and dropping repetitions: which pairs of
    triplets are drawn, not only which triplets."""
    monkeypatch.setattr(sampling, "EXHAUSTIVE", 300 if exhaustive else 0)
    monkeypatch.setattr(sampling, "CHUNK", 8)
    groups = group_by(np.array([0, 0, 0, 1, 1, 2]))
    weights = odds("border", groups)
    sets = list(weights)
    p = np.array([weights[t] for t in sets])
    pairs = Counter()
    runs = 4000
    for seed in range(runs):
        a, b = (tuple(sorted(t)) for t in sample("border", groups, 2, seed)[:2].tolist())
        pairs[a, b] += 1
    expected = {(a, b): p[i] * p[j] / (1 - p[i]) for i, a in enumerate(sets) for j, b in enumerate(sets) if i != j}
    assert sum(expected.values()) == pytest.approx(1)
    observed = np.array([pairs[k] for k in expected])
    assert stats.chisquare(observed, runs * np.array(list(expected.values()))).pvalue > 1e-3


def test_triplets_of_one_set_are_independent() -> None:
    """Two neighbours of the stream share an image as often as two draws from anywhere."""
    groups = group_by(np.repeat(np.arange(20), 10))
    drawn = sample("border", groups, 40_000, 1)

    def shared(step: int) -> float:
        a, b = drawn[:-step], drawn[step:]
        return float((a[:, :, None] == b[:, None, :]).any((1, 2)).mean())

    rates = np.array([shared(step) for step in (1, 2, 7, 1000, 20_000)])
    assert np.ptp(rates) < 5 * np.sqrt(rates.mean() / 20_000)


def test_thirty_images_four_thousand_of_their_triplets() -> None:
    groups = group_by(np.zeros(30, dtype=np.int64))
    drawn = sample("uniform", groups, 4000, 9)
    assert len({tuple(sorted(t)) for t in drawn.tolist()}) == 4000
    uses = np.bincount(drawn.ravel(), minlength=30)
    assert uses.sum() == 12_000
    assert uses.min() > 350


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    groups = group_by(np.random.default_rng(0).integers(0, 40, 2000))
    long = sample("border", groups, 200_000, 3)
    assert np.array_equal(sample("border", groups, 1000, 3), long[:1000])
    assert np.array_equal(sample("border", groups, 100_000, 3), long[:100_000])
    assert not np.array_equal(sample("border", groups, 1000, 4), long[:1000])
    assert not np.array_equal(sample("border", groups, 1000, 3, stream=1), long[:1000])


def test_mixture_is_exact_and_distinct() -> None:
    groups = group_by(np.array([0] * 8 + [1] * 8 + [2] * 3))
    plan = [("border", groups, 300), ("uniform", groups, 400), ("within", groups, 60)]
    drawn = sampling.mixture(plan, 7)
    assert len({tuple(sorted(t)) for t in drawn.tolist()}) == 760
    kinds = np.array([len(set(g)) for g in groups.group[drawn].tolist()])
    assert (kinds == 2).sum() >= 300
    assert (kinds == 1).sum() >= 60
    with pytest.raises(Exhausted):
        sampling.mixture([("uniform", groups, 900), ("border", groups, 600)], 7)


@given(st.dictionaries(st.text(max_size=3), st.floats(0.01, 10), min_size=1, max_size=6), st.integers(0, 10_000))
def test_shares_add_up(weights: dict[str, float], n: int) -> None:
    counts = sampling.shares(weights, n)
    total = sum(weights.values())
    assert sum(counts.values()) == n
    assert all(abs(counts[k] - n * w / total) < 1 + 1e-6 for k, w in weights.items())


@pytest.mark.parametrize("size", [1000, (1 << 21) - 1, 5_000_000_000])
def test_keys_tell_sets_apart(size: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, size, (20_000, 3))
    rows = rows[[len(set(r)) == 3 for r in rows.tolist()]]
    keys = set_keys(rows, size)
    assert np.array_equal(keys, set_keys(rows[:, [2, 0, 1]], size))
    assert len(np.unique(keys)) == len({tuple(sorted(r)) for r in rows.tolist()})


@given(st.integers(0, 2**40), st.floats(0.01, 0.99), st.integers(1, 400))
def test_held_out_share_is_exact_and_stable(seed: int, share: float, n: int) -> None:
    ids = np.sort(np.random.default_rng(n).permutation(2 * n)[:n]).astype(np.int64)
    chosen = sampling.held_out(ids, share, seed)
    assert chosen.sum() == round(share * n)
    order = np.random.default_rng(seed).permutation(n)
    assert np.array_equal(sampling.held_out(ids[order], share, seed), chosen[order])


def test_groups_of_one_image_only_give_third_images() -> None:
    groups = group_by(np.array([0, 0, 1, 2, 3, 4]))
    drawn = sample("border", groups, 4, 0)
    assert (np.sort(drawn, axis=1)[:, :2] == [0, 1]).all()
    with pytest.raises(Exhausted):
        sample("border", group_by(np.arange(6)), 1, 0)
    with pytest.raises(Exhausted):
        sample("border", group_by(np.zeros(6, dtype=np.int64)), 1, 0)
