from pathlib import Path

import numpy as np
import pytest
from support.judgement_sets import write_images

from alignet_ray.errors import UserError
from alignet_ray.human.set_layouts import recognise

DISTANCES = np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my set (2)"
    write_images(folder / "images", ["a.png"])
    (folder / "README.txt").write_text("image0,image1,image2,choice\n")
    return folder


def test_participants_distances_are_recognised(folder: Path) -> None:
    np.save(folder / "distances.npy", np.stack([DISTANCES, 2 * DISTANCES]))
    expected = {"name": "my-set-2", "file": "distances.npy", "kind": "matrix", "matrix": "distance"}
    assert recognise(folder) == expected


def test_similarities_are_told_by_their_diagonal(folder: Path) -> None:
    np.savetxt(folder / "s.csv", 1 - DISTANCES / 5, delimiter=",")
    assert recognise(folder)["matrix"] == "similarity"


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("image0,image1,image2,choice,level", "odd_one_out"),
        ("Image1\timage2\timage3\tchoice", "odd_one_out"),
        ("id,ref_path,left_path,right_path,left_vote,right_vote", "choices"),
        ("reference,a,b,votes_a,votes_b", "choices"),
    ],
)
def test_tables_are_told_by_their_header(folder: Path, header: str, kind: str) -> None:
    (folder / "answers.csv").write_text(header + "\n")
    assert recognise(folder)["kind"] == kind


def test_released_triplets_are_told_by_their_members(folder: Path) -> None:
    np.savez(folder / "a.npz", filenames=np.array([["a", "b", "c"]]), similarities=np.ones((1, 3)))
    np.savez(folder / "other.npz", x=np.eye(4))
    assert recognise(folder) == {"name": "my-set-2", "file": "a.npz", "kind": "odd_one_out"}


def test_what_is_not_unmistakable_needs_a_description(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no file of judgements of a known layout: describe it in .*set\.yaml \("):
        recognise(folder)

    # A diagonal of zeros fits distances, and similarities of which nobody cared for the diagonal.
    np.save(folder / "similarities.npy", DISTANCES)
    with pytest.raises(UserError, match="may hold similarities or distances: describe it in"):
        recognise(folder)
    np.save(folder / "signs.npy", DISTANCES - 2 * np.eye(4))
    with pytest.raises(UserError, match=r"may be several sets \(signs\.npy, similarities\.npy\)"):
        recognise(folder)


@pytest.mark.parametrize(
    ("matrix", "says"),
    [
        (np.array([[1, 0.5, np.nan], [0.5, 1, 0.2], [np.nan, 0.2, 1]]), "2 entries that are not numbers"),
        (np.array([[1, 0.5, 0.1], [0.3, 1, 0.2], [0.1, 0.2, 1]]), "symmetric"),
        (np.eye(3, dtype=complex), "complex numbers"),
        (np.eye(3).astype(object), "Python objects"),
    ],
)
def test_a_matrix_that_is_wrong_is_named_with_the_reason(folder: Path, matrix: np.ndarray, says: str) -> None:
    np.save(folder / "mean.npy", matrix)
    with pytest.raises(UserError, match=rf"has no file of judgements: .*mean\.npy.*({says})") as error:
        recognise(folder)
    assert "\n" not in str(error.value)


def test_a_folder_without_images_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "distances.npy", DISTANCES)
    with pytest.raises(UserError, match=r"has neither set\.yaml nor a folder images: describe it in"):
        recognise(tmp_path)


def test_the_real_sample_is_recognised(sample: Path) -> None:
    expected = {"name": "rsa92", "file": "distances.npy", "kind": "matrix", "matrix": "distance"}
    assert recognise(sample / "rsa92") == expected
