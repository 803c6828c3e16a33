"""The registry: what `register` leaves in it, promotion and rollback, lineage, and the model where it is served."""

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from alignet_ray import registry
from alignet_ray.artifacts.evaluate import EvaluateFacts
from alignet_ray.artifacts.register import RegisterArtifact
from alignet_ray.cli import main
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.evals.gate import Verdict
from alignet_ray.images.decode import decode
from alignet_ray.models.embedding_network import make_network, save_network
from alignet_ray.models.hub import fetch, load
from alignet_ray.screen import Screen
from alignet_ray.stages import Node, Work, champion, register
from alignet_ray.stages.champion import AgainstChampion
from alignet_ray.store import Artifact, Store
from alignet_ray.tracking import Session, client

ROOT = Path(__file__).parent.parent
NAME = "alignet-student"
EXPERIMENT = "1"
SCORE = {
    "dataset": "objects",
    "metric": "odd_one_out",
    "level": "",
    "low": 0.4,
    "high": 0.6,
    "n": 100,
    "split": "test",
    "seed": 0,
}


def artifact(store: Store, node: str, id: str, parents: dict[str, Artifact], facts: dict[str, Any]) -> Artifact:
    draft = store.draft(node.split("@")[0], id)
    ids = {name: parent.id for name, parent in parents.items()}
    return draft.finish({"node": node, "finished": 0.0, "recipe": {"parents": ids}, "facts": facts})


def register_student(folder: Path) -> Work:
    """A student that passed the gate, as the stage `register` gets it."""
    store = Store.open(str(folder))
    align = artifact(store, "align", "a" * 12, {}, {})
    folder = Path(store.draft("distill", "d" * 12).uri)
    save_network(folder, make_network("random:test_efficientnet", 32, 8, seed=1), {})
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-1.pt").write_bytes(b"large")
    student = artifact(store, "distill@student", "d" * 12, {"align": align}, {})
    found = (("base", "pre_logits", 0.41), ("student", "pre_logits", 0.5), ("student", "head", 0.55))
    rows = [{"model": model, "layer": layer, "value": value} | SCORE for model, layer, value in found]
    store.draft("evaluate", "e" * 12).write_table("scores.parquet", pa.Table.from_pylist(rows))
    facts = EvaluateFacts(table=[], test_objects=12, verdict="yes", reasons=[], scores={})
    evaluated = artifact(store, "evaluate", "e" * 12, {"distill@student": student, "align": align}, asdict(facts))
    cfg = Config().replace(store__root=store.root)
    session = Session.open(cfg, Path(store.root))
    parents = {"distill@student": student, "evaluate": evaluated}
    node, draft = Node("register", "", tuple(parents)), store.draft("register", "r" * 12)
    return Work(cfg, node, parents, draft, session.begin("register", cfg, {}), Screen())


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Store]:
    """A student that passed the gate, registered by the stage as version 1; the registry's address, and the store."""
    work = register_student(tmp_path_factory.mktemp("registry"))
    register.run(work)
    work.out.finish({"node": "register", "facts": asdict(work.facts)})
    return work.tracker.uri, Store.open(work.out.root)


@pytest.fixture
def three(store: Store) -> tuple[str, Store]:
    """A registry with three versions of a model; the first one is the champion."""
    uri = f"sqlite:///{store.root}/mlflow.db"
    Path(store.root).mkdir()
    client(uri).create_registered_model(NAME)
    for _ in range(3):
        client(uri).create_model_version(NAME, store.root)
    registry.promote(uri, NAME, "1")
    return uri, store


