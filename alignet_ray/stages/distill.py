"""distill: train the student (or the control) to judge similarity as the teacher does, through Ray Train.

The loop is `models.training` and a process `models.process`, in plain torch. Here are the inputs, the processes, and
what a person sees meanwhile.
"""

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device

from alignet_ray import runtime
from alignet_ray.config import Config
from alignet_ray.data.embeddings import Source
from alignet_ray.data.pixels import Decoder, Pack, Packed
from alignet_ray.errors import UserError
from alignet_ray.models import checkpoints
from alignet_ray.models.backbone import load_backbone, preprocessing
from alignet_ray.models.process import Job, Process, images_per_step
from alignet_ray.stages import Work
from alignet_ray.store import Artifact, digest
from alignet_ray.tracking import Tracker

VERSION = 1
SCRATCH = ".train"
"""What Ray Train writes for itself, removed at the end."""
UNCHANGED = ("workers", "control", "compile", "packed", "valid", "log_every", "checkpoint_every", "retries")
"""Fields that do not change the student."""


def inputs(cfg: Config, role: str) -> dict[str, Any]:
    """Config fields that change the student."""
    fields = {k: v for k, v in cfg.distill.model_dump().items() if k not in UNCHANGED}
    name, _, file = cfg.distill.model.partition("@")
    return fields | {"model": f"{name}@{Path(file).name}" if file else name, "seed": cfg.seed}


def sources(cfg: Config, role: str) -> list[str]:
    """The images, and the student's weights where they are files."""
    _, _, file = cfg.distill.model.partition("@")
    folder = Path(cfg.distill.model).expanduser()
    weights = (
        [file] if file else [str(f) for f in sorted(folder.glob("*.*"))] if (folder / "model.json").is_file() else []
    )
    return [*([cfg.corpus.path] if cfg.corpus.path else []), *weights]


def estimate(cfg: Config, role: str) -> str:
    """Size, for `plan`."""
    return f"{cfg.distill.steps * images_per_step(cfg):,} image passes"


def run(work: Work) -> None:
    """Train, watch, and keep the student."""
    workers, gpu = processes(work.cfg)
    job = _job(work, workers)
    found = checkpoints.latest(work.out)
    if found:
        work.screen.line(f"   reused {found}: goes on from there")
    board = ray.remote(num_cpus=0)(Board).remote()
    trainer = TorchTrainer(
        train_process,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": 1, **({"GPU": 1} if gpu else {})}
        ),
        run_config=ray.train.RunConfig(
            name=f"{time.time_ns():x}",
            storage_path=f"{work.out.uri}/{SCRATCH}",
            failure_config=ray.train.FailureConfig(max_failures=work.cfg.distill.retries),
            callbacks=[Report(work.tracker, board)],  # type: ignore[list-item]
        ),
    )
    try:
        last = _watch(work, trainer, board, checkpoints.step_of(found))
    finally:
        fs, path = work.out.where(SCRATCH)
        fs.delete_dir(path)
    work.facts |= {k: v for k, v in last.items() if k != "step"}
    work.facts |= {"steps": work.cfg.distill.steps, "images": len(job.seen), "resumed": checkpoints.step_of(found)}


