"""What one stage writes, the next reads as it was; a finished artifact cannot be written to."""

import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.align import (
    Agreement,
    AlignArtifact,
    AlignReport,
    FoldResult,
    InterpolationPoint,
    SplitAgreement,
)
from alignet_ray.artifacts.base import part_name, part_number
from alignet_ray.artifacts.cluster import ClusterArtifact, ClusterStats, CurvePoint
from alignet_ray.artifacts.distill import DistillArtifact
from alignet_ray.artifacts.embed import EmbedArtifact, QuarantinedImage
from alignet_ray.artifacts.label import LabelArtifact, LabelStats, SubsetStats
from alignet_ray.artifacts.register import RegisterArtifact, RegisteredVersion
from alignet_ray.artifacts.soften import Posterior, SoftenArtifact
from alignet_ray.core.affine import AffineTransform
from alignet_ray.store import Store


def embedding_rows(ids: list[int], width: int = 3) -> pa.Table:
    vectors = np.array(ids, np.float32)[:, None] * np.ones(width, np.float32)
    columns = [pa.array(ids, pa.int64()), schemas.tensors(vectors)]
    return pa.Table.from_arrays(columns, schema=schemas.embeddings(width, "float32"))


def test_embeddings_come_back_by_image_id_with_their_quarantine(store: Store) -> None:
    view = EmbedArtifact(store.draft("embed", "e"))
    images = pa.table([[0, 1, 2], ["a/0.jpg", "a/1.jpg", "b/2.jpg"], ["a", "a", "b"], [9, 9, 9]], schema=schemas.IMAGES)
    view.write_images(images, unit_size=2)
    broken = QuarantinedImage(1, "a/1.jpg", "truncated")
    view.write_part(1, embedding_rows([2]), [])
    view.write_part(0, embedding_rows([0]), [broken], cosines=[0.5])

    assert view.image_paths() == {0: "a/0.jpg", 1: "a/1.jpg", 2: "b/2.jpg"}
    assert view.image_labels() == {0: "a", 1: "a", 2: "b"}
    assert [row.image_id for row in view.unit_images(1)] == [2]
    assert view.finished_units() == {0, 1}
    assert view.quarantined(0) == [broken]
    assert view.quarantined(1) == []
    assert view.fast_cosines() == [0.5]
    assert (view.width(), view.has_triplet_logits()) == (3, False)
    ids, vectors = view.embeddings()
    assert ids.tolist() == [0, 2]
    assert vectors[:, 0].tolist() == [0.0, 2.0]
    assert view.embeddings(only=np.array([2, 7])).ids.tolist() == [2]
    assert view.embedded_ids().tolist() == [0, 2]


def test_images_of_held_out_objects_are_held_out_even_if_they_show_a_training_object(store: Store) -> None:
    view = SoftenArtifact(store.draft("soften", "s"))
    columns = [[0, 1, 2], ["", "", ""], ["", "", ""], ["train", "validation", "test"], [[5, 1], [1], [7]]]
    view.write_objects(pa.table(columns, schema=schemas.OBJECTS))
    assert view.held_out_image_ids().tolist() == [1, 7]
    assert view.annotated_image_ids().tolist() == [1, 5, 7]


def test_the_posterior_and_the_responses_come_back(store: Store) -> None:
    view = SoftenArtifact(store.draft("soften", "s"))
    posterior = Posterior(np.arange(6, dtype=np.float32).reshape(2, 3).T, np.zeros((3, 2), np.float32))
    view.write_posterior(posterior)
    np.testing.assert_array_equal(view.posterior().mu, posterior.mu)
    responses = np.array([[0, 1, 2], [2, 1, 0]])
    view.write_soft_responses(0, responses, np.full((2, 3), 1 / 3, np.float32))
    np.testing.assert_array_equal(view.responses(), responses)


def test_a_finished_fit_replaces_its_state(store: Store) -> None:
    view = ClusterArtifact(store.draft("cluster", "c"))
    assert view.fit_state() is None
    view.write_fit_state(b"state")
    assert view.fit_state() == b"state"
    view.write_fit(np.eye(2, dtype=np.float32), [[{"inertia": 1.0, "moved": 0.5}]])
    assert view.fit_state() is None
    assert view.has_centroids()
    np.testing.assert_array_equal(view.centroids(), np.eye(2))
    assert view.history() == [[{"inertia": 1.0, "moved": 0.5}]]


