"""`bench distill`: the training loop against a bare torch step of the same network, in one run.

    python jobs/bench.py distill [--model NAME] [--size 64] [--batch 64] [--steps 20] [--rounds 3] [--json FILE]

Generated pixels, one process, all cores (or the GPU). Rates are images/s, the median of `rounds`; ratios are to the
bare step of the same round: forward, a sum of squares, backward, Adam, on one batch that lies ready.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignet_ray.data.batches import InBatch, LabelledBatches
from alignet_ray.models.student import make_student
from alignet_ray.models.training import Recipe, Training
from alignet_ray.screen import table

IMAGES = 2048


def bare(model: str, pixels: torch.Tensor, batch: int, steps: int, device: str, compiled: bool) -> float:
    """Seconds of a step that trains nothing sensible: what the hardware allows."""
    training = Training(make_student(model, pixels.shape[-1], 1024, 0), Recipe(steps, 1e-4), device, compiled)
    net, x = training.parallel(), training.prepare(pixels[:batch])
    training.set_mode()
    start = 0.0
    for step in range(steps + 2):
        if step == 2:
            start = now(device)
        training.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(sum(z.square().mean() for z in net(x) if z is not None))
        training.optimizer.step()
    return (now(device) - start) / steps


def loop(model: str, pixels: torch.Tensor, batches: Any, steps: int, device: str, compiled: bool) -> float:
    """Seconds of a step of the loop, batches, loss and pull to the initial weights included."""
    student = make_student(model, pixels.shape[-1], 1024, 0)
    training = Training(student, Recipe(steps + 2, 1e-4, features=1.0), device, compiled)
    stamps: list[float] = []
    training.run(batches, lambda ids: pixels[torch.from_numpy(ids)], lambda *_: stamps.append(now(device)))
    return (stamps[-1] - stamps[1]) / steps


def now(device: str) -> float:
    """The clock, when the device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main(arguments: list[str]) -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(prog="bench distill")
    parser.add_argument("--model", default="random:test_convnext")
    for name, value in {"size": 64, "batch": 64, "steps": 20, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (IMAGES, args.size, args.size, 3), np.uint8)).permute(0, 3, 1, 2)
    ids, teacher = np.arange(IMAGES), rng.normal(size=(IMAGES, 64)).astype(np.float16)
    thirds = args.batch // 3
    labels = (rng.integers(0, IMAGES, (10_000, 3)), rng.normal(size=(10_000, 3)).astype(np.float32))
    ways = {
        "in_batch": (InBatch(ids, teacher, ids, args.batch, seed=0), args.batch),
        "triplets": (LabelledBatches(*labels, thirds, seed=0), 3 * thirds),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ("bare step", *ways)}
    for _ in range(args.rounds):
        seconds["bare step"].append(bare(args.model, pixels, args.batch, args.steps, device, args.compile) / args.batch)
        for name, (batches, images) in ways.items():
            seconds[name].append(loop(args.model, pixels, batches, args.steps, device, args.compile) / images)
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
