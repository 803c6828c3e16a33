"""Parquet files as folders of images: encoded images in one column, classes in another, as Hugging Face stores them."""

import json
import math
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from alignet_ray.errors import UserError, first_line
from alignet_ray.images.file_kinds import LeftOut, Member, known_class
from alignet_ray.images.roots import is_file, open_file
from alignet_ray.store import JsonObject

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "bytes")
"""Columns that may hold the encoded image, best first."""

CLASS_COLUMNS = ("label", "cls", "class", "wnid")
"""Columns that may hold the image's class, best first."""

WITHHELD = -1
"""Class number of test splits whose classes are withheld (Hugging Face)."""


class NoImages(UserError):
    """A table without a column of images."""


class ParquetLayout(NamedTuple):
    """How a Parquet file holds its images.

    Attributes:
        image_column: the column of encoded images.
        class_column: the column of classes; "" if there is none.
        nested_classes: a column of lists or structs where classes were expected; "" if there is none.
        class_names: Hugging Face's names of the numbered classes; empty if there are none.
        group_starts: first row of every row group, and the number of rows at the end.
        mean_size: mean bytes of a row.
    """

    image_column: str
    class_column: str
    nested_classes: str
    class_names: list[str]
    group_starts: list[int]
    mean_size: int


def parquet_members(uri: str, path: str, left_out: LeftOut) -> Iterator[Member]:
    """The images of a Parquet file, in the order of its rows; a row's name is its number.

    A column of lists gives no class, which `left_out` counts.

    Raises:
        UserError: it is damaged, holds no images, or a class for which it has no name.
    """
    try:
        layout = _layout(uri, path)
    except NoImages:
        # img2dataset writes the addresses and captions of a tar file's images beside it.
        if is_file(uri, f"{path.rpartition('.')[0]}.tar"):
            left_out.add(path)
            return
        raise
    if layout.nested_classes:
        left_out.nested_classes.add(f"{path}, {layout.nested_classes!r}")
    classes: list[Any] = [None] * layout.group_starts[-1]
    if layout.class_column:
        try:
            with open_file(uri, path) as stream:
                classes = pq.ParquetFile(stream).read([layout.class_column])[layout.class_column].to_pylist()
        except Exception as error:  # damaged bytes raise errors of many types
            raise _not_whole(uri, path, error) from error

    for row, value in enumerate(classes):
        label = _class_label(value, layout.class_names, f"{uri}/{path}: row {row}")
        yield Member(f"{path}/{row:09d}", label, layout.mean_size)


def read_parquet_row(uri: str, shard: str, name: str) -> bytes:
    """Content of the image in a row.

    Raises:
        OSError: there is no such row, it holds no image, or its group is damaged.
    """
    group_starts = _layout(uri, shard).group_starts
    if not name.isdecimal() or int(name) >= group_starts[-1]:
        raise FileNotFoundError(f"{shard} holds no row {name} any more")
    row = int(name)

    # A group is the least that Parquet can read, and it is kept: its other rows are asked for next.
    group = bisect_right(group_starts, row) - 1
    content = _row_group_images(uri, shard, group)[row - group_starts[group]].as_py()
    if content is None:
        raise OSError(f"row {name} of {shard} holds no image")
    return bytes(content)


@lru_cache(maxsize=64)
def _layout(uri: str, path: str) -> ParquetLayout:
    try:
        with open_file(uri, path) as stream:
            parquet = pq.ParquetFile(stream)
            metadata = parquet.metadata
            schema = parquet.schema_arrow
        features = _features(schema)
    except Exception as error:  # damaged bytes raise errors of many types
        raise _not_whole(uri, path, error) from error

    with_bytes = [name for name in schema.names if _holds_bytes(schema.field(name).type)]
    image_column = _best_column(with_bytes, IMAGE_COLUMNS, features, "Image")
    if not image_column:
        raise NoImages(f"{uri}/{path} has no column of encoded images: expected one of {', '.join(IMAGE_COLUMNS)}")

    # Classes inside a structure or a list are no class of the image; they are counted so that the user learns of them.
    nested: list[str] = []
    flat: list[str] = []
    for field in schema:
        if pa.types.is_nested(field.type):
            nested.append(field.name)
        else:
            flat.append(field.name)
    class_column = _best_column(flat, CLASS_COLUMNS, features, "ClassLabel")
    nested_classes = ""
    if not class_column:
        nested_classes = _best_column(nested, CLASS_COLUMNS, {}, "")

    # Sizes of single images would need their data: the mean over the file is enough for what sizes are used for.
    group_starts = [0]
    total_size = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        group_starts.append(group_starts[-1] + group.num_rows)
        total_size += group.total_byte_size
    mean_size = total_size // max(metadata.num_rows, 1)
    class_names = [str(name) for name in features.get(class_column, {}).get("names") or []]
    return ParquetLayout(image_column, class_column, nested_classes, class_names, group_starts, mean_size)


def _not_whole(uri: str, path: str, error: Exception) -> UserError:
    return UserError(f"{uri}/{path} is not a whole Parquet file ({first_line(error)}): fetch it again or take it out")


def _features(schema: pa.Schema) -> dict[str, JsonObject]:
    """What Hugging Face's datasets say of the columns in the schema's metadata; columns of another form are left out.

    Raises:
        ValueError: the metadata is no JSON.
    """
    described: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    for key in ("info", "features"):
        # The metadata is somebody else's: any level may be something else than a dictionary.
        if not isinstance(described, dict):
            return {}
        described = described.get(key, {})
    if not isinstance(described, dict):
        return {}
    return {name: feature for name, feature in described.items() if isinstance(feature, dict)}


def _best_column(names: list[str], known: tuple[str, ...], features: dict[str, JsonObject], kind: str) -> str:
    """The column with the best known name, else the first whose described type is `kind`; "" if there is none."""
    for name in known:
        if name in names:
            return name
    for name in names:
        if features.get(name, {}).get("_type") == kind:
            return name
    return ""


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind)) or bool(pa.types.is_large_binary(kind))


def _class_label(value: Any, class_names: list[str], place: str) -> str:
    """A cell as a class; "" where it is unknown.

    Raises:
        UserError: a number for which there is no name.
    """
    # pandas stores whole numbers as decimals wherever one of them is missing, and the missing one as NaN.
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    is_missing = value is None or (isinstance(value, float) and math.isnan(value))
    # As an index the number of a withheld class would be the last class.
    if is_missing or value == WITHHELD:
        return ""
    if not class_names or not isinstance(value, int):
        return known_class(str(value))
    if not 0 <= value < len(class_names):
        raise UserError(
            f"{place}: class {value}, but the file names {len(class_names)} classes (0 to {len(class_names) - 1})"
        )
    return class_names[value]


@lru_cache(maxsize=4)
def _row_group_images(uri: str, path: str, group: int) -> pa.Array:
    """The image column of one row group; cached, since neighbouring rows are asked for one after the other.

    Raises:
        OSError: the group is damaged.
    """
    name = _layout(uri, path).image_column
    try:
        with open_file(uri, path) as stream:
            column = pq.ParquetFile(stream).read_row_group(group, [name])[name].combine_chunks()
    except Exception as error:  # damaged bytes raise errors of many types
        raise OSError(f"row group {group} of {path} is damaged: {first_line(error)}") from error
    if pa.types.is_struct(column.type):
        return column.field("bytes")
    return column