@pytest.mark.parametrize(("verdict", "reigning"), [(Verdict.YES, "2"), (Verdict.CANNOT_TELL, "1"), (Verdict.NO, "1")])
def test_only_who_is_better_takes_the_champions_place(
    tmp_path: Path, verdict: Verdict, reigning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = register_student(tmp_path)
    mlflow = client(work.tracker.uri)
    mlflow.create_registered_model(NAME)
    mlflow.create_model_version(NAME, str(tmp_path))
    registry.promote(work.tracker.uri, NAME, "1")

    monkeypatch.setattr(champion, "compare", lambda work: AgainstChampion("1", verdict, ["agreement: as measured"]))
    register.run(work)
    assert registry.champion(work.tracker.uri, NAME).version == reigning
    card = mlflow.get_model_version(NAME, "2").description
    assert f"Better than the champion, on validation objects: {verdict}" in card
    assert "* agreement: as measured" in card


def run(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    main(list(args))
    return capsys.readouterr().out


def test_a_version_says_how_good_it_is_and_what_it_is_made_of(
    registered: tuple[str, Store], capsys: pytest.CaptureFixture[str]
) -> None:
    uri, store = registered
    listed = run(capsys, "ls", "--models", "--store.root", store.root).splitlines()
    assert len(listed) == 3  # heads, a rule, and version 1
    for word in (NAME, "candidate champion", "41.0 (40.0-60.0)", "50.0 (", "55.0 (", "yes"):
        assert word in listed[2]
    shown = run(capsys, "show", f"models:/{NAME}@champion", "--store.root", store.root)
    assert "## Agreement with people" in shown  # the card
    rows = registry.lineage(client(uri).get_model_version(NAME, "1").tags)
    assert [row["node"] for row in rows] == ["distill@student", "evaluate", "align"]
    assert all(row["state"] == "finished" and (Path(row["artifact"]) / "_SUCCESS").exists() for row in rows)
    assert all(row["artifact"] in shown for row in rows)
    store.delete(store.artifact("align", "a" * 12))
    assert "not here" in run(capsys, "show", f"models:/{NAME}/1", "--store.root", store.root)
    model, _ = load(f"models:/{NAME}@champion", tracking_uri=uri)
    x = torch.randn(2, 3, 32, 32)
    folder, _ = load(store.artifact("distill", "d" * 12).uri)
    assert torch.equal(model(x).triplet_logits, folder(x).triplet_logits)
    assert not list(Path(store.root, "mlflow-artifacts").rglob("*.pt"))  # no checkpoints in the registry


def test_the_logged_model_holds_the_scores_of_the_student(registered: tuple[str, Store]) -> None:
    """MLflow's list of models compares by them; a score of the base or of a subset is not the student's."""
    uri, store = registered
    version = RegisterArtifact(store.artifact("register", "r" * 12)).version()
    metrics = client(uri).get_logged_model(version.model_id).metrics
    found = {(metric.key, metric.value, metric.dataset_name, metric.dataset_digest) for metric in metrics}
    assert found == {
        ("objects/odd_one_out/pre_logits", 0.5, "objects", "e" * 12),
        ("objects/odd_one_out/head", 0.55, "objects", "e" * 12),
    }


def test_the_weights_are_stored_once(registered: tuple[str, Store]) -> None:
    """Beside the artifact of the run itself; one logged model takes tensors and image files."""
    uri, store = registered
    logged = Path(store.root, "mlflow-artifacts")
    assert len(list(logged.rglob("*.safetensors"))) == len(list(Path(store.root, "distill").rglob("*.safetensors")))
    assert len(client(uri).search_logged_models([EXPERIMENT])) == 1


def test_the_card_is_markdown_with_intervals_and_a_way_to_the_report(registered: tuple[str, Store]) -> None:
    uri, _ = registered
    version = client(uri).get_model_version(NAME, "1")
    lines = version.description.splitlines()
    assert lines[0].startswith("A `random:test_efficientnet` student")
    start = lines.index("|---|---|")
    assert lines[start - 2 : start + 5] == [
        "",
        "| model, and the layer compared | agreement, % |",
        "|---|---|",
        "| base network | 41.0 (40.0-60.0) |",
        "| **student**, embedding | 50.0 (40.0-60.0) |",
        "| **student**, triplet head | 55.0 (40.0-60.0) |",
        "",
    ]
    assert f"[report](#/experiments/{EXPERIMENT}/runs/{version.run_id}/artifacts/report.html)" in lines[-1]
    assert "`@candidate` is the newest version" in client(uri).get_registered_model(NAME).description


def test_what_somebody_wrote_about_a_model_stays(tmp_path: Path) -> None:
    work = register_student(tmp_path)
    client(work.tracker.uri).create_registered_model(NAME, description="ours")
    register.run(work)
    assert client(work.tracker.uri).get_registered_model(NAME).description == "ours"


@pytest.fixture
def copied(registered: tuple[str, Store], tmp_path: Path) -> Store:
    """A copy of the registry's root, as it is after a move: its database names folders that are not there any more."""
    _, store = registered
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy)
    with contextlib.closing(sqlite3.connect(copy / "mlflow.db")) as database, database:
        for table, column in (("logged_models", "artifact_location"), ("model_versions", "storage_location")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, '/gone')", (store.root,))
        database.execute("UPDATE model_version_tags SET value = '/gone' WHERE key = 'alignet.store'")
    return Store.open(str(copy))


def test_a_root_that_was_moved_has_its_own_models(
    copied: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    model, _ = load(f"models:/{NAME}@champion", root=copied.root)
    folder, _ = load(copied.artifact("distill", "d" * 12).uri)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x).triplet_logits, folder(x).triplet_logits)

    shown = run(capsys, "show", f"models:/{NAME}@champion", "--store.root", copied.root)
    assert f"{copied.root}/distill/{'d' * 12}" in shown
    assert "/gone" not in shown

    shutil.rmtree(Path(copied.root) / "mlflow-artifacts")
    with pytest.raises(UserError, match=f"cannot be had from .*/gone/.*: ROOT/distill/{'d' * 12}") as caught:
        load(f"models:/{NAME}@champion", root=copied.root)
    assert "\n" not in str(caught.value)


def test_a_copied_root_does_not_reach_back_to_the_first_one(registered: tuple[str, Store], tmp_path: Path) -> None:
    uri, store = registered
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy)
    fetched = fetch(f"models:/{NAME}@champion", f"sqlite:///{copy}/mlflow.db")
    assert fetched.is_relative_to(copy)
    assert fetch(f"models:/{NAME}@champion", uri).is_relative_to(store.root)

    description = registry.describe(f"sqlite:///{copy}/mlflow.db", f"models:/{NAME}@champion")
    assert description.facts["store"] == str(copy)
    assert all(row["artifact"].startswith(str(copy)) for row in description.lineage)


