import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignet_ray.core.triplet_rows import TIE
from alignet_ray.core.triplets import (
    choice_agreement,
    choice_probabilities,
    choices,
    gram_similarities,
    pair_similarities,
)

Z = 10 * torch.tensor([[1, 2, 0.5], [0.5, 1.5, 1], [-1, 0, 2]])


def test_pair_similarities_worked_value_and_leading_axes():
    assert pair_similarities(Z).tolist() == [400, 0, 150]
    many = Z.expand(2, 5, 3, 3)
    assert torch.equal(pair_similarities(many), torch.tensor([400.0, 0, 150]).expand(2, 5, 3))


def test_gram_similarities_equal_pairwise_dot_products():
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    triplets = torch.tensor([[0, 3, 8], [5, 1, 2]])
    assert torch.allclose(gram_similarities(x @ x.T, triplets), pair_similarities(x[triplets]), atol=1e-6)


def test_choices_sum_to_one_and_rank_like_similarities():
    p = choice_probabilities(torch.tensor([[3.0, 1.0, 0.0]]))
    assert torch.allclose(p, torch.tensor([[0.843795, 0.114195, 0.042010]]), atol=1e-6)


def test_ties_are_wrong():
    s = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [2.0, 1.0, 1.0], [1.0, 2.0, 0.0]])
    assert choices(s).tolist() == [TIE, TIE, 0, 1]
    assert choices(s.numpy()).tolist() == [TIE, TIE, 0, 1]
    assert choice_agreement(torch.zeros(2, 3), torch.randn(2, 3)).tolist() == [False, False]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=1, max_size=8))
def test_choice_agreement_is_the_choice_of_pair_01_once_the_teacher_is_sorted(rows):
    s = torch.tensor(rows)
    teacher = torch.tensor([3.0, 2.0, 1.0]).expand_as(s)
    assert torch.equal(choice_agreement(s, teacher), choices(s) == 0)
    turned = choice_agreement(s.roll(1, -1), teacher.roll(1, -1))
    assert torch.equal(turned, choices(s) == 0)


def test_gradients_of_many_triplets_are_the_same_in_every_run():
    """Plain indexing adds them up in the order in which threads arrive."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(48, 16, generator=generator)
        triplets = torch.randint(48, (20_000, 3), generator=generator)
        gradients = []
        for _ in range(8):
            rows = x.clone().requires_grad_()
            gram_similarities(rows @ rows.T, triplets).log_softmax(-1)[:, 0].mean().backward()
            gradients.append(rows.grad)
        assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    finally:
        torch.set_num_threads(threads)
