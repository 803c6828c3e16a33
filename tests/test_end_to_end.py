"""The whole line as a user starts it: the generated world whose answer is known, run once, looked at from all sides."""

import json
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from alignet_ray.artifacts import transforms
from alignet_ray.data import embeddings
from alignet_ray.human import objects
from alignet_ray.stages import STAGES
from alignet_ray.store import Artifact, Store
from alignet_ray.synthetic import world


def alignet(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a user calls it."""
    command = [sys.executable, "-m", "alignet_ray.cli", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@dataclass(frozen=True)
class Finished:
    root: Path
    printed: str
    store: Store

    def __getitem__(self, node: str) -> Artifact:
        ref = self.store.read_ref("smoke")
        assert ref is not None
        return self.store.artifact(node.split("@")[0], ref["nodes"][node])

    @property
    def world(self) -> Path:
        return next(p.parent for p in self.root.glob("worlds/smoke*/world.json"))

    def score(self, model: str, layer: str, metric: str = "odd_one_out") -> float:
        rows = self["evaluate"].read_table("scores.parquet").to_pylist()
        hits = [r for r in rows if (r["model"], r["layer"], r["metric"], r["level"]) == (model, layer, metric, "")]
        assert len(hits) == 1, (model, layer, metric, rows)
        return float(hits[0]["value"])


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("smoke")
    printed = alignet("run", "smoke", "--store.root", str(root)).stdout
    return Finished(root, printed, Store.open(str(root)))


def test_the_screen_tells_the_story(smoke: Finished) -> None:
    for stage in STAGES:
        assert f"\n== {stage}" in smoke.printed
    for word in ("base", "teacher", "student", "control", "ceiling", "report.html", "mlflow ui", "alignet_ray.load"):
        assert word in smoke.printed
    for noise in ("Traceback", "Warning", "INFO", "(pid=", "raylet"):
        assert noise not in smoke.printed


def test_the_student_is_nearer_to_people_than_base_and_control(smoke: Finished) -> None:
    base, control = smoke.score("base", "pre_logits"), smoke.score("control", "pre_logits")
    student, head = smoke.score("student", "pre_logits"), smoke.score("student", "head")
    ceiling = smoke.score("human", "")
    assert student > base + 0.08
    assert student > control + 0.08
    assert head > smoke.score("control", "head") + 0.08
    assert max(student, head) < ceiling


def test_the_teacher_recovers_the_known_similarities(smoke: Finished) -> None:
    """Rank correlation above 0.9 on objects that no training saw."""
    known = np.load(smoke.world / "truth.npz")["similarity"]
    table = smoke["soften"].read_table("objects.parquet").to_pylist()
    unseen = [row for row in table if row["split"] == "test" and row["image_ids"]]
    ids, x = embeddings.load(smoke["embed@objects"])
    transform = transforms.load_transform(smoke["align"].local("transform.safetensors"))
    aligned = transform(x.astype(np.float32))
    means = np.stack([aligned[np.isin(ids, row["image_ids"])].mean(0) for row in unseen])
    rows, columns = np.triu_indices(len(unseen), 1)
    numbers = [row["object"] for row in unseen]
    found = (means @ means.T)[rows, columns]
    assert spearmanr(found, known[np.ix_(numbers, numbers)][rows, columns]).statistic > 0.9


def test_held_out_objects_were_never_shown(smoke: Finished) -> None:
    hidden = set(objects.held_out_ids(smoke["soften"].read_table("objects.parquet")).tolist())
    assert hidden
    for label in ("label@aligned", "label@raw"):
        for part in ("train", "valid"):
            table = smoke[label].read_parts(part)
            assert not hidden & {i for c in ("i0", "i1", "i2") for i in table[c].to_pylist()}
    assert not hidden & set(smoke["cluster"].read_parts()["image_id"].to_pylist())


def test_several_processes_did_the_work(smoke: Finished) -> None:
    assert len(smoke["embed@corpus"].manifest["facts"]["actors"]) == 2
    facts = smoke["distill@student"].manifest["facts"]
    assert len(set(facts["processes"])) == 2


def test_run_again_does_nothing(smoke: Finished) -> None:
    before = {
        p: p.stat().st_mtime_ns for p in smoke.root.rglob("*") if p.is_file() and p.parent.name not in ("logs", "refs")
    }
    again = alignet("run", "smoke", "--store.root", str(smoke.root))
    assert "nothing to do" in again.stdout
    after = {p: p.stat().st_mtime_ns for p in before}
    changed = {p.name for p in before if before[p] != after[p]}
    assert changed <= {"run.lock"}


def test_one_field_reruns_only_what_depends_on_it(smoke: Finished) -> None:
    plan = alignet("plan", "smoke", "--store.root", str(smoke.root), "--label.valid", "1999").stdout
    todo = {line.split()[0] for line in plan.splitlines() if " missing " in line}
    done = {line.split()[0] for line in plan.splitlines() if " finished " in line}
    assert {"soften", "embed@corpus", "embed@objects", "embed@base", "align", "cluster"} <= done
    assert {"label@aligned", "label@raw", "distill@student", "distill@control", "evaluate", "register"} <= todo
    assert "valid" in plan


def test_the_registered_model_equals_the_folder(smoke: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
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
        mine, theirs = folder(batch), registered(batch)
    assert mine.embedding.shape[0] == 2
    for name in ("embedding", "triplet_logits"):
        torch.testing.assert_close(getattr(mine, name), getattr(theirs, name))
        np.testing.assert_allclose(getattr(mine, name).numpy(), pyfunc[name], rtol=1e-4, atol=1e-4)


def test_mlflow_holds_one_tree_with_lineage(smoke: Finished) -> None:
    with sqlite3.connect(smoke.root / "mlflow.db") as db:
        names = dict(db.execute("select run_uuid, name from runs"))
        parents = [v for (v,) in db.execute("select value from tags where key = 'mlflow.parentRunId'")]
        states = {s for (s,) in db.execute("select status from runs")}
        digests = {d for (d,) in db.execute("select digest from datasets")}
        steps = db.execute("select count(distinct step) from metrics where key = 'loss'").fetchone()[0]
    assert states == {"FINISHED"}
    assert len(set(parents)) == 1
    assert names[parents[0]] == "smoke"
    assert smoke["cluster"].id in digests
    assert steps > 3


def test_the_report_stands_alone(smoke: Finished) -> None:
    html = smoke["evaluate"].read_bytes("report.html").decode()
    assert "<img" in html
    assert 'src="http' not in html
    assert "<script src" not in html
    assert "<link" not in html


def test_results_verbs(smoke: Finished) -> None:
    root = ("--store.root", str(smoke.root))
    listed = alignet("ls", *root).stdout
    assert "smoke" in listed
    assert "distill@student" in listed
    assert "files of the cache" in alignet("gc", "--yes", *root).stdout
    assert "nothing to delete" in alignet("gc", *root).stdout
    manifest = json.loads(alignet("show", smoke["cluster"].id, *root).stdout)
    assert manifest["node"] == "cluster"
    assert "base" in alignet("compare", "smoke", *root).stdout


def test_shuffled_judgements_teach_nothing(smoke: Finished, tmp_path: Path) -> None:
    """The control of the control: objects that stand for the wrong images leave the student at chance."""
    table = tmp_path / "shuffled.csv"
    world.shuffle_objects(smoke.world / "objects.csv", table, seed=0)
    root = ("--store.root", str(smoke.root))
    alignet("run", "smoke", "--name", "shuffled", "--objects.table", str(table), "--distill.no-control", *root)
    ref = smoke.store.read_ref("shuffled")
    assert ref is not None
    scores = smoke.store.artifact("evaluate", ref["nodes"]["evaluate"]).read_table("scores.parquet").to_pylist()
    for row in scores:
        if row["model"] == "student" and row["metric"] == "odd_one_out" and row["level"] == "":
            assert abs(row["value"] - 1 / 3) < 0.06, row


def test_a_stored_transform_labels_images_that_nobody_judged(smoke: Finished) -> None:
    """Images of one's own, and the map of another run: the same verb, without anybody's answers."""
    paths = world.paths("smoke", smoke.world)
    own = ["--corpus.path", paths["corpus"], "--embed.model", paths["model"], "--embed.size", "32", "--name", "own"]
    own += ["--distill.model", paths["model"], "--distill.size", "32", "--distill.steps", "4", "--distill.no-control"]
    own += ["--align.from", smoke["align"].uri, "--cluster.k", "8", "--label.train", "5000", "--label.valid", "500"]
    printed = alignet("run", *own, "--store.root", str(smoke.root)).stdout
    assert "-- embed@corpus" in printed  # the same images and model: reused
    for absent in ("soften", "evaluate", "embed@objects"):
        assert f"== {absent}" not in printed
    assert "is version" in printed.split("== register")[1]
    ref = smoke.store.read_ref("own")
    assert ref is not None
    assert smoke.store.artifact("distill", ref["nodes"]["distill@student"]).has("backbone.safetensors")


def test_judged_objects_may_have_images_of_their_own(smoke: Finished, tmp_path: Path) -> None:
    """The corpus is one folder and the judged objects' images are another: nothing of the corpus is held out."""
    paths = world.paths("smoke", smoke.world)
    rng = np.random.default_rng(0)
    for i in range(60):
        folder = tmp_path / "corpus" / f"c{i % 6}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    apart = ["--corpus.path", str(tmp_path / "corpus"), "--objects.path", paths["corpus"], "--name", "apart"]
    apart += ["--objects.table", paths["table"], "--objects.concepts", paths["concepts"]]
    apart += ["--human.triplets", paths["triplets"], "--embed.model", paths["model"], "--embed.size", "32"]
    apart += ["--cluster.k", "4", "--label.train", "1000", "--label.valid", "10", "--store.root", str(smoke.root)]
    printed = alignet("label", "smoke", *apart).stdout
    assert "-- embed@objects " in printed  # the same images and model: reused
    ref = smoke.store.read_ref("apart")
    assert ref is not None
    clustered = smoke.store.artifact("cluster", ref["nodes"]["cluster"])
    assert sum(len(t) for t in clustered.iter_parts()) == 60