def test_a_model_without_alias_and_version_is_asked_for_one(registered: tuple[str, Store]) -> None:
    uri, _ = registered
    for ask in (lambda: load(f"models:/{NAME}", tracking_uri=uri), lambda: registry.describe(uri, f"models:/{NAME}")):
        with pytest.raises(UserError, match="models:/NAME@ALIAS or models:/NAME/VERSION"):
            ask()


def picture(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


BARE = """
import importlib.util, json, sys
import pandas
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
sys.path = [p for p in sys.path if p not in ("", {root!r})]
assert importlib.util.find_spec("alignet_ray") is None, "the test wants it not to be installed"
import mlflow
model = mlflow.pyfunc.load_model({uri!r})
import alignet_ray
out = model.predict(pandas.DataFrame({{"image": [open({file!r}, "rb").read()]}}))
print(json.dumps([alignet_ray.__file__, "ray" in sys.modules, out["triplet_logits"].tolist()]))
"""


def test_the_logged_model_brings_its_code(registered: tuple[str, Store], tmp_path: Path) -> None:
    """Given image files, in a process where alignet_ray is not installed; nothing of it is pickled."""
    uri, store = registered
    (tmp_path / "a.png").write_bytes(picture(1))
    code = BARE.format(root=str(ROOT), uri=f"models:/{NAME}@champion", file=str(tmp_path / "a.png"))
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": ""}
    environment |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    where, ray, logits = json.loads(done.stdout.splitlines()[-1])
    assert not Path(where).is_relative_to(ROOT)
    assert not ray
    student, preprocess = load(store.artifact("distill", "d" * 12).uri)
    expected = student(preprocess(decode(picture(1)))[None]).triplet_logits
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
    assert not [f for f in Path(store.root, "mlflow-artifacts").rglob("*") if f.suffix in (".pkl", ".pickle", ".pth")]


@contextlib.contextmanager
def served(uri: str, model: str) -> Iterator[str]:
    """`mlflow models serve` of a model; the address of its invocations."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", model, "--env-manager", "local", "-p", str(port), "-h", "127.0.0.1"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
    server = subprocess.Popen([sys.executable, "-m", *command], env=environment, start_new_session=True)
    try:
        until = time.monotonic() + 240
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping"):
                break
            assert server.poll() is None and time.monotonic() < until, "the server did not start"  # noqa: PT018
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def post(url: str, body: dict[str, Any]) -> dict[str, np.ndarray]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return {name: np.array(rows) for name, rows in json.load(answer)["predictions"].items()}


@pytest.mark.slow
def test_mlflow_serves_tensors_and_image_files(registered: tuple[str, Store]) -> None:
    uri, store = registered
    student, preprocess = load(store.artifact("distill", "d" * 12).uri)
    files = [picture(1), picture(2)]
    x = torch.stack([preprocess(decode(f)) for f in files])
    expected = student(x)
    table = {"columns": ["image"], "data": [[base64.b64encode(f).decode()] for f in files]}
    with served(uri, f"models:/{NAME}@champion") as url:
        for body in ({"inputs": x.tolist()}, {"dataframe_split": table}):
            found = post(url, body)
            np.testing.assert_allclose(found["embedding"], expected.embedding.numpy(), atol=1e-4)
            np.testing.assert_allclose(found["triplet_logits"], expected.triplet_logits.numpy(), atol=1e-4)


def test_rollback_gives_the_champion_back(three: tuple[str, Store], capsys: pytest.CaptureFixture[str]) -> None:
    uri, store = three
    root = ("--store.root", store.root)

    def champion() -> str:
        return str(client(uri).get_registered_model(NAME).aliases["champion"])

    assert champion() == "1"
    registry.promote(uri, NAME, "2")
    registry.promote(uri, NAME, "2")  # twice is once
    assert champion() == "2"
    assert "version 1 (was 2)" in run(capsys, "rollback", NAME, *root)
    assert champion() == "1"
    for args, mend in (
        (("rollback", NAME), "no champion of alignet-student before 1"),
        (("rollback", NAME, "--to", "7"), "no version 7"),
        (("rollback", "nothing"), "nothing cannot be had"),
        (("show", "models:/nothing@champion"), "cannot be had"),
    ):
        with pytest.raises(SystemExit):
            main([*args, *root])
        assert mend in capsys.readouterr().err
    run(capsys, "rollback", NAME, "--to", "2", *root)
    run(capsys, "rollback", NAME, *root)
    assert champion() == "1"
    client(uri).set_registered_model_alias(NAME, "champion", "3")  # by hand, past us
    assert registry.rollback(uri, NAME) == ("3", "1")
    registry.promote(uri, NAME, "2")
    client(uri).delete_model_version(NAME, "1")
    with pytest.raises(UserError, match="name a version"):
        registry.rollback(uri, NAME)


def test_asking_makes_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ls", "--models", "--store.root", str(tmp_path)])
    assert "no model registry" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
