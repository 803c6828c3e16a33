"""How the work grows with the number of images: listing, planning, clusters, labels and batches, without any pixels.

    python jobs/bench.py scale [PART ...] [--images 1e5 1e6 1e7] [--json FILE]

Images are pretended: names that no disk holds, and features of 64 numbers. Each part runs in a process of its own, so
that its memory is its own. The exponent is that of the time over the last decade: 1 is linear, 2 is quadratic.
"""

import argparse
import contextlib
import functools
import io
import json
import math
import os
import resource
import socketserver
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np

from alignet_ray.artifacts.embed import EmbedArtifact
from alignet_ray.config import Config
from alignet_ray.core import sampling
from alignet_ray.data.embeddings import FeatureMatrix, TeacherFeatures
from alignet_ray.images import listing
from alignet_ray.images.shards import ShardOpener
from alignet_ray.screen import table
from alignet_ray.stages import embed
from alignet_ray.store import Artifact, Manifest, Recipe, Store

FOLDERS = 1_000
"""Class folders of the pretended images."""
SHARD_IMAGES = 10_000
"""Images in a pretended tar file."""
WIDTH = 64
CLUSTERS = 500
LATENCY = 0.03
"""Seconds after which the pretended server answers."""
PAGE = 1_000
"""Names in one answer of the server, as object stores give them."""
MAX_REMOTE = 1_000_000
"""Pretended objects of the server at most: its answers are XML, which takes this machine longer than our listing."""


@dataclass
class Result:
    """What one part took at one size.

    Attributes:
        seconds: of the work alone, without the process's start.
        memory: megabytes that the process's own memory grew by at most; files that it maps are not its own.
        notes: counts, such as the requests to a server.
    """

    seconds: float
    memory: float = 0.0
    notes: dict[str, float] = field(default_factory=dict)


# What is pretended


class PretendedFile(NamedTuple):
    """An entry of a folder, as `os.scandir` gives it."""

    name: str
    path: str

    def is_dir(self) -> bool:
        """Never."""
        return False

    def stat(self) -> os.stat_result:
        """Size and time: the same for all."""
        return PRETENDED_STAT


PRETENDED_STAT = os.stat_result((0o100644, 0, 0, 1, 0, 0, 110_000, 0, 0, 0))


@contextlib.contextmanager
def pretended_folder(images: int, folder: Path) -> Iterator[str]:
    """A root of class folders that seem to hold so many images."""
    each = images // FOLDERS
    root = folder / "images"
    for number in range(FOLDERS):
        (root / f"n{number:08d}").mkdir(parents=True, exist_ok=True)
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if Path(path).parent != root:
            return real(path)
        name = os.path.basename(path)
        names = (f"{name}_{number}.JPEG" for number in range(each))
        return contextlib.nullcontext(PretendedFile(file, f"{path}/{file}") for file in names)

    os.scandir = scandir
    try:
        yield str(root)
    finally:
        os.scandir = real


class PretendedFeatures(TeacherFeatures):
    """A teacher's features of a corpus: a float16 matrix on disk, whose path is `cache`, and no artifact."""

    def matrix(self) -> FeatureMatrix:
        """As of a teacher."""
        features = np.load(self.cache, mmap_mode="r")
        return FeatureMatrix(np.arange(len(features)), features)


def features(images: int, folder: Path) -> PretendedFeatures:
    """A matrix of random rows, repeated."""
    path = folder / f"features-{images}.npy"
    if not path.exists():
        block = np.random.default_rng(0).normal(size=(100_000, WIDTH)).astype(np.float16)
        matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(images, WIDTH))
        for start in range(0, images, len(block)):
            matrix[start : start + len(block)] = block[: images - start]
        matrix.flush()
    return PretendedFeatures(Artifact(str(folder), "embed", "pretended"), None, path)


# The parts


def fingerprint(images: int, folder: Path) -> Result:
    """The plan: what a folder holds."""
    with pretended_folder(images, folder) as root:
        start = time.perf_counter()
        assert listing.fingerprint(root)["files"] == images
        return Result(time.perf_counter() - start)


