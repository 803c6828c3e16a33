"""`bench embed`: the stage `embed` against a plain torch loop, the bare forward pass and bare decoding, in one run.

    python jobs/bench.py embed --images DIR [--model pip:efficientnet-lite0] [--size 224] [--rounds 5]
        [--set decode=fast readers=1 ...] [--json FILE]

All read the same JPEGs (the folder's images, resized to 500 x 375: about 110 kB each, as in ImageNet) and use the same
model and preprocessing on all cores. `--set` changes settings of `embed` for our run. A model that costs next to
nothing (`random:test_vit` at 64 px) shows what reading images and Ray would leave of a GPU's rate.

Rates are images/s in steady state, medians over the rounds; the start-up time is reported separately. Ratios refer to
the plain loop of the same round. Ray lowers the priority of its workers (niceness), the plain loop does not: measure on
an otherwise idle machine. With a GPU, all but bare decoding use it. "our memory settings" means a process with the
memory allocator settings of our workers (runtime.MEMORY).
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
from alignet_ray.images.decode import decode
from alignet_ray.images.listing import list_images, read_bytes
from alignet_ray.images.transfer import prepare
from alignet_ray.images.transform import PixelTransform
from alignet_ray.models.backbone import Backbone, load_backbone
from alignet_ray.models.features import Encoder
from alignet_ray.screen import Screen, table
from alignet_ray.stages import Node, Work, embed
from alignet_ray.store import Store
from alignet_ray.tracking import Tracker


def write_large_jpegs(source: str, target: Path, count: int) -> None:
    """Write `count` JPEGs of 500 x 375, quality 92, cycling through the folder's images."""
    paths = list_images(source)["path"].to_pylist()
    for i in range(count):
        file = target / f"c{i % 10}" / f"{i:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = decode(read_bytes(source, paths[i % len(paths)]))
        image.resize((500, 375)).save(file, quality=92)


class ImageFiles(torch.utils.data.Dataset[torch.Tensor]):
    """The plain way: a list of files, opened one by one."""

    def __init__(self, folder: str, backbone: Backbone) -> None:
        self.folder = folder
        self.preprocess = backbone.preprocess
        self.paths = list_images(folder)["path"].to_pylist()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.preprocess(decode(read_bytes(self.folder, self.paths[i])))


class ReaderOutput(torch.utils.data.Dataset[int]):
    """What one of our readers does with a file, without sending the result."""

    def __init__(self, files: ImageFiles, view: PixelTransform, whole: bool) -> None:
        self.files = files
        self.view = view
        self.whole = whole

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> int:
        picture = jpeg.decode(read_bytes(self.files.folder, self.files.paths[i]))
        return sum(pixels.size for _, pixels in prepare(picture, [self.view], self.whole))


def plain_loop_rate(files: ImageFiles, backbone: Backbone, batch_size: int, workers: int) -> float:
    """Images/s of a plain torch loop with a DataLoader, from its first batch to its last."""
    weight = next(backbone.parameters())
    loader = torch.utils.data.DataLoader(files, batch_size, num_workers=workers, pin_memory=weight.is_cuda)
    start = 0.0
    with torch.inference_mode():
        for i, images in enumerate(loader):
            if i == 1:
                start = time.perf_counter()
            backbone(images.to(weight.device, weight.dtype, non_blocking=True)).cpu()
    return (len(files) - batch_size) / (time.perf_counter() - start)


def forward_rate(backbone: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, count: int) -> float:
    """Images/s of the bare forward pass, on all cores or the GPU."""
    passes = count // len(images)
    with torch.inference_mode():
        backbone(images).cpu()
        start = time.perf_counter()
        for _ in range(passes):
            output = backbone(images)
        output.cpu()  # waits until the GPU has finished
    return passes * len(images) / (time.perf_counter() - start)


def forward_rate_in_process(model: str, size: int, batch_size: int, count: int) -> float:
    """`forward_rate` on all cores, for a process of its own."""
    backbone = load_backbone(model, size)
    images = torch.rand(batch_size, 3, backbone.size, backbone.size)
    return forward_rate(backbone, images, count)


def loading_rate(files: torch.utils.data.Dataset[Any], workers: int) -> float:
    """Items/s of a data set alone, in as many processes as there are cores."""
    loader = torch.utils.data.DataLoader(files, 32, num_workers=workers)
    start = 0.0
    loaded = 0
    for i, batch in enumerate(loader):
        if i == 0:
            start = time.perf_counter()
        else:
            loaded += len(batch)
    return loaded / (time.perf_counter() - start)


