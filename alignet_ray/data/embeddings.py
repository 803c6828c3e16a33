"""Embeddings as arrays: out of an embed artifact's Parquet, and the teacher's matrix that a node's workers share."""

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from alignet_ray.artifacts.transforms import load_transform
from alignet_ray.core.affine import AffineTransform
from alignet_ray.errors import UserError
from alignet_ray.store import Artifact

TRANSFORM = "transform.npz"
HALF_MAX = float(np.finfo(np.float16).max)


class Matrix(NamedTuple):
    """Features of a corpus, ready for dot products.

    Attributes:
        ids: image_id of every row, ascending.
        x: read-only memory map, float16 for a teacher; every process of a machine shares its pages.
    """

    ids: Int[np.ndarray, " n"]
    x: Float[np.ndarray, "n p"]

    def rows(self, ids: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
        """Row of every image_id; all of them must be in the matrix."""
        found = np.searchsorted(self.ids, ids)
        assert np.array_equal(self.ids[np.minimum(found, len(self.ids) - 1)], ids), "image_ids that are not embedded"
        return found


@dataclass(frozen=True)
class Features:
    """An embed artifact's rows as they are, in float32: small, so that it travels to workers, which open the one copy.

    Attributes:
        embed: a finished embed artifact.
        cache: local folder, as for `teacher_matrix`.
    """

    embed: Artifact
    cache: Path

    def open(self) -> Matrix:
        """The shared rows, written to the cache if this machine does not have them yet."""
        target, ids = self.cache / f"{self.embed.id}-float32.npy", self.cache / f"{self.embed.id}-float32.ids.npy"
        if not target.exists():
            _build(self.embed, lambda part, x: x.astype(np.float32), np.float32, target, ids)
        return Matrix(np.load(ids, allow_pickle=False), np.load(target, mmap_mode="r", allow_pickle=False))


@dataclass(frozen=True)
class Source:
    """Where a teacher's features come from: small, so that it travels to workers, which open the shared matrix.

    Attributes: the arguments of `teacher_matrix`.
    """

    embed: Artifact
    align: Artifact | None
    cache: Path
    raw: bool = False

    def matrix(self) -> Matrix:
        """The shared matrix, built if this machine does not have it yet."""
        return teacher_matrix(self.embed, self.align, self.cache, self.raw)


def load(
    artifact: Artifact, column: str = "embedding", ids: Int[np.ndarray, " k"] | None = None
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n d"]]:
    """All rows of an embed artifact, or those of `ids`.

    Args:
        artifact: a finished embed artifact.
        column: `embedding`, or `triplet_logits` where a student with a head made it.
        ids: image_ids to keep; those that are not there (quarantined images) are left out.

    Returns:
        image_ids, ascending, and their vectors in the stored number format.
    """
    every, blocks = [], []
    for part, x in _parts(artifact, column):
        keep = slice(None) if ids is None else np.isin(part, ids)
        every.append(part[keep])
        blocks.append(x[keep])
    found = np.concatenate(every)
    order = np.argsort(found, kind="stable")
    return found[order], np.concatenate(blocks)[order]


def teacher_matrix(embed: Artifact, align: Artifact | None, cache: Path, raw: bool = False) -> Matrix:
    """The teacher's features as one shared float16 matrix, built once per (embed, align) and kept in `cache`.

    Args:
        embed: the corpus' embeddings.
        align: an affine map to apply; None or a network teacher's artifact: the embeddings are the teacher's already.
        cache: local folder. A finished matrix is reused; an unfinished one is never seen (renamed at the end).
        raw: leave the map out: features standardised by the map's scalar mean and standard deviation (the control's
            teacher), or by their own where there is no affine map.

    Raises:
        UserError: where features are not finite, or too large for float16.
    """
    affine = align is not None and align.has(TRANSFORM)
    name = f"{embed.id}-{align.id if align is not None and (affine or raw) else 'none'}{'-raw' if raw else ''}"
    target, ids = cache / f"{name}.npy", cache / f"{name}.ids.npy"
    if not target.exists():
        transform = load_transform(str(align.local(TRANSFORM))) if align is not None and affine else None
        mean, std = _scalars(embed, transform) if raw else (0.0, 1.0)

        def mapped(part: np.ndarray, x: np.ndarray) -> np.ndarray:
            return _half(part, (x.astype(np.float32) - mean) / std if raw or transform is None else transform(x))

        _build(embed, mapped, np.float16, target, ids)
    return Matrix(np.load(ids, allow_pickle=False), np.load(target, mmap_mode="r", allow_pickle=False))


def _build(
    embed: Artifact, convert: Callable[[np.ndarray, np.ndarray], np.ndarray], dtype: type, target: Path, ids: Path
) -> None:
    """Write a matrix row block by row block; the ids first, the matrix last, each under its name only when whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    found = np.concatenate([t["image_id"].to_numpy() for t in embed.iter_parts(columns=["image_id"])])
    order = np.sort(found)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        matrix: np.memmap | None = None
        for part, x in _parts(embed, "embedding"):
            y = convert(part, x)
            if matrix is None:
                matrix = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=(len(order), y.shape[1]))
            matrix[np.searchsorted(order, part)] = y
        if matrix is not None:
            matrix.flush()
        _write_ids(ids, order)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _write_ids(path: Path, ids: Int[np.ndarray, " n"]) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.npy")
    np.save(temporary, ids)
    os.replace(temporary, path)


def _scalars(embed: Artifact, transform: AffineTransform | None) -> tuple[float, float]:
    """One mean and one standard deviation over all features: the transform's, else computed here."""
    if transform is not None:
        return float(transform.mean), float(transform.std)
    count, total, squares = 0, 0.0, 0.0
    for _, x in _parts(embed, "embedding"):
        wide = x.astype(np.float64)
        count, total, squares = count + wide.size, total + wide.sum(), squares + np.square(wide).sum()
    mean = total / count
    return mean, float(np.sqrt(max(squares / count - mean**2, 1e-12)))


def _half(ids: Int[np.ndarray, " n"], y: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
    """Rows as float16, if they fit."""
    bad = ~(np.abs(y).max(axis=1) <= HALF_MAX)
    if bad.any():
        raise UserError(
            f"{int(bad.sum())} images have features that are not finite or beyond float16 (image_id {ids[bad][0]}):"
            " check the teacher's model, or embed with --embed.dtype float32 and a transform of ordinary scale"
        )
    return y.astype(np.float16)


def _parts(artifact: Artifact, column: str) -> Iterator[tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n d"]]]:
    """image_ids and vectors, part by part."""
    for table in artifact.iter_parts(columns=["image_id", column]):
        vectors = table[column].combine_chunks()
        if isinstance(vectors, pa.ChunkedArray):
            vectors = pa.concat_arrays(vectors.chunks)
        yield table["image_id"].to_numpy(), vectors.to_numpy_ndarray()
