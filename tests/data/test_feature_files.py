import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from alignet_ray.data import feature_files
from alignet_ray.errors import UserError

VECTORS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
NAMES = ["cat/b.jpg", "cat/a.jpg", "dog/ä.jpg", "x.jpg"]


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def npy(folder: Path) -> Path:
    np.save(folder / "f.npy", VECTORS)
    write_csv(folder / "f.csv", [{"path": name} for name in NAMES])
    return folder / "f.npy"


def tensors(folder: Path) -> Path:
    save_file({"embedding": VECTORS}, folder / "f.safetensors")
    # Lines in another order, with the number of their row.
    write_csv(folder / "f.csv", [{"row": row, "path": NAMES[row]} for row in (2, 0, 3, 1)])
    return folder / "f.safetensors"


def npz(folder: Path) -> Path:
    np.savez(folder / "f.npz", activations=VECTORS, filenames=np.array(NAMES), version=np.array(3))
    return folder / "f.npz"


def parquet_lists(folder: Path) -> Path:
    pq.write_table(pa.table({"path": NAMES, "clip": VECTORS.tolist()}), folder / "f.parquet")
    return folder / "f.parquet"


def parquet_columns(folder: Path) -> Path:
    columns = {f"d{column}": VECTORS[:, column] for column in range(3)}
    pq.write_table(pa.table({"path": NAMES} | columns), folder / "f.parquet")
    return folder / "f.parquet"


