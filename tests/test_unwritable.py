"""Folders that may not be written and a full disk, in every command: one line, exit code 2, nothing half done."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.foreign_weights import flax_weights, random_vit
from support.studies import make_study, write_pictures
from support.unprivileged import fill, full_disk, read_only

from alignet_ray import registry, root_lock
from alignet_ray.artifacts.evaluate import EvaluateFacts
from alignet_ray.ask.folder import StudyFolder, forget_snapshots
from alignet_ray.cli.main import main
from alignet_ray.errors import UserError
from alignet_ray.stages import STAGES
from alignet_ray.store import Reference, Store
from alignet_ray.tracking import client

MODEL = "student"


def make_root(folder: Path) -> Store:
    """A root with a run, an artifact that no run uses, a study, and a registry with two versions of a model."""
    store = Store.open(str(folder))
    draft = store.draft("evaluate", "e" * 12)
    score = {"dataset": "objects", "metric": "odd_one_out", "level": "", "layer": "head", "model": "base"}
    numbers = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100, "split": "test", "seed": 0}
    draft.write_table("scores.parquet", pa.Table.from_pylist([score | numbers]))
    facts = EvaluateFacts(table=[], test_objects=12, verdict="yes", reasons=[], scores={})
    draft.finish({"node": "evaluate", "finished": 0.0, "facts": asdict(facts)})
    for id in ("a" * 12, "b" * 12):
        store.draft("embed", id).finish({"node": "embed@corpus", "finished": 0.0})
    store.write_ref("night", Reference({"evaluate": "e" * 12, "embed@corpus": "a" * 12}, "name: night\n"))
    make_study(folder / "ask" / "fruit").close()
    (folder / "run.lock").touch()

    address = f"sqlite:///{folder}/mlflow.db"
    mlflow = client(address)
    mlflow.create_registered_model(MODEL)
    for _ in range(2):
        mlflow.create_model_version(MODEL, str(folder))
    registry.promote(address, MODEL, "1")
    return store


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that no test changes."""
    folder = tmp_path_factory.mktemp("unwritable") / "runs"
    make_root(folder)
    return folder


