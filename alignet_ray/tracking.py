"""MLflow runs, parameters, metrics and artifacts; the only module that talks to its tracking server.

One run for each pipeline run, and a child run for each node or trial. Parameters are the flattened configuration, data
sets the artifacts (digest = id). What a server that does not answer has missed waits in files under the state folder
and is delivered later. It imports no ray, and mlflow only when it is used.
"""

import contextlib
import io
import json
import logging
import os
import re
import shlex
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from alignet_ray.config import Config
from alignet_ray.errors import UserError, first_line
from alignet_ray.store import Artifact, digest

PAUSE = 60.0
"""Seconds for which a server that did not answer is not asked again, so that nobody waits for it."""
PARENT = "mlflow.parentRunId"
"""MLflow's tag that makes a run a child."""
STATE = "alignet.state_dir"
"""Tag of a run without a parent: the state folder whose lock it held."""
RUNNING = "attributes.status = 'RUNNING'"
"""MLflow's filter for runs that have not ended."""
PENDING = "pending-"
"""Prefix of the name of a run that the server does not know yet."""
METRICS_PER_REQUEST = 500
DATABASE = "mlflow.db"
"""File of the embedded database under the state folder."""
ARTIFACTS = "mlflow-artifacts"
"""Folder beside it with all that runs logged. The database holds its absolute path, also after the root has moved."""
NODE = "alignet.node."
"""Prefix of the tags that hold the artifacts that a version was made of, such as `alignet.node.distill.student`."""
IMAGES = "alignet.images"
"""Tag of a version: URI of the same student as a model that takes image files."""

_silent_until: dict[str, float] = {}
"""When (time.monotonic) a server that did not answer is asked again."""
log = logging.getLogger(__name__)


def _is_silent(uri: str) -> bool:
    """Whether a server did not answer a moment ago."""
    return _silent_until.get(uri, 0.0) > time.monotonic()


