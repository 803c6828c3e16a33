"""cluster: what training may see and nothing else, the same for any shards, and a fit that goes on after a kill."""

from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy
import torch
from support.small_corpus import SmallCorpus

from alignet_ray.artifacts.schemas import CLUSTERS, check
from alignet_ray.core import kmeans
from alignet_ray.errors import UserError
from alignet_ray.stages import Work, cluster
from alignet_ray.store import Store

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> SmallCorpus:
    return SmallCorpus(Store.open(str(tmp_path_factory.mktemp("store"))))


def clustered(corpus: SmallCorpus, make_work: Callable[..., Work], id: str, **cfg: object) -> Work:
    work = make_work(corpus.config(**cfg), "cluster", corpus.parents, id)
    cluster.run(work)
    return work


def test_every_image_that_may_be_seen_is_in_the_cluster_of_the_nearest_centroid(
    corpus: SmallCorpus, make_work: Callable[..., Work]
) -> None:
    work = clustered(corpus, make_work, "a", cluster__restarts=2)
    table = check(work.out.read_parts(), CLUSTERS)
    ids = table["image_id"].to_numpy()
    assert np.array_equal(ids, np.setdiff1d(corpus.ids, corpus.hidden))
    centroids = safetensors.numpy.load(work.out.read_bytes("centroids.safetensors"))["centroids"]
    x = corpus.transform(corpus.x)[np.searchsorted(corpus.ids, ids)].astype(np.float16)
    labels, distances = kmeans.assign(torch.from_numpy(x), torch.from_numpy(centroids))
    assert np.array_equal(labels.numpy(), table["cluster"].to_numpy())
    stats = work.out.read_json("stats.json")
    assert stats["inertia"] == pytest.approx(float(distances.sum()), rel=1e-5)
    assert stats["sizes"] == np.bincount(labels, minlength=8).tolist()
    assert stats["purity"] > 0.7
    assert all(np.diff([p["inertia"] for p in run]).max() <= 0 for run in stats["history"])
    assert len(stats["history"]) == 2
    assert stats["inertia"] == pytest.approx(min(run[-1]["inertia"] for run in stats["history"]))
    assert work.out.files() == ["centroids.safetensors", "history.json", "part-00000.parquet", "stats.json"]


def test_shards_and_a_kill_between_passes_do_not_matter(
    corpus: SmallCorpus, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = clustered(corpus, make_work, "whole", cluster__tolerance=0, cluster__reassign_tol=0).out
    passes = 0
    step = cluster.ShardPool.assign

    def dying(self: cluster.ShardPool, centroids: np.ndarray) -> object:
        nonlocal passes
        passes += 1
        if passes == 3:
            raise KeyboardInterrupt
        return step(self, centroids)

    monkeypatch.setattr(cluster.ShardPool, "assign", dying)
    work = make_work(corpus.config(cluster__tolerance=0, cluster__reassign_tol=0), "cluster", corpus.parents, "killed")
    with pytest.raises(KeyboardInterrupt):
        cluster.run(work)
    assert not work.out.has("centroids.safetensors")
    cluster.run(work)
    assert work.out.files() == whole.files()
    assert all(work.out.read_bytes(n) == whole.read_bytes(n) for n in whole.files())


def test_one_two_and_seven_shards(
    corpus: SmallCorpus, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for shards in (1, 2, 7):
        monkeypatch.setattr(cluster, "SHARD", -(-270 // shards))
        out = clustered(corpus, make_work, f"s{shards}").out
        assert len(out.parts()) == shards
        centroids = safetensors.numpy.load(out.read_bytes("centroids.safetensors"))["centroids"]
        found.append((out.read_parts().combine_chunks(), centroids))
    for table, centroids in found[1:]:
        assert table.equals(found[0][0])
        assert np.allclose(centroids, found[0][1], atol=1e-6)


def test_few_images_are_clustered_here_with_the_same_result(
    corpus: SmallCorpus, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    spread = clustered(corpus, make_work, "spread").out
    monkeypatch.setattr(cluster, "ShardPool", None)  # would raise
    work = make_work(corpus.config(), "cluster", corpus.parents, "here", force=False)
    cluster.run(work)
    assert work.out.read_parts().equals(spread.read_parts())
    assert work.out.read_bytes("centroids.safetensors") == spread.read_bytes("centroids.safetensors")


def test_k_by_the_bend_of_the_curve(corpus: SmallCorpus, make_work: Callable[..., Work]) -> None:
    work = clustered(corpus, make_work, "k", cluster__candidates=(3, 9, 27))
    curve = work.out.read_json("stats.json")["curve"]
    assert [p["k"] for p in curve] == [3, 9, 27]
    assert (np.diff([p["inertia"] for p in curve]) < 0).all()
    assert work.facts.k == 9


def test_spherical_and_raw(corpus: SmallCorpus, make_work: Callable[..., Work]) -> None:
    work = clustered(corpus, make_work, "s", cluster__spherical=True, cluster__space="raw")
    centroids = safetensors.numpy.load(work.out.read_bytes("centroids.safetensors"))["centroids"]
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    assert work.facts.purity > 0.7


def test_too_few_images(corpus: SmallCorpus, make_work: Callable[..., Work]) -> None:
    with pytest.raises(UserError, match=r"500 clusters, but only 270 images"):
        clustered(corpus, make_work, "few", cluster__k=500)
    with pytest.raises(UserError, match="three or more"):
        clustered(corpus, make_work, "two", cluster__candidates=(2, 3))


@pytest.mark.parametrize("shards", [1, 5, 256, 257, 1000, 15_259])
def test_shards_come_in_few_groups_that_hold_each_once(shards: int) -> None:
    groups = cluster.shard_groups(shards)
    assert len(groups) <= cluster.GROUPS
    assert [shard for group in groups for shard in group] == list(range(shards))
    if shards <= cluster.GROUPS:
        assert all(len(group) == 1 for group in groups), "sums are added as one shard after the other"
