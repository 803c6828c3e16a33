"""Files of settings: what YAML would take in silence is refused, in one line that says how to write it."""

from pathlib import Path

import pytest

from alignet_ray.config import Config, yaml_file
from alignet_ray.errors import UserError


@pytest.mark.parametrize("text", ["", "---\n", "# nothing but a comment\n", "null"])
def test_an_empty_file_holds_no_settings(text: str) -> None:
    assert yaml_file.parse(text) == {}


def test_settings_are_read_as_yaml_reads_them() -> None:
    text = "align: &shared {lr: 1.0e-3}\nembed: {model: [a, b]}\nlabel: *shared\n"
    assert yaml_file.parse(text) == {"align": {"lr": 1e-3}, "embed": {"model": ["a", "b"]}, "label": {"lr": 1e-3}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("distill:\n  steps: 10\n  steps: 20\n", r"line 3: steps stands there already \(line 2\)"),
        ("distill: {steps: 10}\ndistill: {lr: 20}\n", r"line 2: distill stands there already \(line 1\)"),
        ("distill: {steps: 10, steps: 20}", r"line 1: steps stands there already \(line 1\)"),
        ("embed: {model: [{a: 1, a: 2}]}", "a stands there already"),
        ("[]", "no settings but a list"),
        ("&loop [*loop]", "no settings but a list"),
        ("hello", "no settings but the value 'hello'"),
        ("false", "no settings but the value 'False'"),
        ("a: 1\nb: [", "not YAML: line 2: "),
        ("? [a, b]\n: 1", "not YAML: line 1: found unhashable key"),
        ("a: " + "[" * 3000, "not YAML"),
    ],
)
def test_what_is_no_mapping_or_says_a_thing_twice_is_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        yaml_file.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("distill: {lr: yes}", r"distill\.lr: true and false"),
        ("distill: {steps: on}", r"distill\.steps: true and false"),
        ("objects: {fold: no}", r"objects\.fold: true and false"),
        ("human: {base: yes}", r"human\.base: true and false"),
        ("evaluate: {shots: [yes, 2]}", r"evaluate\.shots: true and false"),
        ("name: off", "name: true and false"),
        ("distill: 5", "distill: a section, expected its settings below it, found 5"),
        ("distill.steps: 10", r"in a file write `distill:` with `steps:` below it \(in Python: distill__steps=\)"),
        ("distill.stps: 10", r"distill\.stps: no such field; in a file write `distill:` with `steps:` below"),
        ("align: {network.steps: 5}", r"align\.network\.steps: .* `align:` with `network:` with `steps:` below"),
        ("corpus: {path: ''}", r"corpus\.path: the path is empty"),
        ("store: {root: ''}", r"store\.root: the path of the root is empty"),
    ],
)
def test_a_value_that_would_be_taken_for_another_is_refused(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        Config.from_yaml(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_text_makes_a_list_of_one_and_switches_take_yes_and_no(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("embed: {model: random:test_vit}\nray: {dashboard: yes}\n")
    cfg = Config.from_yaml(file)
    assert cfg.embed.model == ("random:test_vit",)
    assert cfg.ray.dashboard
    assert Config().replace(embed__model="random:test_vit") == Config().replace(embed__model=("random:test_vit",))


def test_characters_that_cannot_be_printed_are_no_yaml() -> None:
    with pytest.raises(UserError, match=r"^not YAML: unacceptable character #x001b"):
        yaml_file.parse("d\x1bstill:\n  lr: 0.0001\n")
