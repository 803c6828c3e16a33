import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import norm, spearmanr

from alignet_ray.config import Soften
from alignet_ray.core import vice
from alignet_ray.core.answer_rows import AnswerBatch

SOFTEN = Soften()


def people(n: int, m: int = 40, d: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A known world: a sparse non-negative embedding, and responses drawn from its choice probabilities."""
    rng = np.random.default_rng(seed)
    truth = (1.5 * np.abs(rng.normal(size=(m, d))) * (rng.random((m, d)) < 0.6)).astype(np.float32)
    rows = np.stack([rng.permutation(m)[:3] for _ in range(n)])
    p = vice.choice_probabilities(truth, 0 * truth, rows, 1, 0)
    choice = (rng.random((n, 1)) > p.cumsum(axis=1)[:, :2]).sum(axis=1)
    return truth, np.take_along_axis(rows, np.array([[0, 1, 2], [0, 2, 1], [1, 2, 0]])[choice], axis=1)


def test_a_known_world_is_recovered() -> None:
    truth, rows = people(20_000)
    schedule = SOFTEN.settings(vice.Schedule, dims=8, steps=500, batch_size=2048, lr=2e-2, every=50)
    fitted = vice.fit(rows, 40, schedule, SOFTEN.settings(vice.Prior), seed=0)
    upper = np.triu_indices(40, 1)
    x = np.maximum(fitted.mu, 0)
    assert spearmanr((x @ x.T)[upper], (truth @ truth.T)[upper]).statistic > 0.95
    assert abs(fitted.mu.shape[1] - 4) <= 1
    assert (np.diff(np.maximum(fitted.mu, 0).sum(axis=0)) <= 0).all(), "largest dimensions first"
    assert fitted.stable
    assert fitted.history[-1]["dims"] == fitted.mu.shape[1]


def test_a_fit_is_a_function_of_its_seed() -> None:
    _, rows = people(500)
    short = SOFTEN.settings(vice.Schedule, dims=4, steps=30, batch_size=128, every=10)
    first, again, other = (vice.fit(rows, 40, short, SOFTEN.settings(vice.Prior), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.mu, again.mu)
    assert not np.array_equal(first.mu, other.mu)


def test_condensing_keeps_similarities_and_merges_copies() -> None:
    rng = np.random.default_rng(0)
    mu = (np.abs(rng.normal(size=(30, 3))) * (rng.random((30, 3)) < 0.5)).astype(np.float32)
    split = np.concatenate([0.6 * mu[:, :1], 0.8 * mu[:, :1], mu[:, 1:], -np.ones((30, 1))], axis=1).astype(np.float32)
    merged, sigma = vice.condense(split, np.full_like(split, 0.01))
    assert merged.shape == sigma.shape == (30, 3)
    np.testing.assert_allclose(merged @ merged.T, mu @ mu.T, atol=1e-5)


def test_published_embeddings_are_read_as_they_are() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    rows = np.array([[0, 1, 2], [4, 3, 1]])
    s = np.stack([(x[rows[:, a]] * x[rows[:, b]]).sum(axis=1) for a, b in ((0, 1), (0, 2), (1, 2))], axis=1)
    p = vice.choice_probabilities(x, np.zeros_like(x), rows, draws=7, seed=3)
    np.testing.assert_allclose(p, softmax(s, axis=1), rtol=1e-5)


@given(st.permutations(range(3)), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_probabilities_follow_their_triplet(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    mu, sigma = np.abs(rng.normal(size=(6, 4))).astype(np.float32), rng.uniform(0.1, 1, (6, 4)).astype(np.float32)
    row = np.array([[1, 4, 2]])
    p = vice.choice_probabilities(mu, sigma, row, 10, 0)[0]
    turned = vice.choice_probabilities(mu, sigma, row[:, order], 10, 0)[0]
    pairs = [frozenset(pair) for pair in ((0, 1), (0, 2), (1, 2))]
    expected = [p[pairs.index(frozenset((order[a], order[b])))] for a, b in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(turned, expected, rtol=1e-5)
    assert p.sum() == pytest.approx(1, abs=1e-5)


def test_uncertainty_softens_the_choices() -> None:
    mu = np.array([[3, 0], [3, 0], [0, 3]], dtype=np.float32)
    row = np.array([[0, 1, 2]])
    sure = vice.choice_probabilities(mu, 0.01 * np.ones_like(mu), row, 200, 0)[0, 0]
    unsure = vice.choice_probabilities(mu, 3 * np.ones_like(mu), row, 200, 0)[0, 0]
    assert sure > 0.99 > unsure > 1 / 3


def test_the_prior_is_the_mixture_of_two_normals() -> None:
    x = torch.linspace(-3, 3, 13)
    expected = np.log(0.3 * norm.pdf(x.numpy(), scale=0.25) + 0.7 * norm.pdf(x.numpy(), scale=1.5))
    np.testing.assert_allclose(vice.Prior(0.25, 1.5, 0.3).log_density(x).numpy(), expected, rtol=1e-5)


def test_elbo_terms_against_scipy() -> None:
    mu, log_sigma = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64) / 2
    rows = torch.tensor([[0, 1, 2], [3, 4, 0]])
    loss, complexity = vice.elbo_terms(
        mu, log_sigma, AnswerBatch(rows, None), SOFTEN.settings(vice.Prior), torch.Generator().manual_seed(1)
    )
    noise = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).numpy()
    x = mu.numpy() + np.exp(log_sigma.numpy()) * noise
    z = np.maximum(x, 0)
    logits = np.array([[z[i] @ z[j], z[i] @ z[k], z[j] @ z[k]] for i, j, k in rows.numpy()])
    assert float(loss) == pytest.approx(-np.log(softmax(logits, axis=1)[:, 0]).mean())
    log_q = norm.logpdf(x, mu.numpy(), np.exp(log_sigma.numpy())).sum()
    log_p = np.log(0.5 * norm.pdf(x, scale=0.25) + 0.5 * norm.pdf(x, scale=1.0)).sum()
    assert float(complexity) == pytest.approx(log_q - log_p)


def test_significant_dimensions_against_a_plain_benjamini_hochberg() -> None:
    rng = np.random.default_rng(0)
    mu, sigma = rng.normal(0.5, 1, (60, 8)), rng.uniform(0.2, 1, (60, 8))
    mu[:, 3] = -1
    expected = []
    for column in range(8):
        p = np.sort(norm.cdf(-mu[:, column] / sigma[:, column]))
        passing = [rank for rank, value in enumerate(p, start=1) if value <= 0.05 * rank / 60]
        expected.append(max(passing, default=0) > 5)
    np.testing.assert_array_equal(vice.significant(mu, sigma), expected)
    assert not expected[3]


def test_reproducibility_matches_dimensions_in_any_order() -> None:
    mu = np.abs(np.random.default_rng(0).normal(size=(40, 4))).astype(np.float32)
    noise = np.abs(np.random.default_rng(1).normal(size=(40, 4))).astype(np.float32)
    assert vice.reproducibility(mu, [2 * mu[:, [2, 0, 3, 1]]]) == 1
    assert vice.reproducibility(mu, [np.concatenate([mu[:, :1], noise], axis=1)]) == 0.25
    assert vice.reproducibility(mu, [mu, noise]) == 0.5


def test_expected_dimensions_are_the_mean_of_the_rectified_posterior() -> None:
    rng = np.random.default_rng(0)
    mu = rng.normal(size=(4, 3)).astype(np.float32)
    sigma = rng.uniform(0.1, 1, (4, 3)).astype(np.float32)
    sigma[0, 0] = 0
    drawn = np.maximum(mu + sigma * rng.standard_normal((200_000, 4, 3)), 0).mean(axis=0)
    found = vice.expected(mu, sigma)
    np.testing.assert_allclose(found, drawn, atol=5e-3)
    assert found[0, 0] == pytest.approx(max(mu[0, 0], 0), abs=1e-6)
    assert vice.expected(mu, 0 * sigma) is mu, "a published embedding may be negative"


def compared(truth: np.ndarray, n: int, seed: int = 1) -> np.ndarray:
    """Answers (reference, chosen, other) of people with this embedding."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(len(truth))[:3] for _ in range(n)])
    p = vice.comparison_probabilities(truth, 0 * truth, rows, 1, 0)
    return np.where((rng.random(n) < p)[:, None], rows, rows[:, [0, 2, 1]])


@pytest.mark.parametrize("triplets", [0, 6_000])
def test_a_known_world_is_recovered_from_reference_comparisons(triplets: int) -> None:
    truth, rows = people(6_000)
    answers = compared(truth, 20_000)
    schedule = SOFTEN.settings(vice.Schedule, dims=8, steps=500, batch_size=2048, lr=2e-2, every=50)
    prior = SOFTEN.settings(vice.Prior)
    fitted = vice.fit(rows[:triplets], 40, schedule, prior, seed=0, comparisons=answers)
    upper = np.triu_indices(40, 1)
    x = np.maximum(fitted.mu, 0)
    assert spearmanr((x @ x.T)[upper], (truth @ truth.T)[upper]).statistic > 0.9

    # What it was never asked: the choice among three, of triplets that nobody answered.
    fresh = np.stack([np.random.default_rng(9).permutation(40)[:3] for _ in range(1)])
    p = vice.choice_probabilities(fitted.mu, fitted.sigma, fresh, 50, 0)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)


