"""A transform and the report of a fit come back as they were written."""

from dataclasses import asdict

import numpy as np

from alignet_ray.artifacts.align import (
    Agreement,
    AlignArtifact,
    AlignReport,
    FoldResult,
    InterpolationPoint,
    SplitAgreement,
)
from alignet_ray.core.affine import AffineTransform
from alignet_ray.store import Store


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