class SpoolRow(TypedDict, total=False):
    """One line of a spool file: a run that began, metrics of one step, or the end of a run.

    Attributes:
        time: of the event, in milliseconds since 1970.
        name, tags, params: of a run that began.
        metrics, step: values by name, and the step that they belong to.
        end: how the run ended: FINISHED, FAILED or KILLED.
    """

    time: int
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    step: int
    end: str


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
            # Numbers of NumPy and torch are no JSON, and the row may have to wait in a file.
            numbers = {name: float(value) for name, value in metrics.items()}
            self._send({"metrics": numbers, "step": step, "time": _milliseconds()})

    def end(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        # The time of now: a row that waits is delivered long after the run's end.
        if self.uri:
            self._send({"end": status, "time": _milliseconds()})

    def _send(self, row: SpoolRow) -> None:
        """Deliver a row after those that wait, or let it wait with them."""
        if not self.run_id.startswith(PENDING) and not _is_silent(self.uri):
            try:
                # What waits goes first, so that the server gets the steps in order.
                _deliver(self.uri, self.run_id, [*_read(self._file), row])
                if self.spool:
                    self._file.unlink(missing_ok=True)
                return
            except Exception as error:  # a server can fail in any way; none of them is worth a run
                _silent_until[self.uri] = time.monotonic() + PAUSE
                log.warning("MLflow did not take metrics, they are kept: %s", hide(error))
        self.keep(row)

    def keep(self, row: SpoolRow) -> None:
        """Write a row down for later."""
        try:
            if not self.spool:
                raise OSError("there is no state folder")
            # One line a row: a process that is killed while it writes spoils the last line alone.
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            log.warning("lost: %s (%s)", row, error)

    @property
    def _file(self) -> Path:
        # One file a run, so that runs never wait for each other's locks.
        return Path(self.spool) / f"{self.run_id}.jsonl"


def _milliseconds() -> int:
    """The time now, as MLflow counts it."""
    return int(time.time() * 1000)


def _read(file: Path) -> list[SpoolRow]:
    """The rows of a spool file; a line cut short by a kill is left out."""
    rows: list[SpoolRow] = []
    if not file.is_file():
        return rows

    for line in file.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def _deliver(uri: str, run_id: str, rows: list[SpoolRow]) -> None:
    """Send rows of metrics, in as few requests as the server allows, and a run's end."""
    from mlflow.entities import Metric

    # Metrics of all rows share their requests; a run ends last, with all its metrics.
    metrics = []
    for row in rows:
        for name, value in row.get("metrics", {}).items():
            metrics.append(Metric(name, value, row["time"], row["step"]))
    for start in range(0, len(metrics), METRICS_PER_REQUEST):
        request = metrics[start : start + METRICS_PER_REQUEST]
        client(uri).log_batch(run_id, metrics=request)

    for row in rows:
        if "end" in row:
            client(uri).set_terminated(run_id, row["end"], end_time=row["time"])


def client(uri: str) -> Any:
    """An MlflowClient."""
    # A step of training waits for the answer, so MLflow must give up much earlier than by default.
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

    # A database is a file with locks, which an object store does not have.
    if "://" in cfg.store.root:
        raise UserError(f"--store.root {cfg.store.root} is remote: name a tracking server with --tracking.uri")
    return database_uri(state)


def database_uri(state: Path) -> str:
    """The embedded database as a URI: % and ? in a folder's name have a meaning in it, so they are quoted."""
    path = str(state / DATABASE)
    if not set(path) & set("%?"):
        return f"sqlite:///{path}"
    from sqlalchemy import URL

    # Of a URI without the driver's name MLflow makes the folder itself, from the quoted path: a second, empty one.
    return URL.create("sqlite+pysqlite", database=path).render_as_string(hide_password=False)


def registry_uri(root: str, uri: str | None = None) -> str:
    """Address of the model registry for reading, which never creates a database.

    Args:
        root: the store's root, under which the embedded database is.
        uri: a server; None: MLFLOW_TRACKING_URI, and without it the embedded database.

    Raises:
        UserError: there is no database, or the root is remote and no server is named.
    """
    # A command on results has no whole configuration, so one is made of the two fields that matter here.
    server = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if "://" in root and not server:
        raise UserError(f"{root} is remote: name a tracking server with --tracking.uri (in Python: tracking_uri=)")
    folder = Path(root).expanduser().resolve()
    address = resolve_uri(Config().replace(store__root=root, tracking__uri=uri), folder)
    if _is_missing(address):
        raise UserError(
            f"no model registry at {address}: name the root with --store.root or a server with --tracking.uri "
            "(in Python: root=, tracking_uri=)"
        )
    return address


def _is_missing(address: str) -> bool:
    """Whether an address is that of a database file which does not exist: MLflow would create it."""
    database = _database_file(address)
    return database is not None and not database.exists()


def _database_file(address: str) -> Path | None:
    """The file of an SQLite address; None for servers and databases in memory."""
    if not address.startswith("sqlite"):
        return None
    from sqlalchemy import make_url

    database = make_url(address).database
    if not database:
        return None
    return Path(database)


def database_folder(address: str) -> Path | None:
    """The folder of an embedded database, the root as a rule; None for servers."""
    file = _database_file(address)
    if file is None:
        return None
    return file.resolve().parent


def beside_database(address: str, location: str) -> Path | None:
    """Where a folder of artifacts lies now, by its place under `ARTIFACTS` beside the database.

    Args:
        address: of the database.
        location: where the artifacts lay when they were logged, as the database says.

    Returns:
        The folder; None where there is none, or the database is a server's.
    """
    root = database_folder(address)
    _, separator, inside = location.rpartition(f"/{ARTIFACTS}/")
    if root is None or not separator:
        return None
    folder = root / ARTIFACTS / inside
    if not folder.is_dir():
        return None
    return folder


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
        # A server that hangs is not waited for.
        end = threading.Thread(target=monitor.finish, daemon=True)
        end.start()
        end.join(5)


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
        name = cfg.tracking.experiment
        try:
            experiment = client(uri).get_experiment_by_name(name)
            if experiment is None:
                # Without a place of its own an embedded experiment writes artifacts to the working directory.
                place = None
                if uri.startswith("sqlite"):
                    place = (state / ARTIFACTS).as_uri()
                return cls(uri, client(uri).create_experiment(name, artifact_location=place), spool)
        except Exception as error:
            raise UserError(_why_unavailable(uri, error)) from error

        # MLflow takes no run of an experiment that was deleted in its UI, so its metrics would wait for ever.
        if experiment.lifecycle_stage == "deleted":
            raise UserError(
                f"MLflow's experiment {name!r} at {hide(uri)} was deleted: restore it (mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}) or name another with --tracking.experiment"
            )

        session = cls(uri, experiment.experiment_id, spool)
        session.flush()
        return session

    def begin(self, name: str, cfg: Config | None, tags: dict[str, str], parent: str = "") -> Tracker:
        """Start a run, with the flattened configuration as parameters.

        If the server does not answer, the run waits in the spool; without a spool the tracker is empty.

        Args:
            name: the run's name.
            cfg: its configuration; None: no parameters.
            tags: its tags.
            parent: id of the run that it is a child of.
        """
        # MLflow takes 500 characters of a parameter; lists of models and paths can be longer.
        params: dict[str, str] = {}
        if cfg is not None:
            params = {key: hide(value)[:500] for key, value in cfg.flat().items()}
        tags = {key: hide(value) for key, value in tags.items()}
        if parent:
            tags[PARENT] = parent
        row: SpoolRow = {"name": name, "tags": tags, "params": params, "time": _milliseconds()}

        if not parent.startswith(PENDING) and not _is_silent(self.uri):
            try:
                return Tracker(self.uri, self._create(row), self.spool)
            except Exception as error:  # as in Tracker._send
                _silent_until[self.uri] = time.monotonic() + PAUSE
                log.warning("MLflow did not take run %s, it is kept: %s", name, hide(error))
        if not self.spool:
            return Tracker()

        # The server gives a run its id; until then it has one of ours, which sorts by time.
        tracker = Tracker(self.uri, f"{PENDING}{time.time_ns():x}-{uuid.uuid4().hex[:8]}", self.spool)
        tracker.keep(row)
        return tracker

    def _create(self, row: SpoolRow) -> str:
        from mlflow.entities import Param

        # The time of the row and not of the call: a run from the spool began earlier.
        mlflow_client = client(self.uri)
        run = mlflow_client.create_run(self.experiment, start_time=row["time"], tags=row["tags"], run_name=row["name"])
        run_id = str(run.info.run_id)
        if row["params"]:
            params = [Param(key, value) for key, value in row["params"].items()]
            mlflow_client.log_batch(run_id, params=params)
        return run_id

    def kill_orphans(self, state: str) -> None:
        """Mark runs of dead processes as KILLED: those of this state folder, whose lock the caller holds."""
        # A killed process cannot say that it ended, so its runs would be shown as running for ever.
        with _survive("the end of killed runs"):
            mlflow_client = client(self.uri)
            # Only a parent has the tag; its children are found through it, so it is closed after them.
            mine = f"tags.`{STATE}` = '{state}' and {RUNNING}"
            for parent in mlflow_client.search_runs([self.experiment], mine):
                children = f"tags.`{PARENT}` = '{parent.info.run_id}' and {RUNNING}"
                for run in (*mlflow_client.search_runs([self.experiment], children), parent):
                    mlflow_client.set_terminated(run.info.run_id, "KILLED")

    def flush(self) -> None:
        """Deliver all that waits in the spool, the oldest run first; what the server does not take stays."""
        if not self.spool:
            return
        waiting: dict[Path, list[SpoolRow]] = {}
        for file in Path(self.spool).glob("*.jsonl"):
            waiting[file] = _read(file)
        oldest_first = sorted(waiting, key=lambda file: (_started(waiting[file]), file.name))

        # Names of pending runs -> ids that the server gave them; parents come before their children.
        created: dict[str, str] = {}
        for file in oldest_first:
            rows = waiting[file]
            try:
                # A run that the server knew has its id for a name; any other has to be begun first.
                run_id = file.stem
                if run_id.startswith(PENDING):
                    tags = rows[0]["tags"]
                    if tags.get(PARENT) in created:
                        tags[PARENT] = created[tags[PARENT]]
                    run_id = self._create(rows[0])
                    created[file.stem] = run_id
                _deliver(self.uri, run_id, rows)
                file.unlink()
                log.warning("MLflow took %d rows that had waited in %s", len(rows), file.name)
            except Exception as error:  # as in Tracker._send
                # The server is down again, and later runs may be children of this one.
                log.warning("MLflow does not take %s, which stays: %s", file, hide(error))
                return

    def lineage(self, tracker: Tracker, artifacts: Iterable[Artifact]) -> None:
        """Record the artifacts that a run read, by `log_inputs` (digest = artifact id)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # A source may be any text to MLflow; this one leads back to the folder.
        rows = []
        for artifact in artifacts:
            source = json.dumps({"uri": hide(artifact.uri)})
            dataset = Dataset(artifact.stage, artifact.id, "artifact", source)
            rows.append(DatasetInput(dataset, [InputTag("mlflow.data.context", "parent")]))
        if tracker.uri and rows:
            with _survive(f"the lineage of run {tracker.run_id}"):
                client(self.uri).log_inputs(tracker.run_id, datasets=rows)

    def attach(self, tracker: Tracker, *paths: Path) -> None:
        """Keep files with a run."""
        if not tracker.uri:
            return
        # Each by itself: a file that is too large for the server does not take the others with it.
        for path in paths:
            with _survive(str(path)):
                client(self.uri).log_artifact(tracker.run_id, str(path))

    def describe(self, tracker: Tracker, text: str) -> None:
        """Set a run's description, which the tracking server shows as Markdown."""
        if tracker.uri:
            with _survive(f"the description of run {tracker.run_id}"):
                client(self.uri).set_tag(tracker.run_id, "mlflow.note.content", text)

    def end(self, tracker: Tracker, status: str) -> None:
        """Close a run: FINISHED, FAILED or KILLED."""
        tracker.end(status)


def _why_unavailable(uri: str, error: Exception) -> str:
    """One line about a server or database that cannot be used, with the fix."""
    # MLflow raises one kind of error for everything; its text alone tells this case apart.
    if "out-of-date database schema" in str(error):
        return f"{hide(uri)} was made by another version of MLflow: run `mlflow db upgrade {shlex.quote(hide(uri))}`"
    return f"no MLflow at {hide(uri)} ({first_line(error)}): start it, or leave out --tracking.uri"


@contextlib.contextmanager
def _survive(what: str) -> Iterator[None]:
    """The work is worth more than its log: a server that does not answer is logged, and the work goes on."""
    try:
        yield
    except Exception as error:
        log.warning("MLflow did not take %s: %s", what, error)


def _started(rows: list[SpoolRow]) -> int:
    # A file whose only line was cut short has no rows.
    if not rows:
        return 0
    return int(rows[0]["time"])


@dataclass(frozen=True)
class LoggedStudent:
    """A student as MLflow logs it: code and safetensors, nothing pickled.

    Attributes:
        code: Python file of the pyfunc model.
        folder: the student's folder.
        size: side of the square input in pixels.
        widths: output name -> width.
        requirements: what the model needs to load, as pip requirements.
    """

    code: Path
    folder: Path
    size: int
    widths: dict[str, int]
    requirements: list[str]


def log_student(tracker: Tracker, student: LoggedStudent, name: str, card: Path) -> tuple[str, str]:
    """Log a student to a run twice: for tensors, registered as a new version of `name`, and for image files.

    Args:
        tracker: the run that it belongs to.
        student: what is logged.
        name: registered model.
        card: the model card, kept with the run.

    Returns:
        The version, and the URI of the model that takes image files.
    """
    import mlflow

    # log_model knows only the global tracking URI; set_tracking_uri also overwrites the variable.
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(tracker.uri)
    try:
        with mlflow.start_run(run_id=tracker.run_id):
            logged = _log_models(student, name)
            mlflow.log_artifact(str(card))
    finally:
        mlflow.set_tracking_uri(environment or "")
    return logged


def _log_models(student: LoggedStudent, name: str) -> tuple[str, str]:
    """Within an MLflow run: as `log_student`."""
    import mlflow
    import numpy as np
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    # Signatures let MLflow check requests before they reach the model; -1 is the size of the batch.
    size = student.size
    float32 = np.dtype("float32")
    outputs = Schema([TensorSpec(float32, (-1, width), output) for output, width in student.widths.items()])

    # Both models carry the package's code, so that a server needs no installation of it.
    shared = {
        "python_model": str(student.code),
        "artifacts": {"student": str(student.folder)},
        "pip_requirements": student.requirements,
        "code_paths": [str(Path(__file__).parent)],
    }
    for_tensors = mlflow.pyfunc.log_model(
        name="student",
        signature=ModelSignature(Schema([TensorSpec(float32, (-1, 3, size, size))]), outputs),
        input_example=np.zeros((2, 3, size, size), np.float32),
        registered_model_name=name,
        **shared,
    )
    for_images = mlflow.pyfunc.log_model(
        name="student-images",
        signature=ModelSignature(Schema([ColSpec("binary", "image")]), outputs),
        model_config={"takes": "images"},
        input_example=pandas.DataFrame({"image": [_grey_png(size)]}),
        **shared,
    )
    return str(for_tensors.registered_model_version), str(for_images.model_uri)


def _grey_png(size: int) -> bytes:
    """The file of a grey picture."""
    # MLflow calls a model with its example when it is logged, so the example has to be a picture.
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (size, size), "grey").save(stream, "PNG")
    return stream.getvalue()
