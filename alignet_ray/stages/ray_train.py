"""Ray Train as the driver sees it: a run in a thread, and the rows that its processes report (`align`, `distill`)."""

import contextlib
import errno
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import ray

from alignet_ray.errors import UserError, first_line
from alignet_ray.runtime import NOTICE_WATCHER
from alignet_ray.stages import Work
from alignet_ray.store import Draft, JsonObject
from alignet_ray.training import checkpoints
from alignet_ray.training.circumstances import NOTICE, Circumstances
from alignet_ray.training.loop import BeginAgain, NonFiniteLoss

# Ray Train takes half a second to import: commands that only plan do without it.
if TYPE_CHECKING:
    from ray.train import ScalingConfig

SCRATCH = ".train"
"""Folder for what Ray Train writes for itself, removed at the end."""

COUNT = f"{SCRATCH}/starts.json"
PROBLEM = f"{SCRATCH}/problem.json"
CHANGES = f"{SCRATCH}/changes.json"
LAST = f"{SCRATCH}/last.json"
"""Notes of `StartCounter`."""

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Errors of writing that the user can fix."""

MOST_STARTS = 100
"""Starts after which Ray itself gives up: `StartCounter` does so earlier, unless processes die before it is asked."""

SETTINGS = "settings"
"""Key of the only thing that Ray Train hands to every process: a reference to what they all read."""

ENDED = "ended"
"""Key of the last report of every process."""

LAST_REPORTS_SECONDS = 30.0
"""How long the driver waits for the last reports once the trainer has returned."""

MetricsRow = dict[str, float]
"""Figures of training by name, with their `step`."""


@dataclass(frozen=True)
class ProcessReport:
    """One report of a training process.

    Attributes:
        metrics: figures of training; empty from processes that only keep step with the main one.
        pid: the process id, in the first report.
        problem: what ended the process, if the user can fix it; empty otherwise.
        ended: whether this is the last report.
        notice: what a person should be told of meanwhile.
    """

    metrics: MetricsRow
    pid: int | None = None
    problem: str = ""
    ended: bool = False
    notice: str = ""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "ProcessReport":
        """The report in the dictionary that a process has handed to Ray Train."""
        metrics = {name: value for name, value in row.items() if name not in ("pid", "problem", ENDED, NOTICE)}
        return cls(metrics, row.get("pid"), row.get("problem", ""), ENDED in row, row.get(NOTICE, ""))


Reports = list[ProcessReport]
"""What the processes have reported at the same time, by rank."""


class Worker(Protocol):
    """One training process."""

    def train(self) -> None:
        """Train to the end and write the result."""
        ...


MakeWorker = Callable[[Any, str, Callable[[JsonObject], None], Circumstances], Worker]
"""A worker of a job, a device, a function that takes the worker's reports, and its circumstances."""


def run_training(
    work: Work,
    make_worker: MakeWorker,
    job: object,
    scaling: "ScalingConfig",
    on_report: Callable[[Reports], None],
    max_failures: int = 2,
) -> None:
    """Train in Ray Train's processes until all have finished.

    Args:
        work: names the run and the place for scratch files.
        make_worker: makes the worker in every process.
        job: what the workers get.
        scaling: number of processes and their resources.
        on_report: called in the driver with the reports of all processes.
        max_failures: how often lost processes are replaced without a new checkpoint in between.

    Raises:
        UserError: what a process said that the user can fix.
    """
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer

    from alignet_ray import train_reports

    # Ray Train's own result has the last report only; the screen needs each one while training goes on.
    queue = train_reports.make_queue()
    # Checkpoints are written by the workers, not by Ray: a name of its own each time keeps Ray from resuming.
    run_config = RunConfig(
        name=f"{work.node.name}-{time.time_ns():x}",
        storage_path=f"{work.out.uri}/{SCRATCH}",
        failure_config=FailureConfig(max_failures=MOST_STARTS),
        callbacks=[train_reports.ForwardReports(queue)],  # type: ignore[list-item]
    )
    settings = {"make_worker": make_worker, "job": job, "out": work.out, "max_failures": max_failures}
    trainer = TorchTrainer(
        train_process,
        # Ray's controller reads these, too: a reference spares it the import of all that training needs.
        train_loop_config={SETTINGS: ray.put(settings)},
        scaling_config=scaling,
        run_config=run_config,
    )

    # Notes of a run that was killed are not about this one.
    work.out.remove_folder(SCRATCH)
    training = BackgroundTraining(trainer)
    try:
        problem = _take_reports(training, queue, on_report, work.warn)
        training.join()
    finally:
        work.out.remove_folder(SCRATCH)
    if problem:
        raise UserError(problem)
    if training.failure:
        raise training.failure