def test_cluster_statistics_come_back(store: Store) -> None:
    view = ClusterArtifact(store.draft("cluster", "c"))
    assert view.curve() is None
    curve = [CurvePoint(2, 3.0, 0.5)]
    view.write_curve(curve)
    assert view.curve() == curve
    stats = ClusterStats(3, 2, 1.5, 1, 2, [1, 2], 0.9, [[("cat", 1)], [("dog", 2)]], [[]], curve)
    view.write_stats(stats)
    assert view.stats() == stats


def test_label_statistics_come_back_without_what_is_unknown(store: Store) -> None:
    view = LabelArtifact(store.draft("label", "l"))
    assert not view.has_stats()
    subset = SubsetStats(2, 0, 0.5, 0.25, [2], [2], border=0.5)
    stats = LabelStats(2.0, 1, subset, SubsetStats(1, 1, 1.0, 0.0, [1], [1], agreement=1.0))
    view.write_stats(stats)
    assert view.stats() == stats
    stored = json.loads(view.files.read_bytes("stats.json"))
    assert "images" not in stored
    assert "agreement" not in stored["train"]


def test_labelled_triplets_must_have_the_odd_one_last(store: Store) -> None:
    view = LabelArtifact(store.draft("label", "l"))
    name = part_name(0, "train")
    with pytest.raises(AssertionError, match="largest similarity"):
        view.write_part(name, np.array([[0, 1, 2]]), np.array([[0.0, 1.0, 0.0]], np.float32))
    view.write_part(name, np.array([[0, 1, 2]]), np.array([[1.0, 0.5, 0.0]], np.float32))
    assert view.part_names("train") == [name]
    assert view.part_names("valid") == []
    assert len(next(view.triplets("train"))) == 1


def test_an_align_report_comes_back_from_flat_json(store: Store) -> None:
    view = AlignArtifact(store.draft("align", "a"))
    assert not view.has_report()
    agreement = Agreement(0.5, 0.4, 0.6, 1.0, 0.9, 1.1)
    splits = {split: SplitAgreement({"base": agreement, "aligned": agreement}, 0.7) for split in ("validation", "test")}
    fold = FoldResult(0, [1, 2], 20, 0.4, 0.5, 1.0, 0.7)
    curve = [InterpolationPoint(0.5, 0.5, 0.4, 0.9)]
    report = AlignReport("network", 10, [{"step": 1.0}], splits, 0.9, 0.3, folds=[fold], curve=curve, metric="plain")
    view.write_report(report)
    assert view.report() == report
    assert report.figures()["test_aligned_accuracy_low"] == 0.4
    assert view.files.read_json("report.json")["validation_base_accuracy"] == 0.5
    assert view.files.read_table("folds.parquet").to_pylist() == [asdict(fold)]


def test_a_transform_comes_back(store: Store) -> None:
    view = AlignArtifact(store.draft("align", "a"))
    assert not view.has_transform()
    view.write_transform(
        AffineTransform(0.5, 2.0, np.eye(3, dtype=np.float32), np.ones(3, np.float32)), {"map": "affine"}
    )
    np.testing.assert_array_equal(view.transform().weights, np.eye(3))


def test_metrics_are_one_line_a_row(store: Store) -> None:
    view = DistillArtifact(store.draft("distill", "d"))
    assert view.metrics() == []
    rows = [{"step": 1.0, "loss": 0.5}, {"step": 2.0, "loss": 0.25}]
    view.write_metrics(rows)
    assert view.metrics() == rows


def test_the_registered_version_comes_back(store: Store) -> None:
    view = RegisterArtifact(store.draft("register", "r"))
    version = RegisteredVersion("student", "3", ["candidate"], "models:/student@candidate", "models:/m-1")
    view.write_version(version)
    assert view.version() == version


def test_a_finished_artifact_is_not_written_to(store: Store) -> None:
    finished = ClusterArtifact(store.draft("cluster", "c").finish({}))
    with pytest.raises(AssertionError, match="is finished"):
        finished.write_fit_state(b"")


def test_part_names_sort_as_their_numbers() -> None:
    names = [part_name(number, "train") for number in (0, 9, 10, 99_999)]
    assert names == sorted(names)
    assert [part_number(name) for name in names] == [0, 9, 10, 99_999]
