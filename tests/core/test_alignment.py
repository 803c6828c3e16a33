import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from alignet_ray.config import Align
from alignet_ray.core import alignment, losses, scores, similarity, splits, teacher_metrics, triplet_set
from alignet_ray.core.affine import AffineTransform
from alignet_ray.core.triplets import gram_similarities


def world(
    seed: int = 0, objects: int = 40, images: int = 2
) -> tuple[np.ndarray, triplet_set.HumanModel, dict[int, np.ndarray]]:
    """Features that mix meanings (which people see) with stronger looks (which they do not)."""
    rng = np.random.default_rng(seed)
    truth = np.abs(rng.normal(size=(objects, 4))).astype(np.float32)
    looks = 2 * rng.normal(size=(objects * images, 6))
    x = np.concatenate([looks, np.repeat(truth, images, axis=0)], axis=1) @ rng.normal(size=(10, 24))
    rows = {o: np.arange(images * o, images * (o + 1)) for o in range(objects)}
    return x.astype(np.float32), triplet_set.HumanModel(truth, 0 * truth, 1, 0), rows


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


def test_the_pull_is_nought_for_multiples_of_the_identity() -> None:
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
    side = triplet_set.soft_targets(range(20), rows, human, 2000)
    settings = Align().settings(alignment.FitSettings, kind=kind, rank=6, steps=40, batch_size=256)
    fitted = alignment.fit(x, side, side, settings, seed=0)
    assert fitted.transform.weights.shape == (24, 24)
    assert triplet_set.score(torch.from_numpy(fitted.transform(x)), side).cross_entropy == pytest.approx(
        fitted.score.cross_entropy, rel=1e-4
    )
    if kind == "low_rank":
        assert np.linalg.matrix_rank(fitted.transform.weights, tol=1e-4) <= 6
    if kind == "orthogonal":
        gram = fitted.transform.weights @ fitted.transform.weights.T
        np.testing.assert_allclose(gram, gram[0, 0] * np.eye(24), atol=1e-6)


def test_what_is_kept_is_the_running_mean_of_the_weights() -> None:
    x, human, rows = world()
    side = triplet_set.soft_targets(range(26), rows, human, 4000)

    def after(steps: int, mean: float = 0.0) -> np.ndarray:
        quick = Align().settings(alignment.FitSettings, kind="affine", mean=mean, steps=steps, batch_size=4000, every=1)
        fitted = alignment.fit(x, side, side, quick, seed=0)
        assert fitted.step == steps  # so early each step is better than the last
        return fitted.transform.weights.astype(np.float64)

    found, expected = after(8, 0.95), after(1)
    for steps in range(2, 9):
        expected = 0.95 * expected + 0.05 * after(steps)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(found - after(8)).max() > 1e-3


def test_ties_are_wrong_and_a_collapsed_map_scores_nothing() -> None:
    _, human, rows = world()
    side = triplet_set.soft_targets(range(10), rows, human, 200)
    assert triplet_set.score(torch.ones(80, 3), side).accuracy == 0


def test_hard_sides_hold_the_answers_about_their_objects_alone() -> None:
    _, _, rows = world()
    answers = np.array([[3, 5, 9], [3, 5, 30], [9, 3, 5]])
    side = triplet_set.hard_targets([3, 5, 9], rows, answers)
    np.testing.assert_array_equal(side.triplets.numpy(), [[0, 1, 2], [2, 0, 1]])
    np.testing.assert_array_equal(side.targets.numpy(), [[1, 0, 0]] * 2)
    assert len(triplet_set.hard_targets([1, 2, 4], rows, answers).triplets) == 0


def test_an_object_shows_each_of_its_images() -> None:
    side = triplet_set.TripletSet.of(
        [np.array([7]), np.array([1, 2, 3])], np.empty((0, 3), np.int64), np.empty((0, 3), np.float32)
    )
    rng = torch.Generator().manual_seed(0)
    drawn = np.array([side.draw(rng).numpy() for _ in range(200)])
    assert set(drawn[:, 0]) == {7}
    assert set(drawn[:, 1]) == {1, 2, 3}
    used, compact = side.compact()
    np.testing.assert_array_equal(used, [1, 2, 3, 7])
    np.testing.assert_array_equal(used[compact.rows], side.rows)


def test_affine_transform_is_its_formula_and_works_in_chunks() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, size=(50, 6)).astype(np.float32)
    w, b = rng.normal(size=(6, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    transform = AffineTransform(1.5, 2.5, w, b)
    expected = ((x - 1.5) / 2.5) @ w + b
    np.testing.assert_allclose(transform(x), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        transform.apply(x, np.empty((50, 6), np.float32), chunk=7), expected, rtol=1e-4, atol=1e-4
    )
    assert transform(x.astype(np.float16)).dtype == np.float32


def test_splits_depend_on_seed_and_number_alone() -> None:
    sides_of = [splits.split_of(0, n) for n in range(3000)]
    assert sides_of.count("train") / 3000 == pytest.approx(0.6, abs=0.03)
    assert sides_of.count("test") / 3000 == pytest.approx(0.2, abs=0.03)
    assert sides_of[:5] == [splits.split_of(0, n) for n in range(5)]
    assert sides_of != [splits.split_of(1, n) for n in range(3000)]


@given(st.integers(2, 6), st.integers(0, 99))
def test_folds_are_a_partition(k: int, seed: int) -> None:
    parts = splits.folds(range(20), k, seed)
    assert sorted(item for part in parts for item in part) == list(range(20))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_neighbours_kept_is_one_for_a_rotation() -> None:
    x, _, _ = world()
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0].astype(np.float32)
    assert teacher_metrics.neighbours_kept(x, AffineTransform(0.0, 1.0, rotation, np.zeros(24, np.float32))) == 1
    shuffled = np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32)
    assert teacher_metrics.neighbours_kept(x, AffineTransform(0.0, 1.0, shuffled, np.zeros(24, np.float32))) < 1


def test_intervals_hold_their_figure() -> None:
    x, human, rows = world()
    side = triplet_set.soft_targets(range(20), rows, human, 2000)
    found = teacher_metrics.figures(similarity.unit_rows(x), side)
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    assert found["cross_entropy_low"] < found["cross_entropy"] < found["cross_entropy_high"]
