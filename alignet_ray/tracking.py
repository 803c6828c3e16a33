"""The only module that talks to MLflow's tracking server; it imports no ray, and mlflow only when it is used.

One run per pipeline run, a child run per node; params are the flattened config, data sets the artifacts (digest = id).
"""

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.store import Artifact

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tracker:
    """One MLflow run: strings only, so that it travels to workers and callbacks.

    An empty `uri` tracks nothing (unit tests).
    """

    uri: str = ""
    run_id: str = ""

    def log_batch(self, metrics: dict[str, float], step: int) -> None:
        """Log metrics at a step; numbers only. A server that does not answer is logged and never stops the work."""
        if not self.uri:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(k, float(v), now, step) for k, v in metrics.items()]
        with _survive(f"metrics of step {step}"):
            client(self.uri).log_batch(self.run_id, metrics=rows)


def client(uri: str) -> Any:
    """An MlflowClient."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def resolve_uri(cfg: Config, state: Path) -> str:
    """The tracking URI: the flag, MLFLOW_TRACKING_URI, or the embedded database.

    Raises:
        UserError: the root is remote and no server is named.
    """
    uri = cfg.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return uri
    if "://" in cfg.store.root:
        raise UserError(f"--store.root {cfg.store.root} is remote: name a tracking server with --tracking.uri")
    return f"sqlite:///{state}/mlflow.db"


def hide(value: Any) -> str:
    """A parameter's text with any password in a URL removed."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]+@", r"\1:***@", str(value))


@dataclass(frozen=True)
class Session:
    """A connection to one experiment."""

    uri: str
    experiment: str

    @classmethod
    def open(cls, cfg: Config, state: Path) -> "Session":
        """Connect and find or create the experiment.

        Raises:
            UserError: the server does not answer.
        """
        uri = resolve_uri(cfg, state)
        try:
            found = client(uri).get_experiment_by_name(cfg.tracking.experiment)
            if found is None:
                local = uri.startswith("sqlite:")
                place = (state / "mlflow-artifacts").as_uri() if local else None
                return cls(uri, client(uri).create_experiment(cfg.tracking.experiment, artifact_location=place))
        except Exception as error:
            first = str(error).splitlines()[0]
            raise UserError(f"no MLflow at {hide(uri)} ({first}): start it, or leave out --tracking.uri") from error
        return cls(uri, found.experiment_id)

    def begin(self, name: str, cfg: Config | None, tags: dict[str, str], parent: str = "") -> Tracker:
        """Start a run (a child of `parent`), with the flattened config as parameters; empty if that fails."""
        with _survive(f"run {name}"):
            from mlflow.entities import Param
            from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

            mine = client(self.uri)
            tags = tags | ({MLFLOW_PARENT_RUN_ID: parent} if parent else {})
            run = mine.create_run(self.experiment, tags=tags, run_name=name)
            if cfg is not None:
                mine.log_batch(run.info.run_id, params=[Param(k, hide(v)[:500]) for k, v in cfg.flat().items()])
            return Tracker(self.uri, run.info.run_id)
        return Tracker()

    def lineage(self, tracker: Tracker, artifacts: Iterable[Artifact]) -> None:
        """Record the artifacts that a run read, by `log_inputs` (digest = artifact id)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        rows = [
            DatasetInput(
                Dataset(f"{a.stage}", a.id, "artifact", f'{{"uri": "{hide(a.uri)}"}}'),
                [InputTag("mlflow.data.context", "parent")],
            )
            for a in artifacts
        ]
        if tracker.uri and rows:
            with _survive("lineage"):
                client(self.uri).log_inputs(tracker.run_id, datasets=rows)

    def attach(self, tracker: Tracker, *paths: Path) -> None:
        """Keep files with a run."""
        for path in paths if tracker.uri else ():
            with _survive(str(path)):
                client(self.uri).log_artifact(tracker.run_id, str(path))

    def end(self, tracker: Tracker, status: str) -> None:
        """Close a run: FINISHED, FAILED or KILLED."""
        if tracker.uri:
            with _survive("the end of a run"):
                client(self.uri).set_terminated(tracker.run_id, status)


@contextlib.contextmanager
def _survive(what: str) -> Iterator[None]:
    """The work is worth more than its log: a server that does not answer is logged, and the work goes on."""
    try:
        yield
    except Exception as error:
        log.warning("MLflow did not take %s: %s", what, error)


def register_model(
    tracker: Tracker,
    *,
    code: Path,
    folder: Path,
    card: Path,
    name: str,
    aliases: list[str],
    size: int,
    widths: dict[str, int],
    requirements: list[str],
    tags: dict[str, str],
) -> dict[str, Any]:
    """Log a student as code and safetensors (no pickle), register it as a new version and move the aliases to it.

    Args:
        tracker: the run that the model belongs to.
        code: the pyfunc's Python file.
        folder: the student's folder.
        card: the model card (Markdown), kept with the run and as the version's description.
        name: registered model name.
        aliases: aliases to move to it; the first is the one that is returned.
        size: side of the square input in pixels.
        widths: output name -> width.
        requirements: what the model needs to load, as pip requirements.
        tags: tags of the version.

    Returns:
        name, version, alias, uri of the model.
    """
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    float32 = np.dtype("float32")
    signature = ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1, 3, size, size))]),
        outputs=Schema([TensorSpec(float32, (-1, width), key) for key, width in widths.items()]),
    )
    environment = os.environ.get("MLFLOW_TRACKING_URI")  # set_tracking_uri writes it
    mlflow.set_tracking_uri(tracker.uri)
    try:
        with mlflow.start_run(run_id=tracker.run_id):
            info = mlflow.pyfunc.log_model(
                name="student",
                python_model=str(code),
                artifacts={"student": str(folder)},
                signature=signature,
                input_example=np.zeros((2, 3, size, size), np.float32),
                pip_requirements=requirements,
                code_paths=[str(Path(__file__).parent)],
                registered_model_name=name,
            )
            mlflow.log_artifact(str(card))
    finally:
        mlflow.set_tracking_uri(environment or "")
    mine = client(tracker.uri)
    version = str(info.registered_model_version)
    mine.update_model_version(name, version, description=card.read_text())
    for key, value in tags.items():
        mine.set_model_version_tag(name, version, key, value)
    for alias in aliases:
        mine.set_registered_model_alias(name, alias, version)
    return {"name": name, "version": version, "aliases": aliases, "model": f"models:/{name}@{aliases[0]}"}
