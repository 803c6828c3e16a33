"""Features that somebody else computed, in place of a network and images: rows of numbers, with or without names.

    FILE.npy, FILE.safetensors    rows; a CSV of the same name with a column `path` says what each row is of
    FILE.npz                      one array of rows, and perhaps one of names
    FILE.parquet                  a column `path`, and one column of lists (or many columns of numbers)
    FOLDER                        what thingsvision writes: features.npy and file_names.txt

Rows without names are one for each object of the human data, in its order.
"""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from alignet_ray.artifacts import schemas
from alignet_ray.artifacts.spans import NO_OFFSET
from alignet_ray.data import stored
from alignet_ray.data.files import comparable_path, did_you_mean, filled_lines
from alignet_ray.errors import MAX_CHARACTERS, UserError, array_problem, first_line, require_regular

THINGSVISION_FEATURES = "features.npy"
THINGSVISION_NAMES = "file_names.txt"

SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")


class FeatureRows(NamedTuple):
    """Rows of features.

    Attributes:
        vectors: float16 as stored, else float32.
        names: path or name of what each row is of; None where the file says nothing.
    """

    vectors: Float[np.ndarray, "n d"]
    names: list[str] | None


def files(source: str) -> list[str]:
    """Files whose fingerprints identify the features.

    Raises:
        UserError: no file or folder of a known form.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return [str(path / name) for name in (THINGSVISION_FEATURES, THINGSVISION_NAMES) if (path / name).is_file()]
    names = stored.rows_file(path)
    if path.suffix in (".npy", ".safetensors") and names is not None:
        return [str(path), str(names)]
    return [str(path)]


def read(source: str) -> FeatureRows:
    """All rows.

    Args:
        source: see the module's docstring.

    Raises:
        UserError: no such file, of another form or damaged; names that do not fit; rows that are not finite.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        rows = _read_thingsvision(path)
    elif path.suffix not in SUFFIXES:
        raise UserError(f"{source}: features are a {', '.join(SUFFIXES)} file, or a folder written by thingsvision")
    else:
        require_regular(path)
        rows = _read_file(path)
    _check(source, rows)

    # Half precision stays; anything wider than single precision would only double the memory.
    dtype = np.float16 if rows.vectors.dtype == np.float16 else np.float32
    return FeatureRows(np.ascontiguousarray(rows.vectors, dtype), rows.names)


def image_table(rows: FeatureRows) -> pa.Table:
    """Table IMAGES in which every row stands for one image; its folder is its class."""
    count = len(rows.vectors)
    names = rows.names or [f"row {number}" for number in range(count)]
    columns = {
        "image_id": list(range(count)),
        "path": names,
        "label": [PurePosixPath(name).parent.name for name in names],
        "bytes": [0] * count,
        "offset": [NO_OFFSET] * count,
    }
    return schemas.check(pa.table(columns, schema=schemas.IMAGES), schemas.IMAGES)


def rows_of_images(source: str, rows: FeatureRows, paths: list[str]) -> Float[np.ndarray, "n d"]:
    """The vectors of images, by their paths.

    Args:
        source: of the rows, for messages.
        rows: all of them.
        paths: of the images, all of which must have a row.

    Raises:
        UserError: rows without names, or images without a row.
    """
    if rows.names is None:
        raise UserError(f"{source}: which image is each row? Put a CSV of the same name beside it, with a column path")
    row_of = {comparable_path(name): row for row, name in enumerate(rows.names)}
    missing = [path for path in paths if comparable_path(path) not in row_of]
    if missing:
        raise UserError(
            f"{source} lacks {len(missing):,} of {len(paths):,} images (first: {missing[0]!r}; its first row is of "
            f"{rows.names[0]!r}): compute features of all images, with paths under the folder of images"
            + did_you_mean(missing[0], rows.names)
        )
    return rows.vectors[[row_of[comparable_path(path)] for path in paths]]


def _check(source: str, rows: FeatureRows) -> None:
    vectors, names = rows
    if not len(vectors) or not vectors.shape[1]:
        raise UserError(f"{source} holds no features: it is empty")
    is_finite = np.isfinite(vectors).all(axis=1)
    # Double precision reaches further than the single precision that they are stored in.
    if vectors.dtype.itemsize > np.dtype(np.float32).itemsize:
        is_finite &= (np.abs(vectors) <= np.finfo(np.float32).max).all(axis=1)
    if not is_finite.all():
        first = int(np.flatnonzero(~is_finite)[0])
        count = int((~is_finite).sum())
        raise UserError(
            f"{source}: {count:,} rows are not finite (NaN, infinity or beyond float32), "
            f"the first is row {first} (from 0)"
        )
    if names is None:
        return

    if len(names) != len(vectors):
        raise UserError(f"{source} has {len(names):,} names and {len(vectors):,} rows of features: one name a row")
    seen: set[str] = set()
    for name in names:
        if comparable_path(name) in seen:
            raise UserError(f"{source}: two rows are of {name!r}: which one counts? Leave one out")
        seen.add(comparable_path(name))


