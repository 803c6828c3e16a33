"""Schemas of the tables that stages hand to each other: column names, types and row rules, each stated once."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int

IMAGES = pa.schema(
    [
        ("image_id", pa.int64()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("bytes", pa.int64()),
        ("offset", pa.int64()),
    ]
)
"""images.parquet: every listed image. image_id = rank of the POSIX path under the root, in UTF-8 byte order; offset is
where it begins in a tar file, `NO_OFFSET` for all others."""

IMAGE_ROWS = 65_536
"""Rows of a batch while listing, and of a row group of the image table: few groups, as all of them are described in the
footer that a reader begins with, and none so large that a process could not hold it."""


ERRORS = pa.schema([("image_id", pa.int64()), ("path", pa.string()), ("reason", pa.string())])
"""errors.parquet: images in quarantine; their ids stay as gaps."""

OBJECTS = pa.schema(
    [
        ("object", pa.int64()),
        ("name", pa.string()),
        ("category", pa.string()),
        ("split", pa.string()),
        ("image_ids", pa.list_(pa.int64())),
    ]
)
"""objects.parquet: every object of the human data; split is train, validation or test; image_ids may be empty."""

ANSWERS = pa.schema(
    [
        ("i", pa.int64()),
        ("j", pa.int64()),
        ("k", pa.int64()),
        ("participant", pa.string()),
        ("rt", pa.float64()),
        ("level", pa.string()),
    ]
)
"""Odd-one-out responses as given: objects (pair, pair, odd); participant and level "", rt (ms) NaN where unknown."""

PEOPLE = pa.schema(
    [
        ("participant", pa.string()),
        ("answers", pa.int64()),
        ("agreement", pa.float64()),
        ("log_ratio", pa.float64()),
        ("p_value", pa.float64()),
        ("median_rt", pa.float64()),
    ]
)
"""Participants, and how their answers fit the model of all people; see `core.participants.PersonFit`."""

SOFT = pa.schema(
    [
        ("i", pa.int64()),
        ("j", pa.int64()),
        ("k", pa.int64()),
        ("p01", pa.float32()),
        ("p02", pa.float32()),
        ("p12", pa.float32()),
    ]
)
"""Softened responses: objects (pair, pair, odd) and the human model's probabilities of the three pairs."""

COMPARISONS = pa.schema(
    [
        ("reference", pa.int64()),
        ("a", pa.int64()),
        ("b", pa.int64()),
        ("votes_a", pa.float64()),
        ("votes_b", pa.float64()),
        ("probability_a", pa.float32()),
    ]
)
"""Reference comparisons: objects, people's votes, and the probability, by the human model, that a is chosen."""

CLUSTERS = pa.schema([("image_id", pa.int64()), ("cluster", pa.int32())])
"""Cluster of every image."""

TRIPLETS = pa.schema(
    [
        ("i0", pa.int64()),
        ("i1", pa.int64()),
        ("i2", pa.int64()),
        ("s01", pa.float32()),
        ("s02", pa.float32()),
        ("s12", pa.float32()),
    ]
)
"""Labelled triplets: image_ids with the most similar pair first, the odd one last, and the teacher's similarities."""

SCORES = pa.schema(
    [
        ("model", pa.string()),
        ("layer", pa.string()),
        ("dataset", pa.string()),
        ("metric", pa.string()),
        ("level", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("split", pa.string()),
        ("seed", pa.int64()),
    ]
)
"""Tidy scores, one a row: fractions 0-1 with 95 % intervals."""


def embeddings(width: int, dtype: str, logits: int = 0) -> pa.Schema:
    """Schema of an embedding table: image_id, embedding [width], and a student's triplet_logits [logits]."""
    value_type = pa.from_numpy_dtype(np.dtype(dtype))
    fields = [
        pa.field("image_id", pa.int64()),
        pa.field("embedding", pa.fixed_shape_tensor(value_type, [width])),
    ]
    # Without a head there is nothing to store, and a column of nulls is refused by `check`.
    if logits:
        fields.append(pa.field("triplet_logits", pa.fixed_shape_tensor(value_type, [logits])))
    return pa.schema(fields)


def tensors(values: np.ndarray) -> pa.ExtensionArray:
    """Rows of vectors (n, width), n may be 0, as the Arrow column of `embeddings`."""
    # The width is named, since zero rows do not show it.
    width = values.shape[1]
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(lists.type.value_type, [width]), lists)


def check(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table, if its columns and types are the schema's and no value is null; an AssertionError otherwise."""
    assert table.schema.names == schema.names, f"columns {table.schema.names}, expected {schema.names}"
    assert table.schema.types == schema.types, f"types {table.schema.types}, expected {schema.types}"
    assert not any(column.null_count for column in table.columns), "null values"

    # The order of the three images is the label: the odd one is the last.
    if schema is TRIPLETS and len(table):
        for other in ("s02", "s12"):
            is_largest = pc.greater_equal(table["s01"], table[other])
            assert pc.all(is_largest).as_py(), "s01 must be the largest similarity"
    return table


def column_matrix(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Columns of a table side by side, (n, len(names))."""
    columns = [table[name].to_numpy() for name in names]
    return np.stack(columns, axis=1)


def positions_of(ids: Int[np.ndarray, " n"], wanted: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """Position of every wanted image_id in `ids`, which ascend; an AssertionError where one is missing."""
    # Past the end, `searchsorted` gives a position that does not exist.
    positions = np.searchsorted(ids, wanted)
    nearest = np.minimum(positions, len(ids) - 1)
    assert np.array_equal(ids[nearest], wanted), "image_ids that are not embedded"
    return positions
