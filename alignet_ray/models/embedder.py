"""One process of embedding: it holds the networks, and turns units of images into parts, each written in one piece."""

import json
import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL.Image import Image

from alignet_ray.data import images as source
from alignet_ray.data.roles import Head
from alignet_ray.data.schemas import check, embeddings, tensors
from alignet_ray.errors import UserError
from alignet_ray.models import hub
from alignet_ray.models.features import Encoded, Encoder
from alignet_ray.store import Artifact, Draft

ERRORS_KEY = b"alignet.errors"
"""Parquet metadata of a part: its images in quarantine, so that part and quarantine are one atomic file."""
COSINES_KEY = b"alignet.cosines"
"""Parquet metadata of the first part, where images are decoded fast: cosines to the exact embeddings."""
COMPARED = 64
"""Images that are decoded both ways."""


@dataclass(frozen=True)
class Job:
    """What every process needs to know.

    Attributes:
        out: where parts go; `images.parquet` lies there, one row group a unit.
        uri: folder of the images.
        models: spellings of the models whose embeddings are concatenated; `size` and `layer` as in the config.
        registry: MLflow server of registered models.
        head: what becomes of a student's head.
        fast: decode JPEGs at a fraction of their size.
        dtype: stored number format.
        batch: images a forward pass.
        threads: CPU threads a process.
    """

    out: Draft
    uri: str
    models: tuple[str, ...]
    registry: str
    size: int | None
    head: Head
    layer: str
    bfloat16: bool
    fast: bool
    dtype: str
    batch: int
    threads: int


class Embedder:
    """An actor of the pool: a call is a unit."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        self.job, self.problem = job, ""
        try:
            models = [str(hub.locate(model, job.registry or None) or model) for model in job.models]
            self.encoder = Encoder.load(models, job.size, job.head, job.layer, job.bfloat16)
        except UserError as error:  # told to the driver by the first answer: an actor that fails to start is retried
            self.problem = str(error)
            return
        self.least = self.encoder.least if job.fast else None
        if not job.out.has("model.json"):
            job.out.write_json("model.json", self.encoder.describe() | {"decode": "fast" if job.fast else "exact"})

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """One unit: read, decode, forward, write."""
        answer: dict[str, Any] = {"pid": os.getpid(), "problem": self.problem, "errors": "[]", "images": 0}
        if not self.problem:
            try:
                answer |= self._unit(int(batch["unit"][0]))
            except UserError as error:
                answer["problem"] = str(error)
        return {key: [value] for key, value in answer.items()}

    def _unit(self, unit: int) -> dict[str, Any]:
        fs, path = self.job.out.where("images.parquet")
        rows = pq.ParquetFile(path, filesystem=fs).read_row_group(unit).to_pylist()
        images = [partial(_open, self.job.uri, row["path"], self.least) for row in rows]
        done = self.encoder.encode(images, self.job.batch, self.job.threads)
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

    def _cosines(self, paths: list[str], fast: Encoded) -> list[float]:
        """How near the fast embeddings of the first images are to those of the exact decoder."""
        exact = self.encoder.encode([partial(_open, self.job.uri, p, None) for p in paths], self.job.batch)
        a, b = exact.columns["embedding"], fast.columns["embedding"][exact.kept]
        return [float(c) for c in (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)]


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


def _open(uri: str, path: str, least: int | None) -> Image:
    return source.decode(source.read_bytes(uri, path), least)


def _narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    most = float(np.abs(values).max(initial=0))
    if most > float(np.finfo(dtype).max):
        raise UserError(f"embeddings reach {most:.3g}, too much for {dtype}: use --embed.dtype float32")
    return values.astype(dtype)
