"""`bench distill`: the training loop against a bare torch step of the same network, in one run.

    python jobs/bench.py distill [--model NAME] [--size 64] [--batch 64] [--steps 40] [--rounds 3] [--compile]
        [--json FILE]

Generated pixels, one process, all cores (or the GPU). Rates are images/s, the median of `rounds`; ratios are to the
bare step of the same round: forward, a sum of squares, backward, Adam, on one batch that lies ready. All but the last
row have their memory handed out as our workers have it (runtime.MEMORY). "by Ray Train" is the in-batch loop in a
process of Ray Train that reports as often as `distill` does; reports that follow each other in less than half a second
would wait for Ray's controller. Ray runs in this row alone: each of its own processes takes a hundredth of a core,
whatever runs. A machine's rate may wander more than what is to be seen here: take many short rounds.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from alignet_ray import runtime
from alignet_ray.config import Config
from alignet_ray.data.batches import InBatch, LabelledBatches
from alignet_ray.models.student import make_student
from alignet_ray.models.training import Recipe, Training
from alignet_ray.screen import table

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
    training = Training(student, Recipe(args.steps + 2, 1e-4, features=1.0), device, args.compile)
    stamps: list[float] = []

    def after(training: Training, figures: dict[str, float]) -> None:
        if training.step % Config().distill.log_every == 0:
            report(figures)
        stamps.append(now(device))

    training.run(batches, lambda ids: pixels[torch.from_numpy(ids)], after)
    return (stamps[-1] - stamps[1]) / float(args.steps * images)


def in_ray(config: dict[str, Any]) -> None:
    """One process of Ray Train: the in-batch loop, whose seconds go to a file."""
    torch.set_num_threads(config["threads"])
    for _ in range(2):  # a new process is slower until its memory is warm, with Ray or without: the second counts
        seconds = loop("in_batch", config["args"], config["device"], lambda figures: ray.train.report(figures))
    Path(config["file"]).write_text(str(seconds))


def through_ray(args: argparse.Namespace, device: str) -> float:
    """Seconds an image of the in-batch loop in a process of Ray Train, of a Ray that is there for it alone."""
    runtime.start(Config())
    with tempfile.TemporaryDirectory() as folder:
        file, threads = Path(folder, "seconds"), torch.get_num_threads()
        config = {"args": args, "device": device, "threads": threads, "file": str(file)}
        scaling = ScalingConfig(num_workers=1, use_gpu=device == "cuda")
        TorchTrainer(
            in_ray, train_loop_config=config, scaling_config=scaling, run_config=RunConfig(storage_path=folder)
        ).fit()
        seconds = float(file.read_text())
    runtime.stop()
    return seconds


def now(device: str) -> float:
    """The clock, when the device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main(arguments: list[str]) -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(prog="bench distill")
    parser.add_argument("--model", default="random:test_convnext")
    for name, value in {"size": 64, "batch": 64, "steps": 40, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    spawn = get_context("spawn")  # a process has its memory handed out as its environment said when it began
    with ProcessPoolExecutor(1, spawn) as plain:
        plain.submit(bare, args, device).result()  # it begins before the environment is ours
        os.environ.update(runtime.MEMORY)
        with ProcessPoolExecutor(1, spawn) as ours:
            runs: dict[str, Callable[[], float]] = {
                "bare step": lambda: ours.submit(bare, args, device).result(),
                "triplets": lambda: ours.submit(loop, "triplets", args, device).result(),
                "in_batch": lambda: ours.submit(loop, "in_batch", args, device).result(),
                "in_batch, by Ray Train": lambda: through_ray(args, device),
                "bare step, memory as it comes": lambda: plain.submit(bare, args, device).result(),
            }
            runs["bare step"]()  # a process is slower until its memory is warm
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(args.rounds):
                for name, run in runs.items():
                    seconds[name].append(run())
    rows = [
        {
            "distill": name,
            "images/s": round(1 / statistics.median(values)),
            "ratio": round(statistics.median(b / v for b, v in zip(seconds["bare step"], values, strict=True)), 3),
        }
        for name, values in seconds.items()
    ]
    print(f"{args.model}, {args.size} px, batch {args.batch}, {device}, {torch.get_num_threads()} threads")
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
