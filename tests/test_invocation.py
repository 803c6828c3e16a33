"""How a run was called, for MLflow."""

import getpass
import importlib

import pytest

from alignet_ray import invocation


def test_the_command_as_typed_and_its_beginning() -> None:
    assert invocation.command() == "alignet_ray.run"
    with invocation.called_as("alignet-ray", "run", "my preset", "--corpus.path", "/data/the images"):
        assert invocation.command() == "alignet-ray run 'my preset' --corpus.path '/data/the images'"
        assert invocation.short_command() == "alignet-ray run 'my preset'"
    assert invocation.command() == "alignet_ray.run"


def test_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "anna")
    tags = invocation.tags(True, "c0ffee")
    assert tags["mlflow.source.type"] == "JOB"
    assert tags["mlflow.source.git.commit"] == "c0ffee"
    assert tags["mlflow.user"] == "anna"

    def nameless() -> str:
        raise OSError("no username set in the environment")

    monkeypatch.setattr(getpass, "getuser", nameless)
    assert invocation.tags(False, None).keys() == {"alignet.command", "mlflow.source.name", "mlflow.source.type"}


def test_the_command_line_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    # Its module by name: the package has a function of the same one.
    module = importlib.import_module("alignet_ray.cli.main")
    monkeypatch.setattr(module, "dispatch", lambda args: seen.append(invocation.command()))
    module.main(["run", "smoke", "--name", "a b"])
    assert seen == ["alignet-ray run smoke --name 'a b'"]
