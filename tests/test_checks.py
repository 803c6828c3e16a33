from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.transforms import save_transform

from alignet_ray import checks
from alignet_ray.artifacts import schemas
from alignet_ray.core.affine import AffineTransform
from alignet_ray.errors import UserError


@pytest.fixture
def embedding(tmp_path: Path) -> np.ndarray:
    x = (np.eye(4, dtype=np.float32)[np.arange(60) % 4] * 2 + 0.1).astype(np.float32)
    np.save(tmp_path / "reference.npy", x)
    return x


@pytest.fixture
def rows(embedding: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.permutation(60)[:3] for _ in range(6000)])
    s = np.stack([(embedding[rows[:, a]] * embedding[rows[:, b]]).sum(1) for a, b in ((0, 1), (0, 2), (1, 2))], axis=1)
    choice = (s + rng.gumbel(size=s.shape)).argmax(axis=1)
    return np.take_along_axis(rows, np.array([[0, 1, 2], [0, 2, 1], [1, 2, 0]])[choice], axis=1)


def check(tmp_path: Path, rows: np.ndarray, reference: bool = True, **references: object) -> tuple[str, bool]:
    np.savetxt(tmp_path / "answers.txt", rows, "%d")
    known = str(tmp_path / "reference.npy") if reference else None
    return checks.verify(str(tmp_path / "answers.txt"), checks.References(reference=known, **references))  # type: ignore[arg-type]


def test_a_good_file_passes_whichever_way_its_pairs_are_written(tmp_path: Path, rows: np.ndarray) -> None:
    assert check(tmp_path, rows)[1]
    assert check(tmp_path, rows[:, [1, 0, 2]])[1]
    assert "no problems found" in check(tmp_path, rows, reference=False)[0]


@pytest.mark.parametrize("reference", [True, False])
def test_the_same_file_with_the_odd_one_elsewhere(tmp_path: Path, rows: np.ndarray, reference: bool) -> None:
    text, ok = check(tmp_path, rows[:, [0, 2, 1]], reference)
    assert not ok
    assert "middle" in text
    text, ok = check(tmp_path, rows[:, [2, 0, 1]], reference)
    assert not ok
    assert "first" in text