def list_local(images: int, folder: Path) -> Result:
    """Listing a local folder into the image table of an artifact."""
    artifact = EmbedArtifact(Store.open(folder / "root").draft("embed", f"local{images}"))
    with pretended_folder(images, folder) as root:
        start = time.perf_counter()
        assert artifact.write_images(listing.list_batches(root)) == images
        return Result(time.perf_counter() - start)


def list_remote(images: int, folder: Path) -> Result:
    """The same from an object store whose server takes 30 ms for every answer."""
    images = min(images, MAX_REMOTE)
    artifact = EmbedArtifact(Store.open(folder / "root").draft("embed", f"remote{images}"))
    with PretendedBucket(images) as bucket:
        start = time.perf_counter()
        assert artifact.write_images(listing.list_batches(bucket.uri)) == images
        seconds = time.perf_counter() - start
        return Result(seconds, notes={"images": images, "requests": bucket.requests})


def list_shards(images: int, folder: Path) -> Result:
    """Tar files of 10,000 small images each: opened, and listed once more from what is kept of them."""
    root = tar_folder(images, folder)
    cache = folder / f"opened-{images}"
    seconds: list[float] = []
    for name in ("first", "again"):
        artifact = EmbedArtifact(Store.open(folder / "root").draft("embed", f"shards{images}{name}"))
        start = time.perf_counter()
        rows = artifact.write_images(listing.list_batches(root, shards=ShardOpener(cache)))
        seconds.append(time.perf_counter() - start)
        assert rows == images // SHARD_IMAGES * SHARD_IMAGES
    return Result(seconds[0], notes={"s once more": seconds[1]})


