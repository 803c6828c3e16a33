"""Ours against plain loops and against what the hardware allows, side by side in one run.

    python jobs/bench.py NAME ... [--sizes small|medium|paper] [--json FILE]
    python jobs/bench.py embed --images DIR [--model NAME] [--size SIDE] [--json FILE]      (bench_embed.py)
    python jobs/bench.py distill [--model NAME] [--size SIDE] [--batch N] [--json FILE]             (bench_distill.py)

A bench is a generator of rows in BENCHES; the first row of each is what the ratios refer to. Timings are medians, of
this machine and at this moment: only the ratios travel.
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from alignet_ray.config import Align, Soften
from alignet_ray.core import alignment, kmeans, labelling, losses, sampling, triplet_set, triplets, vice
from alignet_ray.human import triplets as human_triplets
from alignet_ray.images.cache import Decoder, Pack, Packed
from alignet_ray.images.listing import decode
from alignet_ray.images.transform import View
from alignet_ray.models.backbone import preprocessing
from alignet_ray.screen import table


@dataclass(frozen=True)
class Size:
    """How much work: images, width of the features, clusters, triplets."""

    images: int
    width: int
    k: int
    triplets: int


SIZES = {
    "small": Size(20_000, 256, 50, 200_000),
    "medium": Size(200_000, 1152, 500, 1_000_000),
    "paper": Size(1_281_167, 1152, 500, 10_000_000),
}


@dataclass(frozen=True)
class Row:
    """One line of the table: what was done, how many units of work, in how many seconds."""

    what: str
    units: float
    seconds: float
    note: str = ""


def timed(work: Callable[[], Any], repeats: int = 3) -> float:
    """Median seconds of a call, after one that warms up."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def features(size: Size, folder: Path) -> np.ndarray:
    """A float16 matrix on disk, mapped read only: 64 shuffled copies of a clustered block."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(size.k, size.width))
    block = centres[rng.integers(0, size.k, 16_384)] + rng.normal(size=(16_384, size.width))
    block = block.astype(np.float16)
    path = folder / "x.npy"
    x = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(size.images, size.width))
    for start in range(0, size.images, len(block)):
        x[start : start + len(block)] = block[rng.permutation(len(block))][: size.images - start]
    x.flush()
    return np.asanyarray(np.load(path, mmap_mode="r"))


def cluster(size: Size, folder: Path) -> Iterator[Row]:
    """A Lloyd pass against one matrix product of the same size, and whole fits against scikit-learn's.

    Tried without gain beside 1.28 products a pass: blocks of 512 to 2,048 rows, row norms kept from pass to pass, the
    offset of the scores as one more column of the product (1.5), sums by scatter_add or in two threads.
    """
    x = torch.from_numpy(np.array(features(size, folder)[: min(size.images, 200_000)]))
    n, k = len(x), size.k
    start = kmeans.seed_centroids(x[:: max(1, n // 20_000)].float().numpy(), k, 0)
    c, wide = torch.from_numpy(start), x[: kmeans.BLOCK].float()

    def product() -> None:
        for _ in range(0, n, kmeans.BLOCK):
            torch.mm(wide, c.T)

    yield Row("bare matrix product, float32", n, timed(product), "rows x centroids, in blocks")
    yield Row("our Lloyd pass, float16 rows", n, timed(lambda: kmeans.step(x, c)), "assign, add up")
    yield from fits(x, start)


def fits(x: torch.Tensor, start: np.ndarray, passes: int = 10) -> Iterator[Row]:
    """Ten passes from the same centroids, and scikit-learn's mini-batches."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    n, k = len(x), len(start)
    begin = time.perf_counter()
    ours = kmeans.fit(x, start, passes, 0.0)
    seconds, note = time.perf_counter() - begin, f"{ours.passes} passes and the silhouette, inertia {ours.inertia:.6g}"
    yield Row("our fit", n * ours.passes, seconds, note)
    wide = x.float().numpy()
    for name, model in (
        ("KMeans", KMeans(k, init=start, n_init=1, max_iter=passes, tol=0)),
        ("MiniBatchKMeans", MiniBatchKMeans(k, init=start, n_init=1, batch_size=4096, max_iter=passes)),
    ):
        begin = time.perf_counter()
        model.fit(wide)
        seconds = time.perf_counter() - begin
        yield Row(
            f"scikit-learn {name}",
            n * model.n_iter_,
            seconds,
            f"{model.n_iter_} passes, inertia {-model.score(wide):.6g}",
        )


