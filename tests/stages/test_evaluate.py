import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from safetensors.numpy import save
from support.judgement_sets import write_set
from support.transforms import save_transform

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.distill import DistillArtifact, InterpolatedStudent, Interpolation, ScoreChange
from alignet_ray.artifacts.label import LabelArtifact, LabelStats, SubsetStats
from alignet_ray.config import Config
from alignet_ray.core.affine import AffineTransform
from alignet_ray.errors import UserError
from alignet_ray.images.listing import list_images
from alignet_ray.report import figures
from alignet_ray.stages import Work, evaluate, evaluation_inputs, graph
from alignet_ray.stages.embed_jobs import extra_job
from alignet_ray.store import Artifact, Draft, Store

OBJECTS, IMAGES, WIDTH = 30, 45, 12
ANSWERS = [(12, 15, 13), (18, 21, 20), (0, 3, 1), (14, 17, 12)]  # three of them are of test objects alone


class World:
    """30 objects in three categories; people see the categories, the base sees noise, the student is in between."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        rng = np.random.default_rng(0)
        self.category = np.arange(OBJECTS) % 3
        self.mu = np.abs(rng.normal(0, 0.3, (OBJECTS, 6))).astype(np.float32)
        self.mu[np.arange(OBJECTS), self.category] += 2
        self.owner = np.concatenate(
            [np.arange(OBJECTS), np.arange(IMAGES - OBJECTS)]
        )  # fifteen objects have two images
        self.noise = rng.normal(size=(IMAGES, WIDTH)).astype(np.float32)
        self.meaning = np.pad(self.mu[self.owner], ((0, 0), (0, WIDTH - 6)))
        for number, tint in enumerate(rng.integers(0, 255, (IMAGES, 3))):
            Image.new("RGB", (16, 12), tuple(map(int, tint))).save(folder / f"{number:03}.png")

    def draft(self, stage: str, id: str) -> Draft:
        return self.store.draft(stage, id)

    def soften(self) -> Artifact:
        draft = self.draft("soften", "h")
        draft.write_bytes("embedding.safetensors", save({"mu": self.mu, "sigma": np.zeros_like(self.mu)}))
        rows = [
            {
                "object": o,
                "name": f"thing {o}",
                "category": ["animal", "food", "tool"][self.category[o]],
                "split": "train" if o < 6 else "validation" if o < 12 else "test",
                "image_ids": np.flatnonzero(self.owner == o).tolist(),
            }
            for o in range(OBJECTS)
        ]
        draft.write_table("objects.parquet", pa.Table.from_pylist(rows, schema=schemas.OBJECTS))
        answers = pa.table(
            list(np.array(ANSWERS).T.copy()) + [np.full(len(ANSWERS), 1 / 3, np.float32)] * 3, schemas.SOFT
        )
        draft.write_table("part-00000.parquet", answers)
        return draft.finish({})

    def embed(
        self, role: str, x: np.ndarray, logits: np.ndarray | None = None, images: pa.Table | None = None
    ) -> Artifact:
        draft = self.draft("embed", role)
        columns = [pa.array(np.arange(len(x))), pa.FixedShapeTensorArray.from_numpy_ndarray(x)]
        if logits is not None:
            columns.append(pa.FixedShapeTensorArray.from_numpy_ndarray(logits))
        schema = schemas.embeddings(x.shape[1], "float32", 0 if logits is None else logits.shape[1])
        draft.write_table("part-00000.parquet", pa.Table.from_arrays(columns, schema=schema))
        rows = [{"image_id": i, "path": f"{i:03}.png", "label": "", "bytes": 1} for i in range(len(x))]
        draft.write_table("images.parquet", images or pa.Table.from_pylist(rows, schema=schemas.IMAGES))
        return draft.finish({})

    def align(self) -> Artifact:
        draft = self.draft("align", "t")
        identity = AffineTransform(0.0, 1.0, np.eye(WIDTH, dtype=np.float32), np.zeros(WIDTH, np.float32))
        save_transform(draft.local("transform.npz"), identity, {})
        return draft.finish({})

    def distill(self, role: str) -> Artifact:
        draft = self.draft("distill", role)
        lines = "".join(json.dumps({"step": s, "loss": 1 / (s + 1)}) + "\n" for s in range(20))
        draft.write_bytes("metrics.jsonl", lines.encode())
        change = ScoreChange(0.5, 0.01, -0.02, 0.04)
        kept = {"few_shot_1": change}
        points = [InterpolatedStudent(share, 0.4 + share / 9, 0.5, 0.9, kept, change) for share in (0.0, 1.0)]
        DistillArtifact(draft).write_interpolation(Interpolation(1.0, "nearest to people", points))
        return draft.finish({})

    def label(self, role: str) -> Artifact:
        draft = self.draft("label", role)
        plain = SubsetStats(1000, 0, 0.9, 0.3, [10] * 40, [25] * 40)
        if role == "aligned":
            uses = {"min": 3, "median": 9.0, "max": 31}
            train = replace(plain, border=1.0, odd_is_the_other=0.8, image_uses=uses, images_used=17)
        else:
            train = replace(plain, agreement=0.64)
        LabelArtifact(draft).write_stats(LabelStats(1.0, 2, train, plain, images=18))
        return draft.finish({})

    def cluster(self) -> Artifact:
        draft = self.draft("cluster", "c")
        draft.write_json("curve.json", [{"k": k, "inertia": 9 / k, "silhouette": 0.1 * k} for k in (2, 3, 4)])
        part = pa.table({"image_id": np.arange(18), "cluster": np.arange(18, dtype=np.int32) % 3})
        draft.write_table("part-00000.parquet", part.cast(schemas.CLUSTERS))
        return draft.finish({})

    def parents(self) -> dict[str, Artifact]:
        student = (0.4 * self.meaning + 0.6 * self.noise).astype(np.float32)
        head = (0.8 * self.meaning + 0.2 * self.noise).astype(np.float32)
        other = (0.9 * self.noise + 0.1 * np.roll(self.noise, 1, axis=0)).astype(np.float32)
        return {
            "soften": self.soften(),
            "align": self.align(),
            "cluster": self.cluster(),
            "embed@objects": self.embed("objects", self.meaning),
            "embed@corpus": self.embed("corpus", self.meaning),
            "embed@base": self.embed("base", self.noise),
            "embed@student": self.embed("student", student, head),
            "embed@control": self.embed("control", other, other[:, ::-1].copy()),
            "label@aligned": self.label("aligned"),
            "label@raw": self.label("raw"),
            "distill@student": self.distill("student"),
            "distill@control": self.distill("control"),
        }


@pytest.fixture
def world(store: Store, tmp_path: Path) -> World:
    (tmp_path / "images").mkdir()
    return World(store, tmp_path / "images")


@pytest.fixture
def cfg(world: World) -> Config:
    return Config().replace(
        corpus__path=str(world.folder),
        objects__table="objects.csv",
        evaluate__bootstrap=50,
        evaluate__num_samples=4,
    )


def scores(work: Work) -> dict[tuple[str, ...], dict[str, float]]:
    rows = schemas.check(work.out.read_table("scores.parquet"), schemas.SCORES).to_pylist()
    return {(r["model"], r["layer"], r["metric"], r["level"]): r for r in rows}


def test_scores_facts_and_report(world: World, cfg: Config, make_work: Callable[..., Work]) -> None:
    work = make_work(cfg, "evaluate", world.parents())
    evaluate.run(work)
    found = scores(work)
    value = {k[:2]: row["value"] for k, row in found.items() if k[2:] == ("odd_one_out", "")}
    base, student, head = value["base", "pre_logits"], value["student", "pre_logits"], value["student", "head"]
    assert 0.2 < base < 0.45
    assert base + 0.05 < student < head <= value["human", ""]
    assert value["teacher", "aligned"] == pytest.approx(value["human", ""], abs=1e-5)  # its space is people's own
    row = found["student", "pre_logits", "odd_one_out", ""]
    assert row["low"] < row["value"] < row["high"]
    assert row["n"] == 18 * 17 * 16 // 6
    assert found["teacher", "aligned", "rsa_spearman", ""]["value"] == pytest.approx(1, abs=1e-4)
    assert not any(metric.startswith("odd_one_out_raw") for _, _, metric, _ in found), "three responses say nothing"
    table = work.facts.table
    assert isinstance(table, list)
    assert table[1].split("  ")[0] == "layer"
    assert all(name in table[1] for name in ("base", "teacher", "aligned student", "unaligned control", "ceiling"))
    assert table[3].startswith("pre_logits")
    assert table[4].startswith("head")
    assert work.facts.test_objects == 18
    html = work.out.read_bytes("report.html").decode()
    assert "http" not in html
    assert "<script" not in html
    assert 'name="viewport"' in html
    for heading in (
        "Who chose what",
        "A map of the objects",
        "How training went",
        "similarity matrix",
        "What alignment",
    ):
        assert heading in html
    for fact in ("Numbers of clusters that were tried", "80.0 %", "64.0 %", "9 (3 to 31)", "17 of 18"):
        assert fact in html


def test_the_same_again_is_the_same_bytes(world: World, cfg: Config, make_work: Callable[..., Work]) -> None:
    parents = world.parents()
    first, second = (make_work(cfg, "evaluate", parents, id=id) for id in ("one", "two"))
    evaluate.run(first)
    evaluate.run(second)
    assert first.out.read_bytes("scores.parquet") == second.out.read_bytes("scores.parquet")
    assert first.out.read_bytes("report.html") == second.out.read_bytes("report.html")


def test_other_models_stand_beside_the_runs_own(world: World, cfg: Config, make_work: Callable[..., Work]) -> None:
    parents = world.parents() | {extra_job("pip:some-net").node: world.embed("extra", world.meaning)}
    work = make_work(cfg.replace(evaluate__models=("pip:some-net",)), "evaluate", parents)
    evaluate.run(work)
    assert scores(work)["pip:some-net", "pre_logits", "odd_one_out", ""]["value"] > 0.6
    assert work.facts.table[1].endswith("pip:some-net")
    assert "pip:some-net" in work.out.read_bytes("report.html").decode()


def test_stored_embeddings_and_students_with_heads(
    world: World, cfg: Config, make_work: Callable[..., Work], tmp_path: Path
) -> None:
    np.save(tmp_path / "mine.npy", world.meaning)
    (tmp_path / "mine.csv").write_text("path\n" + "".join(f"{i:03}.png\n" for i in range(IMAGES)))
    cfg = cfg.replace(
        store__root=world.store.root, evaluate__models=(str(tmp_path / "mine.npy"), "embed/base", "models:/s@best")
    )
    assert len(evaluate.sources(cfg, "")) == 2
    registered = extra_job("models:/s@best").node
    names = [node.name for node in graph(cfg)]
    assert registered in names
    assert extra_job("embed/base").node not in names
    parents = world.parents() | {registered: world.embed("extra", world.noise, world.meaning)}
    work = make_work(cfg, "evaluate", parents)
    evaluate.run(work)
    found = scores(work)
    value = {k[:2]: row["value"] for k, row in found.items() if k[2:] == ("odd_one_out", "")}
    assert value["mine.npy", "pre_logits"] > 0.6
    assert value["embed/base", "pre_logits"] == value["base", "pre_logits"] == value["models:/s@best", "pre_logits"]
    # The same vectors, but a head answers by dot products.
    assert value["models:/s@best", "head"] == pytest.approx(value["mine.npy", "pre_logits"], abs=0.02)
    assert value["models:/s@best", "head"] != value["mine.npy", "pre_logits"]
    assert found["mine.npy", "pre_logits", "odd_one_out_gain", "over:base"]["low"] > 0
    np.save(tmp_path / "mine.npy", world.meaning[:40])
    with pytest.raises(UserError, match=r"mine\.npy has 40 rows"):
        evaluate.run(make_work(cfg, "evaluate", parents, id="again"))
    with pytest.raises(UserError, match="would both be called"):
        evaluate.refuse(cfg.replace(evaluate__models=("a/mine.npy", "b/mine.npy")), "")
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "model.json").write_text("{}")
    with pytest.raises(UserError, match="would both be called 'base'"):
        evaluate.refuse(cfg.replace(evaluate__models=(str(folder),)), "")


def test_a_folder_of_other_images(world: World, cfg: Config, make_work: Callable[..., Work]) -> None:
    cfg = cfg.replace(evaluate__ood="elsewhere", evaluate__models=("pip:net",))
    extra = extra_job("pip:net")
    roles = ["base", "student", "control", extra.name]
    assert [n.role for n in graph(cfg) if n.role.startswith("ood-")] == [f"ood-{role}" for role in roles]
    parents = world.parents() | {extra.node: world.embed("extra", world.meaning)}
    for role in roles:
        head = world.meaning[:20] if role in ("student", "control") else None
        parents[f"embed@ood-{role}"] = world.embed(f"ood-{role}", world.meaning[:20] + 9, head)
    work = make_work(cfg, "evaluate", parents)
    evaluate.run(work)
    found = {(r["model"], r["layer"], r["metric"]) for r in work.out.read_table("scores.parquet").to_pylist()}
    assert {("base", "pre_logits", "ood_auroc"), ("pip:net", "pre_logits", "ood_auroc")} <= found
    assert ("student", "head", "ood_auroc") in found
    assert ("teacher", "aligned", "ood_auroc") not in found
    assert "spotting images from the other folder" in work.out.read_bytes("report.html").decode()


def test_maps_by_another_method(
    world: World, cfg: Config, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = cfg.replace(evaluate__maps="umap")
    monkeypatch.setattr(evaluation_inputs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install umap-learn"):
        evaluate.refuse(cfg, "")
    monkeypatch.undo()
    monkeypatch.setattr(figures, "umap_plane", lambda x, seed: x[:, :2].astype(np.float64))
    work = make_work(cfg, "evaluate", world.parents())
    evaluate.run(work)
    assert "keep neighbours together (UMAP)" in work.out.read_bytes("report.html").decode()


def test_judgements_from_outside_the_run(
    world: World, cfg: Config, make_work: Callable[..., Work], tmp_path: Path
) -> None:
    (tmp_path / "levels.csv").write_text("image0,image1,image2,choice\n012.png,013.png,015.png,2\n")
    votes = "ref_path,left_path,right_path,left_vote,right_vote\n"
    (tmp_path / "nights.csv").write_text(votes + "012.png,015.png,013.png,5,0\n")
    alone = np.random.default_rng(2).normal(size=(3, OBJECTS, 2))
    np.save(tmp_path / "matrix.npy", world.mu @ world.mu.T + 0.1 * alone @ alone.transpose(0, 2, 1))
    cfg = cfg.replace(
        evaluate__answers=str(tmp_path / "levels.csv"),
        evaluate__choices=str(tmp_path / "nights.csv"),
        evaluate__matrix=str(tmp_path / "matrix.npy"),
    )
    assert len(evaluate.sources(cfg, "")) == 3
    assert "levels.csv" not in json.dumps(evaluate.inputs(cfg, ""))
    work = make_work(cfg, "evaluate", world.parents())
    evaluate.run(work)
    rows = work.out.read_table("scores.parquet").to_pylist()
    found = {(r["dataset"], r["metric"]): r["value"] for r in rows if r["model"] == "teacher" and not r["level"]}
    assert found["answers", "odd_one_out"] == 1
    assert found["answers", "ties"] == 0
    assert found["choices", "two_afc"] == 1
    assert found["matrix", "rsa_spearman"] > found["matrix", "rsa_spearman_participants"] > 0.8
    assert "Other judgements of people" in work.out.read_bytes("report.html").decode()
    np.save(tmp_path / "matrix.npy", np.eye(5))
    with pytest.raises(UserError, match="5 rows"):
        evaluate.run(make_work(cfg, "evaluate", world.parents(), id="again"))


def test_a_set_of_judgements_with_images_of_its_own(
    world: World, cfg: Config, make_work: Callable[..., Work], tmp_path: Path
) -> None:
    names = [f"{number:03}.png" for number in range(9)]
    tree = {"name": "ratings", "kind": "matrix", "matrix": "similarity", "file": "m.npy", "citation": "Somebody 2016"}
    folder = write_set(tmp_path / "ratings", names, tree)
    np.save(tmp_path / "ratings" / "m.npy", world.mu[:9] @ world.mu[:9].T)
    (world.folder / "000.png").write_bytes(
        (tmp_path / "ratings/images/004.png").read_bytes()
    )  # shows a training object
    cfg = cfg.replace(evaluate__sets=(folder,))
    parents = world.parents()
    images = list_images(str(tmp_path / "ratings" / "images"))
    for role in ("corpus", "objects"):
        parents[f"embed@{role}"] = world.embed(role, world.meaning, images=list_images(str(world.folder)))
    for role in ("base", "student", "control", "teacher"):
        parents[f"embed@set-ratings-{role}"] = world.embed(f"set-{role}", world.meaning[:9], images=images)
    work = make_work(cfg, "evaluate", parents)
    evaluate.run(work)
    rows = {
        (r["model"], r["metric"]): r
        for r in work.out.read_table("scores.parquet").to_pylist()
        if r["dataset"] == "ratings"
    }
    assert {model for model, _ in rows} == {"base", "student", "control", "teacher"}
    assert rows["teacher", "rsa_spearman"]["value"] == pytest.approx(1, abs=1e-4)
    assert rows["teacher", "rsa_spearman"]["n"] == 8 * 7 / 2
    (facts,) = work.facts.sets
    assert (facts.name, facts.images, facts.seen, facts.judgements, facts.left_out) == ("ratings", 9, 1, 28, 8)
    html = work.out.read_bytes("report.html").decode()
    assert "Left out because training saw the image as well: 1 images." in html
    assert "Source: Somebody 2016." in html


def test_a_run_without_control_or_categories(world: World, cfg: Config, make_work: Callable[..., Work]) -> None:
    parents = {name: a for name, a in world.parents().items() if not name.endswith("@control")}
    table = parents["soften"].read_table("objects.parquet")
    draft = world.draft("soften", "plain")
    for name in parents["soften"].files():
        draft.write_bytes(name, parents["soften"].read_bytes(name))
    for place, column in ((1, "name"), (2, "category")):
        table = table.set_column(place, column, pa.array([""] * len(table)))
    draft.write_table("objects.parquet", table)
    parents["soften"] = draft.finish({})
    work = make_work(cfg, "evaluate", parents)
    evaluate.run(work)
    assert not any(model == "control" for model, *_ in scores(work))
    assert not any(metric.startswith(("shift", "knn")) for _, _, metric, _ in scores(work))
    html = work.out.read_bytes("report.html").decode()
    assert re.search(r"<title>\d+</title>", html), "objects are named by the files of their images"


def test_too_few_test_objects_is_a_clear_error(world: World, cfg: Config, make_work: Callable[..., Work]) -> None:
    parents = world.parents()
    table = parents["soften"].read_table("objects.parquet")
    none = pa.array([[]] * len(table), pa.list_(pa.int64()))
    draft = world.draft("soften", "empty")
    draft.write_table("objects.parquet", table.set_column(4, "image_ids", none))
    draft.write_bytes("embedding.safetensors", parents["soften"].read_bytes("embedding.safetensors"))
    with pytest.raises(UserError, match="at least 3"):
        evaluate.run(make_work(cfg, "evaluate", parents | {"soften": draft.finish({})}))


def test_images_that_are_unreadable_or_gone(world: World, cfg: Config, make_work: Callable[..., Work]) -> None:
    parents = world.parents()
    keep = np.setdiff1d(np.arange(IMAGES), [29])  # the only image of object 29 could not be embedded
    draft = world.draft("embed", "fewer")
    draft.write_table("part-00000.parquet", parents["embed@student"].read_parts().take(keep))
    parents["embed@student"] = draft.finish({})
    for path in world.folder.iterdir():
        path.unlink()
    work = make_work(cfg, "evaluate", parents)
    evaluate.run(work)
    assert work.facts.test_objects == 17
    html = work.out.read_bytes("report.html").decode()
    assert html.count("<img") > 20
    first = re.search(r"data:image/jpeg;base64,([^\"]+)", html)
    assert first is not None
    grey = Image.open(io.BytesIO(base64.b64decode(first.group(1)))).getpixel((5, 5))
    assert grey == pytest.approx((204, 204, 204), abs=3)
