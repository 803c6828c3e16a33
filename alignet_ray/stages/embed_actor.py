"""The processes of embedding: one holds the networks and turns units of images into parts, each written in one piece;
others open images for it, where one that feeds a GPU could not open enough."""

import json
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from alignet_ray.artifacts.schemas import check, embeddings, tensors
from alignet_ray.errors import UserError
from alignet_ray.images import jpeg
from alignet_ray.images.listing import decode, read_bytes
from alignet_ray.images.transfer import Parcel, pack, see
from alignet_ray.images.transform import Picture, View
from alignet_ray.models import hub
from alignet_ray.models.features import Encoded, Encoder, open_image
from alignet_ray.models.model_spec import HeadUse
from alignet_ray.store import Artifact, Draft

ERRORS_KEY = b"alignet.errors"
"""Parquet metadata of a part: its images in quarantine, so that part and quarantine are one atomic file."""
COSINES_KEY = b"alignet.cosines"
"""Parquet metadata of the first part, where images are decoded fast: cosines to the exact embeddings."""
COMPARED = 64
"""Images that are decoded both ways."""
MODEL = "model.json"
"""What the artifact says of the networks; readers take the preprocessing from it."""

COMPILING, SAVED = 90.0, 0.3
"""Seconds that compiling a network takes, and the share of a GPU's time that it saves afterwards."""


@dataclass(frozen=True)
class EmbedActorJob:
    """What every process needs to know.

    Attributes:
        out: where parts go; `images.parquet` lies there, one row group a unit.
        uri: folder of the images.
        models: spellings of the models whose embeddings are concatenated; `size` and `layer` as in the config.
        registry: MLflow server of registered models.
        head: what becomes of a student's head.
        bfloat16: compute in bfloat16.
        fast: decode large JPEGs at a part of their size, and resize by torchvision's 8-bit kernels.
        dtype: stored number format.
        batch: images a forward pass.
        threads: CPU threads a process.
        whole: readers send pictures as they are decoded, and actors resize them.
        compile: whether to compile the networks; auto: on a GPU, once that pays for what is left.
        expected: images that an actor has to expect.
    """

    out: Draft
    uri: str
    models: tuple[str, ...]
    registry: str
    size: int | None
    head: HeadUse
    layer: str
    bfloat16: bool
    fast: bool
    dtype: str
    batch: int
    threads: int
    whole: bool
    compile: Literal["auto", "on", "off"]
    expected: int


