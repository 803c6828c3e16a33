"""The command line as a user meets it: each mistake is one line that says how to fix it, and exit code 2."""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from alignet_ray import root_lock
from alignet_ray.artifacts.evaluate import EvaluateArtifact
from alignet_ray.cli import options
from alignet_ray.cli.main import COMMANDS, main, stopped_message, user_message
from alignet_ray.cli.parse import ESSENTIAL, read_config
from alignet_ray.config import Config
from alignet_ray.config.presets import PRESETS
from alignet_ray.core.scores import Score
from alignet_ray.errors import RemoteError, UserError
from alignet_ray.models import formats
from alignet_ray.models.hub import load
from alignet_ray.stages import STAGES
from alignet_ray.store import Reference, Store


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    message = capsys.readouterr().err
    assert stop.value.code == 2, message
    assert "Traceback" not in message
    assert message.startswith("alignet-ray: ")
    assert len(message.strip().splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("args", "fix"),
    [
        (("rnu",), "did you mean 'run'"),
        (("--verson",), "did you mean '--version'"),
        (("zzzzz",), "unknown command 'zzzzz': --help lists them"),
        (("run", "smoke", "extra"), "unexpected argument 'extra'"),
        (("run", "--embed.resize", "q"), "--embed.resize q: choose auto or device or reader"),
        (("plan", "--on.gpu", "4"), "did you mean '--on.gpus'"),
        (("plan", "--on.gpus", "x"), "--on.gpus x: expected INT"),
        (("plan", "--on.gpus"), "--on.gpus needs a value"),
        (("plan", "smoke", "--no-distill.control"), "did you mean '--distill.no-control'"),
        (("verify", "FILE", "--embedding", "E"), "did you mean '--embeddings'"),
        (("plan", "--name", "a/b"), "--name a/b: a run's name is a file's name"),
        (("demo",), "needs model"),
        (("verify", "--nonsense"), "unknown option '--nonsense'"),
        (("show", "models:/x@y"), "no model registry"),
        (("run", "smok"), "did you mean 'smoke'"),
        (("run", "smoke", "--embed.modle", "x"), "did you mean '--embed.model'"),
        (("run", "smoke", "--tracking.alias-to", "x"), "did you mean '--register.alias'"),
        (("run", "smoke", "--embed.batch-size", "x"), "--embed.batch-size x: expected INT"),
        (("run", "smoke", "--distill.lr=-1"), "--distill.lr -1.0: input should be greater than 0\n"),
        (("run", "--align.network.decay-to-init=-2"), "--align.network.decay-to-init -2.0: input should be"),
        (("run", "smoke", "--config"), "needs a file"),
        (("embed", "--export", "csv"), "npy or safetensors"),
        (("run", "--config", "/nowhere.yaml"), "/nowhere.yaml"),
        (("show", "nothing", "--store.root", "/nowhere"), "not a folder"),
        (("rm",), "names"),
        (("plan", "--corpus.path", "synthetic:nothing"), "no generated world"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    fix: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fix in fails(capsys, *args)


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with contextlib.suppress(SystemExit):
        main(list(args))
    return capsys.readouterr().out


def test_the_short_help_shows_what_matters_and_how_to_see_all(capsys: pytest.CaptureFixture[str]) -> None:
    short = printed(capsys, "run", "smoke", "--help")
    for word in (*PRESETS, "--debug", "--config FILE", "--help-all", *(f"--{name}" for name in ESSENTIAL)):
        assert word in short
    assert "--soften.spike" not in short
    assert "synthetic:smoke" in short  # the preset's value
    assert len(short.splitlines()) < 60
    full = printed(capsys, "run", "smoke", "--help-all")
    assert all(f"--{name}".replace("_", "-") in full for name in Config().flat())
    assert "--export {None,npy,safetensors}" in printed(capsys, "embed", "--help")
    assert "--on.gpus" in printed(capsys, "plan", "--help")


def test_every_command_explains_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in COMMANDS.items():
        text = printed(capsys, name, "--help")
        assert f"usage: alignet-ray {name}" in text
        assert "--debug" in text
        kind = getattr(options, command.options)
        undocumented = [line for line in text.splitlines() if line.strip().startswith("--") and len(line.split()) < 3]
        assert kind.__doc__, name
        if "--tracking.uri" in text and command.group == "results":
            assert "--store.root" in text, name
        assert "--store.root" in text or name in ("bench", "data", "import"), (name, undocumented)
    assert {name for name, command in COMMANDS.items() if command.group == "stages"} == set(STAGES)


def test_results_can_be_read_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ("--store.root", str(tmp_path))
    draft = Store.open(str(tmp_path)).draft("evaluate", "e" * 12)
    EvaluateArtifact(draft).write_scores([Score("base", "pre_logits", "objects", "odd_one_out", 0.5)])
    draft.finish({"node": "evaluate", "finished": 0.0})
    draft.write_bytes("triplets.txt", b"0 1 2\n" * 10)
    text = Config(name="night").to_yaml()
    Store.open(str(tmp_path)).write_ref("night", Reference({"evaluate": "e" * 12}, text))

    listed = json.loads(printed(capsys, "ls", "--json", *root))
    assert listed["runs"] == [{"run": "night", "nodes": 1}]
    assert listed["artifacts"][0]["artifact"] == "evaluate/" + "e" * 12
    assert json.loads(printed(capsys, "show", "night", "--json", *root))["name"] == "night"
    assert json.loads(printed(capsys, "show", "smoke", "--seed", "3", "--json", *root))["seed"] == 3
    (compared,) = json.loads(printed(capsys, "compare", "night", "--json", *root))
    assert (compared["run"], compared["model"], compared["value"]) == ("night", "base", 0.5)
    checked = json.loads(printed(capsys, "verify", f"evaluate/{'e' * 12}/triplets.txt", "--json", *root))
    assert checked["kind"].startswith("human responses")
    assert {"check": "rows", "value": "10", "verdict": "ok", "note": ""} in checked["checks"]
    steps = json.loads(printed(capsys, "plan", "smoke", "--json", *root))
    assert steps[0]["state"] == "missing"
    assert json.loads(printed(capsys, "plan", "--on.gpus", "8", "--json"))["verdict"]


def test_a_damaged_artifact_is_listed_and_can_be_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ("--store.root", str(tmp_path))
    store = Store.open(str(tmp_path))
    store.draft("embed", "aaa").finish({"node": "embed@corpus", "finished": 0.0})
    done = store.draft("evaluate", "bbb").finish({"node": "evaluate", "finished": 0.0})
    store.write_ref("night", Reference({"evaluate": "bbb"}))
    (Path(done.uri) / "artifact.json").write_bytes(b"")

    listed = json.loads(printed(capsys, "ls", "--json", *root))["artifacts"]
    assert [(row["artifact"], row["when"] == "damaged") for row in listed] == [
        ("embed/aaa", False),
        ("evaluate/bbb", True),
    ]
    assert f"delete the folder {done.uri}" in fails(capsys, "show", "bbb", *root)
    assert f"delete the folder {done.uri}" in fails(capsys, "compare", "night", *root)
    printed(capsys, "gc", "--yes", *root)
    assert [artifact.id for artifact in store.all(list(STAGES))] == ["bbb"]
    printed(capsys, "rm", "bbb", "--yes", *root)
    assert store.all(list(STAGES)) == []


def test_a_run_that_is_not_there_is_called_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no run 'nihgt'" in fails(capsys, "compare", "nihgt", "--store.root", str(tmp_path))


def test_what_a_run_is_making_is_not_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(str(tmp_path))
    store.draft("embed", "aaa").finish({"node": "embed@corpus", "finished": 0.0})
    root = ("--store.root", str(tmp_path))
    with root_lock.lock(tmp_path):
        assert "in use by another run" in fails(capsys, "rm", "aaa", "--yes", *root)
    printed(capsys, "rm", "aaa", "--yes", *root)
    assert store.all(list(STAGES)) == []


@pytest.mark.parametrize(
    ("args", "fix"),
    [
        ((), "needs runs"),
        (("one", "two", "one"), "one is named twice"),
        (("one", "--page", "scores.pdf"), "name an .html file"),
        (("one", "--page", "scores.html", "--json"), "give one of them"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    args: tuple[str, ...], fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fix in fails(capsys, "compare", *args)


def test_a_comparison_is_written_as_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(str(tmp_path / "runs"))
    for name in ("one", "two"):
        draft = store.draft("evaluate", name)
        score = Score("base", "pre_logits", "objects", "odd_one_out", 0.4, 0.3, 0.5, n=10, split="test", seed=0)
        EvaluateArtifact(draft).write_scores([score])
        draft.finish({"node": "evaluate", "finished": 0.0})
    page = tmp_path / "scores.html"
    said = printed(capsys, "compare", "one", "two", "--page", str(page), "--store.root", str(tmp_path / "runs"))
    assert str(page) in said
    assert "<h1>alignet_ray: one, two</h1>" in page.read_text(encoding="utf-8")
    missing = str(tmp_path / "nowhere" / "scores.html")
    assert "cannot write" in fails(capsys, "compare", "one", "--page", missing, "--store.root", str(tmp_path / "runs"))


def test_a_closed_output_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    main(["ls", "--store.root", str(tmp_path)])


@pytest.mark.parametrize("name", ["", "embed/", "/"])
def test_an_empty_id_deletes_nothing(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(str(tmp_path))
    store.draft("embed", "aaa").finish({"node": "embed@corpus", "finished": 0.0})
    assert "an artifact is STAGE/ID" in fails(capsys, "rm", name, "--yes", "--store.root", str(tmp_path))
    assert [artifact.id for artifact in store.all(list(STAGES))] == ["aaa"]


def test_a_run_of_a_presets_name_is_shown_before_the_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ("--store.root", str(tmp_path))
    assert "seed: 0" in printed(capsys, "show", "smoke", *root)
    ran = PRESETS["smoke"]().replace(seed=5)
    Store.open(str(tmp_path)).write_ref("smoke", Reference(config=ran.to_yaml()))
    assert "seed: 5" in printed(capsys, "show", "smoke", *root)
    assert "seed: 1" in printed(capsys, "show", "smoke", "--seed", "1", *root)


def test_reading_creates_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    model = "models:/alignet-student@candidate"
    for args in (
        ("show", model),
        ("demo", model),
        ("export", model, "--to", "timm", "out"),
        ("ls", "--models"),
        ("rollback", "alignet-student"),
    ):
        assert "no model registry" in fails(capsys, *args)
    printed(capsys, "plan", "smoke")
    with pytest.raises(UserError, match="no model registry"):
        load(model)
    assert list(tmp_path.iterdir()) == []


def test_help_is_quick_and_names_every_command() -> None:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "alignet_ray.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert time.monotonic() - start < 5  # generous: a loaded machine; importing torch or ray would be noticed elsewhere
    for name in COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize("name", PRESETS)
def test_show_reloads_exactly(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", name, "--seed", "7"])
    text = capsys.readouterr().out
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert Config.from_yaml(file) == PRESETS[name]().replace(seed=7)
    assert read_config("run", ["--config", str(file), "--cluster.k", "9"]).cluster.k == 9


def test_wrong_keys_in_yaml_are_named(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"distill": {"learning": 1}}))
    with pytest.raises(UserError, match=r"distill\.learning"):
        Config.from_yaml(file)
    file.write_text("align: {network: {similarity_spraed: 4}}")
    with pytest.raises(UserError, match=r"spraed: no such field; did you mean align.network.similarity_spread\?"):
        Config.from_yaml(file)


def test_every_field_has_a_help_text() -> None:
    for name, section in Config.model_fields.items():
        kind = section.annotation
        fields = getattr(kind, "model_fields", {})
        assert fields or section.description, name
        for field, info in fields.items():
            assert info.description, f"{name}.{field} has no docstring"


def test_a_user_error_is_found_inside_wrapped_errors() -> None:
    outer = RuntimeError("a worker died")
    outer.__cause__ = UserError("fix it like this")
    assert user_message(outer) == "fix it like this"
    assert "disk is full" in (user_message(OSError(28, "No space left on device", "/x/y")) or "")
    of_arrow = PermissionError(13, "Cannot delete file '/r/x'. Detail: [errno 13] Permission denied")
    assert user_message(of_arrow) == "Cannot delete file '/r/x': Permission denied"
    of_store = OSError("When getting information for key 'x' in bucket 'b': AWS Error NETWORK_CONNECTION: no route")
    assert (user_message(of_store) or "").startswith("the remote storage failed (When getting information for key 'x'")
    assert "the connection" in (user_message(RemoteError("ConnectError: name not known")) or "")
    assert user_message(KeyError("a bug")) is None
    assert user_message(OSError("of no server")) is None


def test_half_an_export_is_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(name: str, folder: Path, root: str | None = None, tracking_uri: str | None = None) -> str:
        (folder / "parts").mkdir(parents=True)
        (folder / "weights").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(formats.FORMATS, "timm", fill_the_disk)
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        assert "the disk is full" in fails(capsys, "export", "random:test_vit", "--to", "timm", str(tmp_path / name))
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_a_file_that_a_bench_cannot_write_is_refused_before_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cannot write" in fails(capsys, "bench", "label", "--json", str(tmp_path / "nowhere" / "x.json"))


@pytest.mark.parametrize(
    ("args", "goes_on"),
    [(["run", "smoke"], True), (["--debug", "distill"], True), (["ls"], False), (["export", "x"], False), ([], False)],
)
def test_only_a_command_that_goes_on_says_so_when_it_is_stopped(args: list[str], goes_on: bool) -> None:
    said = stopped_message(args)
    assert said.startswith("stopped")
    assert ("goes on from there" in said) == goes_on
