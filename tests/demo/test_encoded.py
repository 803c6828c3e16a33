"""Vectors of pictures, kept by content."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from alignet_ray.demo import encoded
from alignet_ray.demo.compare import ModelComparison, Vectors
from alignet_ray.demo.encoded import KnownPictures, digest_of, models_digest
from alignet_ray.models.embedding_network import make_network


def vectors(count: int, head: bool = True, seed: int = 0) -> Vectors:
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(count, width)).astype(np.float32) for width in (3, 4, 2)]
    return Vectors(rows[0], rows[1], rows[2] if head else None)


def digests(count: int, start: int = 0) -> list[bytes]:
    return [digest_of(str(number).encode()) for number in range(start, start + count)]


def equal(found: Vectors, expected: Vectors) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("head", [True, False])
def test_what_is_kept_comes_back(tmp_path: Path, head: bool) -> None:
    file = tmp_path / "new folder" / "known.safetensors"
    known = KnownPictures(file)
    given = vectors(5, head)
    known.add(digests(5), given)
    known.save()
    again = KnownPictures(file)
    equal(again.take(digests(5)), given)
    equal(again.take(digests(5)[::-1]), given.take(slice(None, None, -1)))
    assert digest_of(b"other") not in again
    with pytest.raises(KeyError):
        again.take([digest_of(b"other")])


def test_a_picture_that_is_there_twice_takes_one_place() -> None:
    known = KnownPictures()
    first, second, third = digests(3)
    given = vectors(4)
    known.add([first, first, second, first], given)
    more = vectors(2, seed=1)
    known.add([second, third], more)
    equal(
        known.take([first, second, third]),
        Vectors(*(np.stack([old[0], old[2], new[1]]) for old, new in zip(given, more, strict=True))),
    )


def test_the_latest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "MAX_KEPT", 3)
    file = tmp_path / "known.safetensors"
    known = KnownPictures(file)
    given = vectors(5)
    known.add(digests(5), given)
    known.save()
    again = KnownPictures(file)
    assert [digest in again for digest in digests(5)] == [False, False, True, True, True]
    equal(again.take(digests(3, 2)), given.take(slice(2, None)))


def test_a_file_that_cannot_be_used_is_as_good_as_none(tmp_path: Path) -> None:
    file = tmp_path / "known.safetensors"
    known = KnownPictures(file)
    known.add(digests(3), vectors(3))
    known.save()
    whole = file.read_bytes()
    arrays = safetensors.numpy.load(whole)
    short = {**arrays, "base": arrays["base"][:2]}
    without = {name: array for name, array in arrays.items() if name != "student"}
    for content in (b"", whole[:40], b"x" * 100, safetensors.numpy.save(short), safetensors.numpy.save(without)):
        file.write_bytes(content)
        assert digests(1)[0] not in KnownPictures(file)


def test_other_weights_have_other_vectors() -> None:
    def comparison(student: int, size: int = 32) -> ModelComparison:
        network = make_network("random:test_efficientnet", size, 8, seed=student).eval()
        return ModelComparison(network, make_network("random:test_efficientnet", 32, None, seed=0).eval(), {})

    assert models_digest(comparison(1)) == models_digest(comparison(1))
    assert len({models_digest(each) for each in (comparison(1), comparison(2), comparison(1, 64))}) == 3
