from pathlib import Path

import numpy as np
import pytest
import yaml

from alignet_ray.core.comparisons import Comparisons
from alignet_ray.errors import UserError
from alignet_ray.human import set_judgements
from alignet_ray.human.benchmarks import ImageResponses
from alignet_ray.human.judgement_sets import JudgementSet, open_set
from alignet_ray.human.set_judgements import Matrices

PATHS = {"cat/n1_1.JPEG": 3, "cat/n1_2.JPEG": 5, "dog/n2_1.JPEG": 8, "dog/n2_2.JPEG": 9}
LEVELS_COLUMNS = {
    "image0": "image1Path",
    "image1": "image2Path",
    "image2": "image3Path",
    "choice": "selected_image",
    "level": "triplet_type",
}


def described(folder: Path, **tree: object) -> JudgementSet:
    (folder / "set.yaml").write_text(yaml.safe_dump({"name": "mine"} | tree))
    return open_set(str(folder))


def levels(folder: Path, rows: str) -> JudgementSet:
    header = "participant,image1Path,image2Path,image3Path,selected_image,triplet_type,rt\n"
    (folder / "answers.csv").write_text(header + rows)
    return described(folder, kind="odd_one_out", file="answers.csv", columns=LEVELS_COLUMNS)


def matrix_set(folder: Path, values: np.ndarray, **tree: object) -> JudgementSet:
    np.save(folder / "m.npy", values)
    return described(folder, kind="matrix", file="m.npy", **({"matrix": "similarity"} | tree))


def symmetric(*shape: int) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=shape)
    return values + np.swapaxes(values, -1, -2)


def test_answers_of_levels_name_images_by_file_and_the_odd_one_by_its_name(tmp_path: Path) -> None:
    rows = (
        "p1,n1_1.JPEG,n1_2.JPEG,n2_1.JPEG,n2_1.JPEG,class_border,900\n"
        "p1,n1_1.JPEG,n2_2.JPEG,n2_1.JPEG,n1_1.JPEG,class_border,1200\n"
    )
    found = set_judgements.read(levels(tmp_path, rows), PATHS)
    assert isinstance(found, ImageResponses)
    assert found.triplets[0].tolist() == [3, 5, 8]
    assert found.triplets[1, 2] == 3
    assert found.levels == ["class_border", "class_border"]
    assert found.participants == ["p1", "p1"]
    assert found.times.tolist() == [900, 1200]
    assert (set_judgements.count(found), set_judgements.people(found)) == (2, 1)
    assert set_judgements.image_ids(found).tolist() == [3, 5, 8, 9]


def test_a_choice_that_is_none_of_the_three_is_named_with_its_line(tmp_path: Path) -> None:
    rows = "p1,n1_1.JPEG,n1_2.JPEG,n2_1.JPEG,n2_1.JPEG,x,900\np1,n1_1.JPEG,n1_2.JPEG,n2_1.JPEG,n2_2.JPEG,x,900\n"
    with pytest.raises(UserError, match=r"line 3: choice 'n2_2\.JPEG' is not a position 1, 2 or 3$"):
        set_judgements.read(levels(tmp_path, rows), PATHS)


def test_participants_with_one_answer_are_refused(tmp_path: Path) -> None:
    row = "n1_1.JPEG,n1_2.JPEG,n2_1.JPEG,n2_1.JPEG,x,900\n"
    with pytest.raises(UserError, match=r"1 of 2 participants gave one answer alone \(first: 'p7'\)"):
        set_judgements.read(levels(tmp_path, f"p1,{row}p1,{row}p7,{row}"), PATHS)


def test_images_that_are_not_there_are_named(tmp_path: Path) -> None:
    row = "p1,n1_1.JPEG,n1_2.JPEG,n9_1.JPEG,n9_1.JPEG,x,900\n"
    with pytest.raises(UserError, match=r"1 of 3 images are not there \(first: 'n9_1\.JPEG'\)"):
        set_judgements.read(levels(tmp_path, row + row), PATHS)


