import json
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from alignet_ray.artifacts.distill import DistillArtifact, Interpolation
from alignet_ray.artifacts.label import LabelArtifact, LabelStats, SubsetStats
from alignet_ray.artifacts.schemas import CLUSTERS, TRIPLETS, embeddings
from alignet_ray.config import Config
from alignet_ray.core.labelling import odd_last, similarities
from alignet_ray.errors import UserError
from alignet_ray.images import listing
from alignet_ray.images.cache import CachedImages, CacheWriter, DecodedImages, pack_once
from alignet_ray.images.transform import PixelTransform
from alignet_ray.models.backbone import load_backbone
from alignet_ray.models.embedding_network import load_network, make_network
from alignet_ray.screen import Progress
from alignet_ray.stages import Work, distill
from alignet_ray.stages.training_jobs import make_student_job
from alignet_ray.store import Artifact, Store
from alignet_ray.training import checkpoints
from alignet_ray.training.circumstances import Circumstances
from alignet_ray.training.loop import Training
from alignet_ray.training.student_worker import StudentWorker

COLOURS, SHADES = 6, 8


def triplet_table(ids: np.ndarray, x: np.ndarray, count: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(len(ids))[:3] for _ in range(count)])
    found = odd_last(ids[rows], similarities(x, rows))
    return pa.table([*found.triplets.T, *found.similarities.T], schema=TRIPLETS)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares in six colours and eight shades of noise: the teacher goes by colour."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for colour in range(COLOURS):
        (folder / f"c{colour}").mkdir()
        for shade in range(SHADES):
            tint = np.array([colour & 1, colour >> 1 & 1, colour >> 2 & 1]) * 150 + 50
            pixels = np.clip(tint + rng.normal(0, 10 + 4 * shade, (32, 32, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"c{colour}/{shade}.png")
    return folder


@pytest.fixture
def parents(pictures: Path, store: Store) -> dict[str, Artifact]:
    listed = listing.list_images(str(pictures))
    ids, colours = listed["image_id"].to_numpy(), np.repeat(np.arange(COLOURS), SHADES)
    x = (2 * np.eye(COLOURS)[colours] + np.random.default_rng(1).normal(0, 0.1, (len(ids), COLOURS))).astype(np.float16)
    embed, cluster, label = store.draft("embed", "e"), store.draft("cluster", "c"), store.draft("label", "l")
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(x)
    embed.write_table("part-00000.parquet", pa.Table.from_arrays([ids, tensor], schema=embeddings(COLOURS, "float16")))
    embed.write_table("images.parquet", listed)
    cluster.write_table("part-00000.parquet", pa.table([ids, colours.astype(np.int32)], schema=CLUSTERS))
    held = ids % SHADES == 0
    label.write_table("held_out.parquet", pa.table({"image_id": ids[held]}))
    label.write_table("train/part-00000.parquet", triplet_table(ids[~held], x[~held], 500, 0))
    label.write_table("valid/part-00000.parquet", triplet_table(ids[held], x[held], 100, 1))
    figures = SubsetStats(triplets=500, ties=0, entropy=0.5, margin=0.5, entropy_histogram=[], margin_histogram=[])
    stats = LabelStats(scale=1.0, held_out_images=int(held.sum()), train=figures, valid=figures)
    LabelArtifact(label).write_stats(stats)
    for draft in (embed, cluster, label):
        draft.finish({})
    align = store.draft("align", "a")
    return {"label@aligned": label, "embed@corpus": embed, "align": align, "cluster": cluster}


def config(pictures: Path, store: Store, **changes: Any) -> Config:
    base: dict[str, Any] = {
        "model": "random:test_efficientnet_ln",
        "size": 32,
        "steps": 12,
        "batch_size": 16,
        "head": 16,
    }
    base |= {
        "lr": 3e-3,
        "embedding_loss_weight": 0.5,
        "log_every": 4,
        "checkpoint_every": 0.0,
        "decay_to_init": 0.1,
        "valid_every": 6,
    }
    tree = {"corpus": {"path": str(pictures)}, "store": {"root": store.root}, "distill": base | changes}
    return Config.model_validate(tree)


def weights(work: Work) -> dict[str, torch.Tensor]:
    names = ("backbone.safetensors", "head.safetensors")
    return {f"{n}:{k}": v for n in names for k, v in load_file(work.out.local(n)).items()}


Make = Callable[..., Work]


def alone(work: Work, workers: int = 1) -> StudentWorker:
    """A training process in this one, without Ray."""

    def pack(pack: CacheWriter) -> None:
        pack.write(0, len(pack.images.ids))

    cache = Path(work.out.root) / "cache"
    job = make_student_job(work, cache, workers, pack)
    reported: list[dict[str, float]] = []
    work.facts = reported
    return StudentWorker(job, "cpu", reported.append)


def packed_file(pictures: Path, folder: Path, work: Work) -> bytes:
    """The file that the stage packs all pictures into."""
    listed = listing.list_images(str(pictures))
    view = PixelTransform(load_backbone("random:test_efficientnet_ln", 32).data_config)
    images = DecodedImages(str(pictures), listed["image_id"].to_numpy(), listed["path"].combine_chunks(), view, 1)
    target = folder / "pixels"
    pack_once(target, images, partial(distill._pack_images, work))
    return target.read_bytes()


@pytest.mark.usefixtures("ray_session")
def test_images_packed_here_and_in_tasks_are_the_same(
    pictures: Path,
    store: Store,
    parents: dict[str, Artifact],
    make_work: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cfg = config(pictures, store)
    in_tasks = packed_file(pictures, tmp_path / "tasks", make_work(cfg, "distill@student", parents))

    # Few images: no task is begun, which the absence of Ray's `put` shows.
    here = make_work(cfg, "distill@student", parents, "here", force=False)
    with monkeypatch.context() as patched:
        patched.setattr(distill.ray, "put", lambda _: pytest.fail("a task was begun"))
        assert packed_file(pictures, tmp_path / "here", here) == in_tasks

    # Where any time is too long, the first two pieces here and the rest in tasks.
    begun_in_tasks = []
    pack_in_tasks = distill._pack_in_tasks

    def noted(work: Work, writer: CacheWriter, packed: int, bar: Progress) -> None:
        begun_in_tasks.append(packed)
        pack_in_tasks(work, writer, packed, bar)

    monkeypatch.setattr(distill, "_pack_in_tasks", noted)
    monkeypatch.setattr(distill, "PACKED_AT_ONCE", 4)
    monkeypatch.setattr("alignet_ray.stages.small_work.START_SECONDS", 1e-9)
    assert packed_file(pictures, tmp_path / "both", here) == in_tasks
    assert begun_in_tasks == [8]


def test_classes_are_kept_only_where_the_weights_know_some(
    pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make, tmp_path: Path
) -> None:
    """Without a classifier the setting is refused at the start of the run, and by the process that trains."""
    cfg = config(pictures, store, class_retention=0.1)
    with pytest.raises(UserError, match=r"^--distill.class-retention .* without a classifier: set it to 0$"):
        distill.refuse(cfg, "student")
    with pytest.raises(UserError, match="without a classifier"):
        alone(make_work(cfg, "distill@student", parents))

    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_efficientnet_ln", num_classes=10).state_dict(), file)
    cfg = config(pictures, store, class_retention=0.1, model=f"test_efficientnet_ln@{file}")
    distill.refuse(cfg, "student")
    work = make_work(cfg, "distill@student", parents, "kept")
    alone(work).train()
    assert all("loss_classes" in row for row in work.facts if "loss" in row)


def test_a_machine_without_room_for_the_pixels_says_so_in_training_where_all_are_told(
    pictures: Path, parents: dict[str, Artifact], store: Store, make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the process is built: the others would begin to train, and wait for it."""

    def too_small(images: CachedImages) -> None:
        raise UserError("/nvme on node-b is too small")

    monkeypatch.setattr(CachedImages, "require", too_small)
    worker = alone(make_work(config(pictures, store), "distill@student", parents))
    with pytest.raises(UserError, match="node-b is too small"):
        worker.train()
    assert worker.training.step == 0


def test_a_process_ends_with_the_same_student_wherever_it_is_interrupted(
    pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make
) -> None:
    cfg = config(pictures, store)
    whole, cut = (make_work(cfg, "distill@student", parents, name) for name in ("whole", "cut"))
    alone(whole).train()
    for stop in (3, 7, 8):  # a kill after each of these updates
        worker = alone(cut)
        on_update = worker.on_update

        def killed(training: Training, figures: dict[str, float], stop: int = stop, on_update: Any = on_update) -> None:
            on_update(training, figures)
            if training.step == stop:
                raise KeyboardInterrupt

        worker.on_update = killed  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            worker.train()
        newest = checkpoints.latest(cut.out)
        assert newest is not None
        assert checkpoints.step_of(newest) == stop
    alone(cut).train()
    assert {k: v.tolist() for k, v in weights(cut).items()} == {k: v.tolist() for k, v in weights(whole).items()}
    assert cut.out.read_bytes("metrics.jsonl") == whole.out.read_bytes("metrics.jsonl")
    assert len(cut.out.files("checkpoints")) == 2
    check_student(whole)


def test_the_student_stands_where_the_settings_say(
    pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make
) -> None:
    """A quarter of the way is a quarter in every weight of the backbone, and none in those of the head."""
    works = {}
    for share in (1.0, 0.25):
        works[share] = make_work(config(pictures, store, interpolation=share), "distill@student", parents, f"s{share}")
        alone(works[share]).train()
        assert DistillArtifact(works[share].out).interpolation() == Interpolation(share, "as the settings say", [])

    settings = config(pictures, store).distill
    initial = make_network(settings.model, settings.size, settings.head, 0, settings.squash).backbone.net.state_dict()
    whole = weights(works[1.0])
    for name, tensor in weights(works[0.25]).items():
        file, _, key = name.partition(":")
        expected = whole[name]
        if file == "backbone.safetensors" and expected.is_floating_point():
            expected = 0.75 * initial[key] + 0.25 * whole[name]
        torch.testing.assert_close(tensor, expected, msg=name)


def test_without_annotated_objects_the_safer_half_is_taken_unless_the_backbone_did_not_train(
    pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make
) -> None:
    assert not any(name.startswith("soften") for name in parents)
    for trainable, chosen, reason in (("all", 0.5, "no annotated objects"), ("head", 1.0, "only the head")):
        cfg = config(pictures, store, interpolation="auto", trainable=trainable)
        work = make_work(cfg, "distill@student", parents, trainable)
        alone(work).train()
        found = DistillArtifact(work.out).interpolation()
        assert found.chosen == chosen
        assert reason in found.reason


def test_student_and_control_share_pixels_and_differ_in_the_teacher(
    pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make
) -> None:
    control = {"label@raw": parents["label@aligned"]} | {k: v for k, v in parents.items() if k != "label@aligned"}
    jobs = []
    for role, mine in (("student", parents), ("control", control)):
        work = make_work(config(pictures, store), f"distill@{role}", mine)
        jobs.append(alone(work).job)
    assert jobs[0].images.path == jobs[1].images.path
    assert (jobs[0].teacher.raw, jobs[1].teacher.raw) == (False, True)
    one, two = jobs[0].batches()(0), jobs[1].batches()(0)
    assert np.array_equal(one.image_ids, two.image_ids)
    assert not torch.allclose(one.targets("cpu"), two.targets("cpu"))
    held = parents["label@aligned"].read_table("held_out.parquet")["image_id"].to_numpy()
    assert not set(jobs[0].image_ids) & set(held)


def test_the_published_scheme_reads_the_labels(
    pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make
) -> None:
    work = make_work(
        config(pictures, store, batching="triplets", batch_size=4, cache_pixels="off"), "distill@student", parents
    )
    alone(work).train()
    rows = [row for row in work.facts if "loss" in row]
    assert work.cfg.distill.images_per_step == 12
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("model", "lr"),
    [("test_efficientnet_ln", 3e-3), ("test_efficientnet", 3e-4)],  # LayerNorm; BatchNorm, whose statistics are frozen
)
def test_two_processes_learn_and_equal_one(
    pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make, model: str, lr: float
) -> None:
    works, curves = {}, {}
    for workers in (1, 2):
        cfg = config(pictures, store, workers=workers, model=f"random:{model}", lr=lr)
        works[workers] = make_work(cfg, "distill@student", parents, f"w{workers}")
        # One process alone needs no Ray Train; the slow test of a killed process trains one through it.
        if workers == 1:
            alone(works[workers]).train()
        else:
            distill.run(works[workers])
        lines = works[workers].out.read_bytes("metrics.jsonl").splitlines()
        curves[workers] = [json.loads(line)["loss"] for line in lines[1:]]
    one, two = weights(works[1]), weights(works[2])
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=2e-4), name
    assert np.allclose(curves[1], curves[2], rtol=1e-3)
    pids = works[2].facts.processes
    assert len(set(pids)) == 2  # two processes, and neither is this one
    check_student(works[2], model)


@pytest.mark.usefixtures("ray_session")
def test_a_loss_that_is_not_finite_stops_all_processes(
    pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make
) -> None:
    work = make_work(config(pictures, store, workers=2, lr=1e30), "distill@student", parents)
    with pytest.raises(UserError, match=r"not finite.*image ids"):
        distill.run(work)
    assert not work.out.has("backbone.safetensors")


@pytest.mark.parametrize(
    ("trouble", "said"),
    [("No space left on device", "the disk is full"), ("Read-only file system", "Read-only file system")],
)
def test_a_disk_that_cannot_be_written_is_named(
    pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make, trouble: str, said: str
) -> None:
    work = make_work(config(pictures, store), "distill@student", parents)
    explanation = distill._explain_failure(work, RuntimeError(f"worker 0: OSError: [Errno 28] {trouble}: '/x'"))
    assert isinstance(explanation, UserError)
    assert said in str(explanation)
    assert work.out.uri in str(explanation)
    assert distill._explain_failure(work, RuntimeError("something else")) is None


def test_a_student_that_learned_nothing_is_warned_of(
    pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make
) -> None:
    work = make_work(config(pictures, store), "distill@student", parents)
    distill._warn_if_nothing_learned(work, {"valid_agreement": 0.5, "valid_rank": 4.0, "all_equal": 0.0})
    assert not work.warnings
    distill._warn_if_nothing_learned(work, {"valid_agreement": 0.34, "valid_rank": 1.1})
    chance, collapse = work.warnings
    assert "no more than chance" in chance
    assert "collapsed" in collapse


def check_student(work: Work, model: str = "test_efficientnet_ln") -> None:
    student = load_network(work.out.local())
    assert json.loads(work.out.read_bytes("model.json"))["head"]["width"] == 16
    output = student(torch.zeros(2, 3, 32, 32))
    assert output.embedding.shape == (2, 256)
    assert output.triplet_logits.shape == (2, 16)
    net = timm.create_model(model, num_classes=0)
    net.load_state_dict(load_file(work.out.local("backbone.safetensors")), strict=True)
    rows = [json.loads(line) for line in work.out.read_bytes("metrics.jsonl").splitlines()]
    assert [row["step"] for row in rows] == [0, 4, 6, 8, 12]
    assert rows[-1]["valid_loss"] < rows[0]["valid_loss"]
    assert not work.out.has(".train")


def test_inputs_leave_out_what_does_not_change_the_student():
    fields = distill.inputs(Config(), "student")
    assert not fields.keys() & {"workers", "control", "cache_pixels", "valid_every", "checkpoint_every"}
    assert {"lr", "steps", "batch_size", "seed"} <= fields.keys()


def test_a_batch_that_does_not_fit_is_refused(
    pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make
) -> None:
    """By the stage before Ray Train starts, or by each process; the driver is told as of a loss that is not finite."""
    with pytest.raises(UserError, match=r"less than one for each of the 100 .*--distill\.workers \d+ or less"):
        distill.run(make_work(config(pictures, store, workers=100), "distill@student", parents))
    with pytest.raises(UserError, match="set a smaller"):
        alone(make_work(config(pictures, store, batch_size=64), "distill@student", parents, "big")).train()


def test_a_machine_that_is_about_to_go_leaves_a_checkpoint(
    pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the checkpoints after the first update and at the end: one at the row of metrics after the notice."""
    steps: dict[str, list[int]] = {"staying": [], "leaving": []}
    for name, saved in steps.items():
        work = make_work(config(pictures, store, checkpoint_every=1e6), "distill@student", parents, name)
        worker = alone(work)
        monkeypatch.setattr(
            worker.checkpoints, "save", lambda training, metrics, saved=saved: saved.append(training.step)
        )
        if name == "leaving":
            answers = iter([False, True])
            worker.circumstances = Circumstances(is_leaving=lambda answers=answers: next(answers, False))
        worker.train()
    assert steps["staying"] == [1, 12]
    assert steps["leaving"] == [1, 6, 12]


def test_any_number_of_processes_may_share_a_batch(ray_session: None) -> None:
    section = Config().distill
    for workers in (1, 3, 7, 48):
        assert distill.worker_count(section.model_copy(update={"batch_size": 48, "workers": workers})) == workers
    assert distill.worker_count(section.model_copy(update={"batch_size": 33})) == 2
    assert distill.worker_count(section.model_copy(update={"batch_size": 1})) == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label__from_": "triplets.npz"}, "add --distill.batching triplets to learn from the file"),
        ({"distill__batching": "triplets", "distill__in_batch_kinds": "label"}, "leave one of them out"),
    ],
)
def test_settings_that_nothing_would_learn_from_are_refused(changes: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        distill.refuse(Config().replace(**changes), "student")


def test_two_processes_on_one_gpu_are_refused(ray_session: None) -> None:
    section = Config().distill.model_copy(update={"gpus_per_worker": 0.5})
    assert distill.worker_count(section.model_copy(update={"workers": 1})) == 1
    with pytest.raises(UserError, match=r"two of them on one GPU cannot exchange gradients"):
        distill.worker_count(section.model_copy(update={"workers": 2}))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_killed_process_is_replaced_and_ends_with_the_same_weights(
    pictures: Path, store: Store, parents: dict[str, Artifact], make_work: Make
) -> None:
    cfg = config(pictures, store, workers=1, steps=40, checkpoint_every=0.1)
    whole, killed = (make_work(cfg, "distill@student", parents, name) for name in ("whole", "killed"))
    distill.run(whole)
    thread = threading.Thread(target=distill.run, args=(killed,))
    thread.start()
    # A checkpoint may be there before the driver has heard of the process that wrote it.
    while len(killed.out.files("checkpoints", ".pt")) < 2 or not (killed.facts and killed.facts.processes):
        time.sleep(0.005)
    os.kill(killed.facts.processes[0], signal.SIGKILL)
    thread.join()
    assert killed.facts.steps == 40
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(killed)[name]), name
    assert killed.out.read_bytes("metrics.jsonl") == whole.out.read_bytes("metrics.jsonl")


def test_no_speed_before_the_first_step() -> None:
    first = {"step": 0, "valid_loss": 0.5, "images_per_second": 0.0, "stall": 0.0, "memory": 1.5}
    assert distill._curves(first) == {"valid_loss": 0.5, "memory": 1.5}
    later = {"step": 20, "loss": 0.5, "images_per_second": 80.0, "stall": 0.0, "memory": 1.5}
    assert distill._curves(later) == {name: value for name, value in later.items() if name != "step"}
