"""distill: train the student (or the control) to judge similarity as the teacher does, through Ray Train.

The loop is `models.training` and a process `models.process`, in plain torch. Here are the inputs, the processes, and
what a person sees meanwhile.
"""

import errno
import json
import math
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, report

from alignet_ray import runtime
from alignet_ray.config import Config
from alignet_ray.errors import UserError
from alignet_ray.stages import Work
from alignet_ray.stages.ray_train import Background, Report, make_board

VERSION = 3
SCRATCH = ".train"
"""What Ray Train writes for itself, removed at the end."""
STALL = 0.05
"""Share of the time above which waiting for images is worth a word."""


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """Config fields that change the student."""
    fields = cfg.distill.result_fields()
    name, _, file = cfg.distill.model.partition("@")
    return fields | {"model": f"{name}@{Path(file).name}" if file else name, "seed": cfg.seed}


def sources(cfg: Config, role: str) -> list[str]:
    """The images, and the student's weights where they are files."""
    _, _, file = cfg.distill.model.partition("@")
    weights, folder = [file] if file else [], Path(cfg.distill.model).expanduser()
    if (folder / "model.json").is_file():
        weights = [str(path) for path in sorted(folder.glob("*.*"))]
    return [*([cfg.corpus.path] if cfg.corpus.path else []), *weights]


def estimate(cfg: Config, role: str, sources: list[Any]) -> str:
    """Size, for `plan`."""
    return f"{cfg.distill.steps * images_per_step(cfg):,} image passes"


def refuse(cfg: Config, role: str) -> None:
    """Refuse a model that nobody knows before anything starts."""
    from alignet_ray.models.backbone import check as known

    known(cfg.distill.model)


def images_per_step(cfg: Config) -> int:
    """Images that are forwarded in one update."""
    return cfg.distill.batch_size * (1 if cfg.distill.batching == "in_batch" else 3)


def run(work: Work) -> None:
    """Train, watch, and keep the student."""
    from alignet_ray.training import checkpoints
    from alignet_ray.training.student_worker import make_student_job

    workers, gpu = processes(work.cfg)
    cache = runtime.state_dir(work.cfg) / "cache"
    job = make_student_job(work.cfg, work.role, work.out, work.parents, cache, workers, partial(_pack, work))
    found = checkpoints.latest(work.out)
    if found:
        work.screen.line(f"   reused {found}: goes on from there")
    start = checkpoints.step_of(found)
    try:
        last = _watch(work, {"job": job}, workers, gpu, start)
    finally:
        work.out.remove_folder(SCRATCH)
    lines = work.out.read_bytes("metrics.jsonl").splitlines()  # holds what a killed run had reported before, too
    last = {k: v for line in lines for k, v in json.loads(line).items()} | last
    _judge(work, last)
    work.facts |= {k: v for k, v in last.items() if k != "step"}
    work.facts |= {"steps": work.cfg.distill.steps, "images": len(job.seen), "resumed": start}


