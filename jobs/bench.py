"""Compare the speed of our code with plain loops and with bare operations, side by side in one run.

    python jobs/bench.py NAME ... [--sizes small|medium|paper] [--json FILE]
    python jobs/bench.py embed --images DIR [--model NAME] [--size SIDE] [--json FILE]      (bench_embed.py)
    python jobs/bench.py distill [--model NAME] [--size SIDE] [--batch N] [--json FILE]     (bench_distill.py)
    python jobs/bench.py scale [PART ...] [--images N ...] [--json FILE]                    (bench_scale.py)
    python jobs/bench.py start [--rounds N] [--json FILE]                                   (bench_start.py)

A bench is a generator of rows in BENCHES; ratios refer to its first row. Timings are medians and depend on the machine:
compare ratios only.
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
import pyarrow as pa
import torch
from PIL import Image

from alignet_ray.config import Align, Soften
from alignet_ray.core import alignment, kmeans, labelling, losses, sampling, triplet_set, triplets, vice
from alignet_ray.human import triplets as human_triplets
from alignet_ray.images.cache import CachedImages, CacheWriter, DecodedImages
from alignet_ray.images.decode import decode
from alignet_ray.images.transform import PixelTransform
from alignet_ray.models.backbone import preprocessing
from alignet_ray.screen import table

OBJECTS = 1854
"""Annotated objects, as in THINGS."""
BATCH = 8192
"""Triplets or responses an optimiser step."""


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


def timed_once(work: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """Seconds and result of one call, without a warm-up."""
    start = time.perf_counter()
    result = work(*args)
    return time.perf_counter() - start, result


def features(size: Size, folder: Path) -> np.ndarray:
    """A float16 matrix (images, width) on disk, mapped read only: shuffled copies of one block of clustered rows."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(size.k, size.width))
    block = centres[rng.integers(0, size.k, 16_384)] + rng.normal(size=(16_384, size.width))
    block = block.astype(np.float16)

    path = folder / "features.npy"
    matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(size.images, size.width))
    for start in range(0, size.images, len(block)):
        shuffled = block[rng.permutation(len(block))]
        matrix[start : start + len(block)] = shuffled[: size.images - start]
    matrix.flush()
    return np.asanyarray(np.load(path, mmap_mode="r"))


