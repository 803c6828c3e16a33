from pathlib import Path

import numpy as np
import pytest
from support.transforms import save_transform

from alignet_ray.artifacts import transforms
from alignet_ray.core.affine import AffineTransform
from alignet_ray.errors import UserError


@pytest.fixture
def transform() -> AffineTransform:
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(6, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    return AffineTransform(0.25, 1.5, w, b)


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_both_ways(tmp_path: Path, transform: AffineTransform, ending: str) -> None:
    path = tmp_path / f"transform.{ending}"
    save_transform(path, transform, {"teacher": {"model": "a"}, "objects": [1, 2]})
    found = transforms.read_transform(path)
    np.testing.assert_array_equal(found.transform.weights, transform.weights)
    np.testing.assert_array_equal(found.transform.bias, transform.bias)
    assert (found.transform.mean, found.transform.std) == (0.25, 1.5)
    assert found.provenance == {"teacher": {"model": "a"}, "objects": [1, 2]}


def test_glocals_file_with_and_without_bias(tmp_path: Path, transform: AffineTransform) -> None:
    """A file as gLocal writes it, applied as thingsvision's `align()` does."""
    x = np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32)
    np.savez(tmp_path / "t.npz", weights=transform.weights, bias=transform.bias, mean=0.25, std=1.5)
    expected = ((x - 0.25) / 1.5) @ transform.weights + transform.bias
    np.testing.assert_allclose(transforms.load_transform(tmp_path / "t.npz")(x), expected, rtol=1e-4, atol=1e-5)
    np.savez(tmp_path / "t.npz", weights=transform.weights, mean=0.25, std=1.5)
    np.testing.assert_allclose(transforms.load_transform(tmp_path / "t.npz")(x), expected - transform.bias, atol=1e-5)
    save_transform(tmp_path / "ours.npz", transform)
    with np.load(tmp_path / "ours.npz", allow_pickle=False) as file:
        assert {"weights", "bias", "mean", "std"} <= set(file.files)
        assert file["mean"].shape == ()


def test_bad_files(tmp_path: Path, transform: AffineTransform) -> None:
    path = tmp_path / "t.npz"
    good = {"weights": transform.weights, "mean": 0.0, "std": 1.0}
    cases = {
        "no weights": {"mean": 0.0, "std": 1.0},
        "must be a matrix": good | {"weights": np.ones(3)},
        "biases do not fit": good | {"bias": np.ones(3)},
        "one number each": good | {"mean": np.ones(6)},
        "not finite": good | {"weights": transform.weights * np.nan},
        "std is 0": good | {"std": 0.0},
        "is not a transform": good | {"weights": np.array([{}])},
    }
    for says, arrays in cases.items():
        np.savez(path, **arrays)  # type: ignore[arg-type]
        with pytest.raises(UserError, match=says):
            transforms.load_transform(path)
    for name in ("a.npz", "a.safetensors"):
        (tmp_path / name).write_bytes(b"nonsense, long enough to be read")
        with pytest.raises(UserError, match="is not a transform"):
            transforms.load_transform(tmp_path / name)
    with pytest.raises(UserError, match="cannot read"):
        transforms.load_transform(tmp_path / "nothing.npz")
    with pytest.raises(UserError, match="written as"):
        save_transform(tmp_path / "t.pt", transform)


def networks(*checksums: str, width: int = 4) -> dict[str, object]:
    members = [{"model": f"model-{checksum}", "checksum": checksum} for checksum in checksums]
    return {"members": members, "width": width}


def test_a_transform_of_other_weights_is_told() -> None:
    transform = AffineTransform(0.0, 1.0, np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
    stored = transforms.StoredTransform(transform, {"teacher": networks("a", "b")})
    assert transforms.mismatch_warning(stored, "t.npz", networks("a", "b")) is None
    for other in (networks("a", "c"), networks("a"), networks("b", "a")):
        warning = transforms.mismatch_warning(stored, "t.npz", other)
        assert warning == "t.npz was fitted for other weights (model-a, model-b) than embed.model's"
    with pytest.raises(UserError, match=r"maps features of width 4, embed\.model gives 5"):
        transforms.mismatch_warning(stored, "t.npz", networks("a", "b", width=5))
    assert "does not say which model" in str(
        transforms.mismatch_warning(transforms.StoredTransform(transform, {}), "t.npz", networks("a"))
    )
