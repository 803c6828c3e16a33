"""`bench distill`: the training loop against a bare torch step of the same network, in one run.

    python jobs/bench.py distill [--model NAME] [--size 64] [--batch 64] [--steps 40] [--rounds 3] [--compile]
        [--only REGEX] [--json FILE]

Generated pixels, one process, all cores (or the GPU). Rates are images/s, the median of `rounds`; ratios are to the
bare step of the same round: forward, a sum of squares, backward, Adam, on one batch that lies ready. With --only, rows
whose name it matches alone, and the ratios are to the first of them. All but the last row have their memory handed
out as our workers have it (runtime.MEMORY).

"by torch" and "by Ray Train" are the in-batch loop in `workers` processes that share the cores (a GPU each), which
torch's own launcher or Ray Train starts, as `distill` does; what the second loses against the first is lost to Ray. Ray
runs in its row alone, and is reported to as often as by `distill`: reports that follow each other in less than half a
second would wait for its controller. Ray's own processes (six, with a Train run) each take a hundredth of a core and
wake up a hundred times a second to look for signals, which no setting changes. In one process with both of two cores,
whose threads wait for each other all the time, that costs 12 %. A machine's rate may wander more than that, its CPU
time does not: "CPU of others" is the share of all cores that went to other processes than the members. Take 30 steps
and more for it: Ray's idle workers go after 20 seconds only.
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
from alignet_ray.models.student import make_student
from alignet_ray.screen import table
from alignet_ray.training.batches import InBatch, LabelledBatches
from alignet_ray.training.loop import Recipe, Training

IMAGES = 2048


def bare(args: argparse.Namespace, device: str) -> float:
    """Seconds an image of a step that trains nothing sensible: what the hardware allows."""
    student = make_student(args.model, args.size, 1024, 0)
    training = Training(student, Recipe(args.steps, 1e-4), device, args.compile)
    net, x = training.parallel(), training.prepare(material(args.size, args.batch)[0][: args.batch])
    training.set_mode()
    start = 0.0
    for step in range(args.steps + 2):
        if step == 2:
            start = now(device)
        training.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(sum(z.square().mean() for z in net(x) if z is not None))
        training.optimizer.step()
    return (now(device) - start) / args.steps / args.batch


def material(size: int, batch: int) -> tuple[torch.Tensor, dict[str, tuple[Any, int]]]:
    """Pixels, and what each mode makes batches of, with its images a step."""
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (IMAGES, size, size, 3), np.uint8)).permute(0, 3, 1, 2)
    ids, teacher = np.arange(IMAGES), rng.normal(size=(IMAGES, 64)).astype(np.float16)
    labels = (rng.integers(0, IMAGES, (10_000, 3)), rng.normal(size=(10_000, 3)).astype(np.float32))
    thirds = batch // 3
    return pixels, {
        "in_batch": (InBatch(ids, teacher, ids, batch, seed=0), batch),
        "triplets": (LabelledBatches(*labels, thirds, seed=0), 3 * thirds),
    }


def loop(
    mode: str, args: argparse.Namespace, device: str, report: Callable[[dict[str, Any]], None] = lambda _: None
) -> float:
    """Seconds an image of the loop, batches, loss and pull to the initial weights included."""
    pixels, ways = material(args.size, args.batch)
    batches, images = ways[mode]
    student = make_student(args.model, args.size, 1024, 0)
    training = Training(student, Recipe(args.steps + 2, 1e-4, embedding_loss_weight=1.0), device, args.compile)
    stamps: list[float] = []

    def after(training: Training, figures: dict[str, float]) -> None:
        if training.step % Config().distill.log_every == 0:
            report(figures)
        stamps.append(now(device))

    training.run(batches, lambda ids: pixels[torch.from_numpy(ids)], after)
    return (stamps[-1] - stamps[1]) / float(args.steps * images)


class Member(NamedTuple):
    """What one of several processes measured.

    Attributes:
        seconds: an image, of its own batches.
        own: CPU seconds of this process.
        busy: CPU seconds of all the machine's processes meanwhile.
        cores: CPU seconds that the machine's cores had to give meanwhile.
    """

    seconds: float
    own: float
    busy: float
    cores: float


def member(args: argparse.Namespace, device: str, threads: int) -> Member:
    """The in-batch loop in one of several new processes, of which each has so many threads."""
    torch.set_num_threads(threads)
    few = argparse.Namespace(**{**vars(args), "steps": min(6, args.steps)})
    loop("in_batch", few, device)  # a new process is slower until its memory is warm
    start, own, busy = time.perf_counter(), time.process_time(), machine()
    seconds = loop("in_batch", args, device, lambda figures: ray.train.report(figures) if args.ray else None)
    cores = (time.perf_counter() - start) * (os.cpu_count() or 1)
    return Member(seconds, time.process_time() - own, machine() - busy, cores)


def machine() -> float:
    """CPU seconds that all processes have had."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def by_torch(rank: int, args: argparse.Namespace, device: str, threads: int, folder: str) -> Member:
    """One of the processes that a user of torch would start."""
    options: dict[str, Any] = {"rank": rank, "world_size": args.workers, "init_method": f"file://{folder}/meeting"}
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", **options)
    measured = member(args, device, threads)
    dist.destroy_process_group()
    return measured


