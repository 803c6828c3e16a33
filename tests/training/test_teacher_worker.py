from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.pretended_gpu import pretended_gpu

from alignet_ray.config import Config
from alignet_ray.core import triplet_set
from alignet_ray.errors import UserError
from alignet_ray.human import objects
from alignet_ray.images.listing import list_images
from alignet_ray.models.backbone import checksum, load_backbone
from alignet_ray.models.features import Encoder
from alignet_ray.models.kernel_head import KernelHead
from alignet_ray.models.student import load_student, make_student
from alignet_ray.stages import Work, align
from alignet_ray.store import Artifact, Store
from alignet_ray.training import teacher_worker
from alignet_ray.training.loop import Recipe, Training
from alignet_ray.training.validation import human_validation

OBJECTS = 30


@pytest.fixture
def truth() -> np.ndarray:
    """People sort by colour: red, green and blue things."""
    return (2 * np.eye(3, dtype=np.float32))[np.arange(OBJECTS) % 3]


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """Two images an object: its colour in a random place on noise."""
    rng = np.random.default_rng(0)
    for n in range(OBJECTS):
        folder = tmp_path / "images" / f"o{n:02d}"
        folder.mkdir(parents=True)
        for k in range(2):
            pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            y, x = rng.integers(0, 12, 2)
            pixels[y : y + 20, x : x + 20, n % 3] = 255
            Image.fromarray(pixels).save(folder / f"{k}.png")
    return Config().replace(
        corpus__path=str(tmp_path / "images"),
        embed__model=("random:test_efficientnet_ln",),
        embed__size=32,
        align__map="network",
        align__network__steps=12,
        align__network__every=4,
        align__network__batch_size=16,
        align__network__lr=1e-3,
        align__network__workers=1,
        align__network__crop=1.0,
    )


@pytest.fixture
def soften(store: Store, cfg: Config, truth: np.ndarray) -> Artifact:
    import safetensors.numpy

    listed = list_images(str(cfg.corpus.path))
    ids: dict[int, list[int]] = {}
    for row in listed.to_pylist():
        ids.setdefault(OBJECTS - 1 - int(row["label"][1:]), []).append(row["image_id"])  # not in the images' order
    draft = store.draft("soften", "s")
    draft.write_bytes("embedding.safetensors", safetensors.numpy.save({"mu": truth, "sigma": 0 * truth}))
    draft.write_table("objects.parquet", objects.objects_table(0, OBJECTS, [], ids))
    return draft.finish({})


def test_batches_hold_distinct_objects_and_peoples_probabilities(truth: np.ndarray) -> None:
    images = tuple(np.array([2 * n, 2 * n + 1]) for n in range(OBJECTS))
    human = triplet_set.HumanModel(truth, 0 * truth, 1, 0)
    batches = teacher_worker.HumanBatches(np.arange(100, 160), images, human, batch=12, seed=0)
    batch = batches(3)
    shown = (batch.ids - 100) // 2
    assert len(set(shown.tolist())) == 12
    expected = human.probabilities(shown[batch.triplets.numpy()])
    np.testing.assert_allclose(batch.similarities.softmax(dim=1).numpy(), expected, atol=1e-5)
    assert (batches(3).ids == batch.ids).all()
    assert not (batches(4).ids == batch.ids).all()


def test_one_process_fine_tunes_keeps_the_best_and_says_what_it_brought(
    cfg: Config, soften: Artifact, store: Store
) -> None:
    out = store.draft("align", "a")
    job = teacher_worker.make_teacher_job(cfg, out, soften, workers=1)
    rows: list[dict[str, float]] = []
    teacher_worker.TeacherWorker(job, "cpu", rows.append).train()
    report = out.read_json("report.json")
    assert [row["step"] for row in report["history"]] == [0, 4, 8, 12]
    best = min(report["history"], key=lambda row: row["cross_entropy"])
    assert report["step"] == best["step"] > 0
    assert report["validation_aligned_cross_entropy"] == pytest.approx(best["cross_entropy"], abs=0.05)
    assert best["cross_entropy"] < report["history"][0]["cross_entropy"]
    first = report["history"][0]["accuracy"]
    assert first > report["validation_base_accuracy"], "the neighbours of untrained features say nothing"
    assert report["validation_aligned_accuracy"] > report["validation_ceiling"] - 0.02
    student = load_student(out.local())
    assert isinstance(student.head, KernelHead)
    assert student.tau == 1
    assert report["metric"] == "plain", "random weights have no classifier"
    assert report["temperature"] == pytest.approx(float(student.head.temperature))
    assert 0 <= report["aligned_neighbours_kept"] <= report["neighbours_kept"] <= 1
    for split in ("validation", "test"):
        assert {f"{split}_{space}_accuracy" for space in ("base", "features", "aligned")} < set(report)


