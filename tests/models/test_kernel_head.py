from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignet_ray.core import triplet_set
from alignet_ray.models.backbone import load_backbone
from alignet_ray.models.embedding_network import EmbeddingNetwork, load_network, save_network
from alignet_ray.models.features import Encoder
from alignet_ray.models.kernel_head import KernelHead, class_metric, group_positions

OBJECTS = np.array([4, 4, 4, 7, 9, 9])


def make_head(
    metric: bool = True, seed: int = 0, own_weight: float = 0.0
) -> tuple[KernelHead, torch.Tensor, torch.Tensor]:
    """A head over six images of three objects; their features, and human dimensions."""
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(6, 5, generator=rng)
    values = torch.rand(10, 2, generator=rng)[torch.from_numpy(OBJECTS)]
    g = torch.randn(5, 3, generator=rng) if metric else None
    head = KernelHead.from_images(z, OBJECTS, values, g, own_weight)
    head.temperature = torch.tensor(0.3)
    return head, z, values


@pytest.mark.parametrize("metric", [True, False])
def test_predictions_are_the_weighted_means_of_the_formula(metric: bool) -> None:
    head, z, values = make_head(metric)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    g = np.eye(5) if head.metric is None else head.metric.double().numpy()
    centre = z.double().numpy().mean(axis=0)
    expected = np.zeros((4, 2))
    for row, image in enumerate(x.double().numpy()):
        weights = []
        for other, thing in zip(z.double().numpy(), OBJECTS, strict=True):
            a, b = (image - centre) @ g, (other - centre) @ g
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            weights.append(np.exp(cosine / 0.3) / (thing == OBJECTS).sum())
        expected[row] = np.array(weights) / sum(weights) @ values.double().numpy()
    np.testing.assert_allclose(head(x).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("metric", [True, False])
def test_own_directions_add_their_cosine_to_the_similarity_of_two_images(metric: bool) -> None:
    plain, _, _ = make_head(metric)
    head, _, _ = make_head(metric, own_weight=2.0)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    own = plain.directions(x)
    expected = plain(x) @ plain(x).T + 2.0 * (own @ own.T)
    torch.testing.assert_close(head(x) @ head(x).T, expected)
    assert head(x).shape[1] == head.out_features == plain.out_features + own.shape[1]
    # Training predicts dimensions alone.
    values = torch.rand(4, 2)
    torch.testing.assert_close(head.leave_one_out(x, values), plain.leave_one_out(x, values))
    for made in (head.with_features(torch.randn(6, 5)), head.subset(np.arange(3))):
        assert made.out_features == head.out_features


def test_copies_of_an_objects_images_change_nothing() -> None:
    head, z, values = make_head()
    twice = KernelHead.from_images(
        torch.cat([z, z[:3]]), np.concatenate([OBJECTS, OBJECTS[:3]]), values[[*range(6), 0, 1, 2]], head.metric
    )
    twice.temperature, twice.centre = head.temperature, head.centre
    torch.testing.assert_close(twice.with_features(torch.cat([z, z[:3]]))(z), head(z))


@given(st.integers(0, 10**6))
def test_predictions_stay_within_the_human_dimensions(seed: int) -> None:
    head, _, values = make_head(seed=seed)
    y = head(torch.randn(20, 5, generator=torch.Generator().manual_seed(seed)))
    assert (y >= values.min(0).values - 1e-5).all()
    assert (y <= values.max(0).values + 1e-5).all()


def test_leave_one_out_ignores_the_images_own_object() -> None:
    head, z, values = make_head()
    rows = [0, 3, 4]
    y = head.leave_one_out(z[rows], values[rows])
    for n, row in enumerate(rows):
        others = [r for r in rows if r != row]
        alone = head.subset(np.array(others))
        alone.shares = torch.ones(2)
        torch.testing.assert_close(y[n : n + 1], alone(z[[row]]))
    changed = values.clone()
    changed[0] = 100
    torch.testing.assert_close(head.leave_one_out(z[rows], changed[rows])[0], y[0])


def test_the_metric_of_a_classifier_compares_its_centred_logits() -> None:
    rng = torch.Generator().manual_seed(0)
    weights, x = torch.randn(12, 5, generator=rng), torch.randn(7, 5, generator=rng)
    logits = x @ weights.T
    logits = logits - logits.mean(dim=1, keepdim=True)
    g = class_metric(weights)
    assert g.shape == (5, 5)
    torch.testing.assert_close((x @ g) @ (x @ g).T, logits @ logits.T, rtol=1e-3, atol=1e-3)
    assert class_metric(weights[:3]).shape == (5, 2), "three classes without their mean differ in two ways"


@pytest.mark.parametrize(("noise", "low", "high"), [(0.05, 0.0, 0.1), (3.0, 0.1, 1.0)])
def test_noisy_features_get_a_higher_temperature(noise: float, low: float, high: float) -> None:
    """Objects on a circle whose human dimensions are the place on it: more noise, more neighbours in the average."""
    rng = np.random.default_rng(0)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 60))
    place = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    z = np.concatenate([3 * place, np.zeros((60, 20))], axis=1) + noise * rng.normal(size=(60, 22))
    images = {n: np.array([n]) for n in range(60)}
    side = triplet_set.soft_targets(list(images), images, triplet_set.HumanModel(2 * place, 0 * place, 1, 0), 5000)
    head = KernelHead.from_images(torch.from_numpy(z).float(), np.arange(60), torch.from_numpy(2 * place), None)
    head.choose_temperature(np.arange(60), lambda y: triplet_set.score(y, side).cross_entropy)
    assert low < float(head.temperature) < high


def test_positions_number_the_rows_group_by_group() -> None:
    groups = group_positions([np.array([5, 9]), np.array([7]), np.array([1, 2, 3])])
    assert [g.tolist() for g in groups] == [[0, 1], [2], [3, 4, 5]]


@pytest.mark.parametrize(("metric", "own_weight"), [(True, 0.0), (False, 0.0), (True, 2.0), (False, 2.0)])
def test_a_student_with_this_head_comes_back_from_its_folder(tmp_path: Path, metric: bool, own_weight: float) -> None:
    backbone = load_backbone("random:test_efficientnet_ln", 32)
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    z = backbone(torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    g = class_metric(torch.randn(9, backbone.width)) if metric else None
    head = KernelHead.from_images(z, OBJECTS, torch.rand(6, 2), g, own_weight)
    head.temperature = torch.tensor(0.07)
    student = EmbeddingNetwork(backbone, head).eval()
    save_network(tmp_path, student, {})
    again = load_network(tmp_path)
    torch.testing.assert_close(again(x).triplet_logits, student(x).triplet_logits, rtol=0, atol=0)
    encoder = Encoder.load([str(tmp_path)], head="instead")
    assert encoder.widths == {"embedding": head.out_features}
    encoder.to_bfloat16()
    member = encoder.members[0]
    assert isinstance(member, EmbeddingNetwork)
    assert isinstance(member.head, KernelHead)
    assert member.head.keys.dtype == torch.float32, "human dimensions keep their digits"
    y = member(x.bfloat16()).triplet_logits
    torch.testing.assert_close(y, student(x).triplet_logits, rtol=0.1, atol=0.05)
