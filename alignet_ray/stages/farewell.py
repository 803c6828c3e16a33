"""The end of a run on the screen: its table of scores, where the report is, and how to load the student."""

import shlex

from alignet_ray import runtime, tracking
from alignet_ray.artifacts.align import AlignArtifact
from alignet_ray.artifacts.distill import DistillArtifact
from alignet_ray.artifacts.evaluate import EvaluateArtifact
from alignet_ray.artifacts.register import RegisterArtifact
from alignet_ray.config import Config
from alignet_ray.screen import Screen
from alignet_ray.store import Artifact


def say(cfg: Config, artifacts: dict[str, Artifact], screen: Screen) -> None:
    """End of a run: the table of scores, where the report is, how to open MLflow and how to load the model."""
    evaluated = artifacts.get("evaluate")
    if evaluated is None or not evaluated.finished:
        for name, artifact in artifacts.items():
            screen.line(f"{name:16} {artifact.uri}")
        return

    scores = EvaluateArtifact(evaluated)
    for line in scores.facts().table:
        screen.line(line)
    screen.line(f"\nreport   {scores.report_uri()}")

    uri = tracking.hide(tracking.resolve_uri(cfg, runtime.state_dir(cfg)))
    screen.line(f"mlflow   mlflow ui --backend-store-uri {shlex.quote(uri)}")
    if "distill@student" in artifacts:
        student = DistillArtifact(artifacts["distill@student"])
        screen.line(f"model    model = alignet_ray.load({student.files.uri!r})")
    else:
        screen.line(f"map      {AlignArtifact(artifacts['align']).files.uri}")
    if "register" in artifacts:
        version = RegisterArtifact(artifacts["register"]).version()
        screen.line(f"         or alignet_ray.load({version.model!r}) with MLFLOW_TRACKING_URI={shlex.quote(uri)}")