def test_blend_takes_a_point_on_the_way_that_the_report_shows(cfg: Config, soften: Artifact, store: Store) -> None:
    reports, weights = {}, {}
    for blend in (0.5, 1.0):
        some = cfg.replace(align__network__interpolation=blend)
        out = store.draft("align", f"b{blend}")
        teacher_worker.TeacherWorker(
            teacher_worker.make_teacher_job(some, out, soften, workers=1), "cpu", lambda _: None
        ).train()
        reports[blend] = out.read_json("report.json")
        weights[blend] = dict(load_student(out.local()).named_parameters())
    pretrained = dict(make_student(cfg.embed.model[0], 32, None, 0).named_parameters())
    for name, start in pretrained.items():
        middle = (start + weights[1.0][name]) / 2
        torch.testing.assert_close(weights[0.5][name], middle, atol=1e-5, rtol=1e-4)
    trade = {row["share"]: row for row in reports[1.0]["trade"]}
    assert list(trade) == [0, 0.25, 0.5, 0.75, 1]
    assert trade[0]["kept"] == 1
    assert trade[0]["features"] == pytest.approx(reports[1.0]["validation_base_accuracy"], abs=0.03)
    for blend, report in reports.items():
        assert report["neighbours_kept"] == pytest.approx(trade[blend]["kept"], abs=1e-6)
        assert report["validation_aligned_accuracy"] == pytest.approx(trade[blend]["accuracy"], abs=0.03)


def test_the_written_teacher_says_what_was_judged(cfg: Config, soften: Artifact, store: Store) -> None:
    """Loaded from its folder, it describes the validation objects' images as the report's figures have them."""
    out = store.draft("align", "w")
    job = teacher_worker.make_teacher_job(cfg.replace(align__network__temperature=0.2), out, soften, workers=1)
    process = teacher_worker.TeacherWorker(job, "cpu", lambda _: None)
    process.train()
    encoder = Encoder.load([str(out.local())], head="instead")
    pixels = job.images(job.images.ids)
    y = torch.from_numpy(encoder.forward([pixels])["embedding"])
    side = job.side("validation")
    expected = out.read_json("report.json")["validation_aligned_accuracy"]
    assert triplet_set.score(y, side).accuracy == pytest.approx(expected, abs=0.01)
    assert out.read_json("report.json")["temperature"] == pytest.approx(0.2)


def test_the_local_term_keeps_neighbours(cfg: Config, soften: Artifact, store: Store) -> None:
    kept = []
    for weight in (0.0, 10.0):
        some = cfg.replace(align__network__locality=weight, align__network__lr=3e-4)
        out = store.draft("align", f"l{weight}")
        teacher_worker.TeacherWorker(
            teacher_worker.make_teacher_job(some, out, soften, workers=1), "cpu", lambda _: None
        ).train()
        kept.append(out.read_json("report.json")["neighbours_kept"])
    assert kept[1] > kept[0] + 0.1, kept


def test_without_an_update_the_network_stays_as_it_is(cfg: Config, soften: Artifact, store: Store) -> None:
    out = store.draft("align", "n")
    job = teacher_worker.make_teacher_job(cfg.replace(align__network__steps=0), out, soften, workers=1)
    teacher_worker.TeacherWorker(job, "cpu", lambda _: None).train()
    report = out.read_json("report.json")
    assert report["step"] == 0
    assert report["neighbours_kept"] == 1
    assert report["validation_aligned_accuracy"] > report["validation_base_accuracy"]
    assert checksum(load_student(out.local()).backbone.net) == checksum(load_backbone(cfg.embed.model[0], 32).net)


