"""The preset `smoke` as a user runs it: a generated world whose answer is known, run once, then checked."""

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.stats import spearmanr
from support.smoke_run import SmokeRun, alignet

from alignet_ray.artifacts import transforms
from alignet_ray.artifacts.soften import SoftenArtifact
from alignet_ray.data import embeddings
from alignet_ray.stages import STAGES
from alignet_ray.synthetic import world


def test_the_screen_names_every_stage_and_where_the_results_are(smoke: SmokeRun) -> None:
    for stage in STAGES:
        assert f"\n== {stage}" in smoke.printed
    for word in ("base", "teacher", "student", "control", "ceiling", "report.html", "mlflow ui", "alignet_ray.load"):
        assert word in smoke.printed
    for noise in ("Traceback", "Warning", "INFO", "(pid=", "raylet"):
        assert noise not in smoke.printed


def test_the_student_is_nearer_to_people_than_base_and_control(smoke: SmokeRun) -> None:
    base = smoke.score("base", "pre_logits")
    control = smoke.score("control", "pre_logits")
    student = smoke.score("student", "pre_logits")
    head = smoke.score("student", "head")
    ceiling = smoke.score("human", "")

    assert student > base + 0.08
    assert student > control + 0.08
    assert head > smoke.score("control", "head") + 0.08
    assert max(student, head) < ceiling


def test_the_teacher_recovers_the_known_similarities(smoke: SmokeRun) -> None:
    """Rank correlation above 0.9 on objects that no training saw."""
    known = np.load(smoke.world / "truth.npz")["similarity"]
    table = smoke["soften"].read_table("objects.parquet").to_pylist()
    unseen = [row for row in table if row["split"] == "test" and row["image_ids"]]

    image_ids, features = embeddings.load(smoke["embed@objects"])
    transform = transforms.load_transform(smoke["align"].local("transform.safetensors"))
    aligned = transform(features.astype(np.float32))
    object_means = np.stack([aligned[np.isin(image_ids, row["image_ids"])].mean(0) for row in unseen])

    pairs = np.triu_indices(len(unseen), 1)
    object_ids = [row["object"] for row in unseen]
    recovered = (object_means @ object_means.T)[pairs]
    assert spearmanr(recovered, known[np.ix_(object_ids, object_ids)][pairs]).statistic > 0.9


def test_held_out_objects_were_never_shown(smoke: SmokeRun) -> None:
    hidden = set(SoftenArtifact(smoke["soften"]).held_out_image_ids().tolist())
    assert hidden
    for label in ("label@aligned", "label@raw"):
        for part in ("train", "valid"):
            table = smoke[label].read_parts(part)
            for column in ("i0", "i1", "i2"):
                assert not hidden & set(table[column].to_pylist())
    assert not hidden & set(smoke["cluster"].read_parts()["image_id"].to_pylist())


def test_several_processes_did_the_work(smoke: SmokeRun) -> None:
    facts = smoke["distill@student"].manifest["facts"]
    assert len(set(facts["processes"])) == 2


def test_run_again_does_nothing(smoke: SmokeRun) -> None:
    files = [path for path in smoke.root.rglob("*") if path.is_file() and path.parent.name not in ("logs", "refs")]
    before = {path: path.stat().st_mtime_ns for path in files}

    again = alignet("run", "smoke", "--store.root", str(smoke.root))

    assert "nothing to do" in again.stdout
    changed = {path.name for path in files if path.stat().st_mtime_ns != before[path]}
    assert changed <= {"run.lock", "run.owner"}


def test_one_field_reruns_only_what_depends_on_it(smoke: SmokeRun) -> None:
    plan = alignet("plan", "smoke", "--store.root", str(smoke.root), "--label.valid", "1999").stdout
    todo = {line.split()[0] for line in plan.splitlines() if " missing " in line}
    done = {line.split()[0] for line in plan.splitlines() if " finished " in line}
    assert {"soften", "embed@corpus", "embed@objects", "embed@base", "align", "cluster"} <= done
    assert {"label@aligned", "label@raw", "distill@student", "distill@control", "evaluate", "register"} <= todo
    assert "valid" in plan


