"""Processes of embedding: actors turn units of images into Parquet parts; readers decode images for GPU actors."""

import json
import os
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.base import from_rows, to_rows
from alignet_ray.artifacts.embed import EmbedArtifact, ImageRow, QuarantinedImage
from alignet_ray.artifacts.student_files import EmbeddingSource, HeadUse
from alignet_ray.config import Compute
from alignet_ray.core.gpu import set_tf32
from alignet_ray.errors import UserError
from alignet_ray.images import jpeg
from alignet_ray.images.ahead import prefetch
from alignet_ray.images.decode import TWELVE_BIT, decode
from alignet_ray.images.listing import read_bytes
from alignet_ray.images.storage import fetches
from alignet_ray.images.transfer import PackedImages, pack, prepare
from alignet_ray.images.transform import DecodedImage, PixelTransform
from alignet_ray.models import hub
from alignet_ray.models.features import Encoded, Encoder, open_image
from alignet_ray.store import Artifact

COMPARED = 64
"""Images that are decoded both ways to compare fast decoding with exact decoding."""

COMPILE_SECONDS = 90.0
COMPILE_SAVING = 0.3
"""Time that compiling a network takes, and the share of a GPU's time that it saves afterwards."""


@dataclass(frozen=True)
class ActorTask:
    """What every process of an embedding job needs to know.

    Attributes:
        artifact: where parts go; its image table has one row group per unit.
        image_root: folder of the images.
        models: model names, whose embeddings are concatenated; `size` and `layer` as in the config.
        registry: MLflow server of registered models.
        head: what becomes of a student's head.
        compute: number format of the forward pass.
        fast: decode large JPEGs at reduced size, and resize with torchvision's 8-bit kernels.
        dtype: stored number format.
        batch_size: images per forward pass.
        threads: CPU threads of an actor.
        resize_on_device: readers send images as they are decoded, and actors resize them.
        compile: whether to compile the networks; auto: on a GPU, once that saves time on the remaining images.
        images_per_actor: images that an actor has to expect.
        unit_size: images of a unit.
        trained: artifact whose folder holds the model instead, where the run itself trained it.
    """

    artifact: EmbedArtifact
    image_root: str
    models: tuple[str, ...]
    registry: str
    size: int | None
    head: HeadUse
    layer: str
    compute: Compute
    fast: bool
    dtype: str
    batch_size: int
    threads: int
    resize_on_device: bool
    compile: Literal["auto", "on", "off"]
    images_per_actor: int
    unit_size: int
    trained: Artifact | None = None


