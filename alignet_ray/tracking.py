"""The only module that talks to MLflow's tracking server; it imports no ray, and mlflow only when it is used.

One run per pipeline run, a child run per node or trial; params are the flattened config, data sets the artifacts
(digest = id). While the server does not answer, runs, metrics and ends go to files under the state folder, from which
they are delivered when it is back.
"""

import contextlib
import io
import json
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.store import Artifact, digest

PAUSE = 60.0
"""Seconds for which a server that did not answer is not asked again, so that nobody waits for it."""
PARENT = "mlflow.parentRunId"
"""MLflow's tag that makes a run a child."""
STATE = "alignet.state_dir"
"""Tag of a run that is nobody's child: the folder whose lock it held."""
ALIVE = "attributes.status = 'RUNNING'"
PENDING = "unborn-"
"""Begins the name of a run that the server does not know yet."""
MOST = 500
"""Metrics in one request."""
_silent: dict[str, float] = {}
log = logging.getLogger(__name__)

IMAGES = "alignet.images"
"""Tag of a version: the same student as a model that takes image files."""


@dataclass(frozen=True)
class Tracker:
    """One MLflow run: strings only, so that it travels to workers and callbacks.

    An empty `uri` tracks nothing (unit tests); `spool` is the folder for what the server did not take.
    """

    uri: str = ""
    run_id: str = ""
    spool: str = ""

    def log_batch(self, metrics: dict[str, float], step: int) -> None:
        """Log metrics at a step; numbers only. What a server does not take is kept, and never stops the work."""
        if self.uri:
            now = int(time.time() * 1000)
            self._send({"metrics": {k: float(v) for k, v in metrics.items()}, "step": step, "time": now})

    def end(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        if self.uri:
            self._send({"end": status, "time": int(time.time() * 1000)})

    def _send(self, row: dict[str, Any]) -> None:
        """Deliver a row after those that wait, or let it wait with them."""
        if not self.run_id.startswith(PENDING) and _silent.get(self.uri, 0.0) <= time.monotonic():
            try:
                _deliver(self.uri, self.run_id, [*_read(self._file), row])
                if self.spool:
                    self._file.unlink(missing_ok=True)
                return
            except Exception as error:  # a server can fail in any way; none of them is worth a run
                _silent[self.uri] = time.monotonic() + PAUSE
                log.warning("MLflow did not take metrics, they are kept: %s", hide(error))
        self.keep(row)

    def keep(self, row: dict[str, Any]) -> None:
        """Write a row down for later."""
        try:
            if not self.spool:
                raise OSError("there is no state folder")
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            log.warning("lost: %s (%s)", row, error)

    @property
    def _file(self) -> Path:
        return Path(self.spool) / f"{self.run_id}.jsonl"


def _read(file: Path) -> list[dict[str, Any]]:
    """The rows of a spool file; a line cut short by a kill is left out."""
    rows = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def _deliver(uri: str, run_id: str, rows: list[dict[str, Any]]) -> None:
    """Send rows of metrics, in as few requests as the server allows, and a run's end."""
    from mlflow.entities import Metric

    metrics = [Metric(k, v, r["time"], r["step"]) for r in rows for k, v in r.get("metrics", {}).items()]
    for start in range(0, len(metrics), MOST):
        client(uri).log_batch(run_id, metrics=metrics[start : start + MOST])
    for row in rows:
        if "end" in row:
            client(uri).set_terminated(run_id, row["end"], end_time=row["time"])


def client(uri: str) -> Any:
    """An MlflowClient."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
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


def registry_uri(root: str, uri: str | None = None) -> str:
    """Address of the model registry for reading, which never creates a database.

    Args:
        root: the store's root, under which the embedded database is.
        uri: a server; None: MLFLOW_TRACKING_URI, and without it the embedded database.

    Raises:
        UserError: there is no database, or the root is remote and no server is named.
    """
    folder = Path(root).expanduser().resolve()
    address = resolve_uri(Config().replace(store__root=root, tracking__uri=uri), folder)
    database = Path(address.removeprefix("sqlite:///"))
    if address.startswith("sqlite:///") and not database.exists():
        raise UserError(
            f"no model registry at {address}: name the root with --store.root or a server with --tracking.uri"
        )
    return address


def hide(value: Any) -> str:
    """A parameter's text with any password in a URL removed."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]+@", r"\1:***@", str(value))


@contextlib.contextmanager
def system_metrics(tracker: Tracker) -> Iterator[None]:
    """Within it the run also gets this machine's load every ten seconds: processors, memory, disk, network, GPUs."""
    if not tracker.run_id or tracker.run_id.startswith(PENDING):
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(tracker.run_id, tracking_uri=tracker.uri)  # type: ignore[no-untyped-call]
    monitor.start()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        end = threading.Thread(target=monitor.finish, daemon=True)
        end.start()
        end.join(5)  # a server that hangs is not waited for


@dataclass(frozen=True)
class Session:
    """A connection to one experiment."""

    uri: str
    experiment: str
    spool: str = ""

    @classmethod
    def open(cls, cfg: Config, state: Path) -> "Session":
        """Connect, find or create the experiment, and deliver what earlier runs could not.

        Raises:
            UserError: the server does not answer.
        """
        uri = resolve_uri(cfg, state)
        spool = str(state / "spool" / digest(uri))
        try:
            found = client(uri).get_experiment_by_name(cfg.tracking.experiment)
            if found is None:
                local = uri.startswith("sqlite:")
                place = (state / "mlflow-artifacts").as_uri() if local else None
                return cls(uri, client(uri).create_experiment(cfg.tracking.experiment, artifact_location=place), spool)
        except Exception as error:
            first = str(error).splitlines()[0]
            raise UserError(f"no MLflow at {hide(uri)} ({first}): start it, or leave out --tracking.uri") from error
        session = cls(uri, found.experiment_id, spool)
        session.flush()
        return session

    def begin(self, name: str, cfg: Config | None, tags: dict[str, str], parent: str = "") -> Tracker:
        """Start a run (a child of `parent`), with the flattened config as parameters.

        If the server does not answer, the run waits in the spool; without one the tracker is empty.
        """
        params = {k: hide(v)[:500] for k, v in cfg.flat().items()} if cfg is not None else {}
        tags = {k: hide(v) for k, v in tags.items()} | ({PARENT: parent} if parent else {})
        row = {"name": name, "tags": tags, "params": params, "time": int(time.time() * 1000)}
        if not parent.startswith(PENDING) and _silent.get(self.uri, 0.0) <= time.monotonic():
            try:
                return Tracker(self.uri, self._create(row), self.spool)
            except Exception as error:  # as in Tracker._send
                _silent[self.uri] = time.monotonic() + PAUSE
                log.warning("MLflow did not take run %s, it is kept: %s", name, hide(error))
        if not self.spool:
            return Tracker()
        tracker = Tracker(self.uri, f"{PENDING}{time.time_ns():x}-{uuid.uuid4().hex[:8]}", self.spool)
        tracker.keep(row)
        return tracker

    def _create(self, row: dict[str, Any]) -> str:
        from mlflow.entities import Param

        mine = client(self.uri)
        run = mine.create_run(self.experiment, start_time=row["time"], tags=row["tags"], run_name=row["name"])
        if row["params"]:
            mine.log_batch(run.info.run_id, params=[Param(k, v) for k, v in row["params"].items()])
        return str(run.info.run_id)

    def bury(self, state: str) -> None:
        """Close what a killed process left running: runs of this state folder, whose lock the caller holds."""
        with _survive("the end of killed runs"):
            left = client(self.uri).search_runs([self.experiment], f"tags.`{STATE}` = '{state}' and {ALIVE}")
            for parent in left:
                children = f"tags.`{PARENT}` = '{parent.info.run_id}' and {ALIVE}"
                for run in (*client(self.uri).search_runs([self.experiment], children), parent):
                    client(self.uri).set_terminated(run.info.run_id, "KILLED")

    def flush(self) -> None:
        """Deliver all that waits in the spool, the oldest run first; what the server does not take stays."""
        waiting = {file: _read(file) for file in Path(self.spool).glob("*.jsonl")} if self.spool else {}
        born: dict[str, str] = {}
        for file, rows in sorted(
            waiting.items(), key=lambda item: (item[1][0]["time"] if item[1] else 0, item[0].name)
        ):
            try:
                run_id = file.stem
                if run_id.startswith(PENDING):
                    tags = rows[0]["tags"]
                    tags |= {PARENT: born[tags[PARENT]]} if tags.get(PARENT) in born else {}
                    run_id = born[file.stem] = self._create(rows[0])
                _deliver(self.uri, run_id, rows)
                file.unlink()
                log.warning("MLflow took %d rows that had waited in %s", len(rows), file.name)
            except Exception as error:  # as in Tracker._send
                log.warning("MLflow does not take %s, which stays: %s", file, hide(error))
                return

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
            with _survive(f"the lineage of run {tracker.run_id}"):
                client(self.uri).log_inputs(tracker.run_id, datasets=rows)

    def attach(self, tracker: Tracker, *paths: Path) -> None:
        """Keep files with a run."""
        for path in paths if tracker.uri else ():
            with _survive(str(path)):
                client(self.uri).log_artifact(tracker.run_id, str(path))

    def end(self, tracker: Tracker, status: str) -> None:
        """Close a run: FINISHED, FAILED or KILLED."""
        tracker.end(status)


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
        name, version, aliases, uri of the model, and of the same student as a model that takes image files (logged
        beside it, not registered).
    """
    import mlflow

    mine, environment = client(tracker.uri), os.environ.get("MLFLOW_TRACKING_URI")  # set_tracking_uri writes it
    mlflow.set_tracking_uri(tracker.uri)
    try:
        with mlflow.start_run(run_id=tracker.run_id):
            version, images = _log_both(code, folder, name, size, widths, requirements)
            mlflow.log_artifact(str(card))
    finally:
        mlflow.set_tracking_uri(environment or "")
    mine.update_model_version(name, version, description=card.read_text())
    for key, value in (tags | {IMAGES: images}).items():
        mine.set_model_version_tag(name, version, key, value)
    for alias in aliases:
        mine.set_registered_model_alias(name, alias, version)
    uri = f"models:/{name}@{aliases[0]}"
    return {"name": name, "version": version, "aliases": aliases, "model": uri, "images": images}


def _log_both(
    code: Path, folder: Path, name: str, size: int, widths: dict[str, int], requirements: list[str]
) -> tuple[str, str]:
    """Log a student twice, for tensors (registered) and for image files: the version, and the other one's URI."""
    import mlflow
    import numpy as np
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    float32 = np.dtype("float32")
    outputs = Schema([TensorSpec(float32, (-1, width), key) for key, width in widths.items()])
    both = {
        "python_model": str(code),
        "artifacts": {"student": str(folder)},
        "pip_requirements": requirements,
        "code_paths": [str(Path(__file__).parent)],
    }
    info = mlflow.pyfunc.log_model(
        name="student",
        signature=ModelSignature(Schema([TensorSpec(float32, (-1, 3, size, size))]), outputs),
        input_example=np.zeros((2, 3, size, size), np.float32),
        registered_model_name=name,
        **both,
    )
    images = mlflow.pyfunc.log_model(
        name="student-images",
        signature=ModelSignature(Schema([ColSpec("binary", "image")]), outputs),
        model_config={"takes": "images"},
        input_example=pandas.DataFrame({"image": [_png(size)]}),
        **both,
    )
    return str(info.registered_model_version), str(images.model_uri)


def _png(size: int) -> bytes:
    """A grey picture's file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (size, size), "grey").save(stream, "PNG")
    return stream.getvalue()
