"""Options are read as a user types them, and whatever is not understood is one line that names the mistake."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignet_ray.cli.options import (
    DemoOptions,
    ExportOptions,
    ImportOptions,
    Options,
    PlanOptions,
    RunOptions,
    StoreOptions,
    VerifyOptions,
)
from alignet_ray.cli.parse import ESSENTIAL, option_names, read, read_config, starting_point
from alignet_ray.config import Config
from alignet_ray.config.presets import PRESETS
from alignet_ray.errors import UserError


def refusal(kind: type[Options], *args: str) -> str:
    with pytest.raises(UserError) as refused:
        read(kind, "cmd", args)
    return str(refused.value)


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        (["--seed", "3"], "seed", 3),
        (["--seed=3"], "seed", 3),
        (["--seed", "3", "--seed", "4"], "seed", 4),
        (["--distill.batch-size", "9"], "distill.batch_size", 9),
        (["--distill.batch_size", "9"], "distill.batch_size", 9),
        (["--distill.tau", "auto"], "distill.tau", "auto"),
        (["--distill.tau", "0.5"], "distill.tau", 0.5),
        (["--distill.trainable", "2"], "distill.trainable", 2),
        (["--distill.trainable", "head"], "distill.trainable", "head"),
        (["--distill.no-control"], "distill.control", False),
        (["--cluster.spherical"], "cluster.spherical", True),
        (["--embed.model", "a", "b"], "embed.model", ["a", "b"]),
        (["--evaluate.shots", "1", "2", "5"], "evaluate.shots", [1, 2, 5]),
        (["--align.network.steps", "7"], "align.network.steps", 7),
        (["--align.network.temperature", "0.2"], "align.network.temperature", 0.2),
        (["--embed.from", "x.npy"], "embed.from", "x.npy"),
        (["--objects.fold", "2"], "objects.fold", 2),
        (["--corpus.path=-odd name"], "corpus.path", "-odd name"),
    ],
)
def test_a_setting_is_read_in_its_own_type(args: list[str], field: str, value: object) -> None:
    changed = read_config("run", args).flat()
    assert changed[field] == value
    assert type(changed[field]) is type(value)
    default = Config().flat()
    assert {name for name in changed if changed[name] != default[name]} <= {field}


def test_given_holds_what_was_typed_with_hyphens_and_without_values() -> None:
    found = read(RunOptions, "run", ["smoke", "--distill.batch_size=9", "--seed", "0", "--quiet"])
    assert found.given == ("--distill.batch-size", "--seed", "--quiet")
    assert read(RunOptions, "run", ["smoke"]).given == ()


@pytest.mark.parametrize("name", ["smoke", "paper"])
def test_settings_change_the_preset_that_is_named_first(name: str) -> None:
    assert read_config("run", [name, "--seed", "5"]) == PRESETS[name]().replace(seed=5)


def test_a_file_comes_before_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("name: mine\nseed: 8\n")
    mine = Config(name="mine", seed=8)
    assert starting_point("run", ["--config", str(file)]) == mine
    assert starting_point("run", ["smoke", "--seed", "1", f"--config={file}"]) == mine


def test_without_a_preset_the_defaults_are_changed() -> None:
    assert starting_point("run", []) == Config()
    assert starting_point("run", ["--seed", "1"]) == Config()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["smok"], r"^unknown preset 'smok': did you mean 'smoke'\?$"),
        (
            ["qqqqq"],
            "^unknown preset 'qqqqq': there are smoke, sample, sample_224, mine, features, imagenet, paper, published$",
        ),
        ([""], "^unknown preset '': there are smoke"),
        (["--config"], r"^--config needs a file: write --config run\.yaml$"),
        (["--config", "/nowhere.yaml"], r"^--config /nowhere\.yaml: No such file or directory$"),
        (["--config=/nowhere.yaml"], r"^--config /nowhere\.yaml: No such file or directory$"),
        (["--config", "/"], "^--config /: Is a directory$"),
    ],
)
def test_a_starting_point_that_is_not_there_is_refused(args: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        starting_point("run", args)


def test_what_is_shown_may_be_a_run_of_any_name() -> None:
    assert starting_point("show", ["night"]) == Config()
    assert starting_point("show", ["smoke"]) == PRESETS["smoke"]()


@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        (RunOptions, ["--distill.lrr", "1"], "unknown option '--distill.lrr': did you mean '--distill.lr'?"),
        (RunOptions, ["--no-distill.control"], "unknown option '--no-distill.control': did you mean "),
        (RunOptions, ["--zzz"], "unknown option '--zzz': --help lists them"),
        (RunOptions, ["--align.network", "x"], "unknown option '--align.network': did you mean '--align.network."),
        (
            RunOptions,
            ["--distill.learning-rate", "1"],
            "unknown option '--distill.learning-rate': did you mean '--distill.lr'?",
        ),
        (
            RunOptions,
            ["--align.learning_rate", "1"],
            "unknown option '--align.learning_rate': did you mean '--align.lr'?",
        ),
        (
            RunOptions,
            ["--distill.bfloat16"],
            "unknown option '--distill.bfloat16': did you mean '--distill.compute bfloat16'?",
        ),
        (
            RunOptions,
            ["--distill.in_batch"],
            "unknown option '--distill.in_batch': did you mean '--distill.batching in_batch'?",
        ),
        (RunOptions, ["--distill.bf16"], "unknown option '--distill.bf16': --help lists them"),
        (RunOptions, ["--ray.address-s", "x"], "unknown option '--ray.address-s': did you mean '--ray.address'?"),
        (RunOptions, ["--seed", "1.5"], "--seed 1.5: expected INT"),
        (RunOptions, ["--seed=1.5", "--quiet"], "--seed 1.5: expected INT"),
        (RunOptions, ["--seed="], "--seed : expected INT"),
        (RunOptions, ["--seed"], "--seed needs a value"),
        (RunOptions, ["--seed", "--quiet"], "--seed needs a value"),
        (RunOptions, ["--distill.grad_clip", "x"], "--distill.grad-clip x: expected FLOAT"),
        (RunOptions, ["--distill.trainable", "some"], "--distill.trainable some: expected INT|{all,head}"),
        (RunOptions, ["--align.map", "linear"], "--align.map linear: choose affine or diagonal or "),
        (RunOptions, ["--cluster.k", "1"], "--cluster.k 1: input should be greater than or equal to 2"),
        (RunOptions, ["--register.alias", "v2"], "--register.alias v2: "),
        (RunOptions, ["--name", "../x"], "--name ../x: a run's name is a file's name"),
        (RunOptions, ["--objects.fold", "7"], "objects.fold 7: 5 folds are counted from 0 to 4"),
        (
            RunOptions,
            ["--embed.from=x", "--align.map=network"],
            "align.map network fine-tunes a network, and embed.from",
        ),
        (RunOptions, ["--seed=2147483648"], "--seed 2147483648: input should be less than or equal to 2147483647"),
        (
            RunOptions,
            ["--seed=2147483646", "--study.seeds=3"],
            "with study.seeds seeds are counted up from seed, which must not be above 2147483645",
        ),
        (
            RunOptions,
            ["--seed=2147483647", "--sweep.repeats=1"],
            "with sweep.repeats seeds are counted up from seed, which must not be above 2147483646",
        ),
        (RunOptions, ["smoke", "-x"], "unexpected argument '-x': `alignet-ray cmd --help` explains"),
        (RunOptions, ["smoke", "sample"], "unexpected argument 'sample': `alignet-ray cmd --help` explains"),
        (PlanOptions, ["--on.gpus=0"], "--on.gpus 0: input should be greater than or equal to 1"),
        (VerifyOptions, [], "alignet-ray cmd needs path: `alignet-ray cmd --help` explains"),
        (VerifyOptions, ["f", "--base", "2"], "--base 2: choose 0 or 1"),
        (ExportOptions, ["m", "--to"], "--to needs a value"),
        (DemoOptions, ["m", "--port", "http"], "--port http: expected INT"),
    ],
)
def test_each_mistake_is_told_in_one_line(kind: type[Options], args: list[str], message: str) -> None:
    told = refusal(kind, *args)
    assert told.startswith(message)
    assert "\n" not in told


def test_a_wrong_option_is_told_before_what_is_missing_or_of_the_wrong_type() -> None:
    assert refusal(ExportOptions, "--formt", "timm").startswith("unknown option '--formt'")
    assert refusal(RunOptions, "--seed", "x", "--clusterk", "3") == (
        "unknown option '--clusterk': did you mean '--cluster.k'?"
    )


@pytest.mark.parametrize(
    ("kind", "text"), [(RunOptions, "A whole configuration: a preset"), (VerifyOptions, "Check a triplet file")]
)
def test_help_says_what_the_command_does_and_ends_it(
    kind: type[Options], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        read(kind, "cmd", ["--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "usage: alignet-ray cmd" in shown
    assert text in shown


def test_the_short_help_of_a_preset_shows_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["sample", "--help"], ["sample", "--seed", "1", "-h"]):
        with pytest.raises(SystemExit):
            read(RunOptions, "run", args)
        text = capsys.readouterr().out
        assert "pip:efficientnet-lite0" in text
        assert "--soften.spike" not in text
    with pytest.raises(SystemExit):
        read(RunOptions, "run", ["sample", "--help-all"])
    assert "--soften.spike" in capsys.readouterr().out


def test_the_essential_settings_are_settings() -> None:
    assert set(ESSENTIAL) <= set(Config().flat())
    assert len(set(ESSENTIAL)) == len(ESSENTIAL)


def test_the_help_of_a_wrong_preset_is_the_mistake() -> None:
    assert refusal(RunOptions, "smok", "--help") == "unknown preset 'smok': did you mean 'smoke'?"


def test_the_options_of_a_command_are_known_in_both_forms() -> None:
    names = option_names(PlanOptions)
    for name in ("--distill.lr", "--distill.no-control", "--align.network.own-weight", "--on.image-kb", "--quiet"):
        assert name in names
    assert {f"--{name}".replace("_", "-") for name in Config().flat()} <= set(names)
    assert not [name for name in names if name.startswith("--settings")]
    assert "--store.root" in option_names(StoreOptions)
    assert "--tracking.uri" in option_names(DemoOptions), "of a section that is a dataclass"


TOKENS = ["--objects", "--base", "--json", "--store.root", "--jsn", "--x=", "--", "-", "-x", "0", "x", "", "a b", "²"]
LINES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=4)
"""What people type on one line."""


def refused(args: list[str]) -> str | None:
    """What `verify` says of its arguments; None where it takes them or explains them."""
    try:
        read(VerifyOptions, "verify", args)
    except UserError as error:
        return str(error)
    except SystemExit:  # one of them asks for help
        return None
    return None


@settings(max_examples=60)
@given(st.lists(st.sampled_from(TOKENS) | LINES, max_size=5))
def test_any_line_is_read_or_refused_in_one_line(args: list[str]) -> None:
    told = refused(args)
    if told is not None:
        assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--quiet", "smoke"], r"^the preset comes first: alignet-ray run smoke \.\.\.$"),
        (["--seed", "1", "smoke"], "^the preset comes first"),
        (["--seed", "1", "nonsense"], "^unexpected argument 'nonsense': `alignet-ray run --help` explains$"),
        (["--distill.control", "False"], "^unexpected argument 'False': switches take no value"),
        (
            ["smoke", "--distill.no-cache-pixels"],
            "--distill.cache-pixels takes a value, which `alignet-ray run --help`",
        ),
        (["smoke", "--distill.control", "False"], "^unexpected argument 'False': switches take no value"),
        (["smoke", "--distill.interpolation", "2"], r"^--distill\.interpolation 2\.0: input should be less than"),
        (["smoke", "--distill.lr", "1e400"], r"^--distill\.lr inf: input should be a finite number$"),
    ],
)
def test_what_would_be_ignored_in_silence_is_refused(args: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(RunOptions, "run", args)


def test_a_value_with_a_line_break_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match="--name") as refused:
        read(RunOptions, "run", ["smoke", "--name", "a\nb/c"])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [(("1", "x"), "x"), (("1", "2.5"), "2.5"), (("x", "1"), "x"), (("2", "1", "y", "--seed", "4"), "y")],
)
def test_of_several_values_the_wrong_one_is_named(words: tuple[str, ...], wrong: str) -> None:
    with pytest.raises(UserError, match=rf"--evaluate\.shots {wrong}: expected"):
        read_config("run", ["--evaluate.shots", *words])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["", "--out", "there"], "the path of path is empty: give its name"),
        (["weights", "--out", ""], "the path of out is empty: give its name"),
        (["weights", "--out="], "the path of out is empty: give its name"),
        (["weights", "--out", "s3://bucket/there"], "out s3://bucket/there is a URL: give a folder or file"),
        (["gs://bucket/weights", "--out", "there"], "path gs://bucket/weights is a URL: give a folder or file"),
    ],
)
def test_a_path_that_would_become_another_place_is_refused(args: list[str], message: str) -> None:
    told = refusal(ImportOptions, *args)
    assert told.startswith(message)
    assert read(ImportOptions, "import", ["a:b", "--out", "."]).out == Path()
