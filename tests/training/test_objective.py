import numpy as np
import pytest
import torch

from alignet_ray.core import losses
from alignet_ray.training.objective import divergence, effective_rank, mean_of_hardest, triplet_similarities


def test_the_hardest_values_alone_can_count():
    values = torch.randn(40)
    torch.testing.assert_close(mean_of_hardest(values, 1.0), values.mean())
    torch.testing.assert_close(mean_of_hardest(values, 0.25), values.sort().values[-10:].mean())


def test_the_rank_tells_a_collapse():
    assert effective_rank(torch.ones(5, 3)) <= 1.0 + 1e-5
    assert effective_rank(torch.randn(40, 8)) > 5


def test_few_and_many_triplets_have_the_same_similarities():
    embeddings = torch.randn(12, 5)
    many = torch.from_numpy(np.stack([np.random.default_rng(i).permutation(12)[:3] for i in range(30)]))
    few = torch.cat([triplet_similarities(embeddings, part) for part in many.split(3)])
    torch.testing.assert_close(triplet_similarities(embeddings, many), few)


def test_divergences_by_name():
    student, teacher = torch.randn(20, 3), torch.randn(20, 3)
    torch.testing.assert_close(divergence("jsd", student, teacher, 2.0), losses.jsd(student, teacher, 2.0))
    torch.testing.assert_close(divergence("kld", student, teacher, 2.0), losses.kld(student, teacher, 2.0))
    probabilities = (student / 2).softmax(-1)
    for row, value in enumerate(divergence("contrastive", student, teacher, 2.0)):
        assert float(value) == pytest.approx(-float(probabilities[row, teacher[row].argmax()].log()), abs=1e-5)
