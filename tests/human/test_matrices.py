from pathlib import Path

import numpy as np
import pytest
import scipy.io
from scipy.spatial.distance import squareform

from alignet_ray.errors import UserError
from alignet_ray.human import matrices


@pytest.fixture
def matrix() -> np.ndarray:
    a = np.random.default_rng(0).normal(size=(6, 6))
    a = a + a.T
    np.fill_diagonal(a, 0)
    return a


def test_every_file_format_gives_the_same_matrix(tmp_path: Path, matrix: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", matrix)
    np.save(tmp_path / "people.npy", np.stack([matrix - 1, matrix + 1]))
    np.save(tmp_path / "upper.npy", squareform(matrix, checks=False))
    np.savetxt(tmp_path / "a.csv", matrix, delimiter=",")
    scipy.io.savemat(tmp_path / "a.mat", {"rdm": matrix, "names": np.array(["x"])})
    for name in ("a.npy", "people.npy", "upper.npy", "a.csv", "a.mat"):
        found = matrices.read_matrix(str(tmp_path / name), "similarity")
        off = ~np.eye(6, dtype=bool)
        np.testing.assert_allclose(found[off], matrix[off], err_msg=name)
    assert (matrices.read_matrix(str(tmp_path / "a.npy"), "distance") == -matrix).all()


def test_bad_matrices(tmp_path: Path, matrix: np.ndarray) -> None:
    path = str(tmp_path / "a.npy")
    for array, says in (
        (matrix[:4], "square"),
        (np.triu(matrix), "not symmetric"),
        (matrix * np.nan, "not numbers"),
        (np.ones(7), "upper triangle"),
    ):
        np.save(path, array)
        with pytest.raises(UserError, match=says):
            matrices.read_matrix(path, "similarity")
    scipy.io.savemat(tmp_path / "two.mat", {"a": matrix, "b": matrix})
    with pytest.raises(UserError, match="a, b"):
        matrices.read_matrix(str(tmp_path / "two.mat"), "similarity")
    np.testing.assert_allclose(matrices.read_matrix(str(tmp_path / "two.mat"), "similarity", "b"), matrix)
    (tmp_path / "no.csv").write_text("hello\n")
    with pytest.raises(UserError, match="no matrix"):
        matrices.read_matrix(str(tmp_path / "no.csv"), "similarity")


def test_matrices_of_single_participants(tmp_path: Path, matrix: np.ndarray) -> None:
    path = str(tmp_path / "people.npy")
    gaps = matrix.copy()
    gaps[0, 1] = gaps[1, 0] = np.nan
    np.save(path, np.stack([matrix, gaps]))
    participants = matrices.read_participants(path, "distance")
    assert participants.shape == (2, 6, 6)
    assert (participants[0] == -matrix).all()
    assert np.isnan(participants[1, 0, 1])
    np.testing.assert_allclose(matrices.read_matrix(path, "similarity"), matrix)
    for wrong, says in (
        ([matrix, np.triu(matrix)], "participant 2, is not symmetric"),
        ([gaps, gaps], "2 entries that are not numbers"),
        ([matrix, matrix * np.nan], "participant 2, has no entry"),
        ([matrix[:4], matrix[:4]], "participant 1, has shape"),
    ):
        np.save(path, np.stack(wrong))
        with pytest.raises(UserError, match=says):
            matrices.read_participants(path, "similarity")
    np.save(path, np.zeros((2, 2, 6, 6)))
    with pytest.raises(UserError, match="participants x items x items"):
        matrices.read_participants(path, "similarity")
