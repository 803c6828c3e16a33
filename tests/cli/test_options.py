"""What every command takes: defaults, positional names and switches, each as a user would type it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from alignet_ray.cli import options
from alignet_ray.cli.main import COMMANDS
from alignet_ray.cli.options import Options, RunOptions, StoreOptions
from alignet_ray.cli.parse import read
from alignet_ray.config import Config, StoreSection
from alignet_ray.config.cluster_spec import ClusterSpec
from alignet_ray.errors import UserError

CLASSES = {command.options: getattr(options, command.options) for command in COMMANDS.values()}
REQUIRED = {
    "RollbackOptions": ["alignet-student"],
    "VerifyOptions": ["triplets.txt"],
    "DemoOptions": ["student"],
    "AskOptions": ["images"],
    "ExportOptions": ["student", "--to", "timm", "out"],
    "ImportOptions": ["model", "--out", "student"],
}
"""Arguments without which a command cannot be called."""


def chosen(kind: str, *args: str) -> Any:
    return read(CLASSES[kind], "command", [*REQUIRED.get(kind, []), *args])


def test_every_class_of_the_module_belongs_to_a_command() -> None:
    bases = {"Options", "StoreOptions"}
    declared = {name for name, kind in vars(options).items() if isinstance(kind, type) and issubclass(kind, Options)}
    assert declared == set(CLASSES) | bases


@pytest.mark.parametrize("kind", CLASSES)
def test_options_are_immutable_and_start_switched_off(kind: str) -> None:
    found = chosen(kind)
    switches = [field.name for field in dataclasses.fields(found) if isinstance(getattr(found, field.name), bool)]
    assert "debug" in switches
    for name in switches:
        assert getattr(found, name) is False, name
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.debug = True


@pytest.mark.parametrize("kind", CLASSES)
def test_a_switch_has_no_value_and_no_negation(kind: str) -> None:
    assert chosen(kind, "--debug").debug is True
    with pytest.raises(UserError, match=r"^unexpected argument"):
        chosen(kind, "--no-debug")


@pytest.mark.parametrize("kind", sorted(set(CLASSES) - {"BenchOptions", "DataOptions", "ImportOptions"}))
def test_the_root_is_a_folder_named_runs_unless_it_is_given(kind: str) -> None:
    def root(found: Any) -> str | None:
        if isinstance(found, RunOptions):
            return found.settings.store.root
        return found.store.root  # type: ignore[no-any-return]

    default = root(chosen(kind))
    if kind == "ExportOptions":
        assert default is None, "the root that the student's folder is in"
    else:
        assert default == StoreSection().root == "runs"
    assert root(chosen(kind, "--store.root", "elsewhere")) == "elsewhere"


@pytest.mark.parametrize("kind", [name for name, kind in CLASSES.items() if issubclass(kind, RunOptions)])
def test_a_run_starts_from_the_defaults_a_preset_or_a_file(kind: str, tmp_path: Path) -> None:
    assert chosen(kind).settings == Config()
    found = chosen(kind, "smoke", "--seed", "3")
    assert found.preset == "smoke"
    assert (found.settings.name, found.settings.seed) == ("smoke", 3)
    (tmp_path / "run.yaml").write_text("name: mine\ncluster: {k: 9}\n")
    from_file = chosen(kind, "--config", str(tmp_path / "run.yaml"))
    assert from_file.config == tmp_path / "run.yaml"
    assert (from_file.settings.name, from_file.settings.cluster.k) == ("mine", 9)


def test_a_plan_is_for_the_default_cluster_unless_one_is_given() -> None:
    assert chosen("PlanOptions").on == ClusterSpec()
    assert chosen("PlanOptions", "--on.gpus", "2", "--on.elastic").on == ClusterSpec(gpus=2, elastic=True)
    assert chosen("PlanOptions", "--on.gpus", "2").settings == Config()


@pytest.mark.parametrize(("kind", "formats"), [("EmbedOptions", ("npy", "safetensors")), ("LabelOptions", ("npz",))])
def test_a_stage_writes_its_result_in_known_formats_alone(kind: str, formats: tuple[str, ...]) -> None:
    assert chosen(kind).export is None
    for name in formats:
        assert chosen(kind, "--export", name).export == name
    with pytest.raises(UserError, match=rf"^--export csv: choose {' or '.join(formats)}$"):
        chosen(kind, "--export", "csv")


@pytest.mark.parametrize(("kind", "field"), [("RemoveOptions", "names"), ("CompareOptions", "runs")])
def test_any_number_of_names_in_the_order_of_the_command_line(kind: str, field: str) -> None:
    assert getattr(chosen(kind), field) == ()
    assert getattr(chosen(kind, "b", "a", "embed/3f"), field) == ("b", "a", "embed/3f")


def test_show_takes_a_name_that_is_no_preset() -> None:
    found = read(options.ShowOptions, "show", ["night"])
    assert found.preset == "night"
    assert found.settings == Config()


def test_an_export_needs_a_known_format() -> None:
    found = read(options.ExportOptions, "export", ["student", "--to", "onnx", "out"])
    assert (found.model, found.to, found.folder) == ("student", "onnx", Path("out"))
    with pytest.raises(UserError, match=r"^--to jpeg: choose hub or onnx or thingsvision or timm$"):
        read(options.ExportOptions, "export", ["student", "--to", "jpeg", "out"])
    with pytest.raises(UserError, match=r"^alignet-ray export needs .*--to.*: `alignet-ray export --help` explains$"):
        read(options.ExportOptions, "export", ["student", "out"])


def test_an_import_needs_a_new_folder_and_guesses_the_rest() -> None:
    found = chosen("ImportOptions")
    assert (found.path, found.out, found.model, found.prefix) == (Path("model"), Path("student"), None, None)
    assert (found.tau, found.preprocessing) == (100, "auto")
    with pytest.raises(UserError, match=r"^alignet-ray import needs .*--out"):
        read(options.ImportOptions, "import", ["model"])
    with pytest.raises(UserError, match=r"^--preprocessing crop: choose alignet or auto or timm$"):
        chosen("ImportOptions", "--preprocessing", "crop")


def test_a_check_reads_numbers_as_numbers() -> None:
    found = chosen("VerifyOptions", "--objects", "1854", "--base", "1")
    assert (found.path, found.objects, found.base) == ("triplets.txt", 1854, 1)
    assert chosen("VerifyOptions").base is None
    with pytest.raises(UserError, match=r"^--base 2: choose 0 or 1$"):
        chosen("VerifyOptions", "--base", "2")


def test_the_demo_listens_on_its_port_unless_another_is_given() -> None:
    found = chosen("DemoOptions", "--base", "test_vit", "--most", "10")
    assert (found.model, found.base, found.images, found.most, found.port) == ("student", "test_vit", None, 10, 8765)
    assert chosen("DemoOptions", "--port", "0").port == 0


@pytest.mark.parametrize("kind", ["ListOptions", "RollbackOptions", "DoctorOptions", "DemoOptions", "ExportOptions"])
def test_a_server_is_asked_only_where_it_is_named(kind: str) -> None:
    assert chosen(kind).tracking.uri is None
    assert chosen(kind, "--tracking.uri", "http://127.0.0.1:5000").tracking.uri == "http://127.0.0.1:5000"


@pytest.mark.parametrize("kind", [name for name, kind in CLASSES.items() if issubclass(kind, StoreOptions)])
def test_a_command_on_results_takes_no_settings_of_a_run(kind: str) -> None:
    with pytest.raises(UserError, match=r"^unknown option '--cluster\.k'"):
        chosen(kind, "--cluster.k", "9")
