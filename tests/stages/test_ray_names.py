"""Ray's dashboard shows what tasks and actors do."""

from typing import Any

import numpy as np
import pytest

from alignet_ray import cluster_nodes
from alignet_ray.config import Config
from alignet_ray.stages import cluster, label, ray_names

pytestmark = pytest.mark.usefixtures("ray_session", "untyped_caller")


class Counter:
    """Adds to a number."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"n": batch["n"] + self.start}


def double(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"n": batch["n"] * 2}


def test_operators_of_ray_data_have_names_and_work() -> None:
    import ray
    from ray.data import ActorPoolStrategy

    data = ray.data.from_items([{"n": 1}, {"n": 2}], override_num_blocks=1)
    data = data.map_batches(ray_names.named_function(double, "embed@corpus: read images"))
    counter = ray_names.named_class(Counter, "embed@corpus: embed images")
    data = data.map_batches(
        counter, fn_constructor_args=(10,), num_cpus=0.5, compute=ActorPoolStrategy(min_size=1, max_size=1)
    )
    assert sorted(row["n"] for row in data.iter_rows()) == [12, 14]
    last = data._logical_plan.dag
    assert last.name == "MapBatches(embed@corpus: embed images)"
    assert last.input_dependencies[0].name == "MapBatches(embed@corpus: read images)"


def own_name(*arguments: Any) -> str:
    import ray

    return str(ray.get_runtime_context().get_task_name())


def test_tasks_are_called_by_what_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = cluster_nodes.ClusterResources(gpus=0, cpus=2)
    monkeypatch.setattr(cluster_nodes, "cluster_resources", lambda: offered)
    monkeypatch.setattr(label, "label_part", own_name)
    part = label.PartTask("train/part-00003.parquet", "train")
    arguments: Any = ("label@aligned", None, [part], 10, None, None, None)
    assert list(label._label_in_tasks(*arguments)) == [(part, "label@aligned: train/part-00003")]

    monkeypatch.setattr(cluster, "curve_point", own_name)
    section = Config().cluster.model_copy(update={"candidates": (4, 2)})
    nothing: Any = None
    names: Any = cluster._fit_candidates(section, nothing, np.zeros(1), 0)
    assert names == ["cluster: try 2 clusters", "cluster: try 4 clusters"]