def test_the_same_file_counted_from_one_reordered_or_with_copies(tmp_path: Path, rows: np.ndarray) -> None:
    text, ok = check(tmp_path, rows + 1)
    assert not ok
    assert "--human.base 1" in text
    assert check(tmp_path, rows + 1, base=1)[1]
    order = np.random.default_rng(1).permutation(60)
    text, ok = check(tmp_path, order[rows])
    assert not ok
    assert "--human.order" in text
    np.savetxt(tmp_path / "order.txt", np.argsort(order), "%d")
    assert check(tmp_path, order[rows], order=str(tmp_path / "order.txt"))[1]
    text, ok = check(tmp_path, np.concatenate([rows, rows[: len(rows) // 20]]))
    assert not ok
    assert "by chance" in text


def test_broken_rows_and_numbers(tmp_path: Path, rows: np.ndarray) -> None:
    assert "repeat an object" in check(tmp_path, np.concatenate([rows, [[1, 1, 2]]]))[0]
    assert not check(tmp_path, np.concatenate([rows, [[1, 1, 2]]]))[1]
    assert not check(tmp_path, np.concatenate([rows, [[-1, 1, 2]]]))[1]
    assert not check(tmp_path, np.concatenate([rows, [[70, 1, 2]]]))[1]


def test_leakage_between_two_files(tmp_path: Path, rows: np.ndarray) -> None:
    np.savetxt(tmp_path / "other.txt", rows[:3000], "%d")
    assert not check(tmp_path, rows[2000:], against=str(tmp_path / "other.txt"))[1]


def labelled(folder: Path, n: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Triplets of 200 images with the dot products of random features, most similar pair first."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 8)).astype(np.float32)
    ids = np.stack([rng.permutation(200)[:3] for _ in range(n)])
    s = np.stack([(x[ids[:, a]] * x[ids[:, b]]).sum(1) for a, b in ((0, 1), (0, 2), (1, 2))], axis=1)
    from alignet_ray.data.deepmind import most_similar_pair_first

    ids, s, _ = most_similar_pair_first(ids, s)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table([*ids.T.copy(), *s.T.copy()], schema=schemas.TRIPLETS), folder / "part-00000.parquet")
    return ids, s


def test_labelled_triplets(tmp_path: Path) -> None:
    labelled(tmp_path / "label" / "train")
    labelled(tmp_path / "label" / "valid", n=100, seed=1)
    text, ok = checks.verify(str(tmp_path / "label"))
    assert "[train]" in text
    assert "[valid]" in text
    assert ok or "triplets in train and valid" in text
    ids, s = labelled(tmp_path / "label" / "valid", n=100)
    assert not checks.verify(str(tmp_path / "label"))[1], "the same triplets in both"
    s[5, 0] = -99
    s[7, 1] = np.nan
    pq.write_table(pa.table([*ids.T.copy(), *s.T.copy()], schema=schemas.TRIPLETS), tmp_path / "bad.parquet")
    text, ok = checks.verify(str(tmp_path / "bad.parquet"))
    assert not ok
    assert "odd image not last" in text


def test_similarities_are_computed_anew(tmp_path: Path) -> None:
    labelled(tmp_path / "label" / "train")
    x = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    for factor, good in ((1, True), (1.5, False)):
        folder = tmp_path / f"embed{factor}" / "embed" / "e"
        folder.mkdir(parents=True)
        tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.float32(factor) * x)
        table = pa.table([np.arange(200), tensor], schema=schemas.embeddings(8, "float32"))
        pq.write_table(table, folder / "part-00000.parquet")
        text, ok = checks.verify(str(tmp_path / "label"), checks.References(embeddings=str(folder)))
        assert ok == good, text


def test_releases_and_transforms(tmp_path: Path) -> None:
    names = np.array([[f"a_{i}.JPEG", f"b_{i}.JPEG", f"c_{i}.JPEG"] for i in range(30)])
    s = -np.sort(-np.random.default_rng(0).normal(size=(30, 3)))
    np.savez(tmp_path / "release.npz", filenames=names, similarities=s, indices=np.arange(90).reshape(30, 3))
    assert checks.verify(str(tmp_path / "release.npz"))[1]
    np.savez(tmp_path / "release.npz", filenames=names, similarities=s * np.nan, indices=s)
    assert not checks.verify(str(tmp_path / "release.npz"))[1]
    transform = AffineTransform(0.0, 1.0, np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
    save_transform(tmp_path / "t.npz", transform)
    assert checks.verify(str(tmp_path / "t.npz"))[1]
    assert "does not say which model" in checks.verify(str(tmp_path / "t.npz"))[0]
    zero = AffineTransform(0.0, 1.0, np.zeros((4, 4), np.float32), np.zeros(4, np.float32))
    save_transform(tmp_path / "z.safetensors", zero)
    assert not checks.verify(str(tmp_path / "z.safetensors"))[1]


def test_what_is_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello there, reader\n")
    for path, says in (
        (tmp_path / "nothing.txt", "does not exist"),
        (tmp_path / "empty", "neither"),
        (tmp_path / "notes.txt", "no columns"),
    ):
        with pytest.raises(UserError, match=says):
            checks.verify(str(path))


@pytest.mark.parametrize(
    ("name", "references", "says"),
    [
        ("responses.txt", checks.References(embeddings="E"), "--embeddings says nothing about human responses"),
        ("responses.txt", checks.References(images="I"), "--images says nothing about human responses"),
        ("transform.npz", checks.References(objects=3), "--objects says nothing about a transform"),
        ("labels.parquet", checks.References(base=0), "--base says nothing about labelled triplets"),
        ("labels.parquet", checks.References(transform="T"), "--transform is applied to embeddings"),
    ],
)
def test_a_reference_that_says_nothing_about_the_file_is_refused(
    tmp_path: Path, name: str, references: checks.References, says: str
) -> None:
    path = tmp_path / name
    path.write_text("0 1 2\n")
    if name == "labels.parquet":
        empty = [pa.array([], field.type) for field in schemas.TRIPLETS]
        pq.write_table(pa.Table.from_arrays(empty, schema=schemas.TRIPLETS), path)
    with pytest.raises(UserError, match=says):
        checks.verify(str(path), references)


def test_a_table_that_counts_from_0_fails_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "responses.csv"
    path.write_text("image1,image2,image3,choice\n0,1,2,3\n1,2,3,1\n")
    shown, ok = checks.verify(str(path), checks.References(objects=4))
    assert not ok
    assert "--human.base 0" in shown
    assert checks.verify(str(path), checks.References(objects=4, base=0))[1]


def test_what_would_take_all_memory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "answers.txt").write_text("1 2 4000000000\n4 5 6\n")
    (tmp_path / "comparisons.csv").write_text("reference,a,b,choice\n1,2,4000000000,1\n")
    for name, line in (("answers.txt", 1), ("comparisons.csv", 2)):
        with pytest.raises(UserError, match=f"line {line} names object 4000000000, and the objects are counted"):
            checks.verify(str(tmp_path / name))


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(UserError, match="the path of the file to check is empty"):
        checks.verify("")


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ({"objects": "many"}, "--objects many: give the number of objects"),
        ({"objects": -1}, "--objects -1: give the number of objects"),
        ({"objects": 2.5}, r"--objects 2\.5: give the number"),
        ({"base": 7}, "--base 7: object numbers count from 0 or from 1"),
        ({"base": "1"}, "--base 1: object numbers"),
        ({"reference": 5}, "int is no path of --reference"),
        ({"against": ["a"]}, "list is no path of --against"),
    ],
)
def test_references_of_another_kind_are_refused(references: dict[str, Any], message: str, untyped_caller: None) -> None:
    with pytest.raises(UserError, match=message):
        checks.References(**references)


def test_a_reference_may_be_a_path(untyped_caller: None) -> None:
    path: Any = Path("order.txt")
    assert checks.References(order=path).order == "order.txt"
