"""DeepMind's AligNet triplets (.npz), read and written in blocks, so that ten million rows need little memory.

Members: `filenames` (n, 3) str, `similarities` (n, 3) float in the order s01, s02, s12, and `indices` (n, 3) int, which
repeat the names. Image 2 is the odd one. Files are recognised by their members: README and loader of the release call
the files differently.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int64

from alignet_ray.artifacts.schemas import TRIPLETS, check, column_matrix, positions_of
from alignet_ray.core.triplet_rows import odd_last
from alignet_ray.data.files import did_you_mean
from alignet_ray.errors import UserError, first_line

MEMBERS = ("filenames", "similarities")
"""Members that an import needs."""

BLOCK = 250_000
"""Rows that are held in memory at a time."""

PAIR_ORDER = np.array([[0, 1, 2], [1, 0, 2], [2, 0, 1]])
"""By the number of the most similar pair: the order that the three similarities then have."""


@dataclass
class ImportCounts:
    """Statistics of an import.

    Attributes:
        rows: rows read.
        ties: rows whose largest similarity is shared by two pairs.
        permuted: rows whose odd image was not last and that were reordered.
    """

    rows: int = 0
    ties: int = 0
    permuted: int = 0


def is_release(path: str | Path) -> bool:
    """Whether a .npz holds AligNet triplets."""
    try:
        with zipfile.ZipFile(path) as file:
            names = set(file.namelist())
    except Exception:  # damaged archives raise errors of many types
        return False
    return all(f"{member}.npy" in names for member in MEMBERS)


def blocks(path: str | Path, members: Sequence[str] = MEMBERS, block: int = BLOCK) -> Iterator[dict[str, np.ndarray]]:
    """Rows of a .npz's members side by side, `block` at a time, without unpickling.

    Raises:
        UserError: not a .npz, a member is missing or holds pickled objects, or the members differ in length.
    """
    try:
        with ExitStack() as stack:
            file = stack.enter_context(zipfile.ZipFile(path))
            readers: dict[str, _MemberReader] = {}
            for member in members:
                stream = cast(zipfile.ZipExtFile, stack.enter_context(file.open(f"{member}.npy")))
                readers[member] = _MemberReader.of(stream, member, path)
            total = _common_length(readers, path)
            # All members are read in step; numpy's own reader would unpack each of them as a whole.
            for start in range(0, total, block):
                count = min(block, total - start)
                yield {member: reader.read(count) for member, reader in readers.items()}
    except UserError:
        raise
    except Exception as error:  # zip, zlib and NumPy raise errors of many types on damaged bytes
        raise UserError(f"{path} holds no AligNet triplets ({' and '.join(members)}): {first_line(error)}") from error


class _MemberReader(NamedTuple):
    """One array of a .npz, read from its beginning."""

    stream: zipfile.ZipExtFile
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    path: str | Path

    @classmethod
    def of(cls, stream: zipfile.ZipExtFile, member: str, path: str | Path) -> "_MemberReader":
        """Read the array's header."""
        try:
            version = np.lib.format.read_magic(stream)
            if version == (1, 0):
                shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            else:
                shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        except ValueError as error:
            raise UserError(f"{path}: {member} is not an array: {first_line(error)}") from error

        if dtype.hasobject:
            raise UserError(f"{path}: {member} is pickled, which may run code: ask for a file with plain strings")
        # Rows are read as a stream, which gives them one after the other in C order alone.
        if is_fortran:
            raise UserError(f"{path}: {member} is stored by columns; save it again in C order")
        return cls(stream, shape, dtype, path)

    def read(self, count: int) -> np.ndarray:
        """The next `count` rows, (count, 3)."""
        # Read as bytes and only then given a type: no copy of the whole member is ever made.
        size = count * 3 * self.dtype.itemsize
        data = self.stream.read(size)
        if len(data) != size:
            raise UserError(f"{self.path} ends before its last row: is the download complete?")
        return np.frombuffer(data, dtype=self.dtype).reshape(count, 3)


def _common_length(readers: Mapping[str, _MemberReader], path: str | Path) -> int:
    """Number of rows, which all members share."""
    shapes = {member: reader.shape for member, reader in readers.items()}
    are_triplets = all(len(shape) == 2 and shape[1] == 3 for shape in shapes.values())
    lengths = {shape[0] for shape in shapes.values() if shape}
    if not are_triplets or len(lengths) != 1:
        text = ", ".join(f"{member} {shape}" for member, shape in shapes.items())
        raise UserError(f"{path}: all members must be (n, 3), found {text}")
    return lengths.pop()


def import_triplets(path: str | Path, images: pa.Table, counts: ImportCounts | None = None) -> Iterator[pa.Table]:
    """Triplets as TRIPLETS tables, odd image last.

    Args:
        path: DeepMind's .npz.
        images: schema IMAGES: file names become its image_ids, by path or by base name.
        counts: updated while reading.

    Raises:
        UserError: not such a file, similarities that are not finite, or names that no image has.
    """
    counts = counts or ImportCounts()
    index = _FileNames(images)
    for rows in blocks(path):
        similarities = rows["similarities"].astype(np.float32)
        is_finite = np.isfinite(similarities).all(axis=1)
        if not is_finite.all():
            raise UserError(f"{path}: {int((~is_finite).sum())} rows have similarities that are not finite")

        ids = index.image_ids(rows["filenames"], path)
        # Files differ in where they put the odd image; everything else relies on its being last.
        ids, similarities, is_moved = most_similar_pair_first(ids, similarities)
        counts.rows += len(ids)
        counts.permuted += int(is_moved.sum())
        counts.ties += int((similarities[:, 0] == similarities[:, 1:].max(axis=1)).sum())
        yield check(pa.table([*ids.T.copy(), *similarities.T.copy()], schema=TRIPLETS), TRIPLETS)