def _take_reports(
    training: "BackgroundTraining", queue: Any, on_report: Callable[[Reports], None], tell: Callable[[str], None]
) -> str:
    """Hand on what the processes report until they have ended; returns the first problem that the user can fix."""
    problem = ""
    ended = False
    deadline = math.inf
    # Reports travel through an actor, so the last ones may arrive after the trainer has returned: go on until the
    # processes' own last word has come, but not for ever, since lost processes say nothing.
    while not ended and time.monotonic() < deadline:
        if not training.is_running() and deadline == math.inf:
            # After a failure nothing more will come; what has come already is still handed on below.
            deadline = time.monotonic()
            if not training.failure:
                deadline += LAST_REPORTS_SECONDS
        for rows in ray.get(queue.take.remote()):
            reports = [ProcessReport.from_row(row) for row in rows]
            if reports[0].ended:
                ended = True
                continue
            problem = problem or reports[0].problem
            if reports[0].notice:
                tell(reports[0].notice)
            on_report(reports)
    return problem


def train_process(config: Mapping[str, Any]) -> None:
    """One training process, from its start to its last report.

    What all processes meet alike, such as a wrong setting, each of them reports, so that Ray does not try again. What
    one of them meets alone it writes down and dies of: the others wait for it, in a collective operation that nothing
    else ends. Ray then starts all of them again, and they find the note: it ends the training, lets it begin in another
    way (`BeginAgain`), or only says what happened.
    """
    from ray.train import get_context, report
    from ray.train.collective import broadcast_from_rank_zero

    # The main process counts this start, reads the notes of earlier ones, and tells the others how to begin.
    settings: Mapping[str, Any] = ray.get(config[SETTINGS])
    counter = StartCounter(settings["out"], settings["max_failures"])
    begun = None
    if get_context().get_world_rank() == 0:
        begun = counter.begin()
    start: Start = broadcast_from_rank_zero(begun)

    problem = start.problem or _train(settings, start, counter)
    if problem:
        report({"problem": problem})
    # A report of its own: nobody is shown the one that ends the driver's waiting.
    report({ENDED: 1})


def _train(settings: Mapping[str, Any], start: "Start", counter: "StartCounter") -> str:
    """Train to the end; returns the problem that all processes meet alike, empty without any.

    Raises:
        Exception: what this process meets alone, which is noted in `counter`.
    """
    from ray.train import get_context, report
    from ray.train.torch import get_device

    circumstances = Circumstances(is_leaving, start.micro_batch, start.compile)
    try:
        worker: Worker = settings["make_worker"](settings["job"], str(get_device()), report, circumstances)
    except UserError as error:
        return str(error)

    try:
        worker.train()
    except NonFiniteLoss as error:
        return str(error)
    except Exception as error:
        is_alone = get_context().get_world_size() == 1
        if is_alone and isinstance(error, UserError):
            return str(error)
        counter.note(error)
        raise
    return ""


def is_leaving() -> bool:
    """Whether a machine of this training is about to be taken away; all processes ask equally often."""
    import ray.train

    # A Ray of one machine is not asked: nobody takes a machine away from under its own program.
    if os.environ.get(NOTICE_WATCHER) == "0":
        return False
    # Ray 2.55 passes no notice on to training: a machine that goes is then lost without one.
    notice = getattr(ray.train, "get_preemption_info", None)
    return notice is not None and notice() is not None