def called(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    """Exit code of a command, and what it says about errors."""
    code = 0
    try:
        main(list(args))
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, capsys.readouterr().err


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


READING = (
    ("ls",),
    ("ls", "--models"),
    ("show", "night"),
    ("compare", "night"),
    ("verify", "ROOT/answers.txt"),
    ("plan", "smoke"),
)
"""Commands that only read."""

WRITING = (
    (("run", "smoke"), "cannot write to ROOT "),
    (("sweep", "smoke", "--sweep.space", "align.lr=loguniform(1e-3,1e-1)"), "cannot write to ROOT "),
    (("study", "smoke"), "cannot write to ROOT "),
    (("label", "smoke", "--export", "npz"), "cannot write to ROOT "),
    (("rm", "night", "--yes"), "cannot write ROOT/run.lock"),
    (("gc", "--yes"), "cannot write ROOT/run.lock"),
    (("rollback", MODEL, "--to", "2"), "cannot write MLflow's database ROOT/mlflow.db"),
    (("compare", "night", "--page", "ROOT/page.html"), "cannot write ROOT/page.html"),
    (("ask", "PICTURES", "--name", "new", "--trials", "5"), "cannot write to ROOT/ask/new"),
    (("ask", "fruit", "--quality"), "cannot write to ROOT/ask/fruit"),
    (("export", "random:test_vit", "ROOT/exported", "--to", "timm"), "cannot use ROOT/exported"),
    (("export", "random:test_vit", "ROOT/empty", "--to", "timm"), "cannot use ROOT/empty/"),
    (("import", "WEIGHTS", "--out", "ROOT/student"), "cannot use ROOT/.student"),
    (("data", "spose", "--fetch", "ROOT/data", "--accept-terms"), "cannot use ROOT/data"),
)
"""Commands that write, and how the line begins that says that they cannot."""


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What commands read from elsewhere, by the word that stands for it above."""
    folder = tmp_path_factory.mktemp("outside")
    np.savez(folder / "weights.npz", **flax_weights(random_vit("test_vit")))
    return {"PICTURES": str(write_pictures(folder / "pictures")), "WEIGHTS": str(folder / "weights.npz")}


def filled_in(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


@pytest.fixture(scope="module")
def read_only_root(root: Path) -> Iterator[Path]:
    (root / "empty").mkdir()
    (root / "answers.txt").write_text("0 1 2\n" * 10)
    with read_only(root):
        yield root


@pytest.mark.parametrize("args", READING, ids=" ".join)
def test_what_only_reads_works_in_a_read_only_root(
    read_only_root: Path, args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [filled_in(arg, {"ROOT": str(read_only_root)}) for arg in args]
    assert called(capsys, *given, "--store.root", str(read_only_root)) == (0, "")


@pytest.mark.parametrize(("args", "says"), WRITING, ids=[" ".join(args[:2]) for args, _ in WRITING])
def test_what_writes_says_in_one_line_that_it_may_not(
    read_only_root: Path,
    outside: dict[str, str],
    args: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = {"ROOT": str(read_only_root), **outside}
    given = [filled_in(arg, words) for arg in args]
    if args[0] not in ("import", "data", "export"):
        given += ["--store.root", str(read_only_root)]
    before = contents(read_only_root)

    code, message = called(capsys, *given)
    assert code == 2, message
    assert message.startswith(f"alignet-ray: {filled_in(says, words)}"), message
    assert len(message.splitlines()) == 1
    assert contents(read_only_root) == before


def test_on_a_full_disk_nothing_is_half_written_and_gc_makes_room(
    tmp_path: Path, outside: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with full_disk(tmp_path, 30):
        root = tmp_path / "runs"
        store = make_root(root)
        (root / "embed" / ("b" * 12) / "embeddings").write_bytes(bytes(1_000_000))
        fill(tmp_path)
        before = contents(tmp_path)
        capsys.readouterr()  # what MLflow said when it made its tables
        for args, says in (
            (("run", "smoke"), "the disk is full"),
            (("rollback", MODEL, "--to", "2"), "database or disk is full"),
            (("compare", "night", "--page", f"{root}/page.html"), "No space left on device"),
            (("ask", outside["PICTURES"], "--name", "new", "--trials", "5"), "the disk is full"),
            (("ask", "fruit", "--quality"), "if the disk is full, free some room; no answer is lost"),
        ):
            code, message = called(capsys, *args, "--store.root", str(root))
            assert (code, len(message.splitlines())) == (2, 1), message
            assert says in message
        for args in (
            ("export", "random:test_vit", f"{root}/exported", "--to", "timm"),
            ("import", outside["WEIGHTS"], "--out", f"{root}/student"),
        ):
            code, message = called(capsys, *args)
            assert (code, len(message.splitlines())) == (2, 1), message
            assert "the disk is full" in message

        # SQLite's shared memory is made when a study is opened, and made again by whoever opens it next.
        after = {name: data for name, data in contents(tmp_path).items() if not name.endswith(("-shm", "-wal"))}
        assert after == before

        assert called(capsys, "gc", "--yes", "--store.root", str(root)) == (0, "")
        assert [artifact.id for artifact in store.all(list(STAGES))] == ["a" * 12, "e" * 12]
        (root / "room").write_bytes(bytes(500_000))
        assert called(capsys, "rm", "night", "--yes", "--store.root", str(root)) == (0, "")


def test_gc_deletes_what_it_may_and_counts_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(str(tmp_path))
    for stage, id in (("align", "aaa"), ("embed", "bbb"), ("embed", "ccc")):
        store.draft(stage, id).finish({"node": stage, "finished": 0.0})
    with read_only(tmp_path / "embed" / "bbb"):
        code, message = called(capsys, "gc", "--yes", "--store.root", str(tmp_path))
    assert code == 2
    assert f"1 of 3 could not be deleted (the first: {tmp_path}/embed/bbb: Permission denied)" in message
    assert [artifact.id for artifact in store.all(list(STAGES))] == ["bbb"]


def test_a_colleagues_folder_in_a_shared_root_is_named_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "evaluate").mkdir()
    with read_only(tmp_path / "evaluate"):
        root_lock.require_writable(str(tmp_path), ["embed"])
        with pytest.raises(UserError, match=r"cannot write to .*/evaluate \(it belongs to .*\): give the permission"):
            root_lock.require_writable(str(tmp_path), ["embed", "evaluate"])
    root_lock.require_writable("s3://bucket/runs", ["evaluate"])


def test_withdrawn_answers_that_stay_in_a_snapshot_are_said(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "fruit")
    forget_snapshots(folder)  # there are none
    (folder.snapshots / "abc").mkdir(parents=True)
    (folder.snapshots / "abc" / "answers.csv").write_text("0,1,2\n")
    with read_only(folder.snapshots), pytest.raises(UserError, match=r"but not from .*snapshots .*delete that folder"):
        forget_snapshots(folder)
    forget_snapshots(folder)
    assert not folder.snapshots.exists()
