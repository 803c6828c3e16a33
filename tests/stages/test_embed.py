import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from alignet_ray import cluster_nodes
from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.cluster_nodes import ClusterResources
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.images import storage
from alignet_ray.images.decode import decode
from alignet_ray.models.backbone import load_backbone
from alignet_ray.models.embedding_network import make_network, save_network
from alignet_ray.models.features import Encoder
from alignet_ray.stages import Work, embed
from alignet_ray.stages.embed import Pool
from alignet_ray.stages.embed_actor import Embedder, UnitResult, fetched, read_unit
from alignet_ray.stages.embed_jobs import EmbedJob, extra_job, find_job
from alignet_ray.store import Artifact, Store

IMAGES = 90


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of noise in many shapes and modes, with four files that nobody can read."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    for i in range(IMAGES):
        path = root / f"c{i % 4}" / f"{i:02d}.{'jpg' if i % 3 else 'png'}"
        path.parent.mkdir(exist_ok=True)
        height, width = rng.integers(16, 90, 2)
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image.convert("L" if i % 5 == 0 else "RGB").save(path)
    broken = {"c0/empty.jpg": b"", "c1/page.jpg": b"<html>", "c2/cut.png": (root / "c2" / "06.png").read_bytes()[:300]}
    for name, data in broken.items():
        (root / name).write_bytes(data)
    return root


def config(folder: Path, **changes: Any) -> Config:
    settings = {
        "corpus__path": str(folder),
        "embed__model": ("random:test_vit",),
        "embed__size": 32,
        "embed__max_bad": 0.1,
        "embed__batch_size": 8,
    }
    return Config().replace(**settings | changes)


def vectors(artifact: Artifact, column: str = "embedding") -> dict[int, np.ndarray]:
    table = artifact.read_parts()
    return dict(zip(table["image_id"].to_pylist(), table[column].combine_chunks().to_numpy_ndarray(), strict=True))


def content(artifact: Artifact) -> dict[str, bytes]:
    return {name: artifact.read_bytes(name) for name in artifact.files(suffix=".parquet")}


