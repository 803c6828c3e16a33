"""`bench embed`: ours against a plain torch loop with a DataLoader, the bare forward and the bare decode, in one run.

    python jobs/bench.py embed --images DIR [--model pip:efficientnet-lite0] [--size 224] [--rounds 5]
        [--set decode=fast readers=1 ...] [--json FILE]

All read the same full-size JPEGs (the folder's, enlarged to 500 x 375 first: about 110 kB each, as ImageNet's are)
and use the same model and preprocessing on all cores; `--set` gives ours other settings of `embed`. A model that costs
next to nothing (`random:test_vit` at 64 px) shows what opening images and Ray would leave of a GPU's rate. Rates are
images/s in steady state, the median of `rounds`; start-up is apart: ours counts from the second finished unit on, when
both actors are at work. Ratios are to the plain loop of the same round. Ray gives its workers a higher niceness than
the plain loop has: measure on an otherwise idle machine. Where there is a GPU, all but the bare decode use it. "memory
as ours": in a process whose memory is handed out as our workers' is (runtime.MEMORY).

Tried without gain: resizing by torch's own antialiased kernels (not Pillow's pixels: cosines fall to .9995 where one
pixel in seven is off by one level), one float32 product per pass instead of two exact ones (the same trouble at
simple ratios of sizes), and resizing by matrices without a GPU (a quarter of the rate of Pillow's).
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

import torch
import yaml

from alignet_ray import runtime
from alignet_ray.config import Config
from alignet_ray.images import jpeg
from alignet_ray.images.listing import decode, list_images, read_bytes
from alignet_ray.images.transfer import see
from alignet_ray.images.transform import View
from alignet_ray.models.backbone import Backbone, load_backbone
from alignet_ray.models.features import Encoder
from alignet_ray.screen import Screen, table
from alignet_ray.stages import Node, Work, embed
from alignet_ray.store import Store
from alignet_ray.tracking import Tracker


def enlarge(source: str, target: Path, count: int) -> None:
    """Write `count` JPEGs of 500 x 375, quality 92, cycling through the folder's images."""
    paths = list_images(source)["path"].to_pylist()
    for i in range(count):
        file = target / f"c{i % 10}" / f"{i:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        decode(read_bytes(source, paths[i % len(paths)])).resize((500, 375)).save(file, quality=92)


class Files(torch.utils.data.Dataset[torch.Tensor]):
    """The plain way: a list of files, opened one by one."""

    def __init__(self, folder: str, backbone: Backbone) -> None:
        self.folder, self.preprocess = folder, backbone.preprocess
        self.paths = list_images(folder)["path"].to_pylist()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.preprocess(decode(read_bytes(self.folder, self.paths[i])))


class Sent(torch.utils.data.Dataset[int]):
    """What a reader of ours does to a file, but for the sending."""

    def __init__(self, files: Files, view: View, whole: bool) -> None:
        self.files, self.view, self.whole = files, view, whole

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> int:
        picture = jpeg.decode(read_bytes(self.files.folder, self.files.paths[i]))
        return sum(pixels.size for _, pixels in see(picture, [self.view], self.whole))


def loader_loop(files: Files, backbone: Backbone, batch: int, workers: int) -> float:
    """A plain torch loop; images/s from its first batch to its last."""
    weight = next(backbone.parameters())
    loader = torch.utils.data.DataLoader(files, batch, num_workers=workers, pin_memory=weight.is_cuda)
    start = 0.0
    with torch.inference_mode():
        for i, x in enumerate(loader):
            if i == 1:
                start = time.perf_counter()
            backbone(x.to(weight.device, weight.dtype, non_blocking=True)).cpu()
    return (len(files) - batch) / (time.perf_counter() - start)