def random_responses(size: Size) -> np.ndarray:
    """Odd-one-out responses (n, 3) about random triplets of distinct objects."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, OBJECTS, size.triplets)
    gaps = rng.integers(1, OBJECTS // 2, (size.triplets, 2))
    return np.column_stack([first, first + gaps[:, 0], first + gaps.sum(1)]) % OBJECTS


# read: text files of human responses


def read(size: Size, folder: Path) -> Iterator[Row]:
    """A text file of human responses about 1,854 objects."""
    responses = random_responses(size)
    path = folder / "responses.txt"
    np.savetxt(path, responses, fmt="%d")

    plain = timed(lambda: np.loadtxt(path, dtype=np.int64))
    yield Row("np.loadtxt", len(responses), plain, "nothing checked")
    ours = timed(lambda: human_triplets.read_triplets(str(path), OBJECTS, None, None, None, {}))
    yield Row("ours", len(responses), ours, "layout, base, range and repeats checked")


# pixels: batches of training images


def pixels(size: Size, folder: Path) -> Iterator[Row]:
    """Random batches for training at 224 px: decoded on the fly, or read from the pixel cache."""
    count = 256
    cores = os.cpu_count() or 1
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=95)

    view = PixelTransform(
        {
            "input_size": (3, 224, 224),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "crop_pct": 0.875,
            "crop_mode": "center",
            "interpolation": "bicubic",
        }
    )
    ids = np.arange(count)
    paths = pa.array([f"{i}.jpg" for i in range(count)])
    decoder = DecodedImages(str(folder), ids, paths, view, cores)
    batch = rng.permutation(count)[:128]
    preprocess = preprocessing(view.data_config)

    def plain() -> None:
        torch.stack([preprocess(decode((folder / paths[i]).read_bytes())) for i in batch])

    yield Row("decoded on the fly, a plain loop", len(batch), timed(plain), "Pillow, timm's transform, one core")
    yield Row("ours, decoded on the fly", len(batch), timed(lambda: decoder(batch)), f"{cores} threads")

    pack = CacheWriter.begin(folder / "pixels.u8", decoder)
    yield Row("ours, writing the cache", count, timed(lambda: pack.write(0, count), 1), "once")
    pack.finish()

    packed = CachedImages(folder / "pixels.u8", ids, view.size)
    yield Row("ours, from the cache", len(batch), timed(lambda: packed(batch), 20), "8-bit rows of a memory map")


# soften: the model of human choices


def soften(size: Size, folder: Path) -> Iterator[Row]:
    """Gradient steps of the model of human choices: 1,854 objects, 100 dimensions, 8,192 responses a step."""
    steps = 30
    responses = random_responses(size)
    seconds = plain_vice_steps(responses, steps)
    yield Row("plain steps", BATCH * steps, seconds, "indexed rows, autograd, Adam")

    schedule = Soften().settings(vice.Schedule, steps=steps, batch_size=BATCH, every=steps)
    prior = Soften().settings(vice.Prior)
    seconds, _ = timed_once(vice.fit, responses, OBJECTS, schedule, prior, 0)
    yield Row("ours", BATCH * steps, seconds, "with the pruning at the end")


def plain_vice_steps(responses: np.ndarray, steps: int) -> float:
    """Seconds of the same optimisation, written in the simplest way: the logits of every triplet from indexed rows."""
    rows = torch.from_numpy(responses)
    mean = torch.rand(OBJECTS, 100, requires_grad=True)
    log_scale = torch.full((OBJECTS, 100), -2.0, requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_scale], lr=1e-2)
    prior = Soften().settings(vice.Prior)

    start = time.perf_counter()
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (BATCH,))]
        sample = mean + log_scale.exp() * torch.randn_like(mean)
        first, second, odd = (torch.relu(sample)[batch[:, i]] for i in range(3))
        logits = torch.stack([(first * second).sum(1), (first * odd).sum(1), (second * odd).sum(1)], dim=1)
        log_posterior = -(log_scale + ((sample - mean) / log_scale.exp()).square() / 2)
        complexity = (log_posterior - prior.log_density(sample)).sum() / len(rows)
        loss = complexity - logits.log_softmax(1)[:, 0].mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return time.perf_counter() - start


# align: the teacher's transform


def align(size: Size, folder: Path) -> Iterator[Row]:
    """Steps of fitting a map to soft targets of 1,854 objects, 8,192 triplets each."""
    steps = 10
    rng = np.random.default_rng(0)
    objects = rng.normal(size=(OBJECTS, size.width)).astype(np.float32)
    drawn = np.stack([rng.permutation(OBJECTS)[:3] for _ in range(20_000)])
    images = [np.array([i]) for i in range(OBJECTS)]
    training = triplet_set.TripletSet.of(images, drawn, rng.dirichlet(np.ones(3), len(drawn)))

    rows = torch.from_numpy(objects)
    weight = torch.eye(size.width, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=1e-3)

    def map_every_triplet() -> None:
        batch = torch.randint(len(drawn), (BATCH,))
        similarities = triplets.pair_similarities(rows[training.triplets[batch]] @ weight)
        loss = losses.cross_entropy(similarities, training.targets[batch]).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss + 1e-3 * losses.identity_penalty(weight))
        optimizer.step()

    yield Row("the objects of every triplet mapped", BATCH, timed(map_every_triplet), "three rows a triplet")
    for kind in ("affine", "low_rank"):
        settings = Align().settings(alignment.FitSettings, kind=kind, batch_size=BATCH, steps=steps, every=steps)
        seconds, _ = timed_once(alignment.fit, objects, training, training, settings, 0)
        yield Row(f"ours, {kind}", BATCH * steps, seconds, "every object once; preparation included")


# cluster: k-means


def cluster(size: Size, folder: Path) -> Iterator[Row]:
    """A Lloyd pass against one matrix product of the same size, and whole fits against scikit-learn's."""
    rows = torch.from_numpy(np.array(features(size, folder)[: min(size.images, 200_000)]))
    sample = rows[:: max(1, len(rows) // 20_000)].float().numpy()
    start = kmeans.seed_centroids(sample, size.k, 0)
    centroids = torch.from_numpy(start)
    block = rows[: kmeans.BLOCK].float()

    def product() -> None:
        for _ in range(0, len(rows), kmeans.BLOCK):
            torch.mm(block, centroids.T)

    yield Row("bare matrix product, float32", len(rows), timed(product), "rows x centroids, in blocks")
    yield Row("our Lloyd pass, float16 rows", len(rows), timed(lambda: kmeans.step(rows, centroids)), "assign, add up")
    yield from kmeans_fits(rows, start)


def kmeans_fits(rows: torch.Tensor, start: np.ndarray, passes: int = 10) -> Iterator[Row]:
    """Ten passes from the same centroids, ours and scikit-learn's, and its mini-batches."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    seconds, fit = timed_once(kmeans.fit, rows, start, passes, 0.0)
    note = f"{fit.passes} passes and the silhouette, inertia {fit.inertia:.6g}"
    yield Row("our fit", len(rows) * fit.passes, seconds, note)

    wide = rows.float().numpy()
    models = {
        "KMeans": KMeans(len(start), init=start, n_init=1, max_iter=passes, tol=0),
        "MiniBatchKMeans": MiniBatchKMeans(len(start), init=start, n_init=1, batch_size=4096, max_iter=passes),
    }
    for name, model in models.items():
        seconds, _ = timed_once(model.fit, wide)
        note = f"{model.n_iter_} passes, inertia {-model.score(wide):.6g}"
        yield Row(f"scikit-learn {name}", len(rows) * model.n_iter_, seconds, note)


# label: triplets and the teacher's similarities


def label(size: Size, folder: Path) -> Iterator[Row]:
    """Draw and label millions of triplets, against simpler ways."""
    matrix = features(size, folder)
    clusters = np.random.default_rng(1).integers(0, size.k, size.images)
    groups = sampling.group_by(clusters)
    draw_seconds, drawn = timed_once(sampling.sample, "border", groups, size.triplets, 0)
    np.save(folder / "triplets.npy", drawn)

    torch.set_num_threads(1)
    few = drawn[:5_000]
    part = drawn[: min(200_000, size.triplets)]
    yield Row("a loop over triplets", len(few), timed(lambda: similarity_loop(matrix, few), 1), "one core")
    seconds = timed(lambda: chunked_similarities(matrix, part), 1)
    yield Row("chunked torch gathers", len(part), seconds, "one core, 4096 a chunk")
    yield Row("random reads alone", len(part), timed(lambda: read_rows(matrix, part), 1), "one core, nothing computed")
    yield Row("ours", len(part), timed(lambda: labelling.similarities(matrix, part), 1), "one core")

    workers = os.cpu_count() or 1
    seconds = label_in_processes(folder, len(drawn), workers)
    yield Row("ours, all cores", len(drawn), seconds, f"{workers} processes")
    if torch.cuda.is_available():
        yield Row(
            "ours, one GPU", len(drawn), label_on_gpu(matrix, drawn), "the matrix in its memory; sorting included"
        )
    yield Row("drawing", len(drawn), draw_seconds, "one core")
    yield Row("drawing and labelling", len(drawn), seconds + draw_seconds, f"{workers} processes")


def similarity_loop(matrix: np.ndarray, rows: np.ndarray) -> None:
    """One small Gram matrix after the other."""
    for triplet in rows.tolist():
        embeddings = np.asarray(matrix[triplet], dtype=np.float32)
        _ = embeddings @ embeddings.T


def chunked_similarities(matrix: np.ndarray, rows: np.ndarray) -> None:
    """The straightforward way: gather, convert to float32, multiply."""
    for start in range(0, len(rows), 4096):
        embeddings = torch.from_numpy(matrix[rows[start : start + 4096]]).float()
        triplets.pair_similarities(embeddings)


def read_rows(matrix: np.ndarray, rows: np.ndarray) -> None:
    """Copies of the rows into a small buffer: the lower bound for any way that reads them in this order."""
    buffer = np.empty((3 * labelling.GATHER, matrix.shape[1]), dtype=matrix.dtype)
    for start in range(0, len(rows) - labelling.GATHER, labelling.GATHER):
        chunk = rows[start : start + labelling.GATHER].reshape(-1)
        np.take(matrix, chunk, axis=0, out=buffer, mode="clip")


def label_in_processes(folder: Path, count: int, workers: int) -> float:
    """Seconds to label the stored triplets on all cores, without the start of the processes."""
    parts = [(folder, rows) for rows in np.array_split(np.arange(count), 4 * workers)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(pool.map(label_part, [(folder, rows[:100]) for _, rows in parts]))
        seconds, _ = timed_once(lambda: list(pool.map(label_part, parts)))
    return seconds


def label_part(job: tuple[Path, np.ndarray]) -> None:
    """Label some rows of the stored triplets, in a process of its own."""
    folder, rows = job
    torch.set_num_threads(1)
    matrix = np.load(folder / "features.npy", mmap_mode="r")
    labelling.similarities(matrix, np.load(folder / "triplets.npy", mmap_mode="r")[rows])


def label_on_gpu(matrix: np.ndarray, drawn: np.ndarray) -> float:
    """Seconds to label and sort triplets with the whole matrix in the GPU's memory."""
    resident = torch.from_numpy(np.array(matrix)).cuda()

    def label_all() -> None:
        for part in np.array_split(drawn, max(1, len(drawn) // 500_000)):
            labelling.odd_last(part, labelling.resident_similarities(resident, part))

    return timed(label_all)


BENCHES: dict[str, Callable[[Size, Path], Iterator[Row]]] = {
    "read": read,
    "pixels": pixels,
    "soften": soften,
    "align": align,
    "cluster": cluster,
    "label": label,
}
"""Name -> bench. A bench gets a size and a scratch folder, and yields its rows."""


def measure(name: str, size: Size) -> list[dict[str, Any]]:
    """The rows of a bench with rates, and ratios to its first row."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="alignet-bench-") as folder:
        rows = list(BENCHES[name](size, Path(folder)))
    torch.set_num_threads(threads)

    reference = rows[0].units / rows[0].seconds
    return [
        {
            name: row.what,
            "seconds": round(row.seconds, 4),
            "per second": round(row.units / row.seconds),
            "ratio": round(row.units / row.seconds / reference, 2),
            "note": row.note,
        }
        for row in rows
    ]


def main() -> None:
    """Run the benches that are named."""
    # These have options of their own. The path is for `alignet-ray bench` and for spawned processes.
    if sys.argv[1:2] in (["embed"], ["distill"], ["scale"], ["start"]):
        sys.path.insert(0, str(Path(__file__).parent))
        importlib.import_module(f"bench_{sys.argv[1]}").main(sys.argv[2:])
        return

    parser = argparse.ArgumentParser(prog="bench", description="Our code against plain loops, side by side.")
    parser.add_argument("names", nargs="+", choices=list(BENCHES), metavar="|".join(BENCHES))
    parser.add_argument("--sizes", choices=list(SIZES), default="small")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()

    size = SIZES[args.sizes]
    machine = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    print(f"{args.sizes}: {size.images:,} x {size.width} features, k {size.k}, {size.triplets:,} triplets; {machine}")
    results = {}
    for name in args.names:
        results[name] = measure(name, size)
        print("\n" + table(results[name]))
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine, "size": vars(size), "rows": results}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
