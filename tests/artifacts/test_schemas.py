"""Tables between stages: columns, types and row rules are checked, vectors come back, ids are found."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignet_ray.artifacts import schemas


def labelled(s01: float, s02: float, s12: float) -> pa.Table:
    columns = [[1], [2], [3], [s01], [s02], [s12]]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, schemas.TRIPLETS, strict=True)],
        schema=schemas.TRIPLETS,
    )


def test_a_table_of_the_schema_passes_as_it_is() -> None:
    table = labelled(0.5, 0.5, 0.1)
    assert schemas.check(table, schemas.TRIPLETS) is table
    assert schemas.check(schemas.TRIPLETS.empty_table(), schemas.TRIPLETS).num_rows == 0


@pytest.mark.parametrize("similarities", [(0.1, 0.2, 0.0), (0.1, 0.0, 0.2)])
def test_the_first_pair_of_a_labelled_triplet_is_the_most_similar(similarities: tuple[float, float, float]) -> None:
    with pytest.raises(AssertionError, match="largest similarity"):
        schemas.check(labelled(*similarities), schemas.TRIPLETS)


def test_other_columns_types_and_nulls_are_refused() -> None:
    rows = {"image_id": pa.array([1], pa.int64()), "cluster": pa.array([2], pa.int32())}
    good = pa.table(rows)
    schemas.check(good, schemas.CLUSTERS)
    with pytest.raises(AssertionError, match=r"columns \['cluster', 'image_id'\]"):
        schemas.check(good.select(["cluster", "image_id"]), schemas.CLUSTERS)
    with pytest.raises(AssertionError, match="types"):
        schemas.check(pa.table(rows | {"cluster": pa.array([2], pa.int64())}), schemas.CLUSTERS)
    with pytest.raises(AssertionError, match="null values"):
        schemas.check(pa.table(rows | {"cluster": pa.array([None], pa.int32())}), schemas.CLUSTERS)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_vectors_come_back_from_their_column(dtype: str, count: int) -> None:
    values = np.arange(count * 4, dtype=dtype).reshape(count, 4)
    column = schemas.tensors(values)
    assert column.type == schemas.embeddings(4, dtype).field("embedding").type
    assert len(column) == count
    flat = [number for row in column.storage.to_pylist() for number in row]
    assert flat == values.ravel().tolist()


def test_only_a_student_with_a_head_has_logits() -> None:
    assert schemas.embeddings(4, "float16").names == ["image_id", "embedding"]
    with_head = schemas.embeddings(4, "float16", logits=2)
    assert with_head.names == ["image_id", "embedding", "triplet_logits"]
    assert with_head.field("triplet_logits").type.shape == [2]


@given(st.sets(st.integers(0, 99), min_size=1), st.data())
def test_every_wanted_id_is_found_in_any_order_and_shape(ids: set[int], data: st.DataObject) -> None:
    present = np.array(sorted(ids))
    wanted = np.array(data.draw(st.lists(st.sampled_from(sorted(ids)), min_size=1)))
    np.testing.assert_array_equal(present[schemas.positions_of(present, wanted)], wanted)
    assert schemas.positions_of(present, wanted[None]).shape == (1, len(wanted))


@pytest.mark.parametrize("missing", [-1, 4, 9])
def test_an_id_that_is_not_there_is_an_error(missing: int) -> None:
    with pytest.raises(AssertionError, match="not embedded"):
        schemas.positions_of(np.array([0, 3, 5]), np.array([3, missing]))