def test_the_registered_model_equals_the_folder(smoke: SmokeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    import alignet_ray

    folder, preprocess = alignet_ray.load(smoke["distill@student"].uri)
    image = Image.open(next((smoke.world / "images").rglob("*.png")))
    batch = torch.stack([preprocess(image), preprocess(image.rotate(90))])

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{smoke.root}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{smoke.root}/mlflow.db")
    version = smoke["register"].read_json("version.json")
    registered, _ = alignet_ray.load(version["model"])
    pyfunc = mlflow.pyfunc.load_model(version["model"]).predict(batch.numpy())
    with torch.no_grad():
        from_folder = folder(batch)
        from_registry = registered(batch)

    assert from_folder.embedding.shape[0] == 2
    for name in ("embedding", "triplet_logits"):
        expected = getattr(from_folder, name)
        torch.testing.assert_close(expected, getattr(from_registry, name))
        np.testing.assert_allclose(expected.numpy(), pyfunc[name], rtol=1e-4, atol=1e-4)


def test_mlflow_holds_one_tree_with_lineage(smoke: SmokeRun) -> None:
    with sqlite3.connect(smoke.root / "mlflow.db") as db:
        names = dict(db.execute("select run_uuid, name from runs"))
        parents = [value for (value,) in db.execute("select value from tags where key = 'mlflow.parentRunId'")]
        states = {status for (status,) in db.execute("select status from runs")}
        digests = {digest for (digest,) in db.execute("select digest from datasets")}
        curve = db.execute("select step from metrics where key = 'curve/loss' order by timestamp, rowid")
        steps = [step for (step,) in curve]
        top = parents[0]
        headline = {key for (key,) in db.execute("select key from metrics where run_uuid = ?", (top,))}
        note = db.execute(
            "select value from tags where key = 'mlflow.note.content' and run_uuid = ?", (top,)
        ).fetchone()
    assert states == {"FINISHED"}
    assert len(set(parents)) == 1
    assert names[parents[0]] == "smoke"
    assert smoke["cluster"].id in digests
    assert len(set(steps)) > 3
    assert 0 not in steps, "the final values are no point of a curve"
    assert {"odd_one_out/base/pre_logits", "odd_one_out/student/head", "odd_one_out/human"} <= headline
    assert "odd_one_out/control/head" not in headline, "five figures are enough, evaluate's run has all"
    assert "aligned student" in note[0]
    attached = {path.name for path in (smoke.root / "mlflow-artifacts").rglob("*") if top in str(path)}
    assert {"report.html", "config.yaml"} <= attached


def test_the_report_stands_alone(smoke: SmokeRun) -> None:
    html = smoke["evaluate"].read_bytes("report.html").decode()
    assert "<img" in html
    assert 'src="http' not in html
    assert "<script src" not in html
    assert "<link" not in html


def test_the_commands_on_results_work(smoke: SmokeRun) -> None:
    root = ("--store.root", str(smoke.root))
    listed = alignet("ls", *root).stdout
    assert "smoke" in listed
    assert "distill@student" in listed
    deleted = alignet("gc", "--yes", *root).stdout
    assert "every artifact belongs to a run\ncache: " in deleted
    assert "(nothing)" not in deleted
    assert "nothing to delete" in alignet("gc", *root).stdout
    manifest = json.loads(alignet("show", smoke["cluster"].id, *root).stdout)
    assert manifest["node"] == "cluster"
    assert "base" in alignet("compare", "smoke", *root).stdout


ONE_PROCESS = ("--distill.workers", "1")
"""For runs after the first, in which several processes did the work: each further one loads torch again."""


def shuffle_objects(table: Path, out: Path, seed: int) -> None:
    """Copy an objects' table with the objects in another order: images then show other objects than people saw."""
    lines = table.read_text(encoding="utf-8").splitlines()[1:]
    labels, objects = zip(*(line.split(",") for line in lines), strict=True)
    shuffled = np.random.default_rng(seed).permutation(np.array(objects)).tolist()
    rows = [f"{label},{number}" for label, number in zip(labels, shuffled, strict=True)]
    out.write_text("\n".join(["label,object", *rows]) + "\n", encoding="utf-8")


def test_shuffled_responses_teach_nothing(smoke: SmokeRun, tmp_path: Path) -> None:
    """If objects are assigned to the wrong images, the student stays at chance."""
    table = tmp_path / "shuffled.csv"
    shuffle_objects(smoke.world / "objects.csv", table, seed=0)
    root = ("--store.root", str(smoke.root))
    options = ["--name", "shuffled", "--objects.table", str(table), "--distill.no-control", *ONE_PROCESS]
    options += ["--distill.steps", "60"]  # by then the student of the right table is at two thirds
    alignet("evaluate", "smoke", *options, *root)
    reference = smoke.store.read_ref("shuffled")
    assert reference is not None
    scores = smoke.store.artifact("evaluate", reference.nodes["evaluate"]).read_table("scores.parquet").to_pylist()
    for row in scores:
        if row["model"] == "student" and row["metric"] == "odd_one_out" and row["level"] == "":
            assert abs(row["value"] - 1 / 3) < 0.06, row


def test_a_stored_transform_labels_images_without_human_responses(smoke: SmokeRun) -> None:
    """New images and the transform of another run: the same command, without any human responses."""
    paths = world.paths("smoke", smoke.world)
    options = ["--corpus.path", paths["corpus"], "--embed.model", paths["model"], "--embed.size", "32", "--name", "own"]
    options += ["--distill.model", paths["model"], "--distill.size", "32", "--distill.steps", "4"]
    options += ["--distill.no-control", "--align.from", smoke["align"].uri, "--cluster.k", "8"]
    options += ["--label.train", "5000", "--label.valid", "500", "--register.name", "own-student", *ONE_PROCESS]
    printed = alignet("run", *options, "--store.root", str(smoke.root)).stdout

    assert "-- embed@corpus" in printed  # the same images and model: reused
    for absent in ("soften", "evaluate", "embed@objects"):
        assert f"== {absent}" not in printed
    assert "is version" in printed.split("== register")[1]
    reference = smoke.store.read_ref("own")
    assert reference is not None
    assert smoke.store.artifact("distill", reference.nodes["distill@student"]).has("backbone.safetensors")


def test_annotated_objects_may_have_separate_images(smoke: SmokeRun, tmp_path: Path) -> None:
    """The corpus is one folder and the images of the annotated objects another: nothing of the corpus is held out."""
    paths = world.paths("smoke", smoke.world)
    rng = np.random.default_rng(0)
    for i in range(60):
        folder = tmp_path / "corpus" / f"c{i % 6}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")

    options = ["--corpus.path", str(tmp_path / "corpus"), "--objects.path", paths["corpus"], "--name", "separate"]
    options += ["--objects.table", paths["table"], "--objects.concepts", paths["concepts"]]
    options += ["--human.triplets", paths["triplets"], "--embed.model", paths["model"], "--embed.size", "32"]
    options += ["--cluster.k", "4", "--label.train", "1000", "--label.valid", "10", "--store.root", str(smoke.root)]
    printed = alignet("label", "smoke", *options).stdout

    assert "-- embed@objects " in printed  # the same images and model: reused
    reference = smoke.store.read_ref("separate")
    assert reference is not None
    clustered = smoke.store.artifact("cluster", reference.nodes["cluster"])
    assert sum(len(table) for table in clustered.iter_parts()) == 60


