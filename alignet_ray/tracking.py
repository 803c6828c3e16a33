"""MLflow runs, parameters, metrics and artifacts; the only module that talks to its tracking server.

One run for each pipeline run, and a child run for each node or trial. Parameters are the flattened configuration, data
sets the artifacts (digest = id). What a server that does not answer has missed waits in files under the state folder
and is delivered later. It imports no ray, and mlflow only when it is used.
"""

import contextlib
import json
import logging
import math
import os
import re
import shlex
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from alignet_ray import embedded_database
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
CREATED = ".id"
"""Suffix of the file that holds the id of such a run, once the server has given it one."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of an experiment that trains networks; without it MLflow shows its runs as evaluations of language models."""
CURVE = "curve/"
"""Prefix of what a stage measures while it works. MLflow shows groups by prefix, in alphabetical order: curves come
before the single numbers of `result/`."""
METRICS_PER_REQUEST = 500
UPLOAD_SECONDS = 600
"""Seconds that a server may take for one file, as weights are large; metrics wait for ten at most."""
DATABASE = "mlflow.db"
"""File of the embedded database under the state folder."""
ARTIFACTS = "mlflow-artifacts"
"""Folder beside it with all that runs logged. The database holds its absolute path, also after the root has moved."""
NODE = "alignet.node."
"""Prefix of the tags that hold the artifacts that a version was made of, such as `alignet.node.distill.student`."""
IMAGES = "alignet.images"
"""Tag of versions of earlier releases: URI of a second model of the same student, which takes image files."""

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

    @property
    def is_pending(self) -> bool:
        """Whether the server does not know the run yet."""
        return self.server_id.startswith(PENDING)

    @property
    def server_id(self) -> str:
        """The run's id on the server; of a run that waits, the name that it has until then."""
        return _server_id(self.spool, self.run_id)

    def log_batch(self, metrics: dict[str, float], step: int) -> None:
        """Log metrics at a step; finite numbers only. What a server does not take is kept, and never stops the work."""
        # Numbers of NumPy and torch are no JSON, and the row may have to wait in a file.
        numbers = {name: float(value) for name, value in metrics.items()}
        # MLflow's searches take NaN for 0, some of its versions show no page of a run that has one, and infinity it
        # stores as 1.8e308. A training that has diverged says so itself.
        numbers = {name: value for name, value in numbers.items() if math.isfinite(value)}
        if self.uri and numbers:
            self._send({"metrics": numbers, "step": step, "time": milliseconds()})

    def log_curve(self, metrics: dict[str, float], step: int) -> None:
        """Log what a stage measures while it works: `log_batch`, in the group of curves."""
        self.log_batch({f"{CURVE}{name}": value for name, value in metrics.items()}, step)

    def end(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        # The time of now: a row that waits is delivered long after the run's end.
        if self.uri:
            self._send({"end": status, "time": milliseconds()})

    def _send(self, row: SpoolRow) -> None:
        """Deliver a row after those that wait, or let it wait with them."""
        if not self.is_pending and not _is_silent(self.uri):
            try:
                # What waits goes first, so that the server gets the steps in order.
                _deliver(self.uri, self.server_id, [*_read(self._file), row])
                if self.spool:
                    self._file.unlink(missing_ok=True)
                    # Nothing follows the end of a run, so nobody asks for its id any more.
                    if "end" in row:
                        _forget(self.spool, self.run_id)
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


def _server_id(spool: str, run_id: str) -> str:
    """The id that the server gave to a run which had to wait; otherwise the id that is given."""
    # The file is written when the run is created, perhaps by another process than the one that logs to it.
    if run_id.startswith(PENDING):
        with contextlib.suppress(OSError):
            return (Path(spool) / f"{run_id}{CREATED}").read_text(encoding="utf-8")
    return run_id


def _forget(spool: str, run_id: str) -> None:
    """Remove the file that holds the id of a run which had to wait."""
    (Path(spool) / f"{run_id}{CREATED}").unlink(missing_ok=True)


def milliseconds() -> int:
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
    log_metrics(uri, run_id, metrics)

    for row in rows:
        if "end" in row:
            client(uri).set_terminated(run_id, row["end"], end_time=row["time"])


def log_metrics(uri: str, run_id: str, metrics: Sequence[Any]) -> None:
    """Send MLflow's metrics to a run, in as few requests as the server allows."""
    for start in range(0, len(metrics), METRICS_PER_REQUEST):
        client(uri).log_batch(run_id, metrics=metrics[start : start + METRICS_PER_REQUEST])


def client(uri: str) -> Any:
    """An MlflowClient."""
    # A step of training waits for the answer, so MLflow must give up much earlier than by default.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


@contextlib.contextmanager
def patient_uploads() -> Iterator[None]:
    """Within it a request to the server may take minutes: files of weights are large, and a training waits no more."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(name)
    os.environ[name] = str(max(UPLOAD_SECONDS, int(before or 0)))
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


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
    database = embedded_database.file_of(address)
    # MLflow would make it.
    if database is not None and not database.exists():
        raise UserError(
            f"no model registry at {address}: name the root with --store.root or a server with --tracking.uri "
            "(in Python: root=, tracking_uri=)"
        )
    return address


def database_folder(address: str) -> Path | None:
    """The folder of an embedded database, the root as a rule; None for servers."""
    file = embedded_database.file_of(address)
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
    if not tracker.run_id or tracker.is_pending:
        yield
        return

    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(tracker.server_id, tracking_uri=tracker.uri)  # type: ignore[no-untyped-call]
    monitor.start()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        # A server that hangs is not waited for.
        end = threading.Thread(target=monitor.finish, daemon=True)
        end.start()
        end.join(5)


@dataclass(frozen=True)
class DataSet:
    """Data that a run read, as MLflow shows it.

    Attributes:
        name, digest: what it is, and a hash of its content; MLflow tells data sets apart by both.
        kind: artifact, folder or file.
        uri: where it lies.
        use: what it is read for.
    """

    name: str
    digest: str
    kind: str
    uri: str
    use: str


@dataclass(frozen=True)
class Session:
    """A connection to one experiment."""

    uri: str
    experiment: str
    spool: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, cfg: Config, state: Path, tags: dict[str, str] | None = None) -> "Session":
        """Connect, find or create the experiment, and deliver what earlier runs could not. All runs get `tags`.

        Raises:
            UserError: the server does not answer.
        """
        uri = resolve_uri(cfg, state)
        spool = str(state / "spool" / digest(uri))
        name = cfg.tracking.experiment
        embedded_database.require_writable(uri)
        embedded_database.keep_files_beside(uri, name, state / ARTIFACTS)
        try:
            experiment = client(uri).get_experiment_by_name(name)
            if experiment is None:
                # Without a place of its own an embedded experiment writes artifacts to the working directory.
                place = None
                if uri.startswith("sqlite"):
                    place = (state / ARTIFACTS).as_uri()
                created = client(uri).create_experiment(name, artifact_location=place, tags=KIND)
                return cls(uri, created, spool, tags or {})
        except Exception as error:
            raise UserError(_why_unavailable(uri, error)) from error

        # MLflow takes no run of an experiment that was deleted in its UI, so its metrics would wait for ever.
        if experiment.lifecycle_stage == "deleted":
            raise UserError(
                f"MLflow's experiment {name!r} at {hide(uri)} was deleted: restore it (mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}) or name another with --tracking.experiment"
            )

        session = cls(uri, experiment.experiment_id, spool, tags or {})
        session.flush()
        return session

    def begin(
        self, name: str, cfg: Config | None, tags: dict[str, str], parent: str = "", needs_server: bool = False
    ) -> Tracker:
        """Start a run, with the flattened configuration as parameters.

        If the server does not answer, the run waits in the spool; without a spool the tracker is empty.

        Args:
            name: the run's name.
            cfg: its configuration; None: no parameters.
            tags: its tags.
            parent: id of the run that it is a child of.
            needs_server: its work cannot do without: a server that did not answer a moment ago is asked again.
        """
        if needs_server:
            _silent_until.pop(self.uri, None)
        if parent:
            parent = self._begun(parent)
        # MLflow takes 500 characters of a parameter; lists of models and paths can be longer.
        params: dict[str, str] = {}
        if cfg is not None:
            params = {key: hide(value)[:500] for key, value in cfg.flat().items()}
        tags = {key: hide(value) for key, value in {**self.tags, **tags}.items()}
        if parent:
            tags[PARENT] = parent
        row: SpoolRow = {"name": name, "tags": tags, "params": params, "time": milliseconds()}

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

    def _begun(self, run_id: str) -> str:
        """The server's id of a run; one that waits is begun now if the server answers again."""
        found = _server_id(self.spool, run_id)
        if found.startswith(PENDING) and not _is_silent(self.uri):
            self.flush()
            found = _server_id(self.spool, run_id)
            if found.startswith(PENDING):
                _silent_until[self.uri] = time.monotonic() + PAUSE
        return found

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

        # Parents come before their children. Their ids are kept until all is delivered.
        ended: list[str] = []
        for file in oldest_first:
            rows = waiting[file]
            try:
                _deliver(self.uri, self._created(file.stem, rows), rows)
                file.unlink()
                log.warning("MLflow took %d rows that had waited in %s", len(rows), file.name)
            except Exception as error:  # as in Tracker._send
                # The server is down again, and later runs may be children of this one.
                log.warning("MLflow does not take %s, which stays: %s", file, hide(error))
                return
            if any("end" in row for row in rows):
                ended.append(file.stem)
        for run_id in ended:
            _forget(self.spool, run_id)

    def _created(self, run_id: str, rows: list[SpoolRow]) -> str:
        """The server's id of a run whose rows wait; the run is begun if the server does not know it yet."""
        known = _server_id(self.spool, run_id)
        if not known.startswith(PENDING):
            return known
        tags = rows[0]["tags"]
        if PARENT in tags:
            tags[PARENT] = _server_id(self.spool, tags[PARENT])
        known = self._create(rows[0])
        (Path(self.spool) / f"{run_id}{CREATED}").write_text(known, encoding="utf-8")
        return known

    def lineage(self, tracker: Tracker, artifacts: Iterable[Artifact]) -> None:
        """Record the artifacts that a run read (digest = artifact id)."""
        # A source may be any text to MLflow; this one leads back to the folder.
        self.inputs(tracker, [DataSet(item.stage, item.id, "artifact", item.uri, "parent") for item in artifacts])

    def inputs(self, tracker: Tracker, data_sets: Iterable["DataSet"]) -> None:
        """Record the data that a run read, as MLflow's data sets."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        rows = []
        for data in data_sets:
            dataset = Dataset(data.name, data.digest, data.kind, json.dumps({"uri": hide(data.uri)}))
            rows.append(DatasetInput(dataset, [InputTag("mlflow.data.context", data.use)]))
        if tracker.uri and rows:
            with _survive(f"the lineage of run {tracker.run_id}"):
                client(self.uri).log_inputs(tracker.server_id, datasets=rows)

    def attach(self, tracker: Tracker, *paths: Path) -> None:
        """Keep files with a run."""
        if not tracker.uri:
            return
        # Each by itself: a file that is too large for the server does not take the others with it.
        for path in paths:
            with _survive(str(path)), patient_uploads():
                client(self.uri).log_artifact(tracker.server_id, str(path))

    def describe(self, tracker: Tracker, text: str) -> None:
        """Set a run's description, which the tracking server shows as Markdown."""
        if tracker.uri:
            with _survive(f"the description of run {tracker.run_id}"):
                client(self.uri).set_tag(tracker.server_id, "mlflow.note.content", hide(text))

    def produced(self, tracker: Tracker, model_id: str) -> None:
        """Show a logged model as what came out of a run."""
        from mlflow.entities import LoggedModelOutput

        if tracker.uri:
            with _survive(f"the model of run {tracker.run_id}"):
                client(self.uri).log_outputs(tracker.server_id, models=[LoggedModelOutput(model_id, step=0)])

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