class Start(NamedTuple):
    """How training processes are to begin.

    Attributes:
        problem: what ends the training for good; empty if nothing does.
        micro_batch, compile: see `Circumstances`.
    """

    problem: str = ""
    micro_batch: int | None = None
    compile: bool = True


class StartCounter:
    """How often processes failed in a row, and what ended the last ones: notes beside Ray Train's own files.

    A training may lose its machines a hundred times and end well, if it gets on in between. So starts are not counted,
    but those in a row without a new checkpoint.
    """

    def __init__(self, out: Draft, max_failures: int) -> None:
        self.out = out
        self.max_failures = max_failures

    def begin(self) -> Start:
        """Count this start, and say how to begin, or why not."""
        if noted := self._read(PROBLEM):
            return Start(str(noted["text"]))
        count = self._read(COUNT) or {"checkpoint": None, "failures": -1}
        newest = checkpoints.latest(self.out)
        failures = int(count["failures"]) + 1
        if newest != count["checkpoint"]:
            failures = 0
        # Without its count a training could begin again for ever, on a disk that is full for one.
        try:
            self.out.write_json(COUNT, {"checkpoint": newest, "failures": failures})
        except OSError as error:
            return Start(_cannot_write(error, self.out))
        if failures > self.max_failures:
            return Start(self._lost_too_often(failures))
        changes = self._read(CHANGES) or {}
        return Start(**changes)

    def note(self, error: Exception) -> None:
        """Write down what ends this process, for the next start."""
        with contextlib.suppress(OSError):
            if isinstance(error, BeginAgain):
                changes = self._read(CHANGES) or {}
                changes["micro_batch"] = error.micro_batch or changes.get("micro_batch")
                changes["compile"] = error.compile and changes.get("compile", True)
                self.out.write_json(CHANGES, changes)
                # To begin again in another way is no reason to give up.
                self.out.remove(COUNT)
            elif isinstance(error, UserError):
                self.out.write_json(PROBLEM, {"text": str(error)})
            elif isinstance(error, OSError) and error.errno in DISK_ERRORS:
                self.out.write_json(PROBLEM, {"text": _cannot_write(error, self.out)})
            else:
                self.out.write_json(LAST, {"text": f"{type(error).__name__}: {first_line(error)}"})

    def _lost_too_often(self, failures: int) -> str:
        why = ""
        if last := self._read(LAST):
            why = f" (the last time by {last['text']})"
        return (
            f"training processes were lost {failures} times in a row without a new checkpoint{why}: Ray's worker logs "
            "say more, the log of the run names their folder; run again to go on"
        )

    def _read(self, name: str) -> JsonObject | None:
        if not self.out.has(name):
            return None
        content: JsonObject = self.out.read_json(name)
        return content


def disk_problem(number: int, uri: str) -> str:
    """One line about an error of writing that the user can fix, by the system's number of it."""
    problem = os.strerror(number)
    if number in (errno.ENOSPC, errno.EDQUOT):
        problem = "the disk is full"
    return f"{problem} while writing to {uri}: fix that and run again, training resumes from the last checkpoint"


def _cannot_write(error: OSError, out: Draft) -> str:
    return disk_problem(error.errno or errno.EIO, out.uri)


class BackgroundTraining:
    """A trainer running in a thread, so that the driver's own thread handles Ctrl-C and shows progress.

    Attributes:
        failure: the exception that ended it; None if it ended well.
    """

    def __init__(self, trainer: Any) -> None:
        self.failure: BaseException | None = None
        self.trainer = trainer
        self.thread = threading.Thread(target=self._fit, daemon=True)
        self.thread.start()

    def _fit(self) -> None:
        try:
            self.trainer.fit()
        except BaseException as error:  # for the driver's thread to raise
            self.failure = error

    def is_running(self, seconds: float = 0.5) -> bool:
        """Wait for its end, at most this long; returns whether it still runs."""
        self.thread.join(seconds)
        return self.thread.is_alive()

    def join(self) -> None:
        """Wait for its end."""
        self.thread.join()