def _read_file(path: Path) -> FeatureRows:
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    vectors = stored.read_vectors(path)
    if stored.rows_file(path) is None:
        return FeatureRows(vectors, None)
    return FeatureRows(vectors, stored.read_paths(path, len(vectors)))


def _read_thingsvision(folder: Path) -> FeatureRows:
    if not (folder / THINGSVISION_FEATURES).is_file():
        raise UserError(f"{folder}: no {THINGSVISION_FEATURES} in it, which thingsvision writes as --file_format npy")
    vectors = stored.read_vectors(folder / THINGSVISION_FEATURES)
    names = folder / THINGSVISION_NAMES
    if not names.is_file():
        return FeatureRows(vectors, None)
    try:
        text = names.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {names}: {first_line(error)}") from error
    return FeatureRows(vectors, filled_lines(text))


def _read_npz(path: Path) -> FeatureRows:
    try:
        # An array of Python objects would be unpickled, and a pickle runs code.
        with np.load(path, allow_pickle=False) as archive:
            loaded = dict(archive)
    except Exception as error:  # damaged bytes raise errors of many types
        raise UserError(f"{path} holds no features: {array_problem(error)}") from error

    tables: list[np.ndarray] = []
    texts: list[np.ndarray] = []
    shapes: list[str] = []
    for name, array in loaded.items():
        # A zip may hold anything; what is no array comes as bytes.
        if not isinstance(array, np.ndarray):
            continue
        shapes.append(f"{name} {array.dtype} {array.shape}")
        if array.ndim == 2 and array.dtype.kind == "f":
            tables.append(array)
        elif array.ndim == 1 and array.dtype.kind in "US":
            texts.append(array)

    if len(tables) != 1:
        listed = ", ".join(shapes) or "nothing"
        raise UserError(f"{path} needs one array of decimal numbers (n, d), it holds {listed[:MAX_CHARACTERS]}")
    if len(texts) > 1:
        raise UserError(f"{path} holds {len(texts)} arrays of text: which one has the names? Leave the others out")
    if not texts:
        return FeatureRows(tables[0], None)
    return FeatureRows(tables[0], [str(name) for name in texts[0].astype(str).tolist()])


def _read_parquet(path: Path) -> FeatureRows:
    try:
        table = pq.read_table(path)
        return FeatureRows(_parquet_vectors(path, table), _parquet_names(path, table))
    except UserError:
        raise
    except Exception as error:  # of many types: damaged bytes here, texts that are no UTF-8 once they are used
        raise UserError(f"{path} holds no features: {first_line(error)}") from error


def _parquet_names(path: Path, table: pa.Table) -> list[str] | None:
    if stored.PATH_COLUMN not in table.column_names:
        return None
    column = table[stored.PATH_COLUMN]
    if not pa.types.is_string(column.type):
        raise UserError(f"{path}: column {stored.PATH_COLUMN} holds {column.type}, not text")
    if column.null_count:
        raise UserError(f"{path}: column {stored.PATH_COLUMN} has empty cells")
    return list(column.to_pylist())


def _parquet_vectors(path: Path, table: pa.Table) -> Float[np.ndarray, "n d"]:
    """The one column of lists, or all columns of decimal numbers side by side."""
    lists: list[pa.ChunkedArray] = []
    numbers: list[pa.ChunkedArray] = []
    for column in table.columns:
        if _is_list(column.type):
            lists.append(column)
        elif pa.types.is_floating(column.type):
            numbers.append(column)

    if len(lists) > 1 or not (lists or numbers):
        raise UserError(
            f"{path} needs one column of lists, or columns of decimal numbers; it has {', '.join(table.column_names)}"
        )
    if not lists:
        return np.stack([column.to_numpy() for column in numbers], axis=1)

    column = lists[0].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if isinstance(column, pa.ExtensionArray):
        column = column.storage

    # Rows of different lengths have no shape, and numpy says so.
    try:
        return np.array(column.to_pylist(), dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: the rows are not all numbers of one length ({first_line(error)})") from error


def _is_list(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.FixedShapeTensorType):
        return True
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind))
