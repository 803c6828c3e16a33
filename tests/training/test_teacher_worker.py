from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from support.pretended_gpu import pretended_gpu

from alignet_ray.config import Config
from alignet_ray.core import triplet_set
from alignet_ray.models.backbone import checksum, load_backbone
from alignet_ray.models.embedding_network import load_network, make_network
from alignet_ray.models.features import Encoder
from alignet_ray.models.kernel_head import KernelHead
from alignet_ray.stages import Work, align
from alignet_ray.stages.training_jobs import make_teacher_job
from alignet_ray.store import Artifact
from alignet_ray.training import teacher_validation
from alignet_ray.training.teacher_job import HumanBatches
from alignet_ray.training.teacher_worker import TeacherWorker

Make = Callable[..., Work]


def make_worker(make_work: Make, cfg: Config, soften: Artifact, id: str = "a") -> TeacherWorker:
    """A training process in this one, without Ray."""
    job = make_teacher_job(make_work(cfg, "align", {"soften": soften}, id), workers=1)
    return TeacherWorker(job, "cpu", lambda _: None)


def test_batches_hold_distinct_objects_and_peoples_probabilities(truth: np.ndarray) -> None:
    count = len(truth)
    images = tuple(np.array([2 * number, 2 * number + 1]) for number in range(count))
    human = triplet_set.HumanModel(truth, 0 * truth, 1, 0)
    batches = HumanBatches(np.arange(100, 160), images, human, batch_size=12, seed=0)
    batch = batches(3)
    shown = (batch.image_ids - 100) // 2
    assert len(set(shown.tolist())) == 12
    expected = human.probabilities(shown[batch.triplets.numpy()])
    np.testing.assert_allclose(batch.targets("cpu").softmax(dim=1).numpy(), expected, atol=1e-5)
    assert (batches(3).image_ids == batch.image_ids).all()
    assert not (batches(4).image_ids == batch.image_ids).all()


def test_one_process_fine_tunes_keeps_the_best_and_reports_its_agreement(
    cfg: Config, soften: Artifact, make_work: Make
) -> None:
    worker = make_worker(make_work, cfg, soften)
    worker.train()
    out = worker.job.out
    report = out.read_json("report.json")
    assert [row["step"] for row in report["history"]] == [0, 4, 8, 12]
    best = min(report["history"], key=lambda row: row["cross_entropy"])
    assert report["step"] == best["step"] > 0
    assert report["validation_aligned_cross_entropy"] == pytest.approx(best["cross_entropy"], abs=0.05)
    assert best["cross_entropy"] < report["history"][0]["cross_entropy"]
    first = report["history"][0]["accuracy"]
    assert first > report["validation_base_accuracy"], "the neighbours of untrained features say nothing"
    assert report["validation_aligned_accuracy"] > report["validation_ceiling"] - 0.02
    student = load_network(out.local())
    assert isinstance(student.head, KernelHead)
    assert student.tau == 1
    assert report["metric"] == "plain", "random weights have no classifier"
    assert report["temperature"] == pytest.approx(float(student.head.temperature))
    assert 0 <= report["aligned_neighbours_kept"] <= report["neighbours_kept"] <= 1
    for split in ("validation", "test"):
        assert {f"{split}_{space}_accuracy" for space in ("base", "features", "aligned")} < set(report)


def test_images_that_cannot_be_read_are_left_out_and_counted(cfg: Config, soften: Artifact, make_work: Make) -> None:
    broken = sorted(Path(str(cfg.corpus.path)).rglob("1.png"))[:2]
    for file in broken:
        file.write_bytes(file.read_bytes()[:60])
    work = make_work(cfg, "align", {"soften": soften})
    job = make_teacher_job(work, workers=1)
    assert len(job.images.ids) == 2 * len(job.human.mu) - 2
    assert work.warnings == ["2 images of annotated objects cannot be read and are left out: 'o00/1.png'"]
    TeacherWorker(job, "cpu", lambda _: None).train()


def test_interpolation_takes_a_point_of_the_reported_curve(cfg: Config, soften: Artifact, make_work: Make) -> None:
    reports, weights = {}, {}
    for share in (0.5, 1.0):
        worker = make_worker(make_work, cfg.replace(align__network__interpolation=share), soften, f"share{share}")
        worker.train()
        reports[share] = worker.job.out.read_json("report.json")
        weights[share] = dict(load_network(worker.job.out.local()).named_parameters())
    pretrained = dict(make_network(cfg.embed.model[0], 32, None, 0).named_parameters())
    for name, start in pretrained.items():
        middle = (start + weights[1.0][name]) / 2
        torch.testing.assert_close(weights[0.5][name], middle, atol=1e-5, rtol=1e-4)
    curve = {row["interpolation"]: row for row in reports[1.0]["curve"]}
    assert list(curve) == [0, 0.25, 0.5, 0.75, 1]
    assert curve[0]["kept"] == 1
    assert curve[0]["features"] == pytest.approx(reports[1.0]["validation_base_accuracy"], abs=0.03)
    for share, report in reports.items():
        assert report["neighbours_kept"] == pytest.approx(curve[share]["kept"], abs=1e-6)
        assert report["validation_aligned_accuracy"] == pytest.approx(curve[share]["accuracy"], abs=0.03)