def processes(cfg: Config) -> tuple[int, bool]:
    """Number of training processes, and whether each has a GPU.

    Raises:
        UserError: a batch that cannot be split among them.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    workers = cfg.distill.workers or gpus or (2 if cfg.distill.batch % 2 == 0 else 1)
    if cfg.distill.batch % workers:
        raise UserError(f"--distill.batch {cfg.distill.batch} cannot be split among {workers} workers: use a multiple")
    return workers, gpus > 0


def _job(work: Work, workers: int) -> Job:
    """Inputs of the training processes, with the images packed."""
    cfg, label = work.cfg, work.parents[next(n for n in work.parents if n.startswith("label@"))]
    embed = work.parents[next(n for n in work.parents if n.startswith("embed@"))]
    cache = runtime.state_dir(cfg) / "cache"
    clusters = work.parents["cluster"].read_parts().sort_by("image_id")
    ids = clusters["image_id"].to_numpy()
    seen = ~np.isin(ids, label.read_table("held_out.parquet")["image_id"].to_numpy())
    threads = max(1, (os.cpu_count() or 1) // workers)
    return Job(
        cfg=cfg,
        out=work.out,
        label=label,
        teacher=Source(embed, work.parents["align"], cache, raw=work.role == "control"),
        scale=float(label.read_json("stats.json")["scale"]),
        seen=ids[seen],
        clusters=clusters["cluster"].to_numpy()[seen],
        images=_images(work, embed, ids, cache, threads),
        threads=threads,
        provenance={"role": work.role, "artifact": work.out.id, "parents": {n: a.id for n, a in work.parents.items()}},
    )


def _images(work: Work, embed: Artifact, ids: np.ndarray, cache: Path, threads: int) -> Packed | Decoder:
    """Where pixels come from; images are packed once for student and control."""
    cfg = work.cfg
    data = load_backbone(cfg.distill.model, cfg.distill.size).data
    listed = embed.read_table("images.parquet", ["image_id", "path"]).sort_by("image_id")
    rows = np.searchsorted(listed["image_id"].to_numpy(), ids)
    paths = tuple(listed["path"].take(pa.array(rows)).to_pylist())
    size = int(data["input_size"][-1])
    decoder = Decoder(
        str(cfg.corpus.path), ids, paths, preprocessing(data), (*data["mean"],), (*data["std"],), size, threads
    )
    if not cfg.distill.packed:
        return decoder
    target = cache / f"pixels-{digest([embed.id, data, hashlib.sha256(ids.tobytes()).hexdigest()])}.u8"
    if not target.exists():
        pack = Pack.begin(target, decoder)
        shared = ray.put(pack)
        task = ray.remote(_pack)
        step = max(16, min(4096, len(ids) // 16))
        pending = [task.remote(shared, a, min(a + step, len(ids))) for a in range(0, len(ids), step)]
        with work.screen.progress(len(ids), "images packed") as bar:
            while pending:
                done, pending = ray.wait(pending)
                bar.add(sum(ray.get(done)))
        pack.finish()
    return Packed(target, ids, size)


def _pack(pack: Pack, start: int, stop: int) -> int:
    torch.set_num_threads(1)
    return pack.write(start, stop)


def train_process(config: dict[str, Any]) -> None:
    """One training process. A mistake of the user is reported by all, so that nothing is tried again."""
    try:
        Process(config["job"], str(get_device()), ray.train.report).train()
    except UserError as error:
        ray.train.report({"problem": str(error)})


class Report(ray.train.UserCallback):
    """Lives in Train's controller: metrics of the first process go to the tracking server and to the driver's board."""

    def __init__(self, tracker: Tracker, board: Any) -> None:
        self.tracker, self.board = tracker, board

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """All processes have reported."""
        self.board.post.remote(metrics)
        row = metrics[0]
        if "valid_loss" in row:
            self.tracker.log_batch({k: v for k, v in row.items() if k != "step"}, int(row["step"]))


class Board:
    """An actor that hands rows from the controller to the driver."""

    def __init__(self) -> None:
        self.rows: list[list[dict[str, Any]]] = []

    def post(self, row: list[dict[str, Any]]) -> None:
        """Add a row: a dictionary from each process."""
        self.rows.append(row)

    def take(self) -> list[list[dict[str, Any]]]:
        """All rows since the last call."""
        rows, self.rows = self.rows, []
        return rows


def _watch(work: Work, trainer: TorchTrainer, board: Any, start: int) -> dict[str, Any]:
    """Run the trainer in a thread and show what it reports; the last row.

    The thread leaves Ctrl-C to this one, so that it stops within a poll.

    Raises:
        UserError: what a process said that the user can mend.
    """
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # handed to the driver's thread below
            failure.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    each, last, problem = images_per_step(work.cfg), {}, ""
    with work.screen.progress(work.cfg.distill.steps * each, "images", start * each) as bar:
        while True:
            alive = thread.is_alive()
            for rows in ray.get(board.take.remote()):
                problem = problem or rows[0].get("problem", "")
                if "pid" in rows[0]:
                    work.facts["processes"] = [row["pid"] for row in rows]
                if "valid_loss" in rows[0]:
                    last = rows[0]
                    bar.add(last["step"] * each - bar.done, _note(last))
            if not alive:
                break
            thread.join(0.5)
    if problem:
        raise UserError(problem)
    if failure:
        raise failure[0]
    _judge(work, last)
    return last


def _note(row: dict[str, Any]) -> str:
    return (
        f"loss {row['loss']:.4f}, agrees {row['agreement']:.1%}, " if "loss" in row else ""
    ) + f"held out {row['valid_loss']:.4f}, {row['valid_agreement']:.1%}"


def _judge(work: Work, last: dict[str, Any]) -> None:
    """Warn of a student that did not learn."""
    if last["valid_agreement"] < 0.36:
        work.warn(
            "on held-out images the student agrees with the teacher no more than chance (1/3): raise --distill.lr or "
            "--distill.steps, and look at the teacher's own score"
        )
    if last["valid_rank"] < 1.5 or last.get("ties", 0.0) > 0.5:
        work.warn("the head's outputs collapsed to one direction: lower --distill.lr or raise --distill.decay-to-init")
