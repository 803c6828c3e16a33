"""Ray Train as the driver sees it: what ends a training and what does not, by processes that fail as they are told."""

import errno
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.train
from ray import cloudpickle
from ray.train import ScalingConfig

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.runtime import NOTICE_WATCHER
from alignet_ray.stages import Work
from alignet_ray.stages.ray_train import Reports, Start, StartCounter, is_leaving, run_training
from alignet_ray.store import Draft, Store
from alignet_ray.training.circumstances import NOTICE, Circumstances
from alignet_ray.training.loop import BeginAgain

Make = Callable[..., Work]


@pytest.fixture
def out(store: Store) -> Draft:
    return store.draft("distill", "student")


def checkpoint(out: Draft, step: int) -> None:
    out.write_bytes(f"checkpoints/step-{step:08d}.pt", b"")


def test_a_machine_leaves_when_ray_says_so_and_never_where_ray_cannot_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NOTICE_WATCHER, raising=False)
    notices = iter([None, "in two minutes"])
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: next(notices))
    assert [is_leaving(), is_leaving()] == [False, True]

    # Ray of one machine: nobody asks, so that not even a notice would count.
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: "now")
    monkeypatch.setenv(NOTICE_WATCHER, "0")
    assert not is_leaving()
    monkeypatch.delenv(NOTICE_WATCHER)
    assert is_leaving()

    # An earlier Ray has no such function.
    monkeypatch.delattr(ray.train, "get_preemption_info")
    assert not is_leaving()


def test_losses_in_a_row_end_a_training_and_losses_after_progress_do_not(out: Draft) -> None:
    """A hundred machines may go one after the other, if each leaves a checkpoint."""
    counter = StartCounter(out, max_failures=2)
    for step in range(100):
        assert counter.begin() == Start()
        checkpoint(out, step)
    assert [counter.begin().problem for _ in range(3)] == ["", "", ""]
    text = counter.begin().problem
    assert text.startswith("training processes were lost 3 times in a row without a new checkpoint: Ray's worker logs")


def test_without_patience_the_first_loss_ends_it_and_says_of_what(out: Draft) -> None:
    counter = StartCounter(out, max_failures=0)
    assert counter.begin().problem == ""
    counter.note(RuntimeError("CUDA error: an illegal memory access\nand more"))
    text = counter.begin().problem
    assert "lost 1 times" in text
    assert "(the last time by RuntimeError: CUDA error: an illegal memory access)" in text


def test_a_problem_of_one_process_is_what_all_say_when_they_begin_again(out: Draft) -> None:
    counter = StartCounter(out, max_failures=2)
    assert counter.begin() == Start()
    counter.note(UserError("image 7 is gone"))
    assert counter.begin() == Start("image 7 is gone")


def test_a_full_disk_is_told_at_once_though_nothing_can_be_noted(out: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    counter = StartCounter(out, max_failures=2)
    counter.note(full)
    assert counter.begin().problem.startswith(f"the disk is full while writing to {out.uri}: fix that and run again")

    def refuse(self: Draft, name: str, content: object) -> None:
        raise full

    monkeypatch.setattr(Draft, "write_json", refuse)
    other = StartCounter(Store.open(out.root).draft("distill", "other"), max_failures=2)
    other.note(full)
    assert other.begin().problem.startswith("the disk is full")


def test_another_way_begins_again_as_often_as_it_takes(out: Draft) -> None:
    counter = StartCounter(out, max_failures=1)
    for size in (512, 256, 128, 64, 32):
        counter.begin()
        counter.note(BeginAgain("too many", size))
        assert counter.begin() == Start(micro_batch=size)
    counter.note(BeginAgain("no compiler", compile=False))
    assert counter.begin() == Start(micro_batch=32, compile=False), "one change does not undo the other"
    counter.note(BeginAgain("too many", 16))
    assert counter.begin() == Start(micro_batch=16, compile=False)


class Obedient:
    """A worker that does what its job says, by rank and start; it counts its starts in a file."""

    def __init__(self, job: dict[str, Any], device: str, report: Any, circumstances: Circumstances) -> None:
        from ray.train import get_context

        self.rank = get_context().get_world_rank()
        self.job = job
        self.report = report
        self.circumstances = circumstances
        file = Path(job["folder"]) / f"starts-{self.rank}"
        self.start = len(file.read_text()) if file.exists() else 0
        file.write_text("x" * (self.start + 1))

    def train(self) -> None:
        import torch.distributed as dist

        if self.rank == 1 and self.start == 0:
            if self.job["trouble"] == "image":
                raise UserError("image 7 is gone")
            if self.job["trouble"] == "memory":
                raise BeginAgain("512 images at once are too many", 256)
        # The others wait here for the one that fails, as they do for outputs and gradients.
        dist.barrier()
        text = f"passes of {self.circumstances.micro_batch}, leaving: {self.circumstances.is_leaving()}"
        self.report({"step": 1, NOTICE: text})


@pytest.fixture
def by_value() -> Iterator[None]:
    """Ray's processes get the class itself: this file is on no path of theirs."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


def train(make_work: Make, folder: Path, trouble: str) -> tuple[Work, list[Reports]]:
    work = make_work(Config(), "distill@student", {})
    reports: list[Reports] = []
    job = {"folder": str(folder), "trouble": trouble}
    run_training(work, Obedient, job, ScalingConfig(num_workers=2), reports.append)  # type: ignore[arg-type]
    return work, reports


@pytest.mark.usefixtures("ray_session", "by_value")
def test_a_process_that_fails_alone_ends_those_that_wait_for_it(make_work: Make, tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"^image 7 is gone$"):
        train(make_work, tmp_path, "image")
    assert time.monotonic() - begin < 300, "the others would wait for half an hour"


@pytest.mark.usefixtures("ray_session", "by_value")
def test_all_processes_begin_again_with_smaller_passes(make_work: Make, tmp_path: Path) -> None:
    work, reports = train(make_work, tmp_path, "memory")
    assert work.warnings == ["passes of 256, leaving: False"]
    assert [len(found) for found in reports] == [2]
    assert [(tmp_path / f"starts-{rank}").read_text() for rank in (0, 1)] == ["xx", "xx"]
    assert not work.out.has(".train/changes.json")
