import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from alignet_ray.core.losses import (
    class_retention,
    contrastive,
    cross_entropy,
    identity_penalty,
    jsd,
    kl_to_choices,
    kld,
    locality,
)
from alignet_ray.core.triplets import pair_similarities

Z = 10 * torch.tensor([[1, 2, 0.5], [0.5, 1.5, 1], [-1, 0, 2]], dtype=torch.float64)
T = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)


def test_worked_values():
    d = pair_similarities(Z)
    assert float(kld(d, T, 100.0)) == pytest.approx(0.133213676, abs=1e-9)
    assert float(jsd(d, T, 100.0)) == pytest.approx(0.023326362, abs=1e-9)
    assert float(contrastive(d, T, 100.0)) == pytest.approx(0.095674329, abs=1e-9)


def test_worked_values_of_normalised_outputs():
    d = pair_similarities(torch.nn.functional.normalize(Z, dim=-1))
    assert float(kld(d, T, 1.0)) == pytest.approx(0.277467564, abs=1e-9)
    assert float(jsd(d, T, 1.0)) == pytest.approx(0.078088177, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 30))
def test_against_scipy(seed, scale):
    s, t = np.random.default_rng(seed).normal(0, scale, (2, 7, 3))
    p, q = softmax(t, -1), softmax(s / 2, -1)
    ours = jsd(torch.tensor(s), torch.tensor(t), 2.0)
    assert np.allclose(ours, jensenshannon(p, q, axis=-1) ** 2, atol=1e-9)
    assert np.all(ours.numpy() <= math.log(2) + 1e-12)
    assert torch.allclose(
        kl_to_choices(torch.tensor(s) / 2, torch.tensor(p)), kld(torch.tensor(s), torch.tensor(t), 2.0)
    )


@pytest.mark.parametrize("loss", [jsd, kld])
def test_finite_at_extreme_logits(loss):
    s = torch.tensor([[300.0, -300.0, 0.0], [-3000.0, 3000.0, 0.0]], requires_grad=True)
    value = loss(s, torch.tensor([[-300.0, 300.0, 0.0], [0.0, 0.0, 0.0]]), 1.0)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(s.grad).all()


def test_certain_choices_give_the_cross_entropy():
    s = torch.tensor([[3.0, 1.0, 0.0]])
    certain = torch.tensor([[1.0, 0.0, 0.0]])
    assert torch.allclose(kl_to_choices(s, certain), contrastive(s, certain, 1.0))
    assert torch.allclose(cross_entropy(s, certain), contrastive(s, certain, 1.0))


def test_locality_is_least_where_nothing_changed():
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    other = torch.randn(12, 5, generator=torch.Generator().manual_seed(2))
    same, changed = locality(x, 3 * x, 1.0), locality(x, other, 1.0)
    unit = torch.nn.functional.normalize(x, dim=-1)
    logits = (unit @ unit.T).fill_diagonal_(-torch.inf)
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    assert float(same) == pytest.approx(float(entropy), abs=1e-5)
    assert changed > same


def test_identity_penalty_is_zero_for_any_scaled_identity():
    assert float(identity_penalty(3 * torch.eye(4))) == 0
    assert float(identity_penalty(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))) == pytest.approx(1 + 4 + 1)


def test_class_retention_is_the_mean_divergence_of_class_probabilities():
    """Worked value: probabilities (1/2, 1/2) before and (3/4, 1/4) now; the second image has not changed."""
    before = torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=torch.float64))
    after = torch.log(torch.tensor([[0.75, 0.25], [0.9, 0.1]], dtype=torch.float64)) + 7.0
    expected = 0.5 * (0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    assert float(class_retention(before, after)) == pytest.approx(expected, abs=1e-12)


def test_class_retention_pulls_nowhere_before_training_and_stays_finite_far_away():
    before = 30 * torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    same = before.clone().requires_grad_()
    class_retention(before, same).backward()
    assert same.grad is not None
    assert same.grad.abs().max() < 1e-12
    far = (-20 * before).requires_grad_()
    loss = class_retention(before, far)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(far.grad).all()
