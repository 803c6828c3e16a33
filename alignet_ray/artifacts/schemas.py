"""The tables that stages hand to each other: names, types and row rules, each stated once."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

IMAGES = pa.schema([("image_id", pa.int64()), ("path", pa.string()), ("label", pa.string()), ("bytes", pa.int64())])
"""images.parquet: every listed image. image_id = rank of the POSIX path under the root, in UTF-8 byte order."""

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
    [(c, pa.int64()) for c in "ijk"] + [("participant", pa.string()), ("rt", pa.float64()), ("level", pa.string())]
)
"""Odd-one-out answers as given: objects (pair, pair, odd); participant and level "", rt (ms) NaN where unknown."""

SOFT = pa.schema(
    [("i", pa.int64()), ("j", pa.int64()), ("k", pa.int64())] + [(p, pa.float32()) for p in ("p01", "p02", "p12")]
)
"""Softened answers: objects (pair, pair, odd) and the probabilities of the three pairs."""

CLUSTERS = pa.schema([("image_id", pa.int64()), ("cluster", pa.int32())])
"""Cluster of every image."""

TRIPLETS = pa.schema([(c, pa.int64()) for c in ("i0", "i1", "i2")] + [(s, pa.float32()) for s in ("s01", "s02", "s12")])
"""Labelled triplets: image_ids with the most similar pair first, the odd one last, and the teacher's similarities."""

SCORES = pa.schema(
    [(c, pa.string()) for c in ("model", "layer", "dataset", "metric", "level")]
    + [(c, pa.float64()) for c in ("value", "low", "high")]
    + [("n", pa.int64()), ("split", pa.string()), ("seed", pa.int64())]
)
"""Tidy scores: fractions 0-1, 95 % intervals."""


def embeddings(width: int, dtype: str, logits: int = 0) -> pa.Schema:
    """Schema of an embedding table: image_id, embedding [width], and a student's triplet_logits [logits]."""
    value = pa.from_numpy_dtype(np.dtype(dtype))
    fields = [pa.field("image_id", pa.int64()), pa.field("embedding", pa.fixed_shape_tensor(value, [width]))]
    if logits:
        fields.append(pa.field("triplet_logits", pa.fixed_shape_tensor(value, [logits])))
    return pa.schema(fields)


def tensors(values: np.ndarray) -> pa.ExtensionArray:
    """Rows of vectors (n, width), n may be 0, as the Arrow column of `embeddings`."""
    width = values.shape[1]
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(lists.type.value_type, [width]), lists)


def check(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table, if its columns and types are the schema's and no value is null; an AssertionError otherwise."""
    assert table.schema.names == schema.names, f"columns {table.schema.names}, expected {schema.names}"
    assert table.schema.types == schema.types, f"types {table.schema.types}, expected {schema.types}"
    assert not any(column.null_count for column in table.columns), "null values"
    if schema is TRIPLETS and len(table):
        assert pc.all(pc.greater_equal(table["s01"], table["s02"])).as_py(), "s01 must be the largest similarity"
        assert pc.all(pc.greater_equal(table["s01"], table["s12"])).as_py(), "s01 must be the largest similarity"
    return table