def forward(backbone: Callable[[torch.Tensor], torch.Tensor], like: torch.Tensor, count: int) -> float:
    """The bare forward pass, on all cores or the GPU."""
    with torch.inference_mode():
        backbone(like).cpu()
        start = time.perf_counter()
        for _ in range(count // len(like)):
            last = backbone(like)
        last.cpu()  # a GPU has finished when its last result is there
    return count // len(like) * len(like) / (time.perf_counter() - start)


def forward_apart(model: str, size: int, batch: int, count: int) -> float:
    """The bare forward pass on all cores, for a process of its own."""
    backbone = load_backbone(model, size)
    return forward(backbone, torch.rand(batch, 3, backbone.size, backbone.size), count)


def decoding(files: torch.utils.data.Dataset[Any], workers: int) -> float:
    """Reading and what follows alone, in as many processes as there are cores."""
    loader = torch.utils.data.DataLoader(files, 32, num_workers=workers)
    start, seen = 0.0, 0
    for i, x in enumerate(loader):
        if i == 0:
            start = time.perf_counter()
        else:
            seen += len(x)
    return seen / (time.perf_counter() - start)


class Watch(Screen):
    """A screen that only notes when images were finished."""

    def __init__(self) -> None:
        super().__init__(open(os.devnull, "w"))  # noqa: SIM115
        self.seen: list[tuple[float, int]] = []

    def progress(self, total: int, unit: str, done: int = 0) -> Any:
        """A progress line that nobody sees."""
        bar, seen = super().progress(total, unit, done), self.seen
        add = bar.add

        def noted(n: int = 1, note: str = "") -> None:
            seen.append((time.perf_counter(), n))
            add(n, note)

        bar.add = noted  # type: ignore[method-assign]
        return bar


def ours(folder: str, model: str, size: int, root: str, round: int, settings: list[str]) -> tuple[float, float]:
    """The stage: images/s in steady state, and seconds until the first unit was finished."""
    more = {f"embed__{name}": yaml.safe_load(value) for name, _, value in (text.partition("=") for text in settings)}
    cfg = Config().replace(corpus__path=folder, embed__model=(model,), embed__size=size, **more)
    watch, draft = Watch(), Store.open(root).draft("embed", f"bench-{round}")
    start = time.perf_counter()
    embed.run(Work(cfg, Node("embed", "corpus"), {}, draft, Tracker(), watch, {}))
    first, last = watch.seen[1][0], watch.seen[-1][0]  # two actors finish their first units together
    return sum(n for _, n in watch.seen[2:]) / (last - first), watch.seen[0][0] - start


def measure(images: str, model: str, size: int, count: int, rounds: int, settings: list[str]) -> list[dict[str, Any]]:
    """The table."""
    cores, gpu = os.cpu_count() or 1, torch.cuda.is_available()
    batch, passes = embed.BATCH[gpu], 20 if gpu else count // 2 // embed.BATCH[gpu]
    rates: dict[str, list[float]] = {}
    starts: list[float] = []
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as apart:
        enlarge(images, Path(folder, "images"), count)
        backbone = load_backbone(model, size).to("cuda" if gpu else "cpu")
        if "compute=bfloat16" in settings:
            Encoder((backbone,)).narrow()
        files, weight = Files(f"{folder}/images", backbone), next(backbone.parameters())
        like = torch.rand(batch, 3, backbone.size, backbone.size).to(weight.device, weight.dtype)
        runs: dict[str, Callable[[], float]] = {
            f"plain loop, {cores} loading processes": lambda: loader_loop(files, backbone, batch, cores),
            "plain loop, no loading process": lambda: loader_loop(files, backbone, batch, 0),
            "bare forward": lambda: forward(backbone, like, passes * batch),
            "bare decode": lambda: decoding(files, cores),
            "our readers alone, resizing": lambda: decoding(Sent(files, backbone.view, False), cores),
            "our readers alone, for a GPU": lambda: decoding(Sent(files, backbone.view, True), cores),
        }
        if gpu:
            fixed = torch.compile(backbone, dynamic=False)
            runs["bare forward, compiled"] = lambda: forward(fixed, like, passes * batch)
        else:
            few = (model, size, batch, passes * batch)
            runs["bare forward, memory as ours"] = lambda: apart.submit(forward_apart, *few).result()
        runtime.start(Config())
        for round in range(rounds):
            rate, start = ours(files.folder, model, size, f"{folder}/store", round, settings)
            starts.append(start)
            for name, value in {"ours": rate, **{name: run() for name, run in runs.items()}}.items():
                rates.setdefault(name, []).append(value)
        runtime.stop()
    plain = rates[f"plain loop, {cores} loading processes"]
    rows = []
    for name, values in rates.items():
        ratio = statistics.median(value / base for value, base in zip(values, plain, strict=True))
        rows.append(
            {"what": name, "images/s": round_to(statistics.median(values)), "to the plain loop": round_to(ratio)}
        )
    return [
        *rows,
        {"what": "ours, start-up (s)", "images/s": round_to(statistics.median(starts)), "to the plain loop": None},
    ]


def round_to(value: float) -> float:
    """Three digits."""
    return float(f"{value:.3g}")


def main(args: list[str]) -> None:
    """Command line of `bench embed`."""
    parser = argparse.ArgumentParser(prog="bench embed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--model", default="pip:efficientnet-lite0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--count", type=int, default=1024, help="JPEGs that are read")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="settings of embed for ours")
    parser.add_argument("--json", help="file for the rows")
    given = parser.parse_args(args)
    rows = measure(given.images, given.model, given.size, given.count, given.rounds, given.set)
    print(table(rows))
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1))