def thingsvision(folder: Path) -> Path:
    np.save(folder / "features.npy", VECTORS)
    (folder / "file_names.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    return folder


WRITERS = [npy, tensors, npz, parquet_lists, parquet_columns, thingsvision]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_format_gives_the_same_rows(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    source = str(write(tmp_path))
    rows = feature_files.read(source)
    np.testing.assert_array_equal(rows.vectors, VECTORS)
    assert rows.names == NAMES
    assert all(Path(file).is_file() for file in feature_files.files(source))


def test_rows_without_names_and_their_number_format(tmp_path: Path) -> None:
    for dtype, kept in ((np.float16, np.float16), (np.float32, np.float32), (np.float64, np.float32)):
        np.save(tmp_path / "f.npy", VECTORS.astype(dtype))
        rows = feature_files.read(str(tmp_path / "f.npy"))
        assert rows.names is None
        assert rows.vectors.dtype == kept
    assert feature_files.files(str(tmp_path / "f.npy")) == [str(tmp_path / "f.npy")]
    assert feature_files.image_table(rows)["path"].to_pylist() == [f"row {number}" for number in range(4)]


def test_rows_stand_for_images_and_their_folders_for_classes() -> None:
    table = feature_files.image_table(feature_files.FeatureRows(VECTORS, NAMES))
    assert table["image_id"].to_pylist() == [0, 1, 2, 3]
    assert table["label"].to_pylist() == ["cat", "cat", "dog", ""]


def test_images_find_their_rows(tmp_path: Path) -> None:
    rows = feature_files.FeatureRows(VECTORS, NAMES)
    # The other Unicode form of ä, as macOS writes it, is the same name.
    found = feature_files.rows_of_images("f.npy", rows, ["x.jpg", "dog/a\u0308.jpg"])
    np.testing.assert_array_equal(found, VECTORS[[3, 2]])
    with pytest.raises(UserError, match=r"lacks 1 of 2 images \(first: 'y.jpg'; its first row is of 'cat/b.jpg'\)"):
        feature_files.rows_of_images("f.npy", rows, ["x.jpg", "y.jpg"])
    with pytest.raises(UserError, match="which image is each row"):
        feature_files.rows_of_images("f.npy", feature_files.FeatureRows(VECTORS, None), ["x.jpg"])


def test_images_whose_names_differ_in_case_have_rows_of_their_own() -> None:
    rows = feature_files.FeatureRows(VECTORS, ["A.jpg", "a.jpg", "Dog/a.jpg", "dog/a.jpg"])
    found = feature_files.rows_of_images("f.npy", rows, ["dog/a.jpg", "A.jpg", "a.jpg"])
    np.testing.assert_array_equal(found, VECTORS[[3, 0, 1]])
    with pytest.raises(UserError, match=r"did you mean 'a\.jpg'\?|did you mean 'A\.jpg'\?"):
        feature_files.rows_of_images("f.npy", rows, ["a.JPG"])


def not_finite(folder: Path) -> str:
    wrong = VECTORS.copy()
    wrong[2, 1] = np.nan
    np.save(folder / "f.npy", wrong)
    return "f.npy"


def empty(folder: Path) -> str:
    np.save(folder / "f.npy", VECTORS[:0])
    return "f.npy"


def two_tables(folder: Path) -> str:
    np.savez(folder / "f.npz", a=VECTORS, b=VECTORS)
    return "f.npz"


def pickled(folder: Path) -> str:
    np.savez(folder / "f.npz", a=VECTORS, names=np.array(NAMES, dtype=object))
    return "f.npz"


def two_names(folder: Path) -> str:
    np.savez(folder / "f.npz", a=VECTORS, names=np.array(NAMES), classes=np.array(NAMES))
    return "f.npz"


def few_names(folder: Path) -> str:
    np.savez(folder / "f.npz", a=VECTORS, names=np.array(NAMES[:3]))
    return "f.npz"


def same_names(folder: Path) -> str:
    np.savez(folder / "f.npz", a=VECTORS, names=np.array([*NAMES[:3], NAMES[0]]))
    return "f.npz"


def ragged(folder: Path) -> str:
    pq.write_table(pa.table({"x": [[1.0, 2.0], [1.0]]}), folder / "f.parquet")
    return "f.parquet"


def no_numbers(folder: Path) -> str:
    pq.write_table(pa.table({"path": NAMES}), folder / "f.parquet")
    return "f.parquet"


def numbered_paths(folder: Path) -> str:
    pq.write_table(pa.table({"path": [1, 2, 3, 4], "x": VECTORS.tolist()}), folder / "f.parquet")
    return "f.parquet"


def other_folder(folder: Path) -> str:
    (folder / "images").mkdir()
    return "images"


def text(folder: Path) -> str:
    (folder / "f.txt").write_text("1 2 3")
    return "f.txt"


def truncated(folder: Path) -> str:
    npz(folder)
    (folder / "f.npz").write_bytes((folder / "f.npz").read_bytes()[:100])
    return "f.npz"


def too_large(folder: Path) -> str:
    wrong = VECTORS.astype(np.float64)
    wrong[1, 1] = -1e300
    np.save(folder / "f.npy", wrong)
    return "f.npy"


def objects(folder: Path) -> str:
    np.save(folder / "f.npy", VECTORS.astype(object))
    return "f.npy"


def two_tensors(folder: Path) -> str:
    save_file({"image": VECTORS, "text": VECTORS}, folder / "f.safetensors")
    return "f.safetensors"


def no_tensors(folder: Path) -> str:
    save_file({"ids": np.arange(4)}, folder / "f.safetensors")
    return "f.safetensors"


MISTAKES = {
    too_large: "1 rows are not finite .* the first is row 1",
    objects: "holds Python objects, which are never unpickled: save plain numbers",
    two_tensors: r"needs one tensor of rows .* image \(4, 3\), text \(4, 3\)",
    no_tensors: r"needs one tensor of rows .* ids \(4,\)",
    not_finite: "1 rows are not finite .* the first is row 2",
    empty: "it is empty",
    two_tables: r"needs one array of decimal numbers .* a float32 \(4, 3\), b float32",
    pickled: "holds no features: it holds Python objects, which are never unpickled",
    two_names: "2 arrays of text",
    few_names: "3 names and 4 rows",
    same_names: "two rows are of 'cat/b.jpg'",
    ragged: "not all numbers of one length",
    no_numbers: "needs one column of lists",
    numbered_paths: "column path holds int64, not text",
    other_folder: "no features.npy in it",
    text: "features are a .npy",
    truncated: "holds no features",
}


@pytest.mark.parametrize("write", MISTAKES, ids=lambda write: write.__name__)
def test_mistakes_are_told_in_one_line(tmp_path: Path, write: Callable[[Path], str]) -> None:
    with pytest.raises(UserError, match=MISTAKES[write]) as caught:
        feature_files.read(str(tmp_path / write(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.npy"):
        feature_files.read(str(tmp_path / "nothing.npy"))
