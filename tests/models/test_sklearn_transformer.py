"""Embeddings inside scikit-learn: the same as from the model itself, wherever a pipeline cuts the data."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

import alignet_ray
from alignet_ray.errors import UserError
from alignet_ray.models.embedding_network import make_network, save_network
from alignet_ray.models.sklearn_transformer import EmbeddingTransformer


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("student")
    save_network(folder, make_network("random:test_efficientnet", 32, 8, seed=1), {})
    return str(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Twelve dark and twelve bright pictures, in turn."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(24):
        low = 150 * (number % 2)
        path = folder / f"{number:02d}.png"
        Image.fromarray(rng.integers(low, low + 100, (32, 32, 3), dtype=np.uint8)).save(path)
        paths.append(str(path))
    return paths


def test_rows_are_the_models_embeddings_whatever_holds_the_pictures(student: str, pictures: list[str]) -> None:
    model = alignet_ray.load(student)
    expected = model.embed(pictures)
    transformer = alignet_ray.EmbeddingTransformer(student).fit(pictures)
    for given in (pictures, np.array(pictures), pd.Series(pictures), str(Path(pictures[0]).parent)):
        np.testing.assert_array_equal(transformer.transform(given), expected)
    arrays = np.stack([np.asarray(Image.open(path)) for path in pictures])
    np.testing.assert_array_equal(transformer.transform(arrays), expected)
    assert transformer.transform(pictures[:1]).shape == (1, 8)

    features = EmbeddingTransformer(model, layer="pre_logits").fit(None)
    np.testing.assert_array_equal(features.transform(pictures), model.embed(pictures, "pre_logits"))
    assert len(features.get_feature_names_out()) == model.network.backbone.width
    assert list(transformer.get_feature_names_out()) == [f"embedding{column}" for column in range(8)]


def test_it_works_in_a_pipeline_with_cross_validation(student: str, pictures: list[str]) -> None:
    labels = np.arange(len(pictures)) % 2
    pipeline = make_pipeline(EmbeddingTransformer(student), LogisticRegression(C=100, max_iter=2000))
    assert (
        cross_val_score(pipeline, pictures, labels, cv=3).mean() > 0.9
    )  # even a random network tells dark from bright
    copy = clone(pipeline[0])
    assert copy.get_params() == pipeline[0].get_params()
    with pytest.raises(NotFittedError):
        copy.transform(pictures)


def test_mistakes_are_told_in_one_line(student: str, pictures: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError):
        EmbeddingTransformer(str(tmp_path / "nowhere")).fit(pictures)
    transformer = EmbeddingTransformer(student).fit(pictures)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=r"text\.png"):
        transformer.transform([*pictures, str(tmp_path / "text.png")])