def tar_folder(images: int, folder: Path) -> str:
    """A folder of tar files, which are all the same file under several names."""
    root = folder / f"tars-{images}"
    root.mkdir()
    first = root / "00000.tar"
    with tarfile.open(first, "w") as tar:
        for number in range(SHARD_IMAGES):
            info = tarfile.TarInfo(f"{number:06d}.jpg")
            info.size = 100
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    for number in range(1, images // SHARD_IMAGES):
        os.link(first, root / f"{number:05d}.tar")
    return str(root)


def units(images: int, folder: Path) -> Result:
    """What workers of `embed` read of the image table: the rows of every unit, in one process."""
    artifact = EmbedArtifact(Store.open(folder / "root").draft("embed", f"local{images}"))
    if not artifact.files.has("images.parquet"):
        list_local(images, folder)
    size = embed.images_per_unit(images)
    rows = 0
    start = time.perf_counter()
    for unit in range(math.ceil(images / size)):
        rows += len(artifact.unit_images(unit, size))
    seconds = time.perf_counter() - start
    assert rows == images
    return Result(seconds, notes={"units": math.ceil(images / size)})


def cluster(images: int, folder: Path) -> Result:
    """A pass of k-means in this process: what travels to the driver is counted."""
    from alignet_ray.stages.cluster import SHARD, ShardsHere, ShardWorker

    worker = ShardWorker(features(images, folder), None, False, SHARD)
    shards = ShardsHere(worker, images)
    centroids = np.random.default_rng(1).normal(size=(CLUSTERS, WIDTH)).astype(np.float32)
    start = time.perf_counter()
    partial, labels = shards.assign(centroids)
    seconds = time.perf_counter() - start
    assert int(partial.counts.sum()) == images
    return Result(seconds, notes={"MB of labels": labels.nbytes / 1e6})


def label(images: int, folder: Path) -> Result:
    """As many distinct triplets as there are images, drawn at cluster borders."""
    groups = sampling.group_by(np.random.default_rng(2).integers(0, CLUSTERS, images))
    start = time.perf_counter()
    assert len(sampling.sample("border", groups, images, 0)) == images
    return Result(time.perf_counter() - start)


def batches(images: int, folder: Path) -> Result:
    """A hundred batches of training, 256 images of 32 clusters each."""
    from alignet_ray.training.batches import InBatchTriplets, cluster_members

    clusters = np.random.default_rng(3).integers(0, CLUSTERS, images)
    matrix = features(images, folder).matrix()
    start = time.perf_counter()
    draw = InBatchTriplets(
        image_ids=matrix.ids,
        teacher=matrix.features,
        teacher_rows=np.arange(images),
        batch_size=256,
        seed=0,
        scale=1.0,
        max_triplets=10_000,
        clusters=cluster_members(clusters),
        images_per_cluster=8,
    )
    prepared = time.perf_counter() - start
    for step in range(100):
        draw(step)
    seconds = time.perf_counter() - start
    return Result(seconds, notes={"ms a batch": 10 * (seconds - prepared)})


def ls(images: int, folder: Path) -> Result:
    """`alignet-ray ls` of a root with an artifact for every thousand images, each of which embeds a million."""
    from alignet_ray.cli import results
    from alignet_ray.cli.options import ListOptions

    root = pretended_root(images // 1_000, folder)
    options = ListOptions(store=Config().store.model_copy(update={"root": root}), json=True)
    start = time.perf_counter()
    with contextlib.redirect_stdout(open(os.devnull, "w", encoding="utf-8")):
        results.ls(options)
    return Result(time.perf_counter() - start, notes={"artifacts": images // 1_000})


def plan(images: int, folder: Path) -> Result:
    """What `alignet-ray plan` reads of the same root."""
    from alignet_ray.stages import kept

    store = Store.open(pretended_root(images // 1_000, folder))
    start = time.perf_counter()
    assert len(kept.manifests(store)) == images // 1_000
    return Result(time.perf_counter() - start, notes={"artifacts": images // 1_000})


def pretended_root(artifacts: int, folder: Path) -> str:
    """A root with so many finished artifacts, each with the description of one that embeds a million images."""
    root = folder / f"artifacts-{artifacts}"
    store = Store.open(root)
    parts = math.ceil(1_000_000 / embed.MAX_UNIT)
    sizes = {f"part-{number:05d}.parquet": 600_000 for number in range(parts)}
    config = Config().model_dump(mode="json")
    for number in range(artifacts):
        draft = store.draft("embed", f"{number:012x}")
        if not draft.finished:
            recipe = Recipe(role="corpus", version=embed.VERSION)
            manifest = Manifest(node="embed@corpus", id=draft.id, recipe=recipe, config=config)
            draft.write_json("files.json", sizes)
            draft.write_json("artifact.json", manifest.to_json() | {"bytes": sum(sizes.values())})
            draft.write_bytes("_SUCCESS", b"")
    return str(root)


PARTS: dict[str, Callable[[int, Path], Result]] = {
    "fingerprint": fingerprint,
    "list": list_local,
    "list-remote": list_remote,
    "list-shards": list_shards,
    "units": units,
    "cluster": cluster,
    "label": label,
    "batches": batches,
    "ls": ls,
    "plan": plan,
}


# A pretended object store


class PretendedBucket:
    """An S3 server on this machine whose bucket seems to hold images; it knows how to list, and nothing else."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.requests = 0
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                bucket.requests += 1
                time.sleep(LATENCY)
                query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
                if "list-type" not in query:
                    self._answer(404, b"")
                else:
                    self._answer(200, bucket.answer(query).encode())

            def do_HEAD(self) -> None:
                bucket.requests += 1
                time.sleep(LATENCY)
                self._answer(404, b"")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Type", "application/xml")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
            daemon_threads = True
            request_queue_size = 128

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    @property
    def uri(self) -> str:
        """Root of the images."""
        port = self.server.server_address[1]
        return f"s3://bucket/images?scheme=http&endpoint_override=127.0.0.1%3A{port}&region=none"

    def __enter__(self) -> "PretendedBucket":
        os.environ.update(
            AWS_ACCESS_KEY_ID="pretended", AWS_SECRET_ACCESS_KEY="pretended", AWS_EC2_METADATA_DISABLED="true"
        )
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, query: dict[str, str]) -> str:
        """One page of names under a prefix, as S3's ListObjectsV2 answers."""
        prefix = query.get("prefix", "")
        after = int(query.get("continuation-token", "0"))
        limit = min(int(query.get("max-keys", PAGE)), PAGE)
        if query.get("delimiter"):
            return self._folders(prefix, after, limit)
        return self._names(prefix, after, limit)

    def _folders(self, prefix: str, after: int, limit: int) -> str:
        """The class folders under the root, or the names in one of them."""
        if prefix.rstrip("/") != "images":
            return self._names(prefix, after, limit)
        last = min(after + limit, FOLDERS)
        entries = [f"<CommonPrefixes><Prefix>images/n{n:08d}/</Prefix></CommonPrefixes>" for n in range(after, last)]
        return page(entries, last, FOLDERS)

    def _names(self, prefix: str, after: int, limit: int) -> str:
        each = self.images // FOLDERS
        parts = prefix.strip("/").split("/")
        first, total = 0, self.images
        if len(parts) > 1:
            # A list of classes is asked for as well, and is not there.
            first, total = 0, 0
            if parts[1].startswith("n"):
                first, total = int(parts[1][1:]) * each, each
        last = min(after + limit, total)
        entries = [entry(first + number, each) for number in range(after, last)]
        return page(entries, last, total)


def entry(number: int, each: int) -> str:
    """An object in an answer of the server."""
    folder, image = divmod(number, each)
    key = f"images/n{folder:08d}/n{folder:08d}_{image:08d}.JPEG"
    return (
        f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>e</ETag>"
        "<Size>110000</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


def page(entries: list[str], last: int, total: int) -> str:
    """One answer of the server, with the place where the next one goes on."""
    more = ""
    if last < total:
        more = f"<NextContinuationToken>{last}</NextContinuationToken>"
    truncated = str(last < total).lower()
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>bucket</Name><KeyCount>{len(entries)}</KeyCount><MaxKeys>{PAGE}</MaxKeys>"
        f"<IsTruncated>{truncated}</IsTruncated>{more}{''.join(entries)}</ListBucketResult>"
    )


# Measuring


def own_memory() -> float:
    """Megabytes of this process that are no files."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000


def measured(part: str, images: int, folder: Path) -> Result:
    """Run one part in this process, and watch its memory."""
    before = own_memory()
    peak = [before]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = PARTS[part](images, folder)
    finally:
        done.set()
        watcher.join()
    result.memory = peak[0] - before
    return result


def rows(part: str, sizes: list[int], folder: Path) -> list[dict[str, Any]]:
    """One part at all sizes, each in a process of its own."""
    results = []
    for images in sizes:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            results.append(pool.submit(functools.partial(measured, part, images, folder)).result())

    shown = []
    for position, (images, result) in enumerate(zip(sizes, results, strict=True)):
        exponent = ""
        if position:
            growth = result.notes.get("images", images) / results[position - 1].notes.get("images", sizes[position - 1])
            if growth > 1:
                exponent = f"{math.log(result.seconds / results[position - 1].seconds) / math.log(growth):.2f}"
        notes = ", ".join(f"{value:,.4g} {name}" for name, value in result.notes.items())
        shown.append(
            {
                "part": part,
                "images": f"{images:,}",
                "seconds": round(result.seconds, 2),
                "exponent": exponent,
                "MB": round(result.memory),
                "notes": notes,
            }
        )
    return shown


def main(arguments: list[str]) -> None:
    """Measure the parts that are named, or all."""
    parser = argparse.ArgumentParser(prog="bench scale", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS))
    parser.add_argument("--images", nargs="+", type=float, default=[1e5, 1e6, 1e7])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(arguments)
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part is called {min(unknown)}: there are {', '.join(PARTS)}")

    found = []
    with tempfile.TemporaryDirectory(prefix="alignet-scale-") as folder:
        for part in args.parts or PARTS:
            part_rows = rows(part, [int(size) for size in args.images], Path(folder))
            found += part_rows
            print(table(part_rows) + "\n", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
