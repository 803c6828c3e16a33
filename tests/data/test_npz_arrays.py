"""Arrays of an .npz archive: shapes without numbers, JAX's bfloat16, and what is no array."""

from pathlib import Path

import numpy as np
import pytest

from alignet_ray.data.npz_arrays import NpzArrays
from alignet_ray.errors import UserError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    file = tmp_path / "weights.npz"
    upper = (np.array([1.0, -2.5], np.float32).view(np.uint32) >> 16).astype("<u2")
    arrays = {
        "params/kernel": np.arange(6.0, dtype=np.float16).reshape(2, 3),
        "params/half": upper.view("V2"),
        "params/double": np.array(0.5),
        "step": np.array(7),
        "name": np.array(["a"]),
    }
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file


def test_numbers_are_float32_whatever_they_were(archive: Path) -> None:
    arrays = NpzArrays(archive)
    assert arrays.shapes == {"params/kernel": (2, 3), "params/half": (2,), "params/double": ()}
    assert arrays.others == ["step", "name"]
    assert arrays.names() == [*arrays.shapes, "step", "name"]
    assert list(arrays.namings()) == [{name: name for name in arrays.names()}]
    for name, value in (("params/kernel", np.arange(6.0).reshape(2, 3)), ("params/half", [1, -2.5])):
        found = arrays.read(name)
        assert found.dtype == np.float32
        assert np.array_equal(found, value)
    assert arrays.read("params/double") == 0.5


def test_what_is_no_archive_is_refused(tmp_path: Path, archive: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        NpzArrays(tmp_path / "missing.npz")
    archive.write_bytes(archive.read_bytes()[:300])
    with pytest.raises(UserError, match=r"is not a readable \.npz archive"):
        NpzArrays(archive)
    np.savez(archive, objects=np.array([{}], dtype=object))
    assert NpzArrays(archive).others == ["objects"], "Python objects are named, and never unpickled"


def test_damaged_numbers_name_their_array(tmp_path: Path) -> None:
    file = tmp_path / "weights.npz"
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    np.savez(file, kernel=values, bias=np.zeros(3))
    data = bytearray(file.read_bytes())
    data[data.index(values[-9:].tobytes())] ^= 0xFF
    file.write_bytes(data)
    arrays = NpzArrays(file)
    assert np.array_equal(arrays.read("bias"), np.zeros(3))
    with pytest.raises(UserError, match="is damaged: array kernel: Bad CRC-32"):
        arrays.read("kernel")
