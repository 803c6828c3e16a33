import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from alignet_ray.artifacts.schemas import IMAGES, embeddings, tensors
from alignet_ray.data import stored
from alignet_ray.data.export import embeddings as export
from alignet_ray.errors import UserError
from alignet_ray.store import Artifact, Store

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
PATHS = [f"c{i % 2}/{i}.png" for i in range(6)]
WANTED = {PATHS[5]: 10, PATHS[0]: 30, PATHS[2]: 20}
"""Images in another listing than the embeddings', so with other ids."""


@pytest.fixture
def artifact(store: Store) -> Artifact:
    draft = store.draft("embed", "abc123")
    images = [{"image_id": i, "path": path, "label": path[:2], "bytes": 1} for i, path in enumerate(PATHS)]
    draft.write_table("images.parquet", pa.Table.from_pylist(images, schema=IMAGES))
    table = pa.Table.from_arrays([pa.array(np.arange(6)), tensors(X)], schema=embeddings(4, "float32"))
    draft.write_table("part-00000.parquet", table)
    return draft.finish({})


def rows(path: Path, paths: list[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["path"], *([p] for p in paths)])


def check(spec: str, root: str) -> None:
    ids, x = stored.read(spec, root, WANTED)
    assert ids.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(x, X[[5, 2, 0]])


def test_artifacts_and_files_are_matched_by_path(artifact: Artifact, store: Store, tmp_path: Path) -> None:
    check("embed/abc", store.root)
    check(artifact.uri, store.root)
    for form in ("npy", "safetensors"):
        check(str(export(artifact, form, tmp_path / "exports")), store.root)
    np.save(tmp_path / "mine.npy", X[::-1])
    rows(tmp_path / "mine.csv", PATHS[::-1])
    check(str(tmp_path / "mine.npy"), store.root)


def test_images_whose_names_differ_in_case_have_rows_of_their_own(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", X[:3])
    rows(tmp_path / "mine.csv", ["A.png", "a.png", "Dog/a.png"])
    ids, vectors = stored.read(str(tmp_path / "mine.npy"), "", {"a.png": 0, "A.png": 1})
    assert ids.tolist() == [0, 1]
    np.testing.assert_array_equal(vectors, X[[1, 0]])
    with pytest.raises(UserError, match=r"first: 'dog/a\.png'\).*did you mean 'Dog/a\.png'\?"):
        stored.read(str(tmp_path / "mine.npy"), "", {"dog/a.png": 0})


def test_what_is_stored_and_what_is_a_model(artifact: Artifact, tmp_path: Path) -> None:
    assert all(map(stored.is_stored, ("embed/abc", artifact.uri, "x.npy", "y.safetensors")))
    assert not any(map(stored.is_stored, ("resnet18.a1_in1k", "resnet18@y.safetensors", "models:/s@champion")))
    assert not stored.is_stored(str(tmp_path))
    assert stored.files("embed/abc") == []
    assert stored.files(artifact.uri) == [f"{artifact.uri}/artifact.json"]


def test_numbers_of_another_byte_order_become_this_machines(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", X.astype(X.dtype.newbyteorder(">")))
    rows(tmp_path / "mine.csv", PATHS)
    check(str(tmp_path / "mine.npy"), "")
    assert stored.read_vectors(tmp_path / "mine.npy").dtype.isnative


@pytest.mark.parametrize(
    ("array", "paths", "says"),
    [
        (X, PATHS[:4], "4 lines, bad.npy has 6 rows"),
        (X[:5], PATHS[:5], "lacks 1 of the 3 annotated images"),
        (X * np.nan, PATHS, "3 of the annotated images have an embedding that is not finite"),
        (X[0], PATHS, "are rows of decimal numbers"),
        (X.astype(int), PATHS, "are rows of decimal numbers"),
    ],
)
def test_bad_files_are_told(tmp_path: Path, array: np.ndarray, paths: list[str], says: str) -> None:
    np.save(tmp_path / "bad.npy", array)
    rows(tmp_path / "bad.csv", paths)
    with pytest.raises(UserError, match=says):
        stored.read(str(tmp_path / "bad.npy"), "", WANTED)


def test_missing_rows_and_artifacts_are_told(store: Store, tmp_path: Path) -> None:
    save_file({"embedding": X}, tmp_path / "alone.safetensors")
    with pytest.raises(UserError, match=r"Put alone\.csv beside it"):
        stored.files(str(tmp_path / "alone.safetensors"))
    (tmp_path / "alone.csv").write_text("image\na.png\n")
    with pytest.raises(UserError, match="no column path"):
        stored.read(str(tmp_path / "alone.safetensors"), "", WANTED)
    with pytest.raises(UserError, match="no finished artifacts"):
        stored.read("embed/abc", store.root, WANTED)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "text.csv").write_text("path\na.png\n")
    with pytest.raises(UserError, match="holds no embeddings"):
        stored.read(str(tmp_path / "text.npy"), "", WANTED)


def test_the_column_row_says_which_row_is_whose(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", X)
    order = [3, 0, 5, 1, 4, 2]  # as a spreadsheet that sorted the lines leaves it
    lines = [f"{row},{PATHS[row]}" for row in order]
    (tmp_path / "mine.csv").write_text("row,path\n" + "\n".join(lines))
    check(str(tmp_path / "mine.npy"), str(tmp_path))
    lines[0] = lines[1].split(",")[0] + "," + PATHS[3]
    (tmp_path / "mine.csv").write_text("row,path\n" + "\n".join(lines))
    with pytest.raises(UserError, match="every number from 0 to 5 once"):
        stored.read(str(tmp_path / "mine.npy"), str(tmp_path), WANTED)


def test_an_image_with_two_rows_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", X)
    rows(tmp_path / "mine.csv", [*PATHS[:5], "./" + PATHS[0]])
    with pytest.raises(UserError, match="two rows are of"):
        stored.read(str(tmp_path / "mine.npy"), str(tmp_path), WANTED)


def test_paths_are_compared_as_people_see_them(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", X)
    rows(tmp_path / "mine.csv", [".\\" + path.replace("/", "\\") for path in PATHS])
    check(str(tmp_path / "mine.npy"), str(tmp_path))