def processes(cfg: Config) -> tuple[int, bool]:
    """Largest number of training processes, and whether each has a GPU.

    Raises:
        UserError: a batch that cannot be split among them, or among fewer of them where fewer may go on.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    workers = cfg.distill.workers or gpus or (2 if cfg.distill.batch_size % 2 == 0 else 1)
    least = cfg.distill.min_workers or workers
    if least > workers:
        raise UserError(
            f"--distill.min-workers {least} is more than the {workers} training processes: use {workers} or less"
        )
    for number in range(least, workers + 1):
        if cfg.distill.batch_size % number:
            mend = f"use a multiple of {math.lcm(*range(least, workers + 1))}"
            raise UserError(
                f"--distill.batch-size {cfg.distill.batch_size} cannot be split among {number} workers: {mend}"
            )
    return workers, gpus > 0


def _pack(work: Work, pack: Any) -> None:
    """Decode and resize all images, some at a time in tasks of their own."""
    total = len(pack.decoder.ids)
    shared, task = ray.put(pack), ray.remote(scheduling_strategy="SPREAD")(_pack_rows)  # not inside a trial's own CPU
    size = max(16, min(4096, total // 16))
    pending = [task.remote(shared, start, min(start + size, total)) for start in range(0, total, size)]
    with work.screen.progress(total, "images packed") as bar:
        while pending:
            done, pending = ray.wait(pending)
            bar.add(sum(ray.get(done)))


def _pack_rows(pack: Any, start: int, stop: int) -> int:
    packed: int = pack.write(start, stop)
    return packed


def train_process(config: Mapping[str, Any]) -> None:
    """One training process. A mistake of the user is reported by all, so that nothing is tried again."""
    from ray.train.torch import get_device

    from alignet_ray.training.student_worker import StudentWorker

    try:
        StudentWorker(config["job"], str(get_device()), report).train()
    except UserError as error:
        report({"problem": str(error)})


def _trainer(work: Work, config: dict[str, Any], workers: int, gpu: bool, board: Any) -> Any:
    """Ray Train's controller for this run. Checkpoints are ours, so a name of its own each time is all it needs."""
    from ray.train.torch import TorchTrainer

    resources = {"CPU": 1.0} | ({"GPU": work.cfg.distill.gpus_per_worker} if gpu else {})
    least = work.cfg.distill.min_workers
    number = (least, workers) if least and least < workers else workers
    return TorchTrainer(
        train_process,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=number, use_gpu=gpu, resources_per_worker=resources),  # type: ignore[arg-type]
        run_config=RunConfig(
            name=f"{work.node.name}-{time.time_ns():x}",
            storage_path=f"{work.out.uri}/{SCRATCH}",
            failure_config=FailureConfig(max_failures=work.cfg.distill.max_failures),
            callbacks=[Report(board)],  # type: ignore[list-item]
        ),
    )


def _watch(work: Work, config: dict[str, Any], workers: int, gpu: bool, start: int) -> dict[str, Any]:
    """Train; show what is reported and hand it to the tracking server, which no process waits for.

    Raises:
        UserError: what a process said that the user can mend.
    """
    board = make_board()
    training = Background(_trainer(work, config, workers, gpu, board))
    last: dict[str, Any] = {}
    each, problem, alive = images_per_step(work.cfg), "", True
    with work.screen.progress(work.cfg.distill.steps * each, "images", start * each) as bar:
        while alive:
            alive = training.works()
            for rows in ray.get(board.take.remote()):
                problem = problem or rows[0].get("problem", "")
                if "pid" in rows[0]:
                    work.facts["processes"] = [row["pid"] for row in rows]
                if "images_per_second" in rows[0]:
                    last |= rows[0]
                    bar.add(last["step"] * each - bar.done, _note(last))
                    work.tracker.log_batch({k: v for k, v in rows[0].items() if k != "step"}, int(last["step"]))
        if problem:
            raise UserError(problem)
        if training.failure:
            raise _explained(work, training.failure)
    return last


def _explained(work: Work, failure: BaseException) -> BaseException:
    """What the user can mend about a lost run; the failure itself if that is nothing."""
    text = str(failure)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        if os.strerror(number) in text:
            what = "the disk is full" if number in (errno.ENOSPC, errno.EDQUOT) else os.strerror(number)
            mend = "mend that and run again, it goes on from the last checkpoint"
            return UserError(f"{what} while writing to {work.out.uri}: {mend}")
    return failure


def _note(row: dict[str, Any]) -> str:
    fitted = f"loss {row['loss']:.4f}, agrees {row['agreement']:.1%}" if "loss" in row else ""
    held = f"held out {row['valid_loss']:.4f}, {row['valid_agreement']:.1%}" if "valid_loss" in row else ""
    human = f"people {row['human_agreement']:.1%}" if "human_agreement" in row else ""
    waits = f"waits for images {row['stall']:.0%}" if row["stall"] > STALL else ""
    rate = f"lr {row['lr']:.1e}" if "lr" in row else ""
    return ", ".join(filter(None, (fitted, held, human, rate, f"{row['memory']:.1f} GB", waits)))


def _judge(work: Work, last: dict[str, Any]) -> None:
    """Warn of a student that did not learn."""
    if last["valid_agreement"] < 0.36:
        work.warn(
            "on held-out images the student agrees with the teacher no more than chance (1/3): raise --distill.lr or "
            "--distill.steps, and look at the teacher's own score"
        )
    if last["valid_rank"] < 1.5 or last.get("ties", 0.0) > 0.5:
        work.warn("the head's outputs collapsed to one direction: lower --distill.lr or raise --distill.decay-to-init")
