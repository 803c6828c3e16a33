"""The trace-norm model of people: it finds known groups, knows what it does not know, and goes on from a fit."""

import numpy as np
import pytest
import torch

from alignet_ray.ask.information import random_questions
from alignet_ray.core import trace_norm
from alignet_ray.core.answer_rows import AnswerRows
from alignet_ray.core.trace_norm import PRECISION, PeopleModel, _precision
from alignet_ray.core.triplet_rows import odd_last
from alignet_ray.core.triplets import gram_similarities, pair_similarities


def answers(count: int, seed: int, objects: int = 20) -> np.ndarray:
    """Answers of people for whom objects of the same parity belong together."""
    rng = np.random.default_rng(seed)
    truth = np.eye(2)[np.arange(objects) % 2] * 2
    rows = random_questions(objects, count, rng, "odd")
    similarities = gram_similarities(truth @ truth.T, rows)
    return odd_last(rows, (similarities + rng.gumbel(size=similarities.shape)).argmax(axis=1))


def fit(rows: np.ndarray, objects: int, seed: int, before: PeopleModel | None = None) -> PeopleModel:
    """A fit to odd-one-out answers alone."""
    return trace_norm.fit(AnswerRows(rows), objects, seed, before)


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
    np.testing.assert_allclose(unseen.covariance[20], np.eye(trace_norm.DIMS) / PRECISION, atol=1e-6)
    np.testing.assert_allclose(unseen.mean[20], 0, atol=0.02)


def test_a_fit_goes_on_from_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_norm, "WARM_FROM", 100)
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
    found = _precision(rows, vectors.float(), None)

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


def test_reference_comparisons_alone_and_beside_other_answers_are_learned_from() -> None:
    rng = np.random.default_rng(3)
    asked = rng.permuted(np.tile(np.arange(20), (800, 1)), axis=1)[:, :3]
    # Who is shown two objects of the reference's kind, or none, chooses at random: only clear questions are kept.
    like = asked[:, :1] % 2 == asked[:, 1:] % 2
    clear = like[:, 0] != like[:, 1]
    ordered = np.where(like[:, :1], asked, asked[:, [0, 2, 1]])[clear]
    none = np.empty((0, 3), np.int64)
    for responses in (none, answers(200, 0)):
        model = trace_norm.fit(AnswerRows(responses, ordered), 20, seed=0)
        assert (model.choices(answers(600, 1)) == 0).mean() > 0.7
        assert model.answers == len(responses) + len(ordered)


def test_curvature_of_a_comparison_is_that_of_two_pairs() -> None:
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 2, generator=rng, dtype=torch.float64)
    rows = torch.tensor([[0, 1, 2]])

    def negative_log_posterior(own: torch.Tensor) -> torch.Tensor:
        likelihood = torch.nn.functional.logsigmoid(own @ vectors[1] - own @ vectors[2])
        return PRECISION / 2 * own.square().sum() - likelihood

    expected = torch.autograd.functional.hessian(negative_log_posterior, vectors[0])
    found = _precision(rows, vectors.float(), torch.tensor([True]))[0]
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_all_pairs_at_once_give_the_same_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    together = fit(answers(600, 0), 20, seed=0)
    monkeypatch.setattr(trace_norm, "GRAM_ENTRIES", 0)
    apart = fit(answers(600, 0), 20, seed=0)
    np.testing.assert_allclose(together.mean @ together.mean.T, apart.mean @ apart.mean.T, atol=2e-3)


def test_of_the_two_pairs_with_the_reference_the_nearer_one_is_chosen() -> None:
    mean = np.array([[1, 0], [0, 1], [0.5, 2]], np.float32)
    model = PeopleModel(mean, np.eye(2, dtype=np.float32)[None].repeat(3, axis=0), 1)
    triplets = np.array([[0, 1, 2], [0, 2, 1], [2, 0, 1]])
    # The pair (1, 2) is the most alike of all three.
    assert model.choices(triplets).tolist() == [2, 2, 1]
    assert model.choices(triplets, pairs=2).tolist() == [1, 0, 1]
