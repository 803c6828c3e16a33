"""DeepMind's AligNet triplets (.npz), both ways and in blocks, so that ten million rows need little memory.

Members: `filenames` (n, 3) str, `similarities` (n, 3) float in the order s01, s02, s12, and `indices` (n, 3) int, which
repeat the names. Image 2 is the odd one. Files are told by their members, not by their names: README and loader of the
release call them differently.
"""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, Int64

from alignet_ray.artifacts.schemas import TRIPLETS, check
from alignet_ray.errors import UserError

MEMBERS = ("filenames", "similarities")
BLOCK = 250_000


@dataclass
class Tally:
    """What an import met.

    Attributes:
        rows: rows read.
        ties: rows whose largest similarity is shared by two pairs.
        permuted: rows whose odd image was not last; they were put right.
    """

    rows: int = 0
    ties: int = 0
    permuted: int = 0


def is_release(path: str | Path) -> bool:
    """Whether a .npz holds AligNet triplets."""
    try:
        with zipfile.ZipFile(path) as file:
            return {f"{m}.npy" for m in MEMBERS} <= set(file.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def blocks(path: str | Path, members: tuple[str, ...] = MEMBERS, block: int = BLOCK) -> Iterator[dict[str, np.ndarray]]:
    """Rows of a .npz's members side by side, `block` at a time, without unpickling.

    Raises:
        UserError: not a .npz, a member is missing or holds pickled objects, or the members differ in length.
    """
    try:
        with zipfile.ZipFile(path) as file:
            streams = {m: cast(zipfile.ZipExtFile, file.open(f"{m}.npy")) for m in members}
            heads = {m: _header(stream, m, path) for m, stream in streams.items()}
            lengths = {shape[0] for shape, _ in heads.values()}
            if len(lengths) != 1 or any(len(shape) != 2 or shape[1] != 3 for shape, _ in heads.values()):
                shapes = ", ".join(f"{m} {shape}" for m, (shape, _) in heads.items())
                raise UserError(f"{path}: all members must be (n, 3), found {shapes}")
            for start in range(0, lengths.pop(), block):
                rows = {m: _rows(streams[m], min(block, heads[m][0][0] - start), heads[m][1], path) for m in members}
                yield rows
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{path} holds no AligNet triplets ({' and '.join(members)}): {error}") from error


def import_triplets(path: str | Path, images: pa.Table, tally: Tally | None = None) -> Iterator[pa.Table]:
    """Triplets as TRIPLETS tables, odd image last.

    Args:
        path: DeepMind's .npz.
        images: schema IMAGES: file names become its image_ids, by path or by base name.
        tally: is filled while reading.

    Raises:
        UserError: not such a file, similarities that are not finite, or names that no image has.
    """
    tally = Tally() if tally is None else tally
    index = _Names(images)
    for rows in blocks(path):
        s = rows["similarities"].astype(np.float32)
        if not np.isfinite(s).all():
            raise UserError(
                f"{path}: {int((~np.isfinite(s)).any(axis=1).sum())} rows have similarities that are not finite"
            )
        ids = index.ids(rows["filenames"], path)
        ids, s, moved = odd_last(ids, s)
        tally.rows += len(s)
        tally.permuted += int(moved.sum())
        tally.ties += int((s[:, 0] == s[:, 1:].max(axis=1)).sum())
        yield check(pa.table([*ids.T.copy(), *s.T.copy()], schema=TRIPLETS), TRIPLETS)


def odd_last(
    ids: Int64[np.ndarray, "n 3"], s: Float32[np.ndarray, "n 3"]
) -> tuple[Int64[np.ndarray, "n 3"], Float32[np.ndarray, "n 3"], np.ndarray]:
    """Images and similarities permuted together, so that pair 01 is the most similar one; and which rows were moved."""
    best = s.argmax(axis=1)
    images = np.array([[0, 1, 2], [0, 2, 1], [1, 2, 0]])[best]
    pairs = np.array([[0, 1, 2], [1, 0, 2], [2, 0, 1]])[best]
    return np.take_along_axis(ids, images, axis=1), np.take_along_axis(s, pairs, axis=1), best != 0


def export_triplets(path: str | Path, tables: Callable[[], Iterator[pa.Table]], images: pa.Table) -> int:
    """Write TRIPLETS tables in DeepMind's layout; returns the number of rows.

    Args:
        path: .npz to write.
        tables: called once a member: yields the same TRIPLETS tables each time (a label artifact's `iter_parts`, say).
        images: schema IMAGES: image_ids become base names, or paths where two images share a base name.
    """
    rows = sum(len(t) for t in tables())
    ids = images["image_id"].to_numpy()
    order = np.argsort(ids)
    paths = images["path"].to_pylist()
    short = [Path(p).name for p in paths]
    names = np.array(short if len(set(short)) == len(short) else paths)[order]

    def indices(t: pa.Table) -> np.ndarray:
        return np.stack([t[c].to_numpy() for c in ("i0", "i1", "i2")], axis=1)

    columns: dict[str, tuple[np.dtype[Any], Callable[[pa.Table], np.ndarray]]] = {
        "filenames": (names.dtype, lambda t: names[np.searchsorted(ids[order], indices(t))]),
        "similarities": (np.dtype("<f4"), lambda t: np.stack([t[c].to_numpy() for c in ("s01", "s02", "s12")], axis=1)),
        "indices": (np.dtype("<i8"), indices),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, allowZip64=True, compresslevel=1) as file:
        for name, (dtype, column) in columns.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as stream:
                head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, 3)}
                np.lib.format.write_array_header_2_0(stream, head)
                for t in tables():
                    stream.write(np.ascontiguousarray(column(t).astype(dtype)).tobytes())
    return rows


class _Names:
    """File names -> image_ids, by relative path or by base name."""

    def __init__(self, images: pa.Table) -> None:
        self.ids_of = images["image_id"].to_numpy()
        self.paths = images["path"].combine_chunks().cast(pa.string())
        self.bases = pa.array([p.rpartition("/")[2] for p in self.paths.to_pylist()])

    def ids(self, names: np.ndarray, path: str | Path) -> Int64[np.ndarray, "n 3"]:
        wanted = pa.array(names.reshape(-1))
        found = pc.index_in(wanted, self.paths)
        if found.null_count:
            found = pc.coalesce(found, pc.index_in(wanted, self.bases))
        if found.null_count:
            missing = wanted.filter(pc.is_null(found))
            raise UserError(
                f"{path} names {missing[0].as_py()!r}, which is no image here ({len(missing):,} names are not)"
            )
        return np.asarray(self.ids_of[found.to_numpy()].reshape(names.shape), dtype=np.int64)


def _header(stream: zipfile.ZipExtFile, member: str, path: str | Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except ValueError as error:
        raise UserError(f"{path}: {member} is not an array: {str(error).splitlines()[0]}") from error
    if dtype.hasobject:
        raise UserError(f"{path}: {member} is pickled, which may run code: ask for a file with plain strings")
    if fortran:
        raise UserError(f"{path}: {member} is stored by columns; save it again in C order")
    return shape, dtype


def _rows(stream: zipfile.ZipExtFile, rows: int, dtype: np.dtype[Any], path: str | Path) -> np.ndarray:
    size = rows * 3 * dtype.itemsize
    data = stream.read(size)
    if len(data) != size:
        raise UserError(f"{path} ends before its last row: is the download complete?")
    return np.frombuffer(data, dtype=dtype).reshape(rows, 3)
