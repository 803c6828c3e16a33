"""Checkpoints: the newest is resumed with its metrics, two are kept, nothing is unpickled."""

import io
import pickle
import threading
from contextlib import closing
from pathlib import Path

import pytest
import torch
from support.training import make_recipe, save_checkpoint

from alignet_ray.models.embedding_network import make_network
from alignet_ray.store import Draft, Store
from alignet_ray.training import checkpoints
from alignet_ray.training.checkpoints import MetricsLog
from alignet_ray.training.loop import Training


def training(seed: int = 0) -> Training:
    return Training(make_network("random:test_vit", 32, 4, seed), make_recipe(steps=9, lr=1e-3))


def test_without_a_checkpoint_there_is_nothing_to_resume(store: Store) -> None:
    out = store.draft("distill", "d")
    fresh = training()
    before = {name: value.clone() for name, value in fresh.model.state_dict().items()}
    assert checkpoints.latest(out) is None
    assert checkpoints.resume(out, fresh) == MetricsLog()
    assert fresh.step == 0
    assert all(torch.equal(value, before[name]) for name, value in fresh.model.state_dict().items())


def test_the_newest_two_are_kept_and_the_last_is_resumed_with_its_metrics(store: Store) -> None:
    out = store.draft("distill", "d")
    saved = training(seed=0)
    for step in (9, 10, 100):  # by number, not by name
        saved.step = step
        log = MetricsLog(rows=[{"step": 0.0}, {"step": float(step), "loss": 0.5}], recent=[{"loss": 0.25}])
        save_checkpoint(out, saved, log)
    assert [checkpoints.step_of(name) for name in out.files(checkpoints.FOLDER, ".pt")] == [10, 100]

    other = training(seed=1)
    found = checkpoints.resume(out, other)
    assert found == log
    assert other.step == 100
    expected = saved.model.state_dict()
    for name, value in other.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_objects_of_python_are_not_loaded(store: Store, tmp_path: Path) -> None:
    out = store.draft("distill", "d")
    sink = io.BytesIO()
    torch.save({"step": 1, "metrics": "{}", "path": tmp_path}, sink)
    out.write_bytes(f"{checkpoints.FOLDER}/step-00000001.pt", sink.getvalue())
    with pytest.raises(pickle.UnpicklingError):
        checkpoints.resume(out, training())


def test_a_checkpoint_is_written_as_it_was_when_training_went_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights that are written are those of the update, whatever becomes of them while the disk is slow."""
    gate = threading.Event()
    write_bytes = Draft.write_bytes

    def slow(self: Draft, name: str, data: bytes) -> None:
        assert gate.wait(60)
        write_bytes(self, name, data)

    monkeypatch.setattr(Draft, "write_bytes", slow)
    out = store.draft("distill", "slow")
    changing = training()
    changing.step = 3
    expected = {name: value.clone() for name, value in changing.model.state_dict().items()}
    with closing(checkpoints.CheckpointWriter(out)) as writer:
        writer.save(changing, MetricsLog([{"step": 3.0}]))
        with torch.no_grad():
            for parameter in changing.parameters:
                parameter.add_(1)
        changing.step = 4
        assert out.files("checkpoints") == []
        gate.set()
        writer.wait()
    assert out.files("checkpoints") == ["checkpoints/step-00000003.pt"]
    again = training(seed=1)
    assert checkpoints.resume(out, again).rows == [{"step": 3.0}]
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_checkpoint_that_could_not_be_written_stops_the_training_at_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Draft, name: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Draft, "write_bytes", full)
    with closing(checkpoints.CheckpointWriter(store.draft("distill", "full"))) as writer:
        writer.save(training(), MetricsLog())
        with pytest.raises(OSError, match="No space left"):
            writer.save(training(), MetricsLog())