@pytest.fixture(scope="module")
def whole(ray_session: None, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    """The whole folder, embedded without interruption by two actors."""
    from alignet_ray.screen import Screen
    from alignet_ray.stages import Node
    from alignet_ray.tracking import Tracker

    draft = Store.open(str(tmp_path_factory.mktemp("whole"))).draft("embed", "whole")
    work = Work(config(folder, ray__force=True), Node("embed", "corpus"), {}, draft, Tracker(), Screen())
    embed.run(work)
    return work


@pytest.fixture
def serial(monkeypatch: pytest.MonkeyPatch) -> None:
    """The actor's work done here, one unit after the other, without Ray."""

    def here(work: Work, job: EmbedJob, units: list[int], images: int) -> Iterator[UnitResult]:
        actor = Embedder(embed.actor_task(work, job, images, embed.Pool(1, 0), embed.Resources(0, 1, 1)))
        for unit in units:
            columns = actor({"unit": np.array([unit])})
            yield UnitResult.from_row({name: values[0] for name, values in columns.items()})

    monkeypatch.setattr(embed, "embed_units", here)


def test_two_processes_embed_every_image_once(whole: Work) -> None:
    actors = whole.facts.actors
    assert isinstance(actors, list)
    assert len(actors) == 2
    assert os.getpid() not in actors
    errors = whole.out.read_table("errors.parquet").to_pylist()
    assert {row["path"]: row["reason"] for row in errors} == {
        "c0/empty.jpg": "empty file",
        "c1/page.jpg": "text or HTML, not an image",
        "c2/cut.png": "truncated",
    }
    images = whole.out.read_table("images.parquet")
    assert sorted([*vectors(whole.out), *(row["image_id"] for row in errors)]) == images["image_id"].to_pylist()
    assert whole.facts.rows == IMAGES
    assert whole.facts.quarantined == 3


def test_numbers_are_those_of_a_plain_loop(whole: Work, folder: Path) -> None:
    backbone, found = load_backbone("random:test_vit", 32), vectors(whole.out)
    rows = [row for row in whole.out.read_table("images.parquet").to_pylist() if row["image_id"] in found]
    pictures = [backbone.preprocess(decode((folder / row["path"]).read_bytes())) for row in rows]
    expected = backbone(torch.stack(pictures))
    actual = torch.from_numpy(np.stack([found[row["image_id"]] for row in rows])).float()
    assert torch.nn.functional.cosine_similarity(actual, expected).min() > 0.9999


def test_parts_that_are_small_become_few_with_the_same_rows(
    whole: Work, folder: Path, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ray's tasks, and by an actor of this process; the first part's reasons for quarantine come along."""
    monkeypatch.setattr("alignet_ray.artifacts.embed.PART_BYTES", 5_000)
    work = make_work(config(folder), "embed@corpus")
    embed.run(work)
    names = work.out.parts()
    assert 1 < len(names) < len(whole.out.parts())
    found, expected = vectors(work.out), vectors(whole.out)
    assert list(found) == list(expected)
    assert all(np.array_equal(found[image_id], expected[image_id]) for image_id in expected)
    assert work.out.read_table("errors.parquet").equals(whole.out.read_table("errors.parquet"))

    # A run that was killed after that goes on with what is there.
    again = make_work(config(folder), "embed@corpus")
    embed.run(again)
    assert again.facts.reused_parts == len(whole.out.parts())
    assert again.out.parts() == names


def test_model_json_says_what_made_it(whole: Work) -> None:
    (member,) = whole.out.read_json("model.json")["members"]
    assert member["model"] == "random:test_vit"
    assert member["size"] == 32
    assert member["preprocessing"]["input_size"] == [3, 32, 32]
    assert len(member["checksum"]) == 64


def test_a_resumed_run_keeps_parts_and_ends_the_same(whole: Work, folder: Path, make_work: Callable[..., Work]) -> None:
    work = make_work(config(folder), "embed@corpus")
    for name in ("model.json", "part-00001.parquet", "part-00003.parquet"):
        work.out.write_bytes(name, whole.out.read_bytes(name))
    kept = Path(work.out.local("part-00003.parquet")).stat().st_mtime_ns
    embed.run(work)
    assert work.facts.reused_parts == 2
    assert Path(work.out.local("part-00003.parquet")).stat().st_mtime_ns == kept
    assert content(work.out) == content(whole.out)
    embed.run(work)
    assert work.facts.actors == []


def test_the_number_of_actors_changes_nothing(whole: Work, folder: Path, make_work: Callable[..., Work]) -> None:
    work = make_work(config(folder, embed__actors=3, ray__num_cpus=4), "embed@corpus")
    embed.run(work)
    assert len(work.facts.actors) >= 2
    assert content(work.out) == content(whole.out)


@pytest.mark.parametrize("resize", ["reader", "device"])
def test_readers_change_nothing(whole: Work, folder: Path, make_work: Callable[..., Work], resize: str) -> None:
    work = make_work(config(folder, embed__readers=2, embed__resize=resize), "embed@corpus")
    embed.run(work)
    assert len(work.facts.actors) == 2
    assert content(work.out) == content(whole.out)


def test_readers_feed_several_networks_and_see_no_image_at_all(
    ray_session: None, tmp_path: Path, make_work: Callable[..., Work]
) -> None:
    rng, root = np.random.default_rng(0), tmp_path / "images"
    root.mkdir()
    for i in range(33):  # the first unit holds nothing but broken files
        name, size = root / f"{i:02d}.jpg", tuple(rng.integers(40, 90, 2))
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(name)
        if i < 16:
            name.write_bytes(b"<html>")
    models = ("random:test_vit", "random:test_resnet")
    found = {}
    for readers, resize in ((0, "auto"), (1, "reader"), (1, "device")):
        # One actor: how many there are changes nothing (above), and each one loads torch and both networks.
        changes = {"embed__model": models, "embed__size": None, "embed__max_bad": 0.5, "embed__actors": 1}
        changes["embed__readers"] = readers
        work = make_work(config(root, **changes, embed__resize=resize), "embed@corpus", id=resize)
        embed.run(work)
        found[resize] = content(work.out)
    assert found["auto"] == found["reader"] == found["device"]


@pytest.mark.parametrize("readers", [0, 1])
def test_a_model_that_cannot_be_loaded_is_told(
    ray_session: None, folder: Path, make_work: Callable[..., Work], readers: int
) -> None:
    cfg = config(folder, embed__model=("random:resnet1888",), embed__actors=1, embed__readers=readers)
    with pytest.raises(UserError, match="did you mean"):
        embed.run(make_work(cfg, "embed@corpus"))


def test_one_process_with_more_threads_gives_the_same_to_rounding(
    serial: None, whole: Work, folder: Path, make_work: Callable[..., Work]
) -> None:
    work = make_work(config(folder), "embed@corpus")
    embed.run(work)
    found = vectors(work.out)
    for image, x in vectors(whole.out).items():
        np.testing.assert_allclose(found[image], x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("units_here", [9, 2])
def test_few_images_are_embedded_here_while_that_takes_seconds(
    whole: Work, folder: Path, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch, units_here: int
) -> None:
    """Here alone, or actors go on after two units because these took long: rows as by actors alone."""
    monkeypatch.setattr(embed, "stays_here", lambda cfg, seconds: len(seen) < units_here)
    seen: list[int] = []
    plain = Embedder.embed

    def counted(actor: Embedder, unit: int) -> UnitResult:
        seen.append(unit)
        return plain(actor, unit)

    monkeypatch.setattr(Embedder, "embed", counted)
    threads = torch.get_num_threads()
    work = make_work(config(folder), "embed@corpus", id=str(units_here), force=False)
    embed.run(work)
    assert seen == list(range(min(units_here, len(whole.out.parts()))))
    assert torch.get_num_threads() == threads
    assert os.getpid() in work.facts.actors
    assert (len(work.facts.actors) == 1) == (units_here == 9)
    assert work.facts.rows == whole.facts.rows
    assert work.out.read_table("errors.parquet").equals(whole.out.read_table("errors.parquet"))
    found = vectors(work.out)
    for image, x in vectors(whole.out).items():
        np.testing.assert_allclose(found[image], x, rtol=1e-3, atol=1e-3)


def test_a_student_gives_logits_beside_its_embedding(
    serial: None, folder: Path, make_work: Callable[..., Work], store: Store
) -> None:
    student = make_network("random:test_vit", 32, head=12, seed=0)
    student.tau = 4.0
    parent = store.draft("distill", "s")
    save_network(parent.local(), student, {})
    table = folder.parent / "objects.csv"
    table.write_text("label,object\nc1,0\nc2,5\n")
    cfg = config(folder, objects__table=str(table), align__map="network")
    work = make_work(cfg, "embed@student", {"distill@student": parent})
    embed.run(work)
    labels = set(work.out.read_table("images.parquet")["label"].to_pylist())
    assert labels == {"c1", "c2"}
    logits = vectors(work.out, "triplet_logits")
    teacher = make_work(cfg, "embed@objects", {"align": parent})
    embed.run(teacher)
    for image, x in vectors(teacher.out).items():
        np.testing.assert_allclose(x, logits[image] / 2, rtol=1e-2, atol=1e-3)


def test_students_among_other_models_bring_their_heads_and_see_other_folders(
    serial: None, folder: Path, make_work: Callable[..., Work], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_network(tmp_path, make_network("random:test_vit", 32, head=12, seed=0), {})
    table = tmp_path / "objects.csv"
    table.write_text("label,object\nc1,0\n")
    models = (str(tmp_path), "models:/s@best", "random:test_vit")
    cfg = config(folder, objects__table=str(table), evaluate__models=models, evaluate__ood=str(folder))
    monkeypatch.setattr(embed.hub, "identity", lambda uri, server: "models:/s/7 of 1")
    monkeypatch.setattr(embed.hub, "fetch", lambda uri, server: tmp_path)
    student, registered, backbone = (extra_job(model) for model in models)
    logits = {}
    for job in (student, registered, registered.on_ood()):
        work = make_work(cfg, job.node)
        embed.run(work)
        logits[job.name] = vectors(work.out, "triplet_logits")
    by_folder = {image: x.tolist() for image, x in logits[student.name].items()}
    assert by_folder == {image: x.tolist() for image, x in logits[registered.name].items()}
    assert len(logits[registered.on_ood().name]) == IMAGES

    plain = make_work(cfg, backbone.node)
    embed.run(plain)
    assert len(vectors(plain.out)) == len(by_folder) < IMAGES
    assert embed.inputs(cfg, registered.name)["models"] == ["models:/s/7 of 1"]
    assert embed.inputs(cfg, student.name)["head"] == "beside"
    assert embed.inputs(cfg, backbone.name)["head"] == "none"
    assert str(table) in embed.sources(cfg, registered.name)
    assert embed.sources(cfg, registered.on_ood().name) == [str(folder)]


def test_fast_decoding_says_how_near_it_comes(
    serial: None, tmp_path: Path, make_work: Callable[..., Work], capsys: pytest.CaptureFixture[str]
) -> None:
    rng, folder = np.random.default_rng(3), tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((320, 240) if i % 2 else (50, 40)).save(folder / f"{i}.jpg")
    works = {}
    for way in ("exact", "fast"):
        works[way] = make_work(config(folder, embed__decode=way), "embed@corpus", id=way)
        embed.run(works[way])
    exact, fast = (vectors(work.out) for work in works.values())
    cosine = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(exact.values(), fast.values(), strict=True)
    ]
    assert works["fast"].facts.fast_cosine == pytest.approx(np.mean(cosine), abs=1e-3)
    assert 0.9 < works["fast"].facts.fast_cosine_min < 1
    assert works["exact"].facts.fast_cosine is None
    assert "6 images compared" in capsys.readouterr().out


def test_models_are_concatenated(serial: None, folder: Path, make_work: Callable[..., Work]) -> None:
    work = make_work(config(folder, embed__model=("random:test_vit", "random:test_resnet")), "embed@corpus")
    embed.run(work)
    widths = [load_backbone(f"random:{name}").width for name in ("test_vit", "test_resnet")]
    assert {len(x) for x in vectors(work.out).values()} == {sum(widths)}


def test_too_many_bad_images_stop_the_run(serial: None, folder: Path, make_work: Callable[..., Work]) -> None:
    work = make_work(config(folder, embed__max_bad=0.01), "embed@corpus")
    with pytest.raises(UserError, match=r"images cannot be used, --embed.max-bad allows 1.00%: .*\(1, e.g. c"):
        embed.run(work)


def test_nothing_readable_is_told(serial: None, tmp_path: Path, make_work: Callable[..., Work]) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 images can be used: empty file"):
        embed.run(make_work(config(tmp_path / "x", embed__max_bad=1.0), "embed@corpus"))


def test_float16_overflow_is_told(serial: None, folder: Path, tmp_path: Path, make_work: Callable[..., Work]) -> None:
    weights = load_backbone("random:test_vit").net.state_dict()
    weights["norm.weight"] = weights["norm.weight"] * 1e6
    torch.save(weights, tmp_path / "loud.pth")
    with pytest.raises(UserError, match=r"too much for float16: use --embed.dtype float32"):
        embed.run(make_work(config(folder, embed__model=(f"test_vit@{tmp_path / 'loud.pth'}",)), "embed@corpus"))


@pytest.fixture
def overflowing(folder: Path, tmp_path: Path) -> Config:
    """A network of finite weights (others are refused when they are read) whose outputs overflow float32."""
    weights = load_backbone("random:test_vit").net.state_dict()
    weights["norm.weight"] = torch.full_like(weights["norm.weight"], 3e38)
    weights["norm.bias"] = torch.full_like(weights["norm.bias"], 3e38)
    torch.save(weights, tmp_path / "loud.pth")
    return config(folder, embed__model=(f"test_vit@{tmp_path / 'loud.pth'}",), embed__actors=1)


def test_embeddings_that_are_not_finite_are_quarantined(
    serial: None, overflowing: Config, make_work: Callable[..., Work]
) -> None:
    with pytest.raises(UserError, match="the model's output is not finite"):
        embed.run(make_work(overflowing, "embed@corpus"))


def test_embeddings_that_are_not_finite_are_quarantined_with_readers(
    ray_session: None, overflowing: Config, make_work: Callable[..., Work]
) -> None:
    with pytest.raises(UserError, match="the model's output is not finite"):
        embed.run(make_work(overflowing.replace(embed__readers=1), "embed@corpus"))


@pytest.mark.parametrize(
    ("pool", "free", "gpus_per_actor", "expected"),
    [
        (Pool(4, 0), (0, 4), 0.0, 4),
        (Pool(4, 0), (0, 1), 0.0, 1),
        (Pool(4, 0), (0, 0), 0.0, 1),
        (Pool(16, 100), (8, 120), 0.5, 16),
        (Pool(16, 100), (3, 120), 0.5, 6),
        (Pool(16, 100), (8, 5), 0.5, 4),
        (Pool(16, 100), (0, 120), 0.5, 1),
    ],
)
def test_work_begins_with_the_actors_that_find_a_place(
    pool: Pool, free: tuple[int, int], gpus_per_actor: float, expected: int
) -> None:
    assert embed.first_actors(pool, ClusterResources(*free), gpus_per_actor) == expected


def test_a_busy_cluster_embeds_with_what_is_free(
    ray_session: None, folder: Path, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three actors are wanted and three of four slots are taken: one works, where all were waited for."""
    import ray

    @ray.remote(num_cpus=3)
    class Other:
        def ready(self) -> None:
            pass

    monkeypatch.setattr(cluster_nodes, "RELEASE_SECONDS", 0.2)
    other = Other.remote()
    ray.get(other.ready.remote())
    try:
        work = make_work(config(folder, embed__actors=3), "embed@corpus")
        embed.run(work)
        assert len(work.facts.actors) == 1
    finally:
        ray.kill(other)


@pytest.mark.parametrize("root", ["s3://bucket/images", "/local/images"])
def test_remote_files_are_fetched_many_at_a_time_and_come_in_order(root: str) -> None:
    """All of the first files have to be asked for before one of them is answered."""
    together = threading.Barrier(storage.FETCHES if "://" in root else 1)

    def file(number: int) -> bytes:
        if number < storage.FETCHES:
            together.wait(timeout=60)
        if number == 30:
            raise OSError("gone")
        return str(number).encode()

    found: list[str] = []
    with closing(fetched(root, [partial(file, number) for number in range(40)])) as contents:
        for content in contents:
            try:
                found.append(content().decode())
            except OSError as error:
                found.append(str(error))
    assert found == [*map(str, range(30)), "gone", *map(str, range(31, 40))]


def test_a_network_that_cannot_be_compiled_is_told_once(
    serial: None, folder: Path, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    def broken(self: Encoder, batch: int, backend: str = "") -> None:
        self.compiled_batch = batch
        self._compiled = fail

    plain = make_work(config(folder), "embed@corpus", id="plain")
    embed.run(plain)
    monkeypatch.setattr(Encoder, "compile", broken)
    work = make_work(config(folder, embed__compile="on"), "embed@corpus", id="compiled")
    embed.run(work)
    told = [text for text in work.warnings if "could not be compiled" in text]
    assert len(told) == 1
    assert "(Failed to find C compiler)" in told[0]
    expected, found = (EmbedArtifact(made.out).embeddings() for made in (plain, work))
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.vectors, expected.vectors)


def test_ids_know_what_changes_a_result(folder: Path) -> None:
    cfg = config(folder)
    same = config(
        folder, embed__batch_size=64, embed__actors=7, embed__max_bad=0.5, embed__readers=2, embed__compile="on"
    )
    same = same.replace(embed__resize="device")
    assert embed.inputs(cfg, "corpus") == embed.inputs(same, "corpus")
    for change in ({"embed__size": 64}, {"embed__dtype": "float32"}, {"embed__model": ("random:test_resnet",)}):
        assert embed.inputs(cfg, "corpus") != embed.inputs(config(folder, **change), "corpus")
    json.dumps(embed.inputs(cfg, "base"))


DRIVER = """
import sys
from alignet_ray import runtime
from alignet_ray.config import Config
from alignet_ray.screen import Screen
from alignet_ray.stages import Node, Work, embed
from alignet_ray.store import Store
from alignet_ray.tracking import Tracker

cfg = Config.from_yaml(sys.argv[1])
draft = Store.open(cfg.store.root).draft("embed", "killed")
runtime.start(cfg)
work = Work(cfg, Node("embed", "corpus"), {}, draft, Tracker(), Screen())
embed.run(work)
print(work.facts)
"""


@pytest.fixture
def driver(folder: Path, tmp_path: Path) -> Callable[[], "subprocess.Popen[str]"]:
    """Starts a run in a process of its own, with a Ray of its own."""
    cfg = config(folder, store__root=str(tmp_path / "store"), embed__readers=2, embed__resize="device")
    (tmp_path / "run.yaml").write_text(cfg.to_yaml())
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "run.yaml")]
    return lambda: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def wait_for_part(out: Artifact, process: "subprocess.Popen[str]") -> None:
    while not out.parts():
        assert process.poll() is None, "the run ended before its first part"
        time.sleep(0.002)