def test_a_file_name_that_two_images_have_is_no_name(tmp_path: Path) -> None:
    row = "p1,a.png,b.png,c.png,c.png,x,900\n"
    paths = {"one/a.png": 0, "two/a.png": 1, "one/b.png": 2, "one/c.png": 3}
    with pytest.raises(UserError, match=r"images are not there \(first: 'a\.png'\)"):
        set_judgements.read(levels(tmp_path, row + row), paths)
    assert set_judgements.count(set_judgements.read(levels(tmp_path, row + row), paths | {"a.png": 4})) == 2


def test_choices_in_the_layout_of_nights_with_the_folder_before_the_path(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text(
        "ref_path,left_path,right_path,left_vote,right_vote\n"
        "images/cat/n1_1.JPEG,images/cat/n1_2.JPEG,images/dog/n2_1.JPEG,3,1\n"
    )
    found = set_judgements.read(described(tmp_path, kind="choices", file="data.csv"), PATHS)
    assert isinstance(found, Comparisons)
    assert found.rows.tolist() == [[3, 5, 8]]
    assert found.votes.tolist() == [[3, 1]]
    assert set_judgements.image_ids(found).tolist() == [3, 5, 8]


def test_released_triplets_are_answers_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = np.array([["n1_1.JPEG", "n1_2.JPEG", "n2_1.JPEG"], ["n2_2.JPEG", "n1_2.JPEG", "n2_1.JPEG"]])
    np.savez(tmp_path / "border.npz", filenames=names, similarities=np.array([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0]]))
    released = described(tmp_path, kind="odd_one_out", file="border.npz")
    found = set_judgements.read(released, PATHS)
    assert isinstance(found, ImageResponses)
    assert found.triplets[:, 2].tolist() == [8, 5]
    assert (set_judgements.count(found), set_judgements.people(found)) == (2, 0)

    with_columns = described(tmp_path, kind="odd_one_out", file="border.npz", columns={"image0": "a"})
    with pytest.raises(UserError, match=r"columns are of tables, .*border\.npz has none$"):
        set_judgements.read(with_columns, PATHS)
    monkeypatch.setattr(set_judgements, "MAX_RELEASED", 1)
    with pytest.raises(UserError, match="has more than 1 triplets: give the release's file for validation"):
        set_judgements.read(released, PATHS)


def test_rows_of_a_matrix_are_the_sorted_names_or_the_given_order(tmp_path: Path) -> None:
    values = symmetric(2, 4, 4)
    found = set_judgements.read(matrix_set(tmp_path, values, matrix="distance"), PATHS)
    assert isinstance(found, Matrices)
    assert found.image_ids.tolist() == [3, 5, 8, 9]
    np.testing.assert_array_equal(found.people, -values)

    names = ["dog/n2_2.JPEG", "n1_1.JPEG", "images/cat/n1_2.JPEG"]
    ordered = set_judgements.read(matrix_set(tmp_path, values[:, :3, :3], order=names), PATHS)
    assert isinstance(ordered, Matrices)
    assert ordered.image_ids.tolist() == [9, 3, 5]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n\n")
    from_file = set_judgements.read(matrix_set(tmp_path, values[:, :3, :3], order="names.txt"), PATHS)
    assert set_judgements.image_ids(from_file).tolist() == [3, 5, 9]


def test_rows_of_images_whose_names_differ_in_letters_alone_are_never_mixed_up(tmp_path: Path) -> None:
    paths = {"A.png": 0, "a.png": 1, "caf\u00e9.png": 2, "cafe\u0301.png": 3}
    order = ["a.png", "cafe\u0301.png", "A.png", "caf\u00e9.png"]
    found = set_judgements.read(matrix_set(tmp_path, symmetric(4, 4), order=order), paths)
    assert isinstance(found, Matrices)
    assert found.image_ids.tolist() == [1, 3, 0, 2]
    with pytest.raises(UserError, match=r"\(first: 'a\.PNG'\); did you mean 'images/A\.png'|did you mean 'A\.png'"):
        set_judgements.read(matrix_set(tmp_path, symmetric(4, 4), order=["a.PNG", *order[1:]]), paths)