class TimingScreen(Screen):
    """A screen that prints nothing and records when images were finished, and how many."""

    def __init__(self) -> None:
        super().__init__(open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        self.finished: list[tuple[float, int]] = []

    def progress(self, total: int, unit: str, done: int = 0, told_if_short: bool = True) -> Any:
        """A progress line whose updates are recorded."""
        bar = super().progress(total, unit, done)
        finished = self.finished
        add = bar.add

        def recorded(n: int = 1, note: str = "") -> None:
            finished.append((time.perf_counter(), n))
            add(n, note)

        bar.add = recorded  # type: ignore[method-assign]
        return bar


def stage_rate(
    folder: str, model: str, size: int, root: str, number: int, settings: dict[str, Any]
) -> tuple[float, float]:
    """Images/s of the stage in steady state, and seconds until the first unit was finished."""
    cfg = Config().replace(corpus__path=folder, embed__model=(model,), embed__size=size, **settings)
    screen = TimingScreen()
    draft = Store.open(root).draft("embed", f"bench-{number}")
    start = time.perf_counter()
    embed.run(Work(cfg, Node("embed", "corpus"), {}, draft, Tracker(), screen))

    # Two actors finish their first units together, so the steady state begins with the second one.
    first_unit = screen.finished[0][0]
    steady = screen.finished[1][0]
    end = screen.finished[-1][0]
    images = sum(count for _, count in screen.finished[2:])
    return images / (end - steady), first_unit - start


def measure(
    images: str, model: str, size: int, count: int, rounds: int, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """The table: one row per way, with its rate and its ratio to the plain loop."""
    cores = os.cpu_count() or 1
    rates: dict[str, list[float]] = {}
    starts: list[float] = []
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        write_large_jpegs(images, Path(folder, "images"), count)
        ways = other_ways(f"{folder}/images", model, size, count, settings, pool)
        runtime.start(Config())
        for number in range(rounds):
            rate, start = stage_rate(f"{folder}/images", model, size, f"{folder}/store", number, settings)
            starts.append(start)
            rates.setdefault("ours", []).append(rate)
            for name, way in ways.items():
                rates.setdefault(name, []).append(way())
        runtime.stop()

    plain = rates[f"plain loop, {cores} loading processes"]
    rows = []
    for name, values in rates.items():
        ratio = statistics.median(value / reference for value, reference in zip(values, plain, strict=True))
        rate = statistics.median(values)
        rows.append({"what": name, "images/s": three_digits(rate), "to the plain loop": three_digits(ratio)})
    start_up = three_digits(statistics.median(starts))
    return [*rows, {"what": "ours, start-up (s)", "images/s": start_up, "to the plain loop": None}]


def other_ways(
    folder: str, model: str, size: int, count: int, settings: dict[str, Any], pool: ProcessPoolExecutor
) -> dict[str, Callable[[], float]]:
    """What our stage is compared with: name -> a call that returns its rate."""
    cores = os.cpu_count() or 1
    gpu = torch.cuda.is_available()
    backbone = load_backbone(model, size).to("cuda" if gpu else "cpu")
    if settings.get("embed__compute") == "bfloat16":
        Encoder((backbone,)).to_bfloat16()
    files = ImageFiles(folder, backbone)
    weight = next(backbone.parameters())
    batch_size = embed.GPU_BATCH if gpu else embed.CPU_BATCH
    batch = torch.rand(batch_size, 3, backbone.size, backbone.size).to(weight.device, weight.dtype)
    forwarded = 20 * batch_size if gpu else count // 2

    ways: dict[str, Callable[[], float]] = {
        f"plain loop, {cores} loading processes": lambda: plain_loop_rate(files, backbone, batch_size, cores),
        "plain loop, no loading process": lambda: plain_loop_rate(files, backbone, batch_size, 0),
        "bare forward": lambda: forward_rate(backbone, batch, forwarded),
        "bare decode": lambda: loading_rate(files, cores),
        "our readers alone, resizing": lambda: loading_rate(
            ReaderOutput(files, backbone.pixel_transform, False), cores
        ),
        "our readers alone, for a GPU": lambda: loading_rate(
            ReaderOutput(files, backbone.pixel_transform, True), cores
        ),
    }
    if gpu:
        compiled = torch.compile(backbone, dynamic=False)
        ways["bare forward, compiled"] = lambda: forward_rate(compiled, batch, forwarded)
    else:
        arguments = (model, size, batch_size, forwarded)
        ways["bare forward, our memory settings"] = lambda: pool.submit(forward_rate_in_process, *arguments).result()
    return ways


def three_digits(value: float) -> float:
    """Rounded to three significant digits."""
    return float(f"{value:.3g}")


def read_settings(texts: list[str]) -> dict[str, Any]:
    """Fields of `embed` from FIELD=VALUE texts, as `Config.replace` takes them."""
    settings = {}
    for text in texts:
        name, _, value = text.partition("=")
        settings[f"embed__{name}"] = yaml.safe_load(value)
    return settings


def main(args: list[str]) -> None:
    """Command line of `bench embed`."""
    parser = argparse.ArgumentParser(prog="bench embed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--model", default="pip:efficientnet-lite0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--count", type=int, default=1024, help="number of JPEGs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="settings of embed for our run")
    parser.add_argument("--json", help="also write the rows to this file")
    given = parser.parse_args(args)

    settings = read_settings(given.set)
    rows = measure(given.images, given.model, given.size, given.count, given.rounds, settings)
    print(table(rows))
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1), encoding="utf-8")
