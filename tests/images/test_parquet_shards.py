import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.image_files import labels_of, write_tar

from alignet_ray.errors import UserError
from alignet_ray.images.file_kinds import LeftOut
from alignet_ray.images.listing import list_images, read_bytes


def test_tables_beside_tar_files_hold_no_images(tmp_path: Path) -> None:
    """img2dataset writes 00000.tar, 00000.parquet (addresses, captions) and 00000_stats.json side by side."""
    write_tar(tmp_path / "00000.tar", {"000000000.jpg": b"A", "000000000.txt": b"caption"})
    table = pa.table({"url": ["u"], "caption": ["c"], "key": ["000000000"]})
    pq.write_table(table, tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    left_out = LeftOut()
    assert list_images(str(tmp_path), left_out)["path"].to_pylist() == ["00000.tar/000000000.jpg"]
    assert left_out.kinds == {".txt": 1, ".parquet": 1, ".json": 1}

    # A table that belongs to no tar file was meant to hold images.
    pq.write_table(table, tmp_path / "00001.parquet")
    with pytest.raises(UserError, match=r"00001\.parquet has no column of encoded images"):
        list_images(str(tmp_path))


@pytest.mark.parametrize("text", ["-1", "-1.0"])
def test_a_withheld_class_may_be_text(tmp_path: Path, text: str) -> None:
    pq.write_table(pa.table({"image": [b"1", b"2"], "label": [text, "cat"]}), tmp_path / "x.parquet")
    assert list_images(str(tmp_path))["label"].to_pylist() == ["", "cat"]


@pytest.mark.parametrize("nested", [True, False])
def test_parquet_rows_keep_their_order_over_row_groups(tmp_path: Path, nested: bool) -> None:
    images = [f"image {i}".encode() for i in range(25)]
    column = pa.array([{"bytes": data, "path": None} for data in images]) if nested else pa.array(images)
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table({"image": column, "label": [i % 2 for i in range(25)]})
    if nested:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "data.parquet", row_group_size=10)
    found = labels_of(str(tmp_path))
    assert [read_bytes(str(tmp_path), path) for path in found] == images
    assert list(found.values())[:3] == (["cat", "dog", "cat"] if nested else ["0", "1", "0"])


def test_a_table_without_images_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["a", "b"]}), tmp_path / "data.parquet")
    with pytest.raises(UserError, match="has no column of encoded images"):
        list_images(str(tmp_path))
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="is not a whole Parquet file"):
        list_images(str(tmp_path))


def classes_in_parquet(path: Path, labels: list[int | None], names: list[str] | None) -> dict[str, str]:
    """Labels that are read from a Parquet file as Hugging Face's datasets write it."""
    table = pa.table({"image": [b"x"] * len(labels), "label": pa.array(labels, pa.int64())})
    if names:
        about = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(about).encode()})
    pq.write_table(table, path / "data.parquet")
    return labels_of(str(path))


@pytest.mark.parametrize("names", [["ant", "bee", "cat"], None])
def test_a_withheld_class_is_unknown_and_never_the_last_one(tmp_path: Path, names: list[str] | None) -> None:
    found = classes_in_parquet(tmp_path, [-1, None, 0, 2], names)
    assert list(found.values()) == (["", "", "ant", "cat"] if names else ["", "", "0", "2"])


@pytest.mark.parametrize("label", [3, -2])
def test_a_class_without_a_name_is_refused(tmp_path: Path, label: int) -> None:
    says = rf"data\.parquet: row 1: class {label}, but the file names 3 classes \(0 to 2\)"
    with pytest.raises(UserError, match=says):
        classes_in_parquet(tmp_path, [0, label], ["ant", "bee", "cat"])


def test_classes_that_pandas_stored_as_decimals_are_whole_numbers_or_unknown(tmp_path: Path) -> None:
    labels = pa.array(np.array([1.0, np.nan, 0.0, -1.0]))
    pq.write_table(pa.table({"image": [b"x"] * 4, "label": labels}), tmp_path / "data.parquet")
    assert list(labels_of(str(tmp_path)).values()) == ["1", "", "0", ""]


def described(table: pa.Table, features: dict[str, Any]) -> pa.Table:
    """A table with what Hugging Face's datasets say of its columns."""
    return table.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})


def test_columns_with_other_names_are_found_by_their_description(tmp_path: Path) -> None:
    table = pa.table({"photo": [b"P", b"Q"], "fine_label": [1, 0], "coarse_label": [0, 0]})
    features = {
        "photo": {"_type": "Image"},
        "fine_label": {"_type": "ClassLabel", "names": ["apple", "pear"]},
        "coarse_label": {"_type": "ClassLabel", "names": ["fruit"]},
    }
    pq.write_table(described(table, features), tmp_path / "data.parquet")
    assert list(labels_of(str(tmp_path)).values()) == ["pear", "apple"]
    assert read_bytes(str(tmp_path), "data.parquet/000000001") == b"Q"


def test_lists_of_classes_are_not_read_and_counted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x"], "label": [[0, 2]]}), tmp_path / "data.parquet")
    left_out = LeftOut()
    assert list_images(str(tmp_path), left_out)["label"].to_pylist() == [""]
    assert "1 tables give lists of classes, which are not read (first: data.parquet, 'label')" in left_out.text()


def test_a_row_without_content_or_beyond_the_table_is_the_images_own_fault(tmp_path: Path) -> None:
    images = pa.array(
        [{"bytes": None, "path": "elsewhere.jpg"}], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    pq.write_table(pa.table({"image": images}), tmp_path / "data.parquet")
    with pytest.raises(OSError, match=r"row 000000000 of data\.parquet holds no image"):
        read_bytes(str(tmp_path), "data.parquet/000000000")
    for row in ("000000001", "x.jpg"):
        with pytest.raises(OSError, match="holds no row"):
            read_bytes(str(tmp_path), f"data.parquet/{row}")


def test_a_folder_may_be_called_like_a_shard(tmp_path: Path) -> None:
    """Spark writes a table as a folder of that name."""
    folder = tmp_path / "data.parquet"
    folder.mkdir()
    pq.write_table(pa.table({"image": [b"A", b"B"]}), folder / "part-0.parquet")
    (folder / "c.jpg").write_bytes(b"C")
    for root in (str(tmp_path), f"file://{tmp_path}"):
        paths = list(labels_of(root))
        assert [read_bytes(root, path) for path in paths] == [b"C", b"A", b"B"]
