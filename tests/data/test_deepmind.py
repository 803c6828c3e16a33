from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignet_ray.artifacts.schemas import IMAGES, TRIPLETS
from alignet_ray.data import deepmind
from alignet_ray.errors import UserError


@pytest.fixture
def images() -> pa.Table:
    """Twenty images in two class folders; their ids have gaps."""
    paths = [f"n{c}/n{c}_{i}.JPEG" for c in range(2) for i in range(10)]
    columns = [list(range(5, 45, 2)), paths, [p[:2] for p in paths], [1] * 20, [-1] * 20]
    return pa.table(columns, schema=IMAGES)


def release(path: Path, images: pa.Table, n: int = 50, seed: int = 0, **changes: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(20)[:3] for _ in range(n)])
    names = np.array([p.split("/")[1] for p in images["path"].to_pylist()])
    members = {"filenames": names[rows], "similarities": -np.sort(-rng.normal(size=(n, 3))), "indices": rows} | changes
    np.savez(path, **members)
    return members


def test_a_release_is_imported_and_exported_unchanged(tmp_path: Path, images: pa.Table) -> None:
    members = release(tmp_path / "a.npz", images)
    assert deepmind.is_release(tmp_path / "a.npz")
    counts = deepmind.ImportCounts()
    table = pa.concat_tables(deepmind.import_triplets(tmp_path / "a.npz", images, counts))
    assert (counts.rows, counts.ties, counts.permuted) == (50, 0, 0)
    ids = images["image_id"].to_numpy()
    np.testing.assert_array_equal(table["i2"].to_numpy(), ids[members["indices"][:, 2]])
    np.testing.assert_allclose(table["s12"].to_numpy(), members["similarities"][:, 2], rtol=1e-6)
    assert deepmind.export_triplets(tmp_path / "b.npz", lambda: iter([table[:20], table[20:]]), images) == 50
    with np.load(tmp_path / "b.npz", allow_pickle=False) as out:
        np.testing.assert_array_equal(out["filenames"], members["filenames"])
        np.testing.assert_array_equal(out["similarities"], members["similarities"].astype(np.float32))
    again = pa.concat_tables(deepmind.import_triplets(tmp_path / "b.npz", images))
    assert again.equals(table)


def test_blocks_are_small_and_complete(tmp_path: Path, images: pa.Table) -> None:
    members = release(tmp_path / "a.npz", images, n=103)
    found = list(deepmind.blocks(tmp_path / "a.npz", block=25))
    assert [len(b["similarities"]) for b in found] == [25, 25, 25, 25, 3]
    np.testing.assert_array_equal(np.concatenate([b["filenames"] for b in found]), members["filenames"])


@given(st.permutations(range(3)), st.integers(0, 1000))
def test_images_move_with_their_similarities(order: list[int], seed: int) -> None:
    embeddings = np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)
    ids = np.array([order], dtype=np.int64)

    def similarities(row: np.ndarray) -> np.ndarray:
        a, b, c = embeddings[row]
        return np.array([[a @ b, a @ c, b @ c]], dtype=np.float32)

    moved, s, _ = deepmind.most_similar_pair_first(ids, similarities(ids[0]))
    assert s[0, 0] == s.max()
    np.testing.assert_allclose(s, similarities(moved[0]), rtol=1e-6)
    assert set(moved[0]) == {0, 1, 2}


def test_ties_and_a_wrong_order_are_counted(tmp_path: Path, images: pa.Table) -> None:
    s = np.array([[1.0, 2.0, 0.0], [1.0, 1.0, 0.0], [3.0, 2.0, 1.0]])
    release(tmp_path / "a.npz", images, n=3, similarities=s)
    counts = deepmind.ImportCounts()
    table = next(iter(deepmind.import_triplets(tmp_path / "a.npz", images, counts)))
    assert (counts.rows, counts.ties, counts.permuted) == (3, 1, 1)
    assert table.schema == TRIPLETS
    assert table["s01"].to_pylist() == [2.0, 1.0, 3.0]


def test_images_whose_names_differ_in_case_are_never_mixed_up(tmp_path: Path) -> None:
    paths = ["x/A.png", "x/B.png", "x/a.png"]
    images = pa.table([list(range(3)), paths, ["x"] * 3, [1] * 3, [-1] * 3], schema=IMAGES)
    similarities = np.array([[3.0, 2.0, 1.0]])
    np.savez(tmp_path / "a.npz", filenames=np.array([["a.png", "B.png", "A.png"]]), similarities=similarities)
    table = next(iter(deepmind.import_triplets(tmp_path / "a.npz", images)))
    assert [column.to_pylist() for column in table.columns[:3]] == [[2], [1], [0]]
    np.savez(tmp_path / "a.npz", filenames=np.array([["a.png", "b.png", "A.png"]]), similarities=similarities)
    with pytest.raises(UserError, match=r"'b\.png', which is no image here .*did you mean 'B\.png'\?"):
        next(iter(deepmind.import_triplets(tmp_path / "a.npz", images)))


def test_bad_files_are_refused_in_one_line(tmp_path: Path, images: pa.Table) -> None:
    path = tmp_path / "a.npz"
    bad = {
        "pickled": {"filenames": np.array([["a", "b", "c"]] * 50, dtype=object)},
        "no image here": {"filenames": np.full((50, 3), "other.JPEG")},
        "not finite": {"similarities": np.full((50, 3), np.nan)},
        "must be": {"similarities": np.ones((49, 3))},
    }
    for says, change in bad.items():
        release(path, images, **change)
        with pytest.raises(UserError, match=says):
            list(deepmind.import_triplets(path, images))
    np.savez(path, weights=np.eye(3))
    assert not deepmind.is_release(path)
    with pytest.raises(UserError, match="no AligNet triplets"):
        list(deepmind.import_triplets(path, images))
    path.write_bytes(b"PK nonsense")
    with pytest.raises(UserError, match="no AligNet triplets"):
        list(deepmind.import_triplets(path, images))


def test_a_file_name_that_several_images_share_is_refused(tmp_path: Path) -> None:
    paths = ["a/x.png", "a/y.png", "b/x.png", "b/z.png"]
    images = [{"image_id": i, "path": path, "label": path[0], "bytes": 1} for i, path in enumerate(paths)]
    table = pa.Table.from_pylist(images, schema=IMAGES)
    path = tmp_path / "a.npz"
    similarities = np.array([[3.0, 2.0, 1.0]])
    np.savez(path, filenames=np.array([["x.png", "y.png", "z.png"]]), similarities=similarities)
    with pytest.raises(UserError, match=r"'x\.png', which may be 'a/x\.png' or 'b/x\.png'"):
        list(deepmind.import_triplets(path, table))
    np.savez(path, filenames=np.array([["b/x.png", "y.png", "z.png"]]), similarities=similarities)
    assert next(deepmind.import_triplets(path, table)).column(0).to_pylist() == [2]
