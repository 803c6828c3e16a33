"""Features of the annotated objects together with what people chose: who may be learned from, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.soften import Posterior, SoftenArtifact
from alignet_ray.core import vice
from alignet_ray.errors import UserError
from alignet_ray.human.dataset import AlignmentDataset, human_model, split_images
from alignet_ray.store import Artifact, Store

SPLITS = ["train"] * 4 + ["validation"] * 3 + ["test"] * 3
IMAGES = [[0, 1], [2], [3], [4, 5], [5], [6], [7], [8], [9], [10]]
"""Image 5 shows a training object (3) and a validation object (4)."""

MU = np.eye(10, dtype=np.float32)
SIGMA = np.zeros_like(MU)


@pytest.fixture
def soften(store: Store) -> Artifact:
    draft = store.draft("soften", "s")
    view = SoftenArtifact(draft)
    columns = [list(range(10)), [""] * 10, [""] * 10, SPLITS, IMAGES]
    view.write_objects(pa.table(columns, schema=schemas.OBJECTS))
    view.write_posterior(Posterior(MU, SIGMA))
    responses = np.array([[0, 1, 2], [1, 3, 0], [0, 1, 7]])
    view.write_soft_responses(0, responses, np.full((3, 3), 1 / 3, np.float32))
    return draft.finish({})


def embedded(store: Store, features: np.ndarray, ids: np.ndarray | None = None, name: str = "e") -> Artifact:
    if ids is None:
        ids = np.arange(len(features))
    draft = store.draft("embed", name)
    width = features.shape[1]
    table = pa.Table.from_arrays(
        [pa.array(ids), schemas.tensors(features)], schema=schemas.embeddings(width, "float32")
    )
    draft.write_table("part-00000.parquet", table)
    return draft.finish({})


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(11, 4)).astype(np.float32)


@pytest.fixture
def opened(soften: Artifact, store: Store, tmp_path: Path) -> Callable[[np.ndarray], AlignmentDataset]:
    def open_features(features: np.ndarray) -> AlignmentDataset:
        human = human_model(soften, draws=2, seed=0)
        return AlignmentDataset(soften, embedded(store, features), tmp_path / "cache", human)

    return open_features


def test_an_image_of_a_held_out_object_is_kept_from_training(soften: Artifact) -> None:
    splits = split_images(soften, np.arange(11))
    assert {object: rows.tolist() for object, rows in splits["train"].items()} == {0: [0, 1], 1: [2], 2: [3], 3: [4]}
    assert splits["validation"][4].tolist() == [5]


def test_rows_are_positions_among_the_images_that_could_be_read(soften: Artifact) -> None:
    # Images 0 and 4 are in quarantine: object 0 keeps one image, and object 3 none that may be used.
    splits = split_images(soften, np.array([1, 2, 3, 5, 6, 7, 8, 9, 10]))
    assert splits["train"][0].tolist() == [0]
    assert 3 not in splits["train"]
    assert splits["test"][9].tolist() == [8]


@pytest.mark.parametrize(("missing", "split"), [([6], "validation"), ([8], "test"), ([2, 3], "train")])
def test_a_split_of_fewer_than_three_objects_is_refused(soften: Artifact, missing: list[int], split: str) -> None:
    ids = np.setdiff1d(np.arange(11), missing)
    with pytest.raises(UserError, match=rf"^2 {split} objects have readable images; at least 3 are needed"):
        split_images(soften, ids)


def test_features_and_objects_belong_together(
    opened: Callable[[np.ndarray], AlignmentDataset], features: np.ndarray
) -> None:
    dataset = opened(features)
    np.testing.assert_array_equal(dataset.features, features)
    assert dataset.objects == {"train": [0, 1, 2, 3], "validation": [4, 5, 6], "test": [7, 8, 9]}
    assert dataset.image_rows[9].tolist() == [10]
    assert dataset.teacher == {"width": 4}
    assert dataset.responses.tolist() == [[0, 1, 2], [1, 3, 0], [0, 1, 7]]


def test_soft_triplets_have_the_human_models_probabilities(
    opened: Callable[[np.ndarray], AlignmentDataset], features: np.ndarray
) -> None:
    dataset = opened(features)
    found = dataset.soft_triplets([7, 8, 9])
    assert len(found.triplets) == 1
    expected = vice.choice_probabilities(MU, SIGMA, np.array([[7, 8, 9]]), 2, 0)
    np.testing.assert_allclose(found.targets, expected, atol=1e-6)
    # Three different dimensions: people would choose each pair equally often.
    np.testing.assert_allclose(found.targets, 1 / 3, atol=1e-6)


def test_hard_triplets_are_the_responses_about_training_objects_alone(
    opened: Callable[[np.ndarray], AlignmentDataset], features: np.ndarray
) -> None:
    dataset = opened(features)
    assert len(dataset.training_triplets([0, 1, 2, 3], "hard", 100).triplets) == 2, "the third is about a test object"
    assert len(dataset.training_triplets([0, 1, 2, 3], "soft", 3).triplets) == 3, "at most the limit, of four"
    with pytest.raises(UserError, match=r"none of 3 is about three training objects; use align.objective soft"):
        dataset.training_triplets([1, 2, 3], "hard", 100)


def test_features_that_say_nothing_are_refused(
    opened: Callable[[np.ndarray], AlignmentDataset], features: np.ndarray
) -> None:
    with pytest.raises(UserError, match=r"are all the same: does embed.model have trained weights"):
        opened(np.ones_like(features))


def test_features_that_are_not_finite_are_counted(
    opened: Callable[[np.ndarray], AlignmentDataset], features: np.ndarray
) -> None:
    features[3, 1] = np.nan
    features[3, 2] = np.inf
    features[5, 0] = -np.inf
    with pytest.raises(UserError, match=r"^2 of the objects' embeddings are not finite"):
        opened(features)
