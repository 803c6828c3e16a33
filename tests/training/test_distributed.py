"""Shares of a batch and gathered rows, in one process and in several that are pretended."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from alignet_ray.training import distributed


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
    assert distributed.gather_rows(rows) is rows


@given(st.integers(1, 6), st.integers(0, 5))
def test_shares_are_even_and_make_up_the_batch_in_order_of_rank(world: int, share: int) -> None:
    count = world * share
    found: list[int] = []
    for rank in range(world):
        with pytest.MonkeyPatch.context() as monkeypatch:
            pretend(monkeypatch, rank, world)
            mine = range(count)[distributed.local_slice(count)]
            assert distributed.is_main_process() == (rank == 0)
        assert len(mine) == share
        found += mine
    assert found == list(range(count))


def test_gathered_rows_are_in_order_of_rank_and_gradients_reach_this_process_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, rank=1, world=3)

    def all_gather(parts: list[torch.Tensor], rows: torch.Tensor) -> None:
        assert not rows.requires_grad
        for rank, part in enumerate(parts):
            part.copy_(rows * 0 + rank)

    monkeypatch.setattr(dist, "all_gather", all_gather)
    mine = torch.full((2, 1), 7.0, requires_grad=True)
    gathered = distributed.gather_rows(mine)
    assert gathered.ravel().tolist() == [0, 0, 7, 7, 2, 2]
    (gathered * torch.arange(6.0)[:, None]).sum().backward()
    assert mine.grad is not None
    assert mine.grad.ravel().tolist() == [2, 3], "rows 2 and 3 of the whole batch"
