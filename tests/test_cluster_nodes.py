"""Nodes of a cluster: what they offer, waiting for them, and whether they see the same folders."""

import os
import re
from pathlib import Path

import pytest

from alignet_ray import cluster_nodes
from alignet_ray.config import Config
from alignet_ray.errors import UserError


def test_what_the_cluster_offers(ray_session: None) -> None:
    assert cluster_nodes.cluster_resources() == (0, 4)


def test_waiting_for_nodes_ends_when_told(ray_session: None, tmp_path: Path) -> None:
    said: list[str] = []
    cfg = Config().replace(store__root=str(tmp_path), ray__cpus=2)
    cluster_nodes.ClusterNodes(cfg, said.append).ready()
    assert said == []
    with pytest.raises(UserError, match="no GPU came within 0 minutes"):
        cluster_nodes.ClusterNodes(cfg.replace(ray__gpus=2, ray__patience=0), said.append).ready()
    cluster_nodes.ClusterNodes(cfg.replace(ray__cpus=10_000, ray__patience=0), said.append).ready()
    assert re.fullmatch(r" +going on with \d+ CPUs", said[-1])


def test_a_cluster_without_workers_is_asked_for_one_and_no_gpu_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asked for workers: without the request an autoscaler would leave the cluster as empty as it began."""
    offered = {"CPU": 0, "GPU": 0}
    asked: list[tuple[str, int]] = []

    def come(self: cluster_nodes.ClusterNodes, kind: str, count: int) -> None:
        asked.append((kind, count))
        offered[kind] = 4

    monkeypatch.setattr(cluster_nodes, "_offered", offered.__getitem__)
    monkeypatch.setattr(cluster_nodes.ClusterNodes, "_wait", come)
    monkeypatch.setattr(cluster_nodes.ClusterNodes, "_check_new_nodes", lambda self: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said: list[str] = []
    cfg = Config().replace(store__root=str(tmp_path))
    cluster_nodes.ClusterNodes(cfg, said.append).ready()
    assert asked == [("CPU", 1)]
    assert [line.split(":")[0].strip() for line in said] == ["no worker is there and none was asked for"]

    # A cluster on CPUs says so once; a Ray of this machine, where everybody knows, does not.
    said.clear()
    nodes = cluster_nodes.ClusterNodes(cfg.replace(ray__address="10.0.0.1:6379"), said.append)
    nodes.ready()
    nodes.ready()
    assert [line.split(":")[0].strip() for line in said] == ["this cluster has no GPU now"]


def test_a_node_that_misses_a_folder_is_named(ray_session: None, tmp_path: Path) -> None:
    import ray

    cluster_nodes._check_answer("10.0.0.7", ray.put([]))
    with pytest.raises(UserError, match=r"node 10\.0\.0\.7 does not see /shared/images: mount the same storage"):
        cluster_nodes._check_answer("10.0.0.7", ray.put(["/shared/images", "/shared/runs/.shared-12"]))
    with pytest.raises(UserError, match="does not see /shared/runs"):
        cluster_nodes._check_answer("10.0.0.7", ray.put(["/shared/runs/.shared-12"]))


def test_the_probe_reaches_every_node_and_goes(ray_session: None, tmp_path: Path) -> None:
    import ray

    node = [cluster_nodes.RayNode(n["NodeID"], "here") for n in ray.nodes()]
    cfg = Config().replace(store__root=str(tmp_path), corpus__path=str(tmp_path))
    cluster_nodes._require_storage(cfg, node)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="node here does not see"):
        cluster_nodes._require_storage(cfg.replace(corpus__path="/nowhere/images"), node)
    assert list(tmp_path.iterdir()) == []


def test_cores_are_slots_of_a_cluster_but_not_of_this_machine(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local Ray has four slots at least; the nodes of a cluster count their own cores, whatever the driver has."""

    assert cluster_nodes.cores() == min(4, os.cpu_count() or 1)
    monkeypatch.setattr(cluster_nodes, "cluster_resources", lambda: cluster_nodes.ClusterResources(gpus=8, cpus=120))
    monkeypatch.setattr(cluster_nodes, "alive_nodes", lambda: [cluster_nodes.RayNode(id, "here") for id in "ab"])
    assert cluster_nodes.cores() == 120


def test_what_others_take_is_not_free(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    @ray.remote(num_cpus=3)
    class Other:
        def ready(self) -> None:
            pass

    assert cluster_nodes.free_resources() == (0, 4)
    monkeypatch.setattr(cluster_nodes, "RELEASE_SECONDS", 0.2)
    other = Other.remote()
    ray.get(other.ready.remote())
    assert cluster_nodes.free_resources() == (0, 1)
    ray.kill(other)
    monkeypatch.setattr(cluster_nodes, "RELEASE_SECONDS", 60.0)
    assert cluster_nodes.free_resources() == (0, 4), "what it gives back is waited for"


@pytest.mark.parametrize(("seen", "shared"), [(True, True), (False, False)])
def test_a_folder_of_each_node_is_told_from_one_of_all(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: bool, shared: bool
) -> None:
    (node,) = cluster_nodes.alive_nodes()
    assert cluster_nodes.nodes_share(tmp_path / "cache"), "one node shares with itself"
    monkeypatch.setattr(cluster_nodes, "alive_nodes", lambda: [node, node])
    if not seen:
        ask = cluster_nodes._ask
        monkeypatch.setattr(cluster_nodes, "_ask", lambda node, paths: ask(node, ["/on/another/machine"]))
    assert cluster_nodes.nodes_share(tmp_path / "cache") is shared
    assert list((tmp_path / "cache").iterdir()) == []
