"""Fine-tune the teacher network on people's soft choices, in several processes of Ray Train. Part of `align`."""

import json
import time
from collections.abc import Mapping
from typing import Any

from alignet_ray.errors import UserError
from alignet_ray.stages import Work
from alignet_ray.stages.ray_train import Background

SCRATCH, PROBLEM = ".train", "problem.json"
"""What Ray Train writes for itself, and what a training process could not do; neither is kept."""


def fine_tune(work: Work) -> dict[str, Any]:
    """Write the teacher, and show how it goes; its report.

    Raises:
        UserError: what a process said that the user can mend.
    """
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from alignet_ray.training import teacher_worker

    gpus = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    workers = work.cfg.align.network.workers or gpus or 2
    job = teacher_worker.make_teacher_job(work.cfg, work.out, work.parents["soften"], workers)
    for name in (teacher_worker.METRICS, PROBLEM):
        work.out.remove(name)
    trainer = TorchTrainer(
        teach,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0),
        run_config=RunConfig(name=f"{work.node.name}-{time.time_ns():x}", storage_path=f"{work.out.uri}/{SCRATCH}"),
    )
    training = Background(trainer)
    try:
        _watch(work, training, teacher_worker.METRICS)
    finally:
        work.out.remove_folder(SCRATCH)
    if work.out.has(PROBLEM):
        raise UserError(work.out.read_json(PROBLEM)["problem"])
    if training.failure:
        raise training.failure
    report: dict[str, Any] = work.out.read_json("report.json")
    return report


def _watch(work: Work, training: Background, metrics: str) -> None:
    """A progress bar out of the metrics that the first process writes, until training is over."""
    seen = 0
    with work.screen.progress(work.cfg.align.network.steps, "updates") as bar:
        alive = True
        while alive:
            alive = training.works()
            rows = work.out.read_bytes(metrics).splitlines() if work.out.has(metrics) else []
            for row in map(json.loads, rows[seen:]):
                step = int(row.pop("step"))
                bar.add(step - bar.done, f"held-out accuracy {row['accuracy']:.1%}")
                work.tracker.log_batch({f"align_{k}": v for k, v in row.items()}, step)
            seen = len(rows)


def teach(config: Mapping[str, Any]) -> None:
    """One training process. A mistake of the user is written down, so that the driver can say it."""
    from ray.train import report
    from ray.train.torch import get_device

    from alignet_ray.training.teacher_worker import TeacherWorker

    try:
        TeacherWorker(config["job"], str(get_device()), report).train()
    except UserError as error:
        config["job"].out.write_json(PROBLEM, {"problem": str(error)})
