from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr
from support.linear_world import IMAGES, WIDTH
from support.transforms import save_transform

from alignet_ray.artifacts import schemas, transforms
from alignet_ray.config import Config
from alignet_ray.core.affine import AffineTransform
from alignet_ray.errors import UserError
from alignet_ray.stages import Work, align
from alignet_ray.store import Artifact, Store

QUICK = {"align__steps": 200, "align__batch_size": 1024, "align__folds": 0}


def test_known_similarities_come_back_on_objects_that_were_not_seen(
    truth: np.ndarray, parents: dict[str, Artifact], make_work: Callable[..., Work], ray_session: None
) -> None:
    work = make_work(Config().replace(**QUICK | {"align__folds": 2, "align__steps": 600}), "align", parents)
    align.run(work)
    report = work.out.read_json("report.json")
    assert report["test_aligned_accuracy"] > report["test_base_accuracy"] + 0.1
    assert report["test_aligned_accuracy"] > report["test_ceiling"] - 0.05
    assert report["test_aligned_accuracy_low"] < report["test_aligned_accuracy"] < report["test_aligned_accuracy_high"]
    folds = work.out.read_table("folds.parquet").to_pylist()
    assert len(folds) == 2
    assert all(fold["accuracy"] > fold["base"] for fold in folds)
    assert not set(folds[0]["objects"]) & set(folds[1]["objects"])
    npz = transforms.load_transform(work.out.local("transform.npz"))
    tensors = transforms.load_transform(work.out.local("transform.safetensors"))
    np.testing.assert_array_equal(npz.weights, tensors.weights)
    from alignet_ray.data.embeddings import load

    y = npz(load(parents["embed@objects"])[1])
    table = parents["soften"].read_table("objects.parquet").to_pylist()
    test = [o["object"] for o in table if o["split"] == "test"]
    upper = np.triu_indices(len(test), 1)
    images = y[[o * IMAGES for o in test]]
    assert spearmanr((images @ images.T)[upper], (truth[test] @ truth[test].T)[upper]).statistic > 0.9


@pytest.mark.parametrize(
    "changes",
    [{"map": "affine"}, {"map": "diagonal"}, {"map": "orthogonal"}, {"objective": "hard"}, {"alpha": 0.3}],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_every_form_of_map_and_objective_runs(
    changes: dict[str, Any], parents: dict[str, Artifact], make_work: Callable[..., Work]
) -> None:
    work = make_work(Config().replace(**QUICK | {f"align__{k}": v for k, v in changes.items()}), "align", parents)
    align.run(work)
    report = work.out.read_json("report.json")
    assert report["validation_aligned_accuracy"] > report["validation_base_accuracy"] - 0.02
    assert report["folds"] == []


def test_the_local_term_keeps_neighbours(parents: dict[str, Artifact], make_work: Callable[..., Work]) -> None:
    kept = []
    for alpha in (0.0, 0.9):
        work = make_work(Config().replace(**QUICK, align__alpha=alpha), "align", parents, id=str(alpha))
        align.run(work)
        kept.append(work.out.read_json("report.json")["neighbours_kept"])
    assert kept[1] > kept[0] + 0.02


def test_a_stored_transform_is_taken_over(
    parents: dict[str, Artifact], make_work: Callable[..., Work], tmp_path: Path
) -> None:
    own = AffineTransform(0.5, 2.0, np.eye(WIDTH, dtype=np.float32), np.ones(WIDTH, np.float32))
    path = str(tmp_path / "their.npz")
    save_transform(path, own)
    cfg = Config().replace(align__from_=path)
    assert align.sources(cfg, "") == [path]
    work = make_work(cfg, "align", parents)
    align.run(work)
    assert "does not say which model" in work.warnings[0]
    np.testing.assert_array_equal(transforms.load_transform(work.out.local("transform.npz")).weights, own.weights)
    save_transform(path, AffineTransform(0.0, 1.0, np.eye(3, dtype=np.float32), np.zeros(3, np.float32)))
    with pytest.raises(UserError, match="width 3"):
        align.run(make_work(cfg, "align", parents, id="narrow"))


@pytest.mark.slow
def test_the_search_runs_every_fold_and_its_winner_is_fitted(
    parents: dict[str, Artifact], make_work: Callable[..., Work], ray_session: None
) -> None:
    changes = QUICK | {"align__folds": 2, "align__search": 3, "align__steps": 60, "align__identity_penalty": 1e2}
    work = make_work(Config().replace(**changes), "align", parents)
    align.run(work)
    report = work.out.read_json("report.json")
    assert len(report["search"]) == 3
    entropies = [row["cross_entropy"] for row in report["search"]]
    assert entropies == sorted(entropies)
    assert 1e2 in [row["identity_penalty"] for row in report["search"]], "the given settings are tried, too"
    assert report["settings"]["identity_penalty"] == report["search"][0]["identity_penalty"] < 1e2
    assert np.mean([row["cross_entropy"] for row in report["folds"]]) == pytest.approx(entropies[0], rel=1e-4)
    assert not [name for name in work.out.files(deep=True) if name.startswith("search")]


def test_too_few_objects_for_the_folds(
    parents: dict[str, Artifact], make_work: Callable[..., Work], ray_session: None
) -> None:
    work = make_work(Config().replace(**QUICK | {"align__folds": 30, "align__steps": 20}), "align", parents)
    align.run(work)
    assert "training objects make" in work.warnings[0]
    assert all(len(row["objects"]) >= 3 for row in work.out.read_table("folds.parquet").to_pylist())


@pytest.mark.parametrize(("value", "says"), [(np.nan, "not finite"), (None, "all the same")])
def test_useless_features_are_refused(
    value: float | None, says: str, store: Store, parents: dict[str, Artifact], make_work: Callable[..., Work]
) -> None:
    x = np.ones((180, 4), np.float32)
    x[3, 2] = 1 if value is None else value
    embed = store.draft("embed", f"broken{value}")
    table = pa.table(
        [np.arange(180), pa.FixedShapeTensorArray.from_numpy_ndarray(x)], schema=schemas.embeddings(4, "float32")
    )
    embed.write_table("part-0.parquet", table)
    with pytest.raises(UserError, match=says):
        align.run(make_work(Config(), "align", parents | {"embed@objects": embed.finish({})}))