def by_ray(config: dict[str, Any]) -> None:
    """One of the processes that Ray Train starts: what it measured goes to a file."""
    measured = member(config["args"], config["device"], config["threads"])
    Path(config["folder"], f"{ray.train.get_context().get_world_rank()}.json").write_text(json.dumps(measured))


def several(args: argparse.Namespace, device: str, through_ray: bool) -> list[Member]:
    """The in-batch loop in several new processes: torch's own, or Ray Train's, of a Ray that is there for them
    alone."""
    args, threads = argparse.Namespace(**vars(args), ray=through_ray), max(1, torch.get_num_threads() // args.workers)
    with tempfile.TemporaryDirectory() as folder:
        if not through_ray:
            with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
                few = [pool.submit(by_torch, rank, args, device, threads, folder) for rank in range(args.workers)]
                return [f.result() for f in few]
        runtime.start(Config())
        TorchTrainer(
            by_ray,
            train_loop_config={"args": args, "device": device, "threads": threads, "folder": folder},
            scaling_config=ScalingConfig(num_workers=args.workers, use_gpu=device == "cuda"),
            run_config=RunConfig(storage_path=folder),
        ).fit()
        runtime.stop()
        return [Member(*json.loads(file.read_text())) for file in Path(folder).glob("*.json")]


def elsewhere(members: list[Member]) -> float:
    """Share of the machine's CPU time that processes other than the members took: at least what Ray itself takes."""
    return statistics.mean((m.busy - sum(other.own for other in members)) / m.cores for m in members)


def now(device: str) -> float:
    """The clock, when the device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(args: argparse.Namespace, device: str) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds an image by row, one of each round, and the share of CPU time that went to others where it is known."""
    by = [f"in_batch, {args.workers} by {name}" for name in ("torch", "Ray Train")]
    shares: dict[str, list[float]] = {name: [] for name in by}

    def together(name: str) -> float:
        members = several(args, device, name.endswith("Ray Train"))
        shares[name].append(elsewhere(members))
        return max(m.seconds for m in members)

    spawn = get_context("spawn")  # a process has its memory handed out as its environment said when it began
    with ProcessPoolExecutor(1, spawn) as plain:
        plain.submit(bare, args, device).result()  # it begins before the environment is ours
        os.environ.update(runtime.MEMORY)
        with ProcessPoolExecutor(1, spawn) as ours:
            runs: dict[str, Callable[[], float]] = {
                "bare step": lambda: ours.submit(bare, args, device).result(),
                "triplets": lambda: ours.submit(loop, "triplets", args, device).result(),
                "in_batch": lambda: ours.submit(loop, "in_batch", args, device).result(),
                by[0]: lambda: together(by[0]),
                by[1]: lambda: together(by[1]),
                "bare step, memory as it comes": lambda: plain.submit(bare, args, device).result(),
            }
            runs = {name: run for name, run in runs.items() if re.search(args.only, name)}
            if not runs:
                sys.exit(f"bench distill: no row's name matches --only {args.only}")
            next(iter(runs.values()))()  # a process is slower until its memory is warm
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(args.rounds):
                for name, run in runs.items():
                    seconds[name].append(run())
    return seconds, {name: statistics.median(share) for name, share in shares.items() if share}


def rows(seconds: dict[str, list[float]], shares: dict[str, float]) -> list[dict[str, Any]]:
    """The table: rates, and ratios to the first row of the same round."""
    first, lines = next(iter(seconds.values())), []
    for name, values in seconds.items():
        ratios = sorted(b / v for b, v in zip(first, values, strict=True))
        lines.append(
            {
                "distill": name,
                "images/s": round(1 / statistics.median(values), 1),
                "ratio": round(statistics.median(ratios), 3),
                "rounds": f"{ratios[0]:.3f} to {ratios[-1]:.3f}",
                "CPU of others": f"{shares[name]:.1%}" if name in shares else "",
            }
        )
    return lines


def main(arguments: list[str]) -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(prog="bench distill")
    parser.add_argument("--model", default="random:test_convnext")
    for name, value in {"size": 64, "batch": 64, "steps": 40, "rounds": 3, "workers": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only", default="", help="rows whose name this regular expression is found in")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lines = rows(*timed(args, device))
    print(f"{args.model}, {args.size} px, batch {args.batch}, {device}, {torch.get_num_threads()} threads")
    print(table(lines))
    if args.json:
        args.json.write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