def test_scores_alone_are_computed_without_ray(smoke: SmokeRun) -> None:
    options = ("--name", "again", "--evaluate.bootstrap", "50", "--store.root", str(smoke.root))
    printed = alignet("evaluate", "smoke", *options).stdout
    assert "(changed: bootstrap" in printed.split("== evaluate")[1]
    assert "Ray" not in printed


def test_show_ends_with_the_scores_and_the_log_has_what_the_screen_said(smoke: SmokeRun) -> None:
    shown = alignet("show", "smoke", "--store.root", str(smoke.root)).stdout
    assert yaml.safe_load(shown)["name"] == "smoke"
    score = f"{100 * smoke.score('student', 'head'):.1f}"
    assert score in shown.split("# Scores")[1]
    log = (smoke.root / "logs" / "smoke.log").read_text(encoding="utf-8")
    heading = log.split("== distill@student - ")[1].splitlines()[0]
    assert heading.endswith("image passes")  # a step that is new under its root needs no reason


def test_a_quiet_run_says_only_how_it_ended(smoke: SmokeRun) -> None:
    printed = alignet("run", "smoke", "--quiet", "--store.root", str(smoke.root)).stdout
    assert "nothing to do" not in printed
    assert "aligned student" in printed
    assert "report   " in printed


def test_a_sweep_finds_a_root_that_is_relative(smoke: SmokeRun, tmp_path: Path) -> None:
    """Trials are Ray's processes, which would work in folders of their own."""
    shutil.copytree(smoke.root, tmp_path / "runs")
    options = ["--sweep.space", "align.lr=loguniform(1e-3,1e-1)", "--sweep.trials", "2", "--sweep.no-full"]
    printed = alignet("sweep", "smoke", *options, cwd=tmp_path).stdout
    assert "winner: trial" in printed
    assert (tmp_path / "runs" / "refs" / "smoke-sweep.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