def test_the_written_teacher_has_the_reported_agreement(cfg: Config, soften: Artifact, make_work: Make) -> None:
    """Loaded from its folder, it predicts the validation objects' images with the accuracy of its report."""
    worker = make_worker(make_work, cfg.replace(align__network__temperature=0.2), soften)
    worker.train()
    job = worker.job
    encoder = Encoder.load([str(job.out.local())], head="instead")
    pixels = job.images(job.images.ids)
    predicted = torch.from_numpy(encoder.forward([pixels])["embedding"])
    report = job.out.read_json("report.json")
    score = triplet_set.score(predicted, job.triplet_set("validation"))
    assert score.accuracy == pytest.approx(report["validation_aligned_accuracy"], abs=0.01)
    assert report["temperature"] == pytest.approx(0.2)


def test_the_local_term_keeps_neighbours(cfg: Config, soften: Artifact, make_work: Make) -> None:
    kept = []
    for weight in (0.0, 10.0):
        changed = cfg.replace(align__network__locality=weight, align__network__lr=3e-4)
        worker = make_worker(make_work, changed, soften, f"locality{weight}")
        worker.train()
        kept.append(worker.job.out.read_json("report.json")["neighbours_kept"])
    assert kept[1] > kept[0] + 0.1, kept


def test_without_an_update_the_network_stays_as_it_is(cfg: Config, soften: Artifact, make_work: Make) -> None:
    worker = make_worker(make_work, cfg.replace(align__network__steps=0), soften)
    worker.train()
    out = worker.job.out
    report = out.read_json("report.json")
    assert report["step"] == 0
    assert report["neighbours_kept"] == 1
    assert report["validation_aligned_accuracy"] > report["validation_base_accuracy"]
    assert checksum(load_network(out.local()).backbone.net) == checksum(load_backbone(cfg.embed.model[0], 32).net)


def test_validation_with_few_keys_compares_with_the_right_images(
    cfg: Config, soften: Artifact, make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_validation, "MAX_KEYS", 10)
    worker = make_worker(make_work, cfg, soften)
    worker.validate({})
    validator = worker.validator
    assert len(validator.key_rows) == 10
    features = worker.pretrained_features
    head = worker.head.subset(validator.keys)
    torch.testing.assert_close(head.keys, worker.head.directions(features[validator.key_rows]))
    expected = triplet_set.score(head(features), validator.triplets, draws=2).accuracy
    assert validator.history[0]["accuracy"] == pytest.approx(expected, abs=1e-6)


def test_a_gpu_trains_as_a_cpu_does(cfg: Config, soften: Artifact, make_work: Make) -> None:
    histories = []
    for device, place in (("cpu", nullcontext()), ("cuda", pretended_gpu())):
        job = make_teacher_job(make_work(cfg, "align", {"soften": soften}, device), workers=1)
        with place:
            worker = TeacherWorker(job, device, lambda _: None)
            worker.train()
        assert isinstance(load_network(job.out.local()).head, KernelHead)
        histories.append([row["cross_entropy"] for row in worker.validator.history])
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-4)


@pytest.mark.slow
def test_the_stage_trains_it_in_two_processes(
    cfg: Config, soften: Artifact, make_work: Make, ray_session: None
) -> None:
    alone = make_work(cfg, "align", {"soften": soften}, id="1")
    align.run(alone)
    both = make_work(cfg.replace(align__network__workers=2), "align", {"soften": soften}, id="2")
    align.run(both)
    assert both.out.read_table("folds.parquet").num_rows == 0
    assert load_network(both.out.local()).head is not None
    assert not [name for name in both.out.files(deep=True) if name.startswith(".train")]
    one, two = (work.out.read_json("report.json")["history"] for work in (alone, both))
    for a, b in zip(one, two, strict=True):
        assert a["cross_entropy"] == pytest.approx(b["cross_entropy"], rel=1e-2)


def test_what_changes_the_teacher_and_what_does_not(cfg: Config) -> None:
    fields = align.inputs(cfg, "")
    assert fields["model"] == ["random:test_efficientnet_ln"]
    assert "workers" not in fields["network"]
    assert align.sources(cfg, "") == [cfg.corpus.path]
    assert align.inputs(cfg.replace(align__network__workers=2), "") == fields
    assert align.inputs(cfg.replace(align__network__lr=1e-5), "") != fields
