"""Embeddings as arrays: an embed artifact's Parquet in memory, and feature matrices shared by a node's workers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from jaxtyping import Float, Int

from alignet_ray.artifacts.align import AlignArtifact
from alignet_ray.artifacts.embed import EmbedArtifact, EmbeddedRows
from alignet_ray.artifacts.schemas import positions_of
from alignet_ray.core.affine import AffineTransform
from alignet_ray.data.files import MatrixWriter, replacing
from alignet_ray.errors import UserError
from alignet_ray.store import Artifact

HALF_MAX = float(np.finfo(np.float16).max)
"""Largest float16."""

Conversion = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""image_ids and embeddings of a part -> the rows of a feature matrix."""


class FeatureMatrix(NamedTuple):
    """Features of many images, ready for dot products.

    Attributes:
        ids: image_id of every row, ascending.
        features: read-only memory map, float16 for a teacher; every process of a machine shares its pages.
    """

    ids: Int[np.ndarray, " n"]
    features: Float[np.ndarray, "n p"]

    def rows(self, ids: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
        """Row of every image_id; all of them must be in the matrix."""
        return positions_of(self.ids, ids)


@dataclass(frozen=True)
class SharedFeatures:
    """An embed artifact's features as they are, in float32. Small, so that it travels to workers.

    Attributes:
        embed: a finished embed artifact.
        cache: local folder, as for `teacher_matrix`.
    """

    embed: Artifact
    cache: Path

    def open(self) -> FeatureMatrix:
        """The shared matrix, written to the cache if this machine does not have it yet."""
        path = self.cache / f"{self.embed.id}-float32"
        if not _is_built(path):
            _build_once(self.embed, lambda ids, features: features.astype(np.float32), np.float32, path)
        return _open(path)


@dataclass(frozen=True)
class TeacherFeatures:
    """Where a teacher's features come from. Small, so that it travels to workers, which open the shared matrix.

    Attributes: the arguments of `teacher_matrix`.
    """

    embed: Artifact
    align: Artifact | None
    cache: Path
    raw: bool = False

    def matrix(self) -> FeatureMatrix:
        """The shared matrix, built if this machine does not have it yet."""
        return teacher_matrix(self.embed, self.align, self.cache, self.raw)


def load(artifact: Artifact, column: str = "embedding", ids: Int[np.ndarray, " k"] | None = None) -> EmbeddedRows:
    """All rows of an embed artifact, or those of `ids`, by ascending image_id; see `EmbedArtifact.embeddings`."""
    return EmbedArtifact(artifact).embeddings(column, ids)


def teacher_matrix(embed: Artifact, align: Artifact | None, cache: Path, raw: bool = False) -> FeatureMatrix:
    """The teacher's features as one shared float16 matrix, built once per (embed, align) and kept in `cache`.

    Args:
        embed: the corpus' embeddings.
        align: an affine map to apply; None or a network teacher's artifact: the embeddings are the teacher's already.
        cache: local folder. A finished matrix is reused; an unfinished one is never seen.
        raw: do not apply the map: features standardised by the map's scalar mean and standard deviation (the control's
            teacher), or by their own where there is no affine map.

    Raises:
        UserError: features that are not finite, or too large for float16.
    """
    has_map = align is not None and AlignArtifact(align).has_transform()
    name = f"{embed.id}-none"
    if align is not None and (has_map or raw):
        name = f"{embed.id}-{align.id}"
    if raw:
        name += "-raw"

    # The name says all that the matrix depends on, so a file with this name can be used as it is.
    path = cache / name
    if not _is_built(path):
        transform = None
        if align is not None and has_map:
            transform = AlignArtifact(align).transform()
        _build_once(embed, _teacher_conversion(embed, transform, raw), np.float16, path)
    return _open(path)


def _teacher_conversion(embed: Artifact, transform: AffineTransform | None, raw: bool) -> Conversion:
    """How embeddings become a teacher's float16 features: standardised (raw), mapped, or as they are."""
    if raw:
        mean, std = _mean_and_std(embed, transform)
        return lambda ids, features: _to_float16(ids, (features.astype(np.float32) - mean) / std)
    if transform is not None:
        return lambda ids, features: _to_float16(ids, transform(features))
    return lambda ids, features: _to_float16(ids, features.astype(np.float32))


def _open(path: Path) -> FeatureMatrix:
    ids = np.load(_ids_file(path), allow_pickle=False)
    return FeatureMatrix(ids, np.load(_matrix_file(path), mmap_mode="r", allow_pickle=False))


def _build_once(embed: Artifact, convert: Conversion, dtype: type, path: Path) -> None:
    """Write a matrix; other processes of the machine, which all want it at the same time, wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not _is_built(path):
            _build(embed, convert, dtype, path)


def _build(embed: Artifact, convert: Conversion, dtype: type, path: Path) -> None:
    """Write a matrix part by part, its ids first, so that whoever sees the matrix also finds the ids."""
    artifact = EmbedArtifact(embed)
    ids = artifact.embedded_ids()

    # Rows are written where their ids belong, so that parts may come in any order and only one is in memory.
    with replacing(_matrix_file(path)) as temporary:
        matrix: MatrixWriter | None = None
        with temporary.open("wb") as opened:
            for part_ids, features in artifact.blocks():
                converted = convert(part_ids, features)
                if matrix is None:
                    # Only the first converted part tells the width after the map.
                    matrix = MatrixWriter(opened, (len(ids), converted.shape[1]), np.dtype(dtype))
                matrix.write(np.searchsorted(ids, part_ids), converted)
        with replacing(_ids_file(path)) as ids_temporary, ids_temporary.open("wb") as file:
            np.save(file, ids)


def _is_built(path: Path) -> bool:
    return _matrix_file(path).exists()


def _matrix_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.npy")


def _ids_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.ids.npy")


def _mean_and_std(embed: Artifact, transform: AffineTransform | None) -> tuple[float, float]:
    """One mean and one standard deviation over all features: the transform's, else computed here."""
    if transform is not None:
        return float(transform.mean), float(transform.std)
    # Var(x) = E[x^2] - E[x]^2 in float64 needs one pass over the parts, and none of them twice.
    count = 0
    total = squares = 0.0
    for _, features in EmbedArtifact(embed).blocks():
        wide = features.astype(np.float64)
        count += wide.size
        total += wide.sum()
        squares += np.square(wide).sum()
    mean = total / count
    return mean, float(np.sqrt(max(squares / count - mean**2, 1e-12)))


def _to_float16(ids: Int[np.ndarray, " n"], features: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
    """Rows as float16, refused where they do not fit."""
    bad = ~(np.abs(features).max(axis=1) <= HALF_MAX)  # negated, so that NaN counts as bad
    if bad.any():
        raise UserError(
            f"{int(bad.sum())} images have features that are not finite or beyond float16 (image_id {ids[bad][0]}):"
            " check the teacher's model, or embed with --embed.dtype float32 and a transform of ordinary scale"
        )
    return features.astype(np.float16)
