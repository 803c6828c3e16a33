"""The model that chooses questions: it finds known groups, knows what it does not know, and goes on from a fit."""

import numpy as np
import pytest
import torch

from alignet_ray.ask import refit
from alignet_ray.ask.information import random_triplets
from alignet_ray.ask.refit import PRECISION, _precision, fit
from alignet_ray.core.triplets import gram_similarities, odd_last, pair_similarities


def answers(count: int, seed: int, objects: int = 20) -> np.ndarray:
    """Answers of people for whom objects of the same parity belong together."""
    rng = np.random.default_rng(seed)
    truth = np.eye(2)[np.arange(objects) % 2] * 2
    rows = random_triplets(objects, count, rng)
    similarities = gram_similarities(truth @ truth.T, rows)
    return odd_last(rows, (similarities + rng.gumbel(size=similarities.shape)).argmax(axis=1))


def test_known_groups_are_found() -> None:
    model = fit(answers(600, 0), 20, seed=0)
    gram = model.mean @ model.mean.T
    same = np.arange(20)[:, None] % 2 == np.arange(20) % 2
    assert gram[same & ~np.eye(20, dtype=bool)].mean() > gram[~same].mean() + 1
    assert (model.choices(answers(600, 1)) == 0).mean() > 0.7


def test_few_answers_say_little_and_more_say_more() -> None:
    few, many = (fit(answers(count, 0), 20, seed=0) for count in (40, 900))
    assert few.answers < many.answers
    # In the direction that is known best; dimensions that nothing needs stay as wide as the prior.
    spread = [np.linalg.eigvalsh(model.covariance)[:, 0].mean() for model in (few, many)]
    assert spread[0] > 3 * spread[1]
    # An object that nobody was asked about is as unknown as the prior says.
    unseen = fit(answers(600, 0), 21, seed=0)
    np.testing.assert_allclose(unseen.covariance[20], np.eye(refit.DIMS) / PRECISION, atol=1e-6)
    np.testing.assert_allclose(unseen.mean[20], 0, atol=0.02)


def test_a_fit_goes_on_from_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refit, "WARM_FROM", 100)
    rows = answers(600, 0)
    first = fit(rows[:500], 20, seed=0)
    warm, scratch = fit(rows, 20, seed=0, before=first), fit(rows, 20, seed=0)
    test = answers(2000, 2)
    agreement = [(model.choices(test) == 0).mean() for model in (warm, scratch)]
    assert agreement[0] == pytest.approx(agreement[1], abs=0.02)
    np.testing.assert_array_equal(fit(rows, 20, seed=0).mean, scratch.mean)


def test_curvature_is_that_of_the_likelihood() -> None:
    """The blocks of the precision are second derivatives, by automatic differentiation."""
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    rows = torch.tensor([[0, 1, 2], [3, 0, 4], [2, 0, 3]])
    found = _precision(rows, vectors.float())

    def negative_log_posterior(own: torch.Tensor) -> torch.Tensor:
        everything = torch.cat([own[None], vectors[1:]])
        likelihood = torch.log_softmax(pair_similarities(everything[rows]), dim=1)[:, 0].sum()
        return PRECISION / 2 * everything.square().sum() - likelihood

    expected = torch.autograd.functional.hessian(negative_log_posterior, vectors[0])
    torch.testing.assert_close(found[0].double(), expected, atol=1e-4, rtol=1e-4)


def test_samples_have_the_posteriors_spread() -> None:
    model = fit(answers(300, 0), 20, seed=0)
    drawn = model.samples(4000, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.mean(axis=0), model.mean, atol=0.05)
    np.testing.assert_allclose(np.cov(drawn[:, 3].T), model.covariance[3], atol=0.02)