class UnitResult(NamedTuple):
    """What an actor answers about a unit; its embeddings are in the part that it wrote.

    Attributes:
        pid: the actor's process id.
        user_error: a message if the user can fix what went wrong; empty otherwise.
        images: images of the unit.
        quarantined: those of them that could not be used.
        twelve_bit: paths of those whose 16 bits hold values of 12, see `decode.TWELVE_BIT`.
        not_compiled: why the networks could not be compiled; empty if they were, or need not be.
    """

    pid: int
    user_error: str = ""
    images: int = 0
    quarantined: tuple[QuarantinedImage, ...] = ()
    twelve_bit: tuple[str, ...] = ()
    not_compiled: str = ""

    def to_columns(self) -> dict[str, list[Any]]:
        """The result as a batch of one row for Ray Data, whose columns hold plain values: images as JSON text."""
        return {
            "pid": [self.pid],
            "user_error": [self.user_error],
            "images": [self.images],
            "quarantined": [json.dumps(to_rows(self.quarantined))],
            "twelve_bit": [json.dumps(self.twelve_bit)],
            "not_compiled": [self.not_compiled],
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "UnitResult":
        """Inverse of `to_columns`, from a row of the data set."""
        quarantined = tuple(from_rows(QuarantinedImage, json.loads(row["quarantined"])))
        twelve_bit = tuple(json.loads(row["twelve_bit"]))
        return cls(row["pid"], row["user_error"], row["images"], quarantined, twelve_bit, row["not_compiled"])


class Embedder:
    """An actor of the pool, which embeds one unit per call.

    It reads the unit's images itself, unless a reader has sent their pixels.
    """

    def __init__(self, task: ActorTask) -> None:
        # The driver divides the cluster's cores by its actors; this node may have fewer.
        self.threads = min(task.threads, os.cpu_count() or 1)
        torch.set_num_threads(self.threads)
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes to shared pixels
        self.task = task
        self.user_error = ""
        self.images_seen = 0
        self.batch = task.batch_size

        # Ray would restart an actor that fails to start, so the driver is told by the first answer.
        try:
            models = [str(hub.locate(model, task.registry or None) or model) for model in task.models]
            # Fetched here and not by the driver, whose temporary folder is on another machine.
            if task.trained is not None:
                models = [str(task.trained.local())]
            self.encoder = Encoder.load(models, task.size, task.head, task.layer, task.fast)
        except UserError as error:
            self.user_error = str(error)
            return

        # Before the weights are converted, so that the checksum is that of the model as it was published.
        if not task.artifact.has_networks():
            numbers: EmbeddingSource = {"compute": task.compute, "decode": "exact"}
            if task.fast:
                numbers["decode"] = "fast"
            task.artifact.write_networks(self.encoder.describe() | numbers)
        # On a CPU this process may be somebody's notebook, whose settings are its own.
        if self.encoder.device == "cuda":
            set_tf32(task.compute == "tf32")
        if task.compute == "bfloat16":
            self.encoder.to_bfloat16()
        if task.compile == "on":
            self._compile(len(task.artifact.unit_images(0, task.unit_size)))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Embed one unit and write its part.

        Args:
            batch: `unit`, and from a reader also `pixels` and `opened`.

        Returns:
            The columns of a `UnitResult`.
        """
        return self.embed(int(batch["unit"][0]), batch).to_columns()

    def embed(self, unit: int, sent: Mapping[str, np.ndarray] = MappingProxyType({})) -> UnitResult:
        """Embed one unit and write its part.

        Args:
            unit: its number.
            sent: `pixels` and `opened`, where a reader has read its images.
        """
        if self.user_error:
            return UnitResult(os.getpid(), self.user_error)
        try:
            return self._embed(unit, sent)
        except UserError as error:
            return UnitResult(os.getpid(), str(error))

    def _embed(self, unit: int, sent: Mapping[str, np.ndarray]) -> UnitResult:
        # The time covers reading as well: where that is the bottleneck, compiling would save nothing.
        rows = self.task.artifact.unit_images(unit, self.task.unit_size)
        start = time.perf_counter()
        twelve_bit: list[str] = []
        if "opened" in sent:
            encoded = self._encode_sent(sent, twelve_bit)
        else:
            encoded = self._encode_files(rows, twelve_bit)
        self._maybe_compile(len(rows), time.perf_counter() - start)

        # One fixed unit, whose part keeps the figures: they are there after an interruption as well.
        cosines = None
        if self.task.fast and unit == 0:
            compared = [rows[position] for position in encoded.kept[:COMPARED]]
            cosines = self._cosines_to_exact(compared, encoded)

        quarantined = []
        for position, reason in encoded.errors:
            quarantined.append(QuarantinedImage(rows[position].image_id, rows[position].path, reason))
        ids = [rows[position].image_id for position in encoded.kept]
        twelve_bit.sort()
        self.task.artifact.write_part(unit, self._table(ids, encoded), quarantined, twelve_bit, cosines)
        return UnitResult(
            pid=os.getpid(),
            images=len(rows),
            quarantined=tuple(quarantined),
            twelve_bit=tuple(twelve_bit),
            not_compiled=self.encoder.not_compiled,
        )

    def _encode_files(self, rows: Sequence[ImageRow], twelve_bit: list[str]) -> Encoded:
        """Read, decode and embed the images of a unit; paths of those with 12 bits in 16 are added to `twelve_bit`."""
        views = self.encoder.transforms
        files = [partial(read_picture, self.task, row, views, twelve_bit) for row in rows]
        return self.encoder.encode(files, self.batch, fetches(self.task.image_root, self.threads))

    def _encode_sent(self, sent: Mapping[str, np.ndarray], twelve_bit: list[str]) -> Encoded:
        """Embed images whose pixels a reader has sent; paths of those with 12 bits in 16 are added to `twelve_bit`."""
        opened = json.loads(sent["opened"][0])
        twelve_bit += opened["twelve_bit"]
        packed = PackedImages(sent["pixels"][0], opened["groups"], len(opened["kept"]))
        # JSON has no tuples: pairs come back as lists.
        errors = list(map(tuple, opened["errors"]))
        pixels = packed.unpack(self.encoder.transforms, self.encoder.device)
        return self.encoder.encode_pixels(pixels, opened["kept"], errors, self.batch)

    def _table(self, ids: list[int], encoded: Encoded) -> pa.Table:
        """The part's table, in the stored number format."""
        # Fixed-shape tensors: a reader maps the column as one matrix, without copying row by row.
        dtype = self.task.dtype
        widths = self.encoder.widths
        schema = schemas.embeddings(widths["embedding"], dtype, widths.get("triplet_logits", 0))
        vectors = [schemas.tensors(to_stored(values, dtype)) for values in encoded.columns.values()]
        table = pa.Table.from_arrays([pa.array(ids, pa.int64()), *vectors], schema=schema)
        return schemas.check(table, schema)

    def _maybe_compile(self, images: int, seconds: float) -> None:
        """Compile once the remaining images would take longer without.

        The rate comes from the second unit on, since the first one includes the warm-up.
        """
        is_first = self.images_seen == 0
        self.images_seen += images
        if is_first or self.task.compile != "auto" or self.encoder.device != "cuda" or self.encoder.compiled_batch:
            return
        remaining = self.task.images_per_actor - self.images_seen
        if compiling_pays(remaining, seconds / images):
            self._compile(images)

    def _compile(self, unit: int) -> None:
        """Compile the networks for passes into which the images of a unit divide."""
        # torch's compiler would start a process for every core of the node, in every actor.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(self.threads))
        self.batch = pass_size(unit, self.task.batch_size)
        self.encoder.compile(self.batch)

    def _cosines_to_exact(self, rows: list[ImageRow], fast: Encoded) -> list[float]:
        """Cosine similarities of the first images' fast-decoded embeddings to exactly decoded ones."""
        files = [partial(self._read_exactly, row) for row in rows]
        exact = self.encoder.encode(files, self.batch)
        exact_vectors = exact.columns["embedding"]
        fast_vectors = fast.columns["embedding"][exact.kept]

        products = (exact_vectors * fast_vectors).sum(axis=1)
        cosines = products / np.linalg.norm(exact_vectors, axis=1) / np.linalg.norm(fast_vectors, axis=1)
        return [float(cosine) for cosine in cosines]

    def _read_exactly(self, row: ImageRow) -> DecodedImage:
        return decode(read_bytes(self.task.image_root, row.path, row.span))


def read_unit(batch: dict[str, np.ndarray], task: ActorTask) -> dict[str, Any]:
    """Read and decode a unit's images for an actor in another process.

    Returns:
        The unit, the pixels of all images in one array, and as JSON which images they are and which ones failed.
    """
    # Readers run side by side, one for each core.
    torch.set_num_threads(1)
    unit = int(batch["unit"][0])

    # Without a description of the networks the models could not be loaded, which the actor will report.
    if not task.artifact.has_networks():
        return {"unit": batch["unit"]}

    views = [PixelTransform(preprocessing, task.fast) for preprocessing in task.artifact.preprocessing()]
    prepare_image = partial(prepare, transforms=views, allow_unresized=task.resize_on_device)
    images = []
    kept: list[int] = []
    errors: list[tuple[int, str]] = []
    twelve_bit: list[str] = []

    # Decoded one after the other, while the next files are fetched.
    rows = task.artifact.unit_images(unit, task.unit_size)
    files = [partial(read_bytes, task.image_root, row.path, row.span) for row in rows]
    with closing(fetched(task.image_root, files)) as contents:
        for position, (row, content) in enumerate(zip(rows, contents, strict=True)):
            opened = open_image(partial(decode_picture, task, row.path, content, views, twelve_bit), prepare_image)
            if isinstance(opened, str):
                errors.append((position, opened))
            else:
                kept.append(position)
                images.append(opened)

    # One array instead of a list, which Ray shares between processes without copying.
    packed = pack(images)
    notes = json.dumps({"kept": kept, "errors": errors, "groups": packed.groups, "twelve_bit": twelve_bit})
    return {"unit": batch["unit"], "pixels": packed.pixels[None], "opened": [notes]}


def read_picture(task: ActorTask, row: ImageRow, views: list[PixelTransform], twelve_bit: list[str]) -> DecodedImage:
    """An image, decoded as the task says; its path is added to `twelve_bit` if its 16 bits hold values of 12.

    Raises:
        ValueError, OSError: with the reason why it can't be used.
    """
    content = partial(read_bytes, task.image_root, row.path, row.span)
    return decode_picture(task, row.path, content, views, twelve_bit)


def decode_picture(
    task: ActorTask, path: str, content: Callable[[], bytes], views: list[PixelTransform], twelve_bit: list[str]
) -> DecodedImage:
    """As `read_picture`, of content that is there already, or is read when it is asked for."""
    # Fast decoding may shrink an image, but never below the side that the largest network needs.
    data = content()
    smallest_side = 0
    if task.fast:
        smallest_side = max(view.min_image_side for view in views)
    image = jpeg.decode(data, smallest_side)
    if not isinstance(image, Tensor) and image.info.get(TWELVE_BIT):
        twelve_bit.append(path)
    return image


def fetched(root: str, files: Sequence[Callable[[], bytes]]) -> Generator[Callable[[], bytes]]:
    """Contents of files in order, each as a function that gives it or raises what reading it raised.

    Those of a remote source are fetched ahead, many at a time; local ones are read when they are asked for.
    """
    at_once = fetches(root)
    if at_once == 1:
        yield from files
        return
    jobs = [partial(_try, file) for file in files]
    with closing(prefetch(jobs, at_once, at_once)) as results:
        for content, error in results:
            yield partial(_give, content, error)


def _try(file: Callable[[], bytes]) -> tuple[bytes, Exception | None]:
    """Content of a file, or the error of reading it: one file must not end the reading of all others."""
    try:
        return file(), None
    except (OSError, ValueError) as error:
        return b"", error


def _give(content: bytes, error: Exception | None) -> bytes:
    if error is not None:
        raise error
    return content


def compiling_pays(images: int, seconds: float) -> bool:
    """Whether compiling saves time on this many images, each of which takes this long without."""
    return images * seconds * COMPILE_SAVING > COMPILE_SECONDS


def pass_size(unit: int, batch: int) -> int:
    """Images of a compiled pass: the most that divide a unit's without remainder, and not more than a batch.

    A compiled network knows one size of a pass, so that smaller ones are filled up: 256 images in passes of 96 would
    take the time of 288. Where only much smaller passes divide the unit, filling up costs less.
    """
    size = min(unit, batch)
    fitting = next(count for count in range(size, 0, -1) if unit % count == 0)
    if 2 * fitting > size:
        return fitting
    return size


def to_stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values in the stored number format.

    Raises:
        UserError: they exceed its range.
    """
    # float16 ends at 65,504; a silent infinity would spoil every similarity of its image.
    largest = float(np.abs(values).max(initial=0))
    if largest > float(np.finfo(dtype).max):
        raise UserError(f"embeddings reach {largest:.3g}, too much for {dtype}: use --embed.dtype float32")
    return values.astype(dtype)
