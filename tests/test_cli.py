"""The command line as a user meets it: each mistake is one line with the mend and exit code 2, never a traceback."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from alignet_ray.cli.main import main, mendable
from alignet_ray.cli.parse import parse
from alignet_ray.config import Config
from alignet_ray.config.presets import PRESETS
from alignet_ray.errors import UserError


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
    ("args", "mend"),
    [
        (("rnu",), "did you mean 'run'"),
        (("run", "smok"), "did you mean 'smoke'"),
        (("run", "smoke", "--embed.modle", "x"), "did you mean '--embed.model'"),
        (("run", "smoke", "--embed.batch-size", "x"), "--embed.batch-size"),
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
    mend: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mend in fails(capsys, *args)


def test_help_is_quick_and_names_every_verb() -> None:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "alignet_ray.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert time.monotonic() - start < 5  # generous: a loaded machine; importing torch or ray would be noticed elsewhere
    for verb in ("run", "plan", "show", "verify", "ls", "rm", "gc", "compare", "embed", "distill", "register"):
        assert verb in done.stdout


@pytest.mark.parametrize("name", PRESETS)
def test_show_reloads_exactly(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", name, "--seed", "7"])
    text = capsys.readouterr().out
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert Config.from_yaml(file) == PRESETS[name]().replace(seed=7)
    assert parse("run", ["--config", str(file), "--cluster.k", "9"]).cluster.k == 9


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


def test_mendable_digs_through_wrapped_errors() -> None:
    outer = RuntimeError("a worker died")
    outer.__cause__ = UserError("mend it like this")
    assert mendable(outer) == "mend it like this"
    assert "disk is full" in (mendable(OSError(28, "No space left on device", "/x/y")) or "")
    assert mendable(KeyError("a bug")) is None