def label(size: Size, folder: Path) -> Iterator[Row]:
    """Ten million triplets: drawing, labelling, and simpler ways to do it."""
    x = features(size, folder)
    clusters = np.random.default_rng(1).integers(0, size.k, size.images)
    groups = sampling.group_by(clusters)
    begin = time.perf_counter()
    drawn = sampling.sample("border", groups, size.triplets, 0)
    draw_seconds = time.perf_counter() - begin
    np.save(folder / "triplets.npy", drawn)
    few, some = drawn[:5_000], drawn[: min(200_000, size.triplets)]
    torch.set_num_threads(1)

    def loop() -> None:
        for a, b, c in few.tolist():
            z = np.asarray(x[[a, b, c]], dtype=np.float32)
            _ = z @ z.T

    yield Row("a loop over triplets", len(few), timed(loop, 1), "one core")
    yield Row("chunked torch gathers", len(some), timed(lambda: gathers(x, some), 1), "one core, 4096 a chunk")
    yield Row("random reads alone", len(some), timed(lambda: reads(x, some), 1), "one core, nothing computed")
    yield Row("ours", len(some), timed(lambda: labelling.similarities(x, some), 1), "one core")
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        parts = [(folder, p) for p in np.array_split(np.arange(len(drawn)), 4 * workers)]
        list(pool.map(label_part, [(folder, p[:100]) for _, p in parts]))
        begin = time.perf_counter()
        list(pool.map(label_part, parts))
        seconds = time.perf_counter() - begin
    yield Row("ours, all cores", len(drawn), seconds, f"{workers} processes")
    if torch.cuda.is_available():
        resident = torch.from_numpy(np.array(x)).cuda()

        def there() -> None:
            for part in np.array_split(drawn, max(1, len(drawn) // 500_000)):
                labelling.odd_last(part, labelling.resident_similarities(resident, part))

        yield Row("ours, one GPU", len(drawn), timed(there), "the matrix lies in its memory; sorting included")
    yield Row("drawing", len(drawn), draw_seconds, "one core")
    yield Row("drawing and labelling", len(drawn), seconds + draw_seconds, f"{workers} processes")


def gathers(x: np.ndarray, rows: np.ndarray) -> None:
    """What one writes first: gather, widen, multiply."""
    for start in range(0, len(rows), 4096):
        z = torch.from_numpy(x[rows[start : start + 4096]]).float()
        triplets.pair_similarities(z)


def reads(x: np.ndarray, rows: np.ndarray) -> None:
    """Copies of the rows into a small buffer: the floor for any way that reads them in this order."""
    buffer = np.empty((3 * labelling.GATHER, x.shape[1]), dtype=x.dtype)
    for start in range(0, len(rows) - labelling.GATHER, labelling.GATHER):
        np.take(x, rows[start : start + labelling.GATHER].reshape(-1), axis=0, out=buffer, mode="clip")


def label_part(job: tuple[Path, np.ndarray]) -> None:
    """Label some of the stored triplets in a process of its own."""
    folder, rows = job
    torch.set_num_threads(1)
    x = np.load(folder / "x.npy", mmap_mode="r")
    labelling.similarities(x, np.load(folder / "triplets.npy", mmap_mode="r")[rows])


def pixels(size: Size, folder: Path) -> Iterator[Row]:
    """Random batches for a training at 224 px: images decoded each time, or mapped from a file that was packed once."""
    rng, count, cores = np.random.default_rng(0), 256, os.cpu_count() or 1
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=95)
    view = View({"input_size": (3, 224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.875})
    ids, paths = np.arange(count), tuple(f"{i}.jpg" for i in range(count))
    decoder = Decoder(str(folder), ids, paths, view, cores)
    batch, careful = rng.permutation(count)[:128], preprocessing(view.data)

    def plain() -> None:
        torch.stack([careful(decode((folder / paths[i]).read_bytes())) for i in batch])

    yield Row("decoded each time, a plain loop", len(batch), timed(plain), "Pillow, timm's transform, one core")
    yield Row("ours, decoded each time", len(batch), timed(lambda: decoder(batch)), f"{cores} threads")
    pack = Pack.begin(folder / "pixels.u8", decoder)
    yield Row("ours, packing", count, timed(lambda: pack.write(0, count), 1), "once")
    pack.finish()
    packed = Packed(folder / "pixels.u8", ids, view.size)
    yield Row("ours, packed", len(batch), timed(lambda: packed(batch), 20), "8-bit rows of a memory map")


def read(size: Size, folder: Path) -> Iterator[Row]:
    """A text file of people's answers about 1,854 objects."""
    rows, path = answers(size), folder / "answers.txt"
    np.savetxt(path, rows, fmt="%d")
    yield Row("np.loadtxt", len(rows), timed(lambda: np.loadtxt(path, dtype=np.int64)), "nothing checked")
    ours = timed(lambda: human_triplets.read_triplets(str(path), OBJECTS, None, None, None, {}))
    yield Row("ours", len(rows), ours, "layout, base, range and repeats checked")


def answers(size: Size) -> np.ndarray:
    """Random triplets of distinct objects."""
    rng = np.random.default_rng(0)
    first, gaps = rng.integers(0, OBJECTS, size.triplets), rng.integers(1, OBJECTS // 2, (size.triplets, 2))
    return np.column_stack([first, first + gaps[:, 0], first + gaps.sum(1)]) % OBJECTS


def soften(size: Size, folder: Path) -> Iterator[Row]:
    """Gradient steps of the model of people's choices: 1,854 objects, 100 dimensions, 8,192 answers a step."""
    rows, batch, steps = answers(size), 8192, 30
    yield Row("plain steps", batch * steps, plain_steps(rows, batch, steps), "indexed rows, autograd, Adam")
    schedule = Soften().settings(vice.Schedule, steps=steps, batch_size=batch, every=steps)
    begin = time.perf_counter()
    vice.fit(rows, OBJECTS, schedule, Soften().settings(vice.Prior), 0)
    yield Row("ours", batch * steps, time.perf_counter() - begin, "with the pruning at the end")


def plain_steps(rows: np.ndarray, batch: int, steps: int) -> float:
    """Seconds of the same optimisation as one writes it first: logits of every triplet from indexed rows."""
    triplets_, mu = torch.from_numpy(rows), torch.rand(OBJECTS, 100, requires_grad=True)
    log_sigma = torch.full((OBJECTS, 100), -2.0, requires_grad=True)
    optimizer = torch.optim.Adam([mu, log_sigma], lr=1e-2)
    prior = Soften().settings(vice.Prior)
    begin = time.perf_counter()
    for _ in range(steps):
        some = triplets_[torch.randint(len(triplets_), (batch,))]
        x = mu + log_sigma.exp() * torch.randn_like(mu)
        a, b, c = (torch.relu(x)[some[:, i]] for i in range(3))
        logits = torch.stack([(a * b).sum(1), (a * c).sum(1), (b * c).sum(1)], dim=1)
        log_q = -(log_sigma + ((x - mu) / log_sigma.exp()).square() / 2)
        loss = -logits.log_softmax(1)[:, 0].mean() + (log_q - prior.log_density(x)).sum() / len(rows)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return time.perf_counter() - begin


def align(size: Size, folder: Path) -> Iterator[Row]:
    """Steps of fitting an affine map to soft choices of 1,854 objects, 8,192 triplets each."""
    rng, batch, steps = np.random.default_rng(0), 8192, 10
    x = rng.normal(size=(OBJECTS, size.width)).astype(np.float32)
    drawn = np.stack([rng.permutation(OBJECTS)[:3] for _ in range(20_000)])
    images = [np.array([i]) for i in range(OBJECTS)]
    side = triplet_set.TripletSet.of(images, drawn, rng.dirichlet(np.ones(3), len(drawn)))
    z, weight = torch.from_numpy(x), torch.eye(size.width, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=1e-3)

    def each_triplet() -> None:
        some = torch.randint(len(drawn), (batch,))
        y = z[side.triplets[some]] @ weight
        loss = losses.cross_entropy(triplets.pair_similarities(y), side.targets[some]).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss + 1e-3 * losses.identity_penalty(weight))
        optimizer.step()

    yield Row("every triplet's objects mapped", batch, timed(each_triplet), "three rows a triplet")
    for kind in ("affine", "low_rank"):
        settings = Align().settings(alignment.FitSettings, kind=kind, batch_size=batch, steps=steps, every=steps)
        begin = time.perf_counter()
        alignment.fit(x, side, side, settings, 0)
        yield Row(
            f"ours, {kind}", batch * steps, time.perf_counter() - begin, "every object once; preparation included"
        )


OBJECTS = 1854
"""Judged objects, as in THINGS."""

BENCHES: dict[str, Callable[[Size, Path], Iterator[Row]]] = {
    "read": read,
    "pixels": pixels,
    "soften": soften,
    "align": align,
    "cluster": cluster,
    "label": label,
}
"""Name -> bench. A bench gets a size and a scratch folder, and yields its rows."""


def measured(name: str, size: Size) -> list[dict[str, Any]]:
    """The rows of a bench with rates, and ratios to its first row."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="alignet-bench-") as folder:
        rows = list(BENCHES[name](size, Path(folder)))
    torch.set_num_threads(threads)
    first = rows[0].units / rows[0].seconds
    return [
        {
            name: row.what,
            "seconds": round(row.seconds, 4),
            "per second": round(row.units / row.seconds),
            "ratio": round(row.units / row.seconds / first, 2),
            "note": row.note,
        }
        for row in rows
    ]


def main() -> None:
    """Run the benches that are named."""
    if sys.argv[1:2] in (["embed"], ["distill"]):  # they need a model, and have their own options
        sys.path.insert(0, str(Path(__file__).parent))  # for `alignet-ray bench`, and for the processes that they start
        importlib.import_module(f"bench_{sys.argv[1]}").main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="bench", description="Ours against plain loops, side by side.")
    parser.add_argument("names", nargs="+", choices=list(BENCHES), metavar="|".join(BENCHES))
    parser.add_argument("--sizes", choices=list(SIZES), default="small")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    size = SIZES[args.sizes]
    machine = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    print(f"{args.sizes}: {size.images:,} x {size.width} features, k {size.k}, {size.triplets:,} triplets; {machine}")
    found = {}
    for name in args.names:
        found[name] = measured(name, size)
        print("\n" + table(found[name]))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "size": vars(size), "rows": found}, indent=1))


if __name__ == "__main__":
    main()
