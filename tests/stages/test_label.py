"""label: same rows whatever the workers, exact counts, two disjoint sets, and figures that say what was drawn."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.small_corpus import SmallCorpus

from alignet_ray import cluster_nodes
from alignet_ray.artifacts.schemas import TRIPLETS, check
from alignet_ray.core import labelling
from alignet_ray.data import deepmind
from alignet_ray.errors import UserError
from alignet_ray.stages import Work, label
from alignet_ray.store import Artifact, Store

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> SmallCorpus:
    return SmallCorpus(Store.open(str(tmp_path_factory.mktemp("store"))))


@pytest.fixture(scope="module")
def clustered(corpus: SmallCorpus) -> Artifact:
    return corpus.clustered()


def labelled(
    corpus: SmallCorpus, clustered: Artifact, make_work: Callable[..., Work], id: str = "", **cfg: object
) -> Work:
    work = make_work(corpus.config(**cfg), "label@aligned", corpus.parents | {"cluster": clustered}, id)
    label.run(work)
    return work


def columns(table: pa.Table, names: str) -> np.ndarray:
    return np.stack([table[n].to_numpy() for n in names.split()], axis=1)


def test_labels_and_control(corpus: SmallCorpus, clustered: Artifact, make_work: Callable[..., Work]) -> None:
    work = labelled(corpus, clustered, make_work, "a")
    aligned = work.out.finish({})
    train, valid = aligned.read_parts("train"), aligned.read_parts("valid")
    check(train, TRIPLETS)
    check(valid, TRIPLETS)
    assert (len(train), work.facts.train) == (3000, 3000)
    images, held_out = columns(train, "i0 i1 i2"), columns(valid, "i0 i1 i2")
    assert not np.intersect1d(images, held_out).size
    assert not np.intersect1d(np.concatenate([images, held_out]), corpus.hidden).size
    assert len(np.unique(np.sort(images, axis=1), axis=0)) == 3000

    x = corpus.transform(corpus.x)[np.searchsorted(corpus.ids, images)].astype(np.float64)
    expected = np.stack([(x[:, a] * x[:, b]).sum(-1) for a, b in ((0, 1), (0, 2), (1, 2))], axis=1)
    sims = columns(train, "s01 s02 s12")
    assert np.allclose(sims, expected, rtol=1e-2, atol=2e-2)
    assert (sims[:, 0] >= sims[:, 1]).all()
    assert (sims[:, 1] >= sims[:, 2]).all()

    stats = aligned.read_json("stats.json")
    assert stats["train"]["triplets"] == 3000
    assert stats["train"]["border"] == 1.0
    assert sum(stats["train"]["cluster_uses"]) == 9000

    parents = {"embed@corpus": corpus.embed, "align": corpus.align, "label@aligned": aligned}
    control = make_work(corpus.config(), "label@raw", parents)
    label.run(control)
    raw = control.out.read_parts("train")
    assert np.array_equal(np.sort(columns(raw, "i0 i1 i2")), np.sort(images))
    mine, theirs = columns(raw, "s01 s02 s12"), sims
    assert labelling.entropy(mine).mean() == pytest.approx(labelling.entropy(theirs).mean(), rel=0.02)
    assert 1 / 3 < control.out.read_json("stats.json")["train"]["agreement"] < 1


def test_finished_parts_are_kept_and_the_rest_is_the_same(
    corpus: SmallCorpus, clustered: Artifact, make_work: Callable[..., Work], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = labelled(corpus, clustered, make_work, "whole", label__train=12_000).out
    broken = labelled(corpus, clustered, make_work, "broken", label__train=12_000)
    names = whole.files(deep=True)
    before = {n: broken.out.local(n).stat().st_mtime_ns for n in names}
    broken.out.remove("train/part-00001.parquet")
    broken.out.remove("stats.json")
    capsys.readouterr()
    label.run(broken)
    assert "reused" in capsys.readouterr().out
    assert broken.out.files(deep=True) == names
    assert all(broken.out.read_bytes(n) == whole.read_bytes(n) for n in names)
    kept = [n for n in names if n.startswith("train") and n != "train/part-00001.parquet"]
    assert len(kept) == 2
    assert all(broken.out.local(n).stat().st_mtime_ns == before[n] for n in kept)


def test_workers_and_part_size_do_not_change_a_row(
    corpus: SmallCorpus, clustered: Artifact, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for parts in (1, 2, 7):
        monkeypatch.setattr(label, "part_size", lambda n, parts=parts: -(-n // parts))
        out = labelled(corpus, clustered, make_work, f"p{parts}").out
        assert len(out.parts("train")) == parts
        rows.append(np.concatenate([columns(out.read_parts(s), "i0 i1 i2 s01 s02 s12") for s in ("train", "valid")]))
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])


@pytest.mark.parametrize(
    ("gpus", "triplets", "expected"),
    [(0, 10**9, 0), (1, 10_000_000, 0), (1, 300_000_000, 1)],
    ids=["no GPU", "seconds of the cores", "minutes of the cores"],
)
def test_a_gpu_labels_where_the_cores_would_take_long_and_its_process_stays(
    gpus: int, triplets: int, expected: int
) -> None:
    task = label.part_task(cluster_nodes.ClusterResources(gpus, cpus=16), triplets)
    options = task._default_options
    assert options["num_gpus"] == expected
    assert options["max_calls"] == 0, "Ray would end the process after each part, and the matrix with it"


def test_few_triplets_are_labelled_here_with_the_same_rows(
    corpus: SmallCorpus, clustered: Artifact, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    spread = labelled(corpus, clustered, make_work, "spread").out
    monkeypatch.setattr(label, "_label_in_tasks", None)  # would raise
    parents = corpus.parents | {"cluster": clustered}
    here = make_work(corpus.config(), "label@aligned", parents, "here", force=False)
    label.run(here)
    names = spread.files(suffix=".parquet", deep=True)
    assert len(names) >= 3
    for name in names:
        assert here.out.read_table(name).equals(spread.read_table(name)), name
    assert here.out.read_json("stats.json") == spread.read_json("stats.json")


def test_kinds_by_class_and_mixtures(corpus: SmallCorpus, clustered: Artifact, make_work: Callable[..., Work]) -> None:
    kinds = {"cluster_border": 1.0, "class_border": 2.0, "within_class": 1.0, "between_class": 2.0}
    work = labelled(corpus, clustered, make_work, **{f"label__{k}": v for k, v in kinds.items()})
    classes = corpus.labels[np.searchsorted(corpus.ids, columns(work.out.read_parts("train"), "i0 i1 i2"))]
    different = np.array([len(set(row)) for row in classes.tolist()])
    assert len(different) == 3000
    assert (different == 1).sum() >= 500
    assert (different == 2).sum() >= 1000
    assert (different == 3).sum() >= 1000


def test_few_images_give_few_validation_triplets(store: Store, make_work: Callable[..., Work]) -> None:
    corpus = SmallCorpus(store, images=60, classes=6)
    work = labelled(corpus, corpus.clustered(12), make_work, label__train=400)
    held_out = work.out.read_table("held_out.parquet")["image_id"].to_numpy()
    assert len(held_out) == 5
    assert set(columns(work.out.read_parts("valid"), "i0 i1 i2").ravel()) <= set(held_out)
    assert 0 < work.facts.valid <= 10
    assert "set aside" in work.warnings[0]


def test_their_triplets_become_our_labels_and_ours_theirs(
    corpus: SmallCorpus, clustered: Artifact, make_work: Callable[..., Work], tmp_path: Path
) -> None:
    ours = labelled(corpus, clustered, make_work, "ours").out.finish({})
    images = corpus.embed.read_table("images.parquet")
    for side in ("train", "valid"):
        deepmind.export_triplets(tmp_path / f"{side}.npz", lambda side=side: ours.iter_parts(side), images)
    paths = {"label__from_": str(tmp_path / "train.npz"), "label__from_valid": str(tmp_path / "valid.npz")}
    work = labelled(corpus, clustered, make_work, "theirs", **paths)
    for side in ("train", "valid"):
        assert work.out.read_parts(side).equals(ours.read_parts(side))
    used = np.unique(columns(ours.read_parts("valid"), "i0 i1 i2"))
    assert np.array_equal(work.out.read_table("held_out.parquet")["image_id"].to_numpy(), used)
    one = labelled(corpus, clustered, make_work, "one", label__from_=paths["label__from_"], label__held_out=0.4)
    assert 0 < one.facts.train < 3000
    aside = one.out.read_table("held_out.parquet")["image_id"].to_numpy()
    assert not np.isin(columns(one.out.read_parts("train"), "i0 i1 i2"), aside).any()
    assert np.isin(columns(one.out.read_parts("valid"), "i0 i1 i2"), aside).all()


def test_more_triplets_than_there_are(corpus: SmallCorpus, clustered: Artifact, make_work: Callable[..., Work]) -> None:
    with pytest.raises(UserError, match=r"--label\.train"):
        labelled(corpus, clustered, make_work, label__train=5_000_000)
