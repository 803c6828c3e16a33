"""Embeddings as arrays: ascending ids whatever the parts, and one matrix that is built once, never seen half done."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from alignet_ray.artifacts import schemas, transforms
from alignet_ray.core.affine import AffineTransform
from alignet_ray.data import embeddings, files
from alignet_ray.errors import UserError
from alignet_ray.store import Artifact, Store


def embedded(store: Store, x: np.ndarray, ids: np.ndarray, parts: int = 3, id: str = "e") -> Artifact:
    draft = store.draft("embed", id)
    order = np.random.default_rng(0).permutation(len(ids))
    for number, rows in enumerate(np.array_split(order, parts)):
        tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(x[rows]))
        schema = schemas.embeddings(x.shape[1], str(x.dtype))
        draft.write_table(f"part-{number:05d}.parquet", pa.table([ids[rows], tensor], schema=schema))
    return draft.finish({})


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(2, 3, size=(50, 6)).astype(np.float16)


@pytest.fixture
def ids() -> np.ndarray:
    return np.sort(np.random.default_rng(2).permutation(80)[:50]).astype(np.int64)


def test_load_sorts_and_selects(store: Store, x: np.ndarray, ids: np.ndarray) -> None:
    artifact = embedded(store, x, ids)
    found, rows = embeddings.load(artifact)
    assert found.dtype == np.int64
    assert rows.dtype == np.float16
    assert np.array_equal(found, ids)
    assert np.array_equal(rows, x)
    wanted = np.array([ids[30], ids[3], 999])
    found, rows = embeddings.load(artifact, ids=wanted)
    assert np.array_equal(found, ids[[3, 30]])
    assert np.array_equal(rows, x[[3, 30]])


def test_matrix_is_transformed_shared_and_built_once(
    store: Store, x: np.ndarray, ids: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    transform = AffineTransform(1.5, 2.0, rng.normal(size=(6, 6)).astype(np.float32), np.ones(6, dtype=np.float32))
    draft = store.draft("align", "a")
    draft.write_bytes("transform.npz", transforms.dump_transform(".npz", transform))
    align, embed = draft.finish({}), embedded(store, x, ids)
    matrix = embeddings.teacher_matrix(embed, align, tmp_path / "cache")
    assert np.array_equal(matrix.ids, ids)
    assert matrix.features.dtype == np.float16
    assert not matrix.features.flags.writeable
    assert np.allclose(matrix.features, transform(x), atol=2e-2)
    raw = embeddings.teacher_matrix(embed, align, tmp_path / "cache", raw=True)
    assert np.allclose(raw.features, (x.astype(np.float32) - 1.5) / 2, atol=1e-2)
    monkeypatch.setattr(embeddings, "_build", None)
    again = embeddings.TeacherFeatures(embed, align, tmp_path / "cache").matrix()
    assert np.array_equal(again.features, matrix.features)
    assert matrix.rows(ids[[4, 9]]).tolist() == [4, 9]
    with pytest.raises(AssertionError, match="not embedded"):
        matrix.rows(np.array([int(np.setdiff1d(np.arange(80), ids)[0])]))


def test_a_network_teacher_needs_no_map(store: Store, x: np.ndarray, ids: np.ndarray, tmp_path: Path) -> None:
    align, embed = store.draft("align", "n").finish({}), embedded(store, x, ids)
    for parent in (align, None):
        matrix = embeddings.teacher_matrix(embed, parent, tmp_path)
        assert np.array_equal(matrix.features, x)
    raw = embeddings.teacher_matrix(embed, align, tmp_path, raw=True)
    assert float(raw.features.astype(np.float64).mean()) == pytest.approx(0, abs=1e-3)
    assert float(raw.features.astype(np.float64).std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_rows_that_are_not_numbers(store: Store, x: np.ndarray, ids: np.ndarray, tmp_path: Path, value: float) -> None:
    wide = x.astype(np.float32)
    wide[7, 2] = value
    with pytest.raises(UserError, match=f"1 images have features.*image_id {ids[7]}"):
        embeddings.teacher_matrix(embedded(store, wide, ids), None, tmp_path)
    assert list(tmp_path.glob("cache/*")) == []
    assert not list(tmp_path.glob("*.npy"))


def test_an_interrupted_build_is_never_read(
    store: Store, x: np.ndarray, ids: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = embedded(store, x, ids)

    def killed(*_: object) -> None:
        sys.exit(1)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", killed)
        with pytest.raises(SystemExit):
            embeddings.teacher_matrix(embed, None, tmp_path)
    assert np.array_equal(embeddings.teacher_matrix(embed, None, tmp_path).features, x)
