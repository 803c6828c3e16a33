"""What a run ends with on the screen."""

import pytest

from alignet_ray.config.presets import PRESETS
from alignet_ray.screen import Screen
from alignet_ray.stages import farewell
from tests.support.smoke_run import SmokeRun

STUDENT = ("evaluate", "distill@student", "register")


def said(smoke: SmokeRun, capsys: pytest.CaptureFixture[str], *nodes: str) -> str:
    cfg = PRESETS["smoke"]().replace(store__root=str(smoke.root))
    farewell.say(cfg, {node: smoke[node] for node in nodes}, Screen())
    return capsys.readouterr().out


def test_scores_report_and_the_lines_that_load_the_student(smoke: SmokeRun, capsys: pytest.CaptureFixture[str]) -> None:
    printed = said(smoke, capsys, *STUDENT)
    assert "student" in printed
    assert f"report   {smoke['evaluate'].uri}" in printed
    assert f"alignet_ray.load({smoke['distill@student'].uri!r})" in printed
    assert "alignet_ray.load('models:/" in printed
    assert "mlflow ui --backend-store-uri" in printed


def test_without_a_student_the_map_is_named(smoke: SmokeRun, capsys: pytest.CaptureFixture[str]) -> None:
    printed = said(smoke, capsys, "evaluate", "align")
    assert f"map      {smoke['align'].uri}" in printed
    assert "load(" not in printed


def test_a_single_stage_ends_with_its_artifacts(smoke: SmokeRun, capsys: pytest.CaptureFixture[str]) -> None:
    printed = said(smoke, capsys, "soften", "align")
    assert printed.splitlines() == [f"{name:16} {smoke[name].uri}" for name in ("soften", "align")]