def test_a_matrix_that_does_not_fit_the_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is about 5 images, there are 4 images in .*: one row for each image"):
        set_judgements.read(matrix_set(tmp_path, symmetric(5, 5)), PATHS)
    with pytest.raises(UserError, match=r"is about 4 images, the order names 3 images"):
        set_judgements.read(matrix_set(tmp_path, symmetric(4, 4), order=list(PATHS)[:3]), PATHS)
    with pytest.raises(UserError, match=r"1 of the 4 names of order are no images in .* \(first: 'bird\.png'\)"):
        set_judgements.read(matrix_set(tmp_path, symmetric(4, 4), order=[*list(PATHS)[:3], "bird.png"]), PATHS)
    with pytest.raises(UserError, match=r"order names 'cat/n1_1\.JPEG' 2 times"):
        set_judgements.read(matrix_set(tmp_path, symmetric(3, 3), order=["cat/n1_1.JPEG"] * 2 + ["n2_1.JPEG"]), PATHS)
    with pytest.raises(UserError, match="must be square"):
        set_judgements.read(matrix_set(tmp_path, symmetric(4, 4)[:3]), PATHS)


def test_names_that_sort_differently_as_numbers_need_an_order(tmp_path: Path) -> None:
    paths = {"1.png": 0, "10.png": 1, "2.png": 2}
    with pytest.raises(UserError, match=r"\(10 comes before 2, see '10\.png'\): give the order"):
        set_judgements.read(matrix_set(tmp_path, symmetric(3, 3)), paths)
    set_judgements.read(matrix_set(tmp_path, symmetric(3, 3), order=["1.png", "2.png", "10.png"]), paths)
    set_judgements.read(matrix_set(tmp_path, symmetric(3, 3)), {"01.png": 0, "02.png": 1, "10.png": 2})


def test_participants_who_say_nothing_are_refused(tmp_path: Path) -> None:
    values = symmetric(3, 4, 4)
    values[1, 0] = values[1, :, 0] = values[1, 1] = values[1, :, 1] = np.nan
    with pytest.raises(UserError, match=r"participant 2 rated 1 pairs, at least 3 are needed: leave the matrix out$"):
        set_judgements.read(matrix_set(tmp_path, values), PATHS)
    values = symmetric(3, 4, 4)
    values[2] = 7
    with pytest.raises(UserError, match="participant 3 rated all pairs alike"):
        set_judgements.read(matrix_set(tmp_path, values), PATHS)


def test_only_judgements_about_kept_images_stay(tmp_path: Path) -> None:
    answers = ImageResponses(
        np.array([[3, 5, 8], [3, 5, 9], [8, 9, 3]]), ["a", "b", "c"], np.array([1.0, 2.0, 3.0]), ["p", "q", "p"]
    )
    kept = set_judgements.keep(answers, np.array([3, 5, 9]))
    assert isinstance(kept, ImageResponses)
    assert kept.triplets.tolist() == [[3, 5, 9]]
    assert (kept.levels, kept.times.tolist(), kept.participants) == (["b"], [2.0], ["q"])

    choices = Comparisons(np.array([[3, 5, 9], [8, 9, 3]]), np.array([[0.2, 0.8], [1.0, 0.0]]))
    kept_choices = set_judgements.keep(choices, np.array([3, 5, 9]))
    assert isinstance(kept_choices, Comparisons)
    assert [column.tolist() for column in kept_choices] == [[[3, 5, 9]], [[0.2, 0.8]]]

    values = symmetric(2, 4, 4)
    kept_matrices = set_judgements.keep(Matrices(np.array([9, 3, 5, 8]), values), np.array([3, 8, 9]))
    assert isinstance(kept_matrices, Matrices)
    assert kept_matrices.image_ids.tolist() == [9, 3, 8]
    np.testing.assert_array_equal(kept_matrices.people, values[:, [0, 1, 3]][:, :, [0, 1, 3]])
    assert set_judgements.count(kept_matrices) == 2 * 3