class Embedder:
    """An actor of the pool: a call is a unit, whose images it opens itself unless their pixels come along."""

    def __init__(self, job: EmbedActorJob) -> None:
        torch.set_num_threads(job.threads)
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes to shared pixels
        self.job, self.problem = job, ""
        try:
            models = [str(hub.locate(model, job.registry or None) or model) for model in job.models]
            self.encoder = Encoder.load(models, job.size, job.head, job.layer, job.fast)
        except UserError as error:  # told to the driver by the first answer: an actor that fails to start is retried
            self.problem = str(error)
            return
        if not job.out.has(MODEL):
            how = {"compute": "bfloat16" if job.bfloat16 else "float32", "decode": "fast" if job.fast else "exact"}
            job.out.write_json(MODEL, self.encoder.describe() | how)
        if job.bfloat16:
            self.encoder.narrow()
        if job.compile == "on":
            self.encoder.compile(job.batch)
        self.seen = 0

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """One unit: read, decode, forward, write."""
        answer: dict[str, Any] = {"pid": os.getpid(), "problem": self.problem, "errors": "[]", "images": 0}
        if not self.problem:
            try:
                answer |= self._unit(int(batch["unit"][0]), batch)
            except UserError as error:
                answer["problem"] = str(error)
        return {key: [value] for key, value in answer.items()}

    def _unit(self, unit: int, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        rows, views, start = listed(self.job.out, unit), self.encoder.views, time.perf_counter()
        if "opened" in batch:
            opened = json.loads(batch["opened"][0])
            parcel = Parcel(batch["pixels"][0], opened["groups"], len(opened["kept"]))
            failed = [(int(row), str(why)) for row, why in opened["errors"]]
            pixels = parcel.unpack(views, self.encoder.device)
            done = self.encoder.encode_pixels(pixels, opened["kept"], failed, self.job.batch)
        else:
            files = [partial(picture, self.job, row["path"], views) for row in rows]
            done = self.encoder.encode(files, self.job.batch, self.job.threads)
        self._consider(len(rows), time.perf_counter() - start)
        errors = [{"image_id": rows[i]["image_id"], "path": rows[i]["path"], "reason": why} for i, why in done.errors]
        ids = pa.array([rows[i]["image_id"] for i in done.kept], pa.int64())
        arrays = [tensors(_narrow(values, self.job.dtype)) for values in done.columns.values()]
        widths = self.encoder.widths
        schema = embeddings(widths["embedding"], self.job.dtype, widths.get("triplet_logits", 0))
        table = check(pa.Table.from_arrays([ids, *arrays], schema=schema), schema)
        notes = {ERRORS_KEY: json.dumps(errors)}
        if self.job.fast and unit == 0:
            notes[COSINES_KEY] = json.dumps(self._cosines([rows[i]["path"] for i in done.kept[:COMPARED]], done))
        self.job.out.write_table(part(unit), table.replace_schema_metadata(notes))
        return {"errors": json.dumps(errors), "images": len(rows)}

    def _consider(self, images: int, seconds: float) -> None:
        """Compile once what is left would take longer without: by the rate of the first unit after the warm-up's."""
        left, warm = self.job.expected - self.seen - images, self.seen > 0
        self.seen += images
        may = self.job.compile == "auto" and self.encoder.device == "cuda" and warm and not self.encoder.fixed
        if may and pays(left, seconds / images):
            self.encoder.compile(self.job.batch)

    def _cosines(self, paths: list[str], fast: Encoded) -> list[float]:
        """How near the fast embeddings of the first images are to those of the exact decoder."""
        careful = [lambda p=p: decode(read_bytes(self.job.uri, p)) for p in paths]
        exact = self.encoder.encode(careful, self.job.batch)
        a, b = exact.columns["embedding"], fast.columns["embedding"][exact.kept]
        return [float(c) for c in (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)]


def read(batch: dict[str, np.ndarray], job: EmbedActorJob) -> dict[str, Any]:
    """Open a unit's images for an actor elsewhere: their pixels in one array, and what failed."""
    torch.set_num_threads(1)
    unit = int(batch["unit"][0])
    if not job.out.has(MODEL):  # the models could not be loaded: an actor will say why
        return {"unit": batch["unit"]}
    views = [View(member["preprocessing"], job.fast) for member in job.out.read_json(MODEL)["members"]]
    look = partial(see, views=views, whole=job.whole)
    opened = [open_image(partial(picture, job, row["path"], views), look) for row in listed(job.out, unit)]
    parcel = pack([found for found in opened if not isinstance(found, str)])
    notes = {
        "kept": [i for i, found in enumerate(opened) if not isinstance(found, str)],
        "errors": [(i, found) for i, found in enumerate(opened) if isinstance(found, str)],
        "groups": parcel.groups,
    }
    return {"unit": batch["unit"], "pixels": parcel.pixels[None], "opened": [json.dumps(notes)]}


def picture(job: EmbedActorJob, path: str, views: Sequence[View]) -> Picture:
    """An image, decoded as the job says.

    Raises:
        ValueError, OSError: with the reason why it can't be used.
    """
    data = read_bytes(job.uri, path)
    return jpeg.decode(data, max(view.least for view in views) if job.fast else 0)


def pays(images: int, seconds: float) -> bool:
    """Whether compiling pays for so many images that take so many seconds each without."""
    return images * seconds * SAVED > COMPILING


def listed(out: Artifact, unit: int) -> list[dict[str, Any]]:
    """The images of a unit."""
    fs, path = out.where("images.parquet")
    rows: list[dict[str, Any]] = pq.ParquetFile(path, filesystem=fs).read_row_group(unit).to_pylist()
    return rows


def part(unit: int) -> str:
    """File name of a unit's part."""
    return f"part-{unit:05d}.parquet"


def errors(out: Artifact, unit: int) -> list[dict[str, Any]]:
    """Images of a finished part that are in quarantine: image_id, path, reason."""
    fs, path = out.where(part(unit))
    return list(json.loads(pq.read_metadata(path, filesystem=fs).metadata[ERRORS_KEY]))


def cosines(out: Artifact) -> list[float]:
    """Cosines of embeddings of images that were decoded fast to those of the exact decoder; empty for the exact one."""
    fs, path = out.where(part(0))
    found = (pq.read_metadata(path, filesystem=fs).metadata or {}).get(COSINES_KEY, b"[]")
    return list(json.loads(found))


def _narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    most = float(np.abs(values).max(initial=0))
    if most > float(np.finfo(dtype).max):
        raise UserError(f"embeddings reach {most:.3g}, too much for {dtype}: use --embed.dtype float32")
    return values.astype(dtype)
