"""Verdicts of two models on the same images, by vectors whose answers are known and by tiny networks."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alignet_ray.artifacts.student_files import IMPORTED
from alignet_ray.core.similarity import unit_rows
from alignet_ray.demo.compare import (
    FEATURES,
    MODELS,
    TEMPERATURE,
    ModelComparison,
    ModelView,
    ModelViews,
    Vectors,
    disputed_triplets,
    joined,
    random_triplets,
)
from alignet_ray.errors import UserError
from alignet_ray.models.embedding_network import EmbeddingNetwork, make_network, save_network

NET = "random:test_efficientnet"


def view(rows: list[list[float]] | np.ndarray, temperature: float = 1.0) -> ModelView:
    vectors = np.asarray(rows, np.float32)
    return ModelView(vectors, (vectors / temperature**0.5).astype(np.float32))


def random_views(seed: int, count: int = 12) -> ModelViews:
    rng = np.random.default_rng(seed)
    return {name: view(unit_rows(rng.normal(size=(count, 4)).astype(np.float32)), 0.1) for name in MODELS}


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8))


def compare(student: EmbeddingNetwork) -> ModelComparison:
    return ModelComparison(student.eval(), make_network(NET, 32, None, seed=0).eval(), {})


def test_the_image_outside_the_most_similar_pair_is_the_odd_one() -> None:
    # Dot products: 4 between the first two, 0 between the others.
    found = view([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]]).odd_probabilities(np.array([[0, 1, 2], [2, 0, 1], [1, 2, 0]]))
    likely, unlikely = np.exp(4) / (np.exp(4) + 2), 1 / (np.exp(4) + 2)
    expected = [[unlikely, unlikely, likely], [likely, unlikely, unlikely], [unlikely, likely, unlikely]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_nearest_come_first_and_the_image_itself_is_left_out() -> None:
    rows = view([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8], [-1.0, 0.0]])
    assert rows.nearest(rows.take(slice(0, 1)), 3).tolist() == [2, 3, 1]


def test_an_image_from_elsewhere_has_as_many_neighbours_as_were_asked_for() -> None:
    rows = view([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    assert rows.nearest(view([[0.6, 0.8]]), 2).tolist() == [2, 1]
    assert rows.nearest(view([[0.6, 0.8]]), 9).tolist() == [2, 1, 0]


def test_copies_of_an_image_do_not_take_the_place_of_its_neighbours() -> None:
    rows = view([[1.0, 0.0]] * 10 + [[0.0, 1.0], [0.8, 0.6]])
    assert rows.nearest(rows.take(slice(0, 1)), 2).tolist() == [11, 10]


def test_neighbours_and_odd_ones_go_by_the_same_similarity() -> None:
    rows = np.eye(3, dtype=np.float32)
    mixed = ModelView(rows, np.array([[1.0], [0.0], [1.0]], np.float32))
    assert mixed.odd_probabilities(np.array([[0, 1, 2]])).argmax() == 1
    assert mixed.nearest(mixed.take([0]), 2).tolist() == [2, 1]


def random_vectors(seed: int, count: int, head: bool = True) -> Vectors:
    rng = np.random.default_rng(seed)
    rows = [unit_rows(rng.normal(size=(count, width)).astype(np.float32)) for width in (4, 3, 2)]
    return Vectors(rows[0], rows[1], rows[2] if head else None)


@pytest.mark.parametrize("head", [True, False])
def test_lists_of_images_are_joined_part_by_part(head: bool) -> None:
    first, second = random_vectors(0, 3, head), random_vectors(1, 2, head)
    together = joined([first, second])
    for part, one, other in zip(together, first, second, strict=True):
        if one is not None:
            assert np.array_equal(part[:3], one)
            assert np.array_equal(part[3:], other)
    assert (together.head is None) is not head
    assert np.array_equal(together.take([4]).base, second.base[1:])


@given(images=st.integers(1, 30), count=st.integers(0, 200), seed=st.integers(0, 2**31))
def test_random_triplets_are_of_three_different_images(images: int, count: int, seed: int) -> None:
    found = random_triplets(images, count, seed)
    assert len(found) <= count
    assert ((found >= 0) & (found < images)).all()
    assert all(len(set(triplet)) == 3 for triplet in found.tolist())
    assert np.array_equal(found, random_triplets(images, count, seed))


def test_every_order_of_every_triplet_is_drawn_equally_often() -> None:
    found = random_triplets(4, 24_000, 0)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 24
    # Of 64 draws with repetition 24 have no repeated row.
    assert counts == pytest.approx(np.full(24, 24_000 / 64), rel=0.2)


def test_disputed_triplets_are_decided_differently_and_the_clearest_come_first() -> None:
    views = random_views(3)
    found = disputed_triplets(views, seed=0, keep=20)
    assert len(found) == 20
    base, aligned = (views[name].odd_probabilities(found) for name in MODELS)
    rows = np.arange(len(found))
    picks = base.argmax(axis=1), aligned.argmax(axis=1)
    assert (picks[0] != picks[1]).all()
    leads = [odds[rows, mine] - odds[rows, other] for odds, mine, other in ((base, *picks), (aligned, *picks[::-1]))]
    decided = np.minimum(*leads)
    assert (np.diff(decided) <= 1e-6).all()

    # Nothing that was drawn is more decided than the worst of those that were kept.
    every = disputed_triplets(views, seed=0, keep=10_000)
    assert len(every) > 100
    assert every[:20].tolist() == found.tolist()


def test_models_that_agree_have_no_disputed_triplets() -> None:
    views = random_views(3)
    found = disputed_triplets({"base": views["base"], "aligned": views["base"]}, seed=0)
    assert found.shape == (0, 3)


@pytest.mark.parametrize("temperature", [0.02, 0.5])
def test_cosines_get_the_temperature_at_which_they_are_as_sure_as_the_head(temperature: float) -> None:
    rows = unit_rows(np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32))
    comparison = compare(make_network(NET, 32, 8, seed=1))
    vectors = Vectors(rows, rows, rows / temperature**0.5)
    assert comparison.views(vectors)["base"].choice == pytest.approx(rows / TEMPERATURE**0.5)
    comparison.match_confidence(vectors)
    # The candidates are a grid of eighty steps over four decades.
    found = (comparison.temperature, comparison.features_temperature)
    assert found == pytest.approx((temperature, temperature), rel=0.07)

    views = comparison.views(vectors)
    np.testing.assert_allclose(views["base"].choice, rows / comparison.temperature**0.5, rtol=1e-5)
    np.testing.assert_allclose(views[FEATURES].choice, rows / comparison.features_temperature**0.5, rtol=1e-5)
    assert np.array_equal(views["base"].embedding, rows)
    assert np.array_equal(views["aligned"].choice, vectors.head)


def test_a_head_answers_by_its_dot_products_over_tau() -> None:
    student = make_network(NET, 32, 8, seed=1)
    student.tau = 4.0
    assert isinstance(student.head, torch.nn.Linear)
    with torch.no_grad():
        student.head.weight.mul_(1e4)  # outputs that are large beside the tolerance
    images = [image(seed) for seed in range(3)]
    comparison = compare(student)
    encoded = comparison.encode([partial(Image.Image.copy, each) for each in images], batch=2)
    assert encoded.kept == [0, 1, 2]
    assert encoded.reasons == []
    pixels = torch.stack([student.preprocess(each) for each in images])
    with torch.no_grad():
        embedding, logits = student(pixels)
    assert logits is not None
    aligned = comparison.views(encoded.vectors)["aligned"]
    expected = (logits @ logits.T / 4).numpy()
    assert np.abs(expected).min() > 0.1
    np.testing.assert_allclose(aligned.choice @ aligned.choice.T, expected, rtol=1e-3)
    np.testing.assert_allclose(aligned.embedding, unit_rows(embedding.numpy()), atol=1e-4)


def test_without_a_head_cosines_over_the_default_temperature_decide() -> None:
    comparison = compare(make_network(NET, 32, None, seed=1))
    views = comparison.views(comparison.encode_image(image(0)))
    assert tuple(views) == MODELS
    for name in MODELS:
        assert np.linalg.norm(views[name].embedding, axis=1) == pytest.approx([1.0], abs=1e-5)
        np.testing.assert_allclose(views[name].choice, views[name].embedding / TEMPERATURE**0.5, rtol=1e-5)


def test_an_image_that_cannot_be_opened_is_left_out_with_its_reason() -> None:
    def broken() -> Image.Image:
        raise ValueError("truncated")

    jobs: list[Callable[[], Image.Image]] = [partial(image, 0), broken, partial(image, 2)]
    encoded = compare(make_network(NET, 32, 8, seed=1)).encode(jobs)
    assert encoded.kept == [0, 2]
    assert encoded.reasons == ["truncated"]
    assert [len(part) for part in encoded.vectors] == [2, 2, 2]


def test_a_model_whose_output_is_not_finite_says_so() -> None:
    student = make_network(NET, 32, 8, seed=1)
    assert isinstance(student.head, torch.nn.Linear)
    with torch.no_grad():
        student.head.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        compare(student).encode_image(image(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student")
    save_network(path, make_network(NET, 48, 8, seed=1), {})
    return path


def test_a_student_is_compared_with_the_network_it_started_from_at_its_own_size(folder: Path) -> None:
    comparison = ModelComparison.open(str(folder))
    assert comparison.labels == {"base": NET, "aligned": str(folder)}
    assert comparison.base.head is None
    assert comparison.base.backbone.size == comparison.student.backbone.size == 48
    named = ModelComparison.open(str(folder), base="random:test_vit")
    assert named.labels["base"] == named.base.backbone.name == "random:test_vit"


def test_a_network_that_is_no_student_needs_a_base() -> None:
    with pytest.raises(UserError, match=r"^random:test_vit is not a student's folder: .*--base NAME$"):
        ModelComparison.open("random:test_vit")
    assert ModelComparison.open("random:test_vit", base=NET).labels == {"base": NET, "aligned": "random:test_vit"}


def test_an_imported_student_needs_a_base(tmp_path: Path) -> None:
    save_network(tmp_path, make_network(NET, 32, 8, seed=1), {"role": IMPORTED})
    with pytest.raises(UserError, match=r"was imported, .* --base NAME \(--base test_efficientnet is timm's network"):
        ModelComparison.open(str(tmp_path))
    assert ModelComparison.open(str(tmp_path), base=NET).labels == {"base": NET, "aligned": str(tmp_path)}


def test_a_base_that_is_gone_can_be_replaced_by_another(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    description = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(description | {"model": "test_vit@/nowhere.pth"}))
    with pytest.raises(UserError, match=r"^the base cannot be loaded: .*/nowhere\.pth.*; name another with --base$"):
        ModelComparison.open(str(tmp_path))
    assert ModelComparison.open(str(tmp_path), base=NET).labels["base"] == NET