def test_probability_of_a_comparison_is_a_softmax_of_two() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3))
    rows = np.array([[0, 1, 2], [5, 3, 4]])
    to_a = (x[rows[:, 0]] * x[rows[:, 1]]).sum(axis=1)
    to_b = (x[rows[:, 0]] * x[rows[:, 2]]).sum(axis=1)
    expected = softmax(np.stack([to_a, to_b], axis=1), axis=1)[:, 0]
    np.testing.assert_allclose(vice.comparison_probabilities(x, 0 * x, rows, 5, 0), expected, rtol=1e-5)
    # Turned round, the two probabilities add up to 1, sample by sample.
    sigma = np.full_like(x, 0.3)
    one_way = vice.comparison_probabilities(x, sigma, rows, 5, 0)
    other_way = vice.comparison_probabilities(x, sigma, rows[:, [0, 2, 1]], 5, 0)
    np.testing.assert_allclose(one_way + other_way, 1, rtol=1e-5)


def test_the_pair_that_nobody_is_asked_about_gets_no_gradient() -> None:
    mu = torch.rand(3, 4, dtype=torch.float64) + 0.5
    log_sigma = torch.full_like(mu, -20)
    prior = SOFTEN.settings(vice.Prior)
    batch = AnswerBatch(torch.tensor([[0, 1, 2]]), torch.tensor([True]))
    asked = mu.clone().requires_grad_()
    cross_entropy, _ = vice.elbo_terms(asked, log_sigma, batch, prior, torch.Generator().manual_seed(0))
    cross_entropy.backward()

    # By hand: -log sigmoid(x0 x1 - x0 x2); its gradient at object 1 points along x0 alone.
    x = mu.numpy()
    difference = x[0] @ x[1] - x[0] @ x[2]
    assert float(cross_entropy.detach()) == pytest.approx(np.log1p(np.exp(-difference)), rel=1e-6)
    assert asked.grad is not None
    weight = 1 / (1 + np.exp(difference))
    np.testing.assert_allclose(asked.grad.numpy()[1], -weight * x[0], rtol=1e-6)
    np.testing.assert_allclose(asked.grad.numpy()[2], weight * x[0], rtol=1e-6)
