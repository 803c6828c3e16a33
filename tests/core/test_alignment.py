import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from support.mixed_features import world

from alignet_ray.config import Align
from alignet_ray.core import alignment, losses, scores, similarity, triplet_set
from alignet_ray.core.triplets import gram_similarities


def test_soft_fit_beats_its_base_on_objects_that_it_never_saw() -> None:
    x, human, rows = world()
    train, valid, test = (
        triplet_set.soft_targets(range(a, b), rows, human, 20_000) for a, b in ((0, 26), (26, 33), (33, 40))
    )
    quick = Align().settings(alignment.FitSettings, kind="low_rank", steps=200, batch_size=1024)
    fitted = alignment.fit(x, train, valid, quick, seed=0)
    y, base = torch.from_numpy(fitted.transform(x)), torch.from_numpy(similarity.unit_rows(x))
    assert triplet_set.score(y, test).accuracy > triplet_set.score(base, test).accuracy + 0.1
    assert fitted.step == min(fitted.history, key=lambda row: row["cross_entropy"])["step"]
    again = alignment.fit(x, train, valid, quick, seed=0)
    np.testing.assert_array_equal(again.transform.weights, fitted.transform.weights)


def test_only_large_fits_are_worth_a_gpu() -> None:
    settings = Align().settings(alignment.FitSettings, kind="affine")
    assert alignment.worth_a_gpu(settings, 1_300, 1_152), "THINGS and SigLIP's features: minutes of a CPU"
    assert not alignment.worth_a_gpu(settings, 50, 64)
    low_rank = Align().settings(alignment.FitSettings, kind="low_rank", rank=10)
    assert not alignment.worth_a_gpu(low_rank, 400, 1_152), "a low rank makes it small"


def test_one_hot_targets_give_the_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    y, rows = rng.normal(size=(6, 3)), scores.all_triplets(6)
    s = gram_similarities(y @ y.T, rows)
    one_hot = torch.eye(3, dtype=torch.float64)[torch.zeros(len(rows), dtype=torch.long)]
    expected = -log_softmax(s, axis=1)[:, 0].mean()
    assert float(alignment.triplet_loss(torch.tensor(y), torch.tensor(rows), one_hot)) == pytest.approx(expected)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_loss_is_the_kl_divergence_whatever_the_order_of_a_triplet(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, rows = rng.normal(size=(7, 3)), scores.all_triplets(7)
    p = softmax(gram_similarities(y @ y.T, rows), axis=1)
    q = rng.dirichlet([1, 1, 1], size=len(rows))
    expected = (q * np.log(q / p)).sum(axis=1).mean()
    loss = alignment.triplet_loss(torch.tensor(y), torch.tensor(rows), torch.tensor(q))
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    swapped = alignment.triplet_loss(torch.tensor(y), torch.tensor(rows[:, [1, 0, 2]]), torch.tensor(q[:, [0, 2, 1]]))
    assert float(swapped) == pytest.approx(float(loss), rel=1e-9)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turned = alignment.triplet_loss(torch.tensor(y @ rotation), torch.tensor(rows), torch.tensor(q))
    assert float(turned) == pytest.approx(float(loss), rel=1e-9)


def test_gradients_agree_with_finite_differences() -> None:
    rng = np.random.default_rng(0)
    rows, q = torch.tensor(scores.all_triplets(5)), torch.tensor(rng.dirichlet([1, 1, 1], size=10))
    y = torch.tensor(rng.normal(size=(5, 3)), requires_grad=True)
    before = torch.nn.functional.normalize(torch.tensor(rng.normal(size=(5, 4))), dim=1)
    assert torch.autograd.gradcheck(lambda v: alignment.triplet_loss(v, rows, q), (y,))
    assert torch.autograd.gradcheck(lambda v: losses.locality(before, v, 0.5), (y,))
    assert torch.autograd.gradcheck(
        losses.identity_penalty, (torch.randn(4, 4, dtype=torch.float64, requires_grad=True),)
    )


def test_the_identity_penalty_is_zero_for_multiples_of_the_identity() -> None:
    assert float(losses.identity_penalty(3.0 * torch.eye(5))) == 0
    w = torch.tensor([[2.0, 1.0], [0.0, 4.0]])
    assert float(losses.identity_penalty(w)) == pytest.approx(1 + 1 + 1)  # mean 3: (-1)^2 + 1^2, off the diagonal 1^2


def test_the_local_term_is_least_where_nothing_moved() -> None:
    before = torch.nn.functional.normalize(torch.randn(12, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    moved = torch.nn.functional.normalize(before + 0.3 * torch.randn(12, 5), dim=1)
    assert losses.locality(before, before, 0.2) < losses.locality(before, moved, 0.2)


@pytest.mark.parametrize("kind", ["affine", "low_rank", "diagonal", "orthogonal"])
def test_the_stored_map_has_the_similarities_of_the_fit(kind: alignment.MapKind) -> None:
    x, human, rows = world()
    examples = triplet_set.soft_targets(range(20), rows, human, 2000)
    settings = Align().settings(alignment.FitSettings, kind=kind, rank=6, steps=40, batch_size=256)
    fitted = alignment.fit(x, examples, examples, settings, seed=0)
    assert fitted.transform.weights.shape == (24, 24)
    assert triplet_set.score(torch.from_numpy(fitted.transform(x)), examples).cross_entropy == pytest.approx(
        fitted.score.cross_entropy, rel=1e-4
    )
    if kind == "low_rank":
        assert np.linalg.matrix_rank(fitted.transform.weights, tol=1e-4) <= 6
    if kind == "orthogonal":
        gram = fitted.transform.weights @ fitted.transform.weights.T
        np.testing.assert_allclose(gram, gram[0, 0] * np.eye(24), atol=1e-6)


def test_the_kept_weights_are_the_moving_average() -> None:
    x, human, rows = world()
    examples = triplet_set.soft_targets(range(26), rows, human, 4000)

    def after(steps: int, mean: float = 0.0) -> np.ndarray:
        quick = Align().settings(alignment.FitSettings, kind="affine", mean=mean, steps=steps, batch_size=4000, every=1)
        fitted = alignment.fit(x, examples, examples, quick, seed=0)
        assert fitted.step == steps  # so early each step is better than the last
        return fitted.transform.weights.astype(np.float64)

    found, expected = after(8, 0.95), after(1)
    for steps in range(2, 9):
        expected = 0.95 * expected + 0.05 * after(steps)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(found - after(8)).max() > 1e-3
