"""A run in MLflow: the page of the whole run, with what a person wants to know first, and how a run ends there."""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from alignet_ray.artifacts.evaluate import EvaluateArtifact
from alignet_ray.artifacts.register import RegisterArtifact
from alignet_ray.config import Config
from alignet_ray.errors import UserError, first_line
from alignet_ray.screen import markdown_tables
from alignet_ray.store import Artifact
from alignet_ray.tracking import DataSet, Session, Tracker

HEADLINE = (
    ("base", "pre_logits"),
    ("teacher", "aligned"),
    ("student", "pre_logits"),
    ("student", "head"),
    ("human", ""),
)
"""(model, layer) of the five scores on the page: agreement with people on odd-one-out questions about test objects.

All others are on the page of `evaluate`.
"""


class FileRead(NamedTuple):
    """A file or folder that a stage reads: path or URL, hash of its fingerprint, the stage."""

    source: str
    digest: str
    stage: str


def data_sets(files: Iterable[FileRead]) -> list[DataSet]:
    """Files and folders as MLflow's data sets, each once, with all stages that read it."""
    stages: dict[tuple[str, str], list[str]] = {}
    for file in files:
        readers = stages.setdefault((file.source, file.digest), [])
        if file.stage not in readers:
            readers.append(file.stage)

    found = []
    for (source, digest), readers in stages.items():
        kind = "folder"
        if Path(source).expanduser().is_file():
            kind = "file"
        name = source.rstrip("/").rpartition("/")[2]
        found.append(DataSet(name, digest, kind, source, use=", ".join(readers)))
    return found


def fill(cfg: Config, artifacts: Mapping[str, Artifact], session: Session, parent: Tracker) -> None:
    """Give the whole run's page its settings, and, where students were scored, headline scores, report and version.

    Args:
        cfg: the run's configuration.
        artifacts: its artifacts by node name.
        session: the connection to MLflow.
        parent: the whole run there.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "config.yaml"
        settings.write_text(cfg.to_yaml(), encoding="utf-8")
        session.attach(parent, settings)
    if "evaluate" not in artifacts:
        return

    evaluation = EvaluateArtifact(artifacts["evaluate"])
    headline: dict[str, float] = {}
    for score in evaluation.scores().to_pylist():
        is_headline = (score["model"], score["layer"]) in HEADLINE
        if is_headline and (score["dataset"], score["metric"], score["level"]) == ("objects", "odd_one_out", ""):
            headline["/".join(filter(None, (score["metric"], score["model"], score["layer"])))] = score["value"]
    parent.log_batch(headline, 0)
    session.attach(parent, evaluation.report_file())

    # As a table of its own, whose cells may wrap, and not as lines of text, which a narrow page would cut off.
    lines = [markdown_tables(evaluation.facts().table)]
    if "register" in artifacts:
        version = RegisterArtifact(artifacts["register"]).version()
        lines += ["", f"Registered as `{version.model}`, version {version.version}."]
        session.produced(parent, version.model_id)
    session.describe(parent, "\n".join(lines))


@contextlib.contextmanager
def ended(session: Session, tracker: Tracker) -> Iterator[None]:
    """End a tracked run with the status that its block ends with; a failed one says why."""
    # Failed until shown otherwise, so that every kind of exception counts.
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except Exception as error:
        session.describe(tracker, f"**Failed**: {why_failed(error)}")
        raise
    finally:
        session.end(tracker, status)


def why_failed(error: Exception) -> str:
    """One line about what ended a run: a user's error as it is, any other with its kind."""
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"