def most_similar_pair_first(
    ids: Int64[np.ndarray, "n 3"], similarities: Float32[np.ndarray, "n 3"]
) -> tuple[Int64[np.ndarray, "n 3"], Float32[np.ndarray, "n 3"], Bool[np.ndarray, " n"]]:
    """Images and similarities permuted together, so that pair 01 is the most similar one; and which rows were moved."""
    # The most similar pair leaves the third image as the odd one.
    best = similarities.argmax(axis=1)
    moved_similarities = np.take_along_axis(similarities, PAIR_ORDER[best], axis=1)
    return odd_last(ids, best), moved_similarities, best != 0


def export_triplets(path: str | Path, tables: Callable[[], Iterator[pa.Table]], images: pa.Table) -> int:
    """Write TRIPLETS tables in DeepMind's layout; returns the number of rows.

    Args:
        path: .npz to write.
        tables: called once per member: yields the same TRIPLETS tables each time, as a label artifact's `iter_parts`.
        images: schema IMAGES: image_ids become base names, or paths where two images share a base name.
    """
    count = sum(len(table) for table in tables())
    images = images.sort_by("image_id")
    ids = images["image_id"].to_numpy()
    names = _unique_names(images["path"].to_pylist())

    def indices(table: pa.Table) -> np.ndarray:
        return column_matrix(table, TRIPLETS.names[:3])

    def file_names(table: pa.Table) -> np.ndarray:
        return np.asarray(names[positions_of(ids, indices(table))])

    def similarities(table: pa.Table) -> np.ndarray:
        return column_matrix(table, TRIPLETS.names[3:])

    # One pass over the tables per member: a member of a .zip must be written in one piece.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, allowZip64=True, compresslevel=1) as file:
        _write_member(file, "filenames", count, names.dtype, map(file_names, tables()))
        _write_member(file, "similarities", count, np.dtype("<f4"), map(similarities, tables()))
        _write_member(file, "indices", count, np.dtype("<i8"), map(indices, tables()))
    return count


def _write_member(
    file: zipfile.ZipFile, name: str, count: int, dtype: np.dtype[Any], rows: Iterator[np.ndarray]
) -> None:
    """Stream an array (count, 3) into a .npz."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count, 3)}
    with file.open(f"{name}.npy", "w", force_zip64=True) as stream:
        np.lib.format.write_array_header_2_0(stream, header)
        for block in rows:
            stream.write(np.ascontiguousarray(block.astype(dtype)).tobytes())


def _unique_names(paths: list[str]) -> np.ndarray:
    """Base names, or the paths where two images share a base name."""
    # The release uses base names, so files that can be read like it do the same.
    base_names = [Path(path).name for path in paths]
    if len(set(base_names)) == len(base_names):
        return np.array(base_names)
    return np.array(paths)


class _FileNames:
    """File names -> image_ids, by relative path or by base name."""

    def __init__(self, images: pa.Table) -> None:
        self.ids = images["image_id"].to_numpy()
        self.paths = images["path"].combine_chunks().cast(pa.string())
        self.base_names = pa.array([path.rpartition("/")[2] for path in self.paths.to_pylist()])

    def image_ids(self, names: np.ndarray, path: str | Path) -> Int64[np.ndarray, "n 3"]:
        """The image of every name; `path` is the file that names them."""
        wanted = pa.array(names.reshape(-1))
        positions = pc.index_in(wanted, self.paths)
        # The release names files alone; exports of corpora with equal file names use paths.
        if positions.null_count:
            self._require_clear(wanted.filter(pc.is_null(positions)), path)
            positions = pc.coalesce(positions, pc.index_in(wanted, self.base_names))
        if positions.null_count:
            missing = wanted.filter(pc.is_null(positions))
            raise UserError(
                f"{path} names {missing[0].as_py()!r}, which is no image here ({len(missing):,} names are not)"
                + did_you_mean(missing[0].as_py(), [*self.paths.to_pylist(), *self.base_names.to_pylist()])
            )
        return np.asarray(self.ids[positions.to_numpy()].reshape(names.shape), dtype=np.int64)

    def _require_clear(self, base_names: pa.Array, path: str | Path) -> None:
        """Refuse base names that several images have."""
        counts = self.base_names.value_counts()
        shared = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        unclear = base_names.filter(pc.is_in(base_names, shared))
        if len(unclear):
            name = unclear[0].as_py()
            several = self.paths.filter(pc.equal(self.base_names, name))
            raise UserError(
                f"{path} names {name!r}, which may be {several[0].as_py()!r} or {several[1].as_py()!r}: it must name "
                "images by their paths here"
            )