def processes(parent: int, title: bytes) -> list[int]:
    """Processes below `parent`'s Ray with these words in their title."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            named, session = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if title in named and f"EMBED_TEST={parent}".encode() in session:
            found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "actor", "reader"])
def test_kill_9_loses_nothing(
    whole: Work,
    driver: Callable[[], "subprocess.Popen[str]"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    victim: str,
) -> None:
    out = Store.open(str(tmp_path / "store")).draft("embed", "killed")
    monkeypatch.setenv("EMBED_TEST", str(os.getpid()))
    process = driver()
    wait_for_part(out, process)
    if victim == "actor":
        alive = processes(os.getpid(), b"MapWorker")
        assert len(alive) == 2
        os.kill(alive[0], signal.SIGKILL)
    elif victim == "reader":
        while not (alive := processes(os.getpid(), b"read images")):
            assert process.poll() is None, "no reader was seen at work"
        os.kill(alive[0], signal.SIGKILL)
    else:
        process.kill()
        process.wait()
        assert len(out.parts()) < len(whole.out.parts())
        process = driver()
    stdout, _ = process.communicate(timeout=180)
    assert process.returncode == 0, stdout
    assert content(out) == content(whole.out)
    assert ("finished parts of" in stdout) == (victim == "driver")
    assert pq.read_table(str(out.local("part-00000.parquet"))).num_rows > 0


@pytest.mark.usefixtures("serial")
def test_what_is_left_out_or_comes_out_dark_is_counted_with_the_first(
    tmp_path: Path, make_work: Callable[..., Work]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    ramp = np.tile(np.linspace(0, 1, 40), (40, 1))
    for name, largest in (("a12", 4095), ("b12", 4000), ("c16", 65_535)):
        Image.fromarray((ramp * largest).astype(np.uint16)).save(pictures / f"{name}.png")
    (pictures / "d.heic").write_bytes(b"")

    work = make_work(config(pictures), "embed@corpus")
    embed.run(work)
    left_out, twelve_bit = work.warnings
    assert left_out == "1 files are no images and left out: 1 .heic (first: 'd.heic')"
    expected = "2 pictures (first: 'a12.png'): 16 bits of which a sixteenth of the range or less is used"
    assert twelve_bit.startswith(expected)

    # Interrupted after its only part, the run goes on with the same count.
    again = make_work(config(pictures), "embed@corpus", id="again")
    for name in ("model.json", "part-00000.parquet"):
        again.out.write_bytes(name, work.out.read_bytes(name))
    embed.run(again)
    assert again.warnings == work.warnings

    # A reader in another process tells the same.
    task = embed.actor_task(work, find_job(work.cfg, "corpus"), 3, embed.Pool(1, 1), embed.Resources(0, 2, 2))
    sent = read_unit({"unit": np.array([0])}, task)
    assert json.loads(sent["opened"][0])["twelve_bit"] == ["a12.png", "b12.png"]
