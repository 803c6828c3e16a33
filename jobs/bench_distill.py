"""`bench distill`: the training loop against a bare PyTorch step of the same network, in one run.

    python jobs/bench.py distill [--model NAME] [--size 64] [--batch 64] [--steps 40] [--rounds 3] [--compile]
        [--only REGEX] [--json FILE]

On generated pixels, in one process with all cores (or the GPU). Rates are images/s, the median of `--rounds`; ratios
refer to the bare step of the same round: forward pass, sum of squares, backward pass and Adam, on one batch in memory.
`--only` keeps the rows whose name it matches; ratios then refer to the first of them. All rows but the last use the
memory allocator settings of our workers (runtime.MEMORY).

"by torch" and "by Ray Train" are the in-batch loop in `--workers` new processes that share the cores (one GPU each),
started by torch's own launcher or by Ray Train, as in `distill`. Ray runs only during its own row. It gets a report
as often as in `distill`; reports less than half a second apart would wait for its controller. "CPU of others" is the
share of all CPU time that other processes than the workers took, at least what Ray itself takes. Use 30 steps or more:
Ray's idle workers end only after 20 seconds.
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import ray.train
import torch
import torch.distributed as dist
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from alignet_ray import runtime
from alignet_ray.config import Config
from alignet_ray.models.embedding_network import make_network
from alignet_ray.screen import table
from alignet_ray.training.batches import Batches, InBatchTriplets, LabelledBatches
from alignet_ray.training.loop import Training
from alignet_ray.training.recipe import student_recipe

IMAGES = 2048
WARMUP_STEPS = 2
"""Updates that are not timed."""

BY_RAY = "Ray Train"
OnUpdate = Callable[[dict[str, float]], None]


class Material(NamedTuple):
    """Generated inputs of a loop.

    Attributes:
        pixels: (n, 3, s, s) uint8.
        batches: of one mode.
        images_per_step: that a step forwards.
    """

    pixels: torch.Tensor
    batches: Batches
    images_per_step: int


def make_training(args: argparse.Namespace, device: str, steps: int) -> Training:
    """The student that all rows train."""
    section = Config().replace(distill__steps=steps, distill__lr=1e-4).distill
    student = make_network(args.model, args.size, 1024, seed=0)
    return Training(student, student_recipe(section, seed=0), device, args.compile)


def generate_pixels(size: int) -> torch.Tensor:
    """Random images, channels last in memory as the pixel cache has them."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, size, size, 3), np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def make_material(mode: str, size: int, batch_size: int) -> Material:
    """Random pixels with a random teacher's batches."""
    pixels = generate_pixels(size)
    rng = np.random.default_rng(1)
    if mode == "triplets":
        triplets = rng.integers(0, IMAGES, (10_000, 3))
        similarities = rng.normal(size=(10_000, 3)).astype(np.float32)
        labelled = LabelledBatches(triplets, similarities, batch_size // 3, seed=0)
        return Material(pixels, labelled, 3 * labelled.batch_size)

    ids = np.arange(IMAGES)
    in_batch = InBatchTriplets(
        image_ids=ids,
        teacher=rng.normal(size=(IMAGES, 64)).astype(np.float16),
        teacher_rows=ids,
        batch_size=batch_size,
        seed=0,
        scale=1.0,
        max_triplets=Config().distill.in_batch_triplets,
        clusters=None,
        images_per_cluster=0,
    )
    return Material(pixels, in_batch, batch_size)


def bare_step(args: argparse.Namespace, device: str) -> float:
    """Seconds an image of a step that learns nothing sensible: what the hardware allows."""
    training = make_training(args, device, args.steps)
    network = training.parallel_network()
    images = training.preprocess(generate_pixels(args.size)[: args.batch], args.batch)
    training.set_train_mode()

    start = 0.0
    for step in range(args.steps + WARMUP_STEPS):
        if step == WARMUP_STEPS:
            start = now(device)
        training.optimizer.zero_grad(set_to_none=True)
        squares = [output.square().mean() for output in network(images) if output is not None]
        torch.autograd.backward(torch.stack(squares).sum())
        training.optimizer.step()
    seconds: float = (now(device) - start) / args.steps / args.batch
    return seconds


def loop(mode: str, args: argparse.Namespace, device: str, report: OnUpdate | None = None) -> float:
    """Seconds an image of the training loop, with batches, loss and decay to the initial weights."""
    material = make_material(mode, args.size, args.batch)
    training = make_training(args, device, args.steps + WARMUP_STEPS)
    log_every = Config().distill.log_every
    stamps: list[float] = []

    def on_update(training: Training, figures: dict[str, float]) -> None:
        if report and training.step % log_every == 0:
            report(figures)
        stamps.append(now(device))

    training.run(material.batches, lambda ids: material.pixels[torch.from_numpy(ids)], on_update)
    seconds = stamps[-1] - stamps[WARMUP_STEPS - 1]
    return seconds / float(args.steps * material.images_per_step)


def now(device: str) -> float:
    """The clock, when the device has finished all its work."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Measurement(NamedTuple):
    """What one of several worker processes measured.

    Attributes:
        seconds: per image of the whole batch.
        own_cpu: CPU seconds of this process.
        all_cpu: CPU seconds of all processes of the machine in the same time.
        capacity: CPU seconds that the machine's cores had in that time.
    """

    seconds: float
    own_cpu: float
    all_cpu: float
    capacity: float


def measure_worker(args: argparse.Namespace, device: str, threads: int, report: OnUpdate | None = None) -> Measurement:
    """The in-batch loop in one of several new processes, each with this many threads."""
    torch.set_num_threads(threads)
    short = argparse.Namespace(**{**vars(args), "steps": min(6, args.steps)})
    loop("in_batch", short, device)  # a new process is slower until its memory is warm

    start = time.perf_counter()
    own_before, all_before = time.process_time(), machine_cpu_seconds()
    seconds = loop("in_batch", args, device, report)
    capacity = (time.perf_counter() - start) * (os.cpu_count() or 1)
    own = time.process_time() - own_before
    return Measurement(seconds, own, machine_cpu_seconds() - all_before, capacity)


def machine_cpu_seconds() -> float:
    """CPU seconds of all processes since the machine started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def torch_worker(rank: int, args: argparse.Namespace, device: str, threads: int, folder: str) -> Measurement:
    """One of the processes that a user of plain PyTorch would start."""
    backend = "gloo"
    if device == "cuda":
        torch.cuda.set_device(rank)
        backend = "nccl"
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group(backend, rank=rank, world_size=args.workers, init_method=rendezvous)
    measurement = measure_worker(args, device, threads)
    dist.destroy_process_group()
    return measurement


def ray_worker(config: dict[str, Any]) -> None:
    """One of the processes that Ray Train starts; its measurement goes to a file."""
    measurement = measure_worker(config["args"], config["device"], config["threads"], ray.train.report)
    rank = ray.train.get_context().get_world_rank()
    Path(config["folder"], f"{rank}.json").write_text(json.dumps(measurement), encoding="utf-8")


def measure_workers(launcher: str, args: argparse.Namespace, device: str) -> list[Measurement]:
    """The in-batch loop in several new processes, started by torch or by Ray Train with a Ray of its own."""
    threads = max(1, torch.get_num_threads() // args.workers)
    with tempfile.TemporaryDirectory() as folder:
        if launcher == BY_RAY:
            return _measure_by_ray(args, device, threads, folder)
        with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
            futures = [pool.submit(torch_worker, rank, args, device, threads, folder) for rank in range(args.workers)]
            return [future.result() for future in futures]


def _measure_by_ray(args: argparse.Namespace, device: str, threads: int, folder: str) -> list[Measurement]:
    runtime.start(Config())
    trainer = TorchTrainer(
        ray_worker,
        train_loop_config={"args": args, "device": device, "threads": threads, "folder": folder},
        scaling_config=ScalingConfig(num_workers=args.workers, use_gpu=device == "cuda"),
        run_config=RunConfig(storage_path=folder),
    )
    trainer.fit()
    runtime.stop()
    return [Measurement(*json.loads(file.read_text(encoding="utf-8"))) for file in Path(folder).glob("*.json")]


def share_of_others(workers: list[Measurement]) -> float:
    """Share of the machine's CPU time that went to other processes than the workers."""
    own = sum(worker.own_cpu for worker in workers)
    return statistics.mean((worker.all_cpu - own) / worker.capacity for worker in workers)


class Timings(NamedTuple):
    """Results of a bench.

    Attributes:
        seconds: per image, one value a round, by row.
        shares: CPU share of other processes, by row, where it is known.
    """

    seconds: dict[str, list[float]]
    shares: dict[str, float]


def measure(args: argparse.Namespace, device: str) -> Timings:
    """Time every row once a round."""
    shares: dict[str, list[float]] = {}

    def time_workers(launcher: str) -> float:
        workers = measure_workers(launcher, args, device)
        name = f"in_batch, {args.workers} by {launcher}"
        shares.setdefault(name, []).append(share_of_others(workers))
        return max(worker.seconds for worker in workers)

    # A process allocates memory as its environment says at its start, so the plain one must start before ours changes.
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as plain:
        plain.submit(bare_step, args, device).result()
        os.environ.update(runtime.MEMORY)
        with ProcessPoolExecutor(1, spawn) as ours:
            benches: dict[str, Callable[[], float]] = {
                "bare step": lambda: ours.submit(bare_step, args, device).result(),
                "triplets": lambda: ours.submit(loop, "triplets", args, device).result(),
                "in_batch": lambda: ours.submit(loop, "in_batch", args, device).result(),
                f"in_batch, {args.workers} by torch": lambda: time_workers("torch"),
                f"in_batch, {args.workers} by {BY_RAY}": lambda: time_workers(BY_RAY),
                "bare step, default allocator settings": lambda: plain.submit(bare_step, args, device).result(),
            }
            benches = {name: bench for name, bench in benches.items() if re.search(args.only, name)}
            if not benches:
                sys.exit(f"bench distill: no row's name matches --only {args.only}")
            seconds = _run_rounds(benches, args.rounds)
    return Timings(seconds, {name: statistics.median(values) for name, values in shares.items()})


def _run_rounds(benches: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    next(iter(benches.values()))()  # a process is slower until its memory is warm
    seconds: dict[str, list[float]] = {name: [] for name in benches}
    for _ in range(rounds):
        for name, bench in benches.items():
            seconds[name].append(bench())
    return seconds


def make_rows(timings: Timings) -> list[dict[str, Any]]:
    """The table: rates, and ratios to the first row of the same round."""
    reference = next(iter(timings.seconds.values()))
    rows = []
    for name, values in timings.seconds.items():
        ratios = sorted(base / value for base, value in zip(reference, values, strict=True))
        others = ""
        if name in timings.shares:
            others = f"{timings.shares[name]:.1%}"
        row = {
            "distill": name,
            "images/s": round(1 / statistics.median(values), 1),
            "ratio": round(statistics.median(ratios), 3),
            "rounds": f"{ratios[0]:.3f} to {ratios[-1]:.3f}",
            "CPU of others": others,
        }
        rows.append(row)
    return rows


def main(arguments: list[str]) -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(prog="bench distill")
    parser.add_argument("--model", default="random:test_convnext")
    for name, value in {"size": 64, "batch": 64, "steps": 40, "rounds": 3, "workers": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only", default="", help="keep rows whose name matches this regular expression")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = make_rows(measure(args, device))
    print(f"{args.model}, {args.size} px, batch {args.batch}, {device}, {torch.get_num_threads()} threads")
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
