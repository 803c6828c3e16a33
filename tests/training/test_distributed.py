"""Shares of a batch and gathered rows, in one process and in several that are pretended."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from support.process_group import in_processes
from support.training import make_batches, make_recipe

from alignet_ray.models.backbone import Classifier
from alignet_ray.models.embedding_network import make_network
from alignet_ray.training import distributed
from alignet_ray.training.loop import Training


def pretend(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    monkeypatch.setattr(dist, "get_world_size", lambda: world)


def test_without_a_process_group_there_is_one_process_that_does_all() -> None:
    assert distributed.world_size() == 1
    assert distributed.rank() == 0
    assert distributed.is_main_process()
    assert distributed.local_slice(7) == slice(0, 7)
    rows = torch.ones(2, 3)
    assert distributed.gather_rows(rows, 2) is rows


@given(st.integers(1, 7), st.integers(0, 40))
def test_shares_differ_by_one_at_most_and_make_up_the_batch_in_order_of_rank(world: int, count: int) -> None:
    found: list[int] = []
    sizes: list[int] = []
    for rank in range(world):
        with pytest.MonkeyPatch.context() as monkeypatch:
            pretend(monkeypatch, rank, world)
            mine = range(count)[distributed.local_slice(count)]
            assert distributed.is_main_process() == (rank == 0)
        sizes.append(len(mine))
        found += mine
    assert found == list(range(count))
    assert max(sizes) - min(sizes) <= 1


def test_gathered_rows_are_in_order_of_rank_and_gradients_reach_this_process_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, rank=1, world=3)

    def all_gather(parts: list[torch.Tensor], rows: torch.Tensor) -> None:
        assert not rows.requires_grad
        assert rows.shape == (2, 1), "all processes send as many rows, though they have 1, 2 and 2"
        for rank, part in enumerate(parts):
            part.copy_(rows * 0 + rank)

    monkeypatch.setattr(dist, "all_gather", all_gather)
    mine = torch.full((2, 1), 7.0, requires_grad=True)
    gathered = distributed.gather_rows(mine, 5)
    assert gathered.ravel().tolist() == [0, 7, 7, 2, 2]
    (gathered * torch.arange(5.0)[:, None]).sum().backward()
    assert mine.grad is not None
    assert mine.grad.ravel().tolist() == [1, 2], "rows 1 and 2 of the whole batch"


def train_a_little(micro_batch: int | None) -> dict[str, torch.Tensor]:
    """A student after two updates of 64 images: its losses, a validation, and its weights."""
    ids = np.arange(80)
    pixels = np.random.default_rng(0).integers(0, 256, (80, 3, 32, 32), dtype=np.uint8)
    teacher = np.random.default_rng(1).normal(size=(80, 6)).astype(np.float16)
    batches = make_batches(ids, teacher, ids, 64, max_triplets=500)
    options = {"crop": 0.7, "locality": 0.1, "class_retention": 0.3, "embedding_loss_weight": 0.5}
    recipe = make_recipe(steps=2, lr=1e-3, micro_batch=micro_batch, **options)
    network = make_network("random:test_efficientnet_ln", 32, 8, seed=0)
    layer = np.random.default_rng(2).normal(size=(10, network.backbone.width + 1)).astype(np.float32)
    classes = Classifier(torch.from_numpy(layer[:, 1:].copy()), torch.from_numpy(layer[:, 0].copy()))
    training = Training(network, recipe, class_layer=classes)
    losses: list[float] = []

    def images(wanted: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pixels[wanted])

    training.calibrate(batches, images)
    training.run(batches, images, lambda _, figures: losses.append(figures["loss"]))
    valid = training.validate(batches(7), images)
    return training.model.state_dict() | {"losses": torch.tensor([*losses, valid["valid_loss"]])}


@pytest.mark.parametrize(("world", "micro_batch"), [(2, None), (3, None), (5, None), (3, 10), (5, 10), (3, 21)])
def test_any_number_of_processes_shares_a_batch_with_the_same_result(
    world: int, micro_batch: int | None, tmp_path: Path
) -> None:
    """64 images among 2, 3 and 5 processes: 32, then 21 or 22, then 12 or 13 each; in passes of 10 two or three.

    Passes of 21 hold the whole share of two processes and not that of the third, whom they must not wait for.
    """
    alone = train_a_little(None)
    together = in_processes(world, tmp_path / "group", train_a_little, micro_batch)
    for result in together:
        assert result.keys() == alone.keys()
        for name, values in alone.items():
            torch.testing.assert_close(result[name], values, rtol=1e-3, atol=2e-5, msg=name)