def test_a_look_at_few_images_still_takes_the_right_ones(
    cfg: Config, soften: Artifact, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_worker, "KEYS", 10)
    process = teacher_worker.TeacherWorker(
        teacher_worker.make_teacher_job(cfg, store.draft("align", "k"), soften, 1), "cpu", lambda _: None
    )
    process.look({})
    shown = process.rows[process.some]
    assert len(shown) == 10
    z = process.before
    head = process.head.pick(process.some)
    torch.testing.assert_close(head.keys, process.head.directions(z[shown]))
    expected = triplet_set.score(head(z), process.valid, draws=2).accuracy
    assert process.history[0]["accuracy"] == pytest.approx(expected, abs=1e-6)


def test_a_gpu_finds_what_a_cpu_finds(cfg: Config, soften: Artifact, store: Store) -> None:
    histories = []
    for device, place in (("cpu", nullcontext()), ("cuda", pretended_gpu())):
        job = teacher_worker.make_teacher_job(cfg, store.draft("align", device), soften, workers=1)
        with place:
            process = teacher_worker.TeacherWorker(job, device, lambda _: None)
            process.train()
        assert isinstance(load_student(job.out.local()).head, KernelHead)
        histories.append([row["cross_entropy"] for row in process.history])
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-4)


def test_several_teachers_are_refused(cfg: Config, soften: Artifact, store: Store) -> None:
    both = cfg.replace(embed__model=("random:test_vit", "random:test_resnet"))
    with pytest.raises(UserError, match=r"one embed\.model"):
        teacher_worker.make_teacher_job(both, store.draft("align", "a"), soften, workers=1)


@pytest.mark.slow
def test_the_stage_trains_it_in_two_processes(
    cfg: Config, soften: Artifact, make_work: Callable[..., Work], ray_session: None
) -> None:
    alone = make_work(cfg, "align", {"soften": soften}, id="1")
    align.run(alone)
    both = make_work(cfg.replace(align__network__workers=2), "align", {"soften": soften}, id="2")
    align.run(both)
    assert both.out.read_table("folds.parquet").num_rows == 0
    assert load_student(both.out.local()).head is not None
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


@pytest.mark.parametrize("squash", [False, True])
def test_a_student_is_watched_on_objects_that_none_trains_on(cfg: Config, soften: Artifact, squash: bool) -> None:
    """One image each of the validation objects; the agreement is that of the embedding's cosines, computed plainly."""
    seen = cfg.replace(distill__model="random:test_efficientnet_ln", distill__size=32, distill__squash=squash)
    watched = human_validation(seen, soften)
    table = soften.read_table("objects.parquet").to_pylist()
    validation = {row["object"]: row["image_ids"] for row in table if row["split"] == "validation"}
    assert len(watched.images.ids) == len(validation)
    assert {int(i) for i in watched.images.ids} <= {i for ids in validation.values() for i in ids}
    student = make_student("random:test_efficientnet_ln", 32, 8, 0, squash)
    assert watched.images.view.data == student.backbone.view.data
    found = watched.agreement(Training(student, Recipe(steps=1, lr=1e-3)))
    pixels = watched.images(watched.images.ids).float() / 255
    data = student.backbone.data
    x = (pixels - torch.tensor(data["mean"]).view(3, 1, 1)) / torch.tensor(data["std"]).view(3, 1, 1)
    with torch.inference_mode():
        z = torch.nn.functional.normalize(student.eval()(x).embedding, dim=1)
    z = z[watched.side.rows[:, 0]]
    s = z @ z.T
    i, j, k = watched.side.triplets.T
    best = torch.stack([s[i, j], s[i, k], s[j, k]], dim=1).argmax(dim=1)
    expected = watched.side.targets.gather(1, best[:, None]).mean()
    assert found == pytest.approx(float(expected), abs=1e-5)
