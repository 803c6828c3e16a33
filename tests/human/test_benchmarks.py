from pathlib import Path

import numpy as np
import pytest

from alignet_ray.errors import UserError
from alignet_ray.human import benchmarks

IMAGES = {"dog/1.png": 4, "dog/2.png": 7, "car/1.png": 9, "cup/1.png": 12}


def test_answers_by_level_with_times(tmp_path: Path) -> None:
    file = tmp_path / "levels.csv"
    file.write_text(
        "image0,image1,image2,choice,level,participant,rt\n"
        "dog/1.png,car/1.png,dog/2.png,2,coarse,p1,812\n"
        "cup/1.png,car/1.png,dog/2.png,3,fine,p2,\n"
    )
    found = benchmarks.read_image_responses(str(file), IMAGES)
    assert found.triplets.tolist() == [[4, 7, 9], [12, 9, 7]]
    assert found.levels == ["coarse", "fine"]
    assert found.times[0] == 812
    assert np.isnan(found.times[1])


def test_other_column_names(tmp_path: Path) -> None:
    file = tmp_path / "levels.csv"
    file.write_text("a,b,c,odd\ndog/1.png,dog/2.png,cup/1.png,3\n")
    columns = ("image0=a", "image1=b", "image2=c", "choice=odd")
    assert benchmarks.read_image_responses(str(file), IMAGES, columns).triplets.tolist() == [[4, 7, 12]]
    with pytest.raises(UserError, match="OURS=THEIRS"):
        benchmarks.read_image_responses(str(file), IMAGES, ("image0",))


def test_images_that_are_not_embedded_are_named(tmp_path: Path) -> None:
    file = tmp_path / "levels.csv"
    file.write_text("image0,image1,image2,choice\ndog/1.png,dog/2.png,bird/1.png,3\n")
    with pytest.raises(UserError, match=r"'bird/1\.png'"):
        benchmarks.read_image_responses(str(file), IMAGES)
    file.write_text("image0,image1,image2,choice\n0,1,2,3\n")
    with pytest.raises(UserError, match="must be paths"):
        benchmarks.read_image_responses(str(file), IMAGES)


def test_images_whose_names_differ_in_case_are_never_mixed_up(tmp_path: Path) -> None:
    file = tmp_path / "levels.csv"
    file.write_text("image0,image1,image2,choice\ndog/A.png,dog/a.png,Dog/a.png,3\n")
    images = {"Dog/a.png": 1, "dog/A.png": 2, "dog/a.png": 3}
    assert benchmarks.read_image_responses(str(file), images).triplets.tolist() == [[2, 3, 1]]
    del images["dog/A.png"]
    with pytest.raises(UserError, match=r"1 of 3 images are not there \(first: 'dog/A\.png'\).*did you mean 'Dog/a"):
        benchmarks.read_image_responses(str(file), images)


def test_choices_between_two(tmp_path: Path) -> None:
    file = tmp_path / "nights.csv"
    head = "ref_path,left_path,right_path,left_vote,right_vote\n"
    file.write_text(head + "dog/1.png,dog/2.png,car/1.png,3,1\ncup/1.png,car/1.png,dog/1.png,0,1\n")
    found = benchmarks.read_choices(str(file), IMAGES)
    assert found.rows.tolist() == [[4, 7, 9], [12, 9, 4]]
    assert found.votes.tolist() == [[3, 1], [0, 1]]
    file.write_text(head + "dog/1.png,dog/2.png,car/1.png,0,0\n")
    with pytest.raises(UserError, match="above 0"):
        benchmarks.read_choices(str(file), IMAGES)
    file.write_text("ref_path,left_path\na,b\n")
    with pytest.raises(UserError, match="right_path"):
        benchmarks.read_choices(str(file), IMAGES)


def test_choices_with_semicolons_and_paths_as_a_spreadsheet_leaves_them(tmp_path: Path) -> None:
    file = tmp_path / "nights.csv"
    file.write_text("ref_path;left_path;right_path;left_vote;right_vote\n./dog/1.png;dog\\2.png; car/1.png;1;3\n")
    found = benchmarks.read_choices(str(file), IMAGES)
    assert found.rows.tolist() == [[4, 7, 9]]
    assert found.votes.tolist() == [[1, 3]]


def test_negative_votes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "nights.csv"
    head = "ref_path,left_path,right_path,left_vote,right_vote\n"
    file.write_text(head + "dog/1.png,dog/2.png,car/1.png,3,-1\n")
    with pytest.raises(UserError, match="1 rows have negative votes"):
        benchmarks.read_choices(str(file), IMAGES)


def test_the_column_that_the_user_names_counts_and_not_one_of_our_name(tmp_path: Path) -> None:
    file = tmp_path / "levels.csv"
    file.write_text("image0,image1,image2,answer,choice\ndog/1.png,dog/2.png,cup/1.png,3,1\n")
    found = benchmarks.read_image_responses(str(file), IMAGES, ("choice=answer",))
    assert found.triplets.tolist() == [[4, 7, 12]]


def test_times_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    file = tmp_path / "levels.csv"
    rows = "dog/1.png,car/1.png,dog/2.png,2,812\ncup/1.png,car/1.png,dog/2.png,3,1.2 s\n"
    file.write_text("image0,image1,image2,choice,rt\n" + rows)
    found = benchmarks.read_image_responses(str(file), IMAGES)
    assert "1 of 2 response times cannot be read" in found.unread_times
    assert found.times[0] == 812


@pytest.mark.parametrize("twice", ["dog/1.png", "./dog/1.png"])
def test_rows_that_name_an_image_twice_are_refused(tmp_path: Path, twice: str) -> None:
    file = tmp_path / "levels.csv"
    file.write_text(f"image0,image1,image2,choice\ndog/1.png,dog/2.png,cup/1.png,3\ndog/1.png,{twice},cup/1.png,3\n")
    with pytest.raises(UserError, match=r"1 rows name one image twice \(first: line 3\)"):
        benchmarks.read_image_responses(str(file), IMAGES)
    file.write_text(f"reference,a,b,votes_a,votes_b\ncup/1.png,dog/1.png,{twice},3,1\n")
    with pytest.raises(UserError, match=r"line 2"):
        benchmarks.read_choices(str(file), IMAGES)
