from pathlib import Path

import numpy as np
import pytest

from alignet_ray.errors import UserError
from alignet_ray.human import comparisons


def table(folder: Path, text: str) -> comparisons.ComparisonTable:
    file = folder / "asked.csv"
    file.write_text(text, encoding="utf-8")
    return comparisons.read_table(str(file))


def test_votes_about_named_objects(tmp_path: Path) -> None:
    found = table(tmp_path, "reference,a,b,votes_a,votes_b\nteflon,oak,chrome,3,0\nchrome,teflon,oak,1,4\n")
    assert found.object_names == ("chrome", "oak", "teflon")
    assert found.rows.tolist() == [[2, 1, 0], [0, 2, 1]]
    assert found.votes.tolist() == [[3, 0], [1, 4]]
    assert found.counts_votes


@pytest.mark.parametrize(
    "choices", [("1", "2"), ("a", "B"), ("left", "Right"), ("oak", "chrome")], ids=["number", "letter", "side", "name"]
)
def test_one_answer_a_row_in_every_spelling(tmp_path: Path, choices: tuple[str, str]) -> None:
    first, second = choices
    found = table(
        tmp_path,
        f"participant,reference,a,b,choice,rt\np1,teflon,oak,chrome,{first},800\np2,teflon,oak,chrome,{second},\n",
    )
    assert found.votes.tolist() == [[1, 0], [0, 1]]
    assert found.participants == ["p1", "p2"]


def test_an_object_called_like_a_side_is_meant_itself(tmp_path: Path) -> None:
    found = table(tmp_path, "reference,a,b,choice\nteflon,b,oak,b\n")
    assert found.votes.tolist() == [[1, 0]]


def test_winner_and_loser(tmp_path: Path) -> None:
    found = table(tmp_path, "head,winner,loser\n3,1,2\n0,2,1\n")
    assert found.rows.tolist() == [[3, 1, 2], [0, 2, 1]]
    assert found.votes.tolist() == [[1, 0], [1, 0]]
    assert found.object_names == ()


def test_columns_of_another_name(tmp_path: Path) -> None:
    file = tmp_path / "asked.csv"
    file.write_text("anchor;a;b;answer\n0;1;2;2\n")
    found = comparisons.read_table(str(file), {"reference": "anchor", "choice": "answer"})
    assert found.rows.tolist() == [[0, 1, 2]]
    assert found.votes.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reference,a\n0,1\n", "no column 'b'"),
        ("reference,a,b\n0,1,2\n", "who was chosen"),
        ("reference,a,b,choice\n0,1,2,1\n0,1,2,3\n", "line 3: choice '3' is not 1 or 2"),
        ("reference,a,b,choice\n0,1,2,\n", "line 2: choice ''"),
        ("reference,a,b,votes_a,votes_b\n0,1,2,0,0\n", "1 rows have no votes"),
        ("reference,a,b,votes_a,votes_b\n0,1,2,3,-1\n", r"negative votes \(first: line 2\)"),
        ("reference,a,b,votes_a,votes_b\n0,1,2,3,1\n0,1,2,1e300,1\n", r"more than 1,000,000 votes .*first: line 3"),
        ("reference,a,b,votes_a,votes_b\n0,1,2,inf,1\n", r"more than 1,000,000 votes .*first: line 2"),
        ("reference,a,b,votes_a,votes_b\n0,1,2,nan,1\n", r"have no votes \(first: line 2\)"),
        ("reference,a,b,votes_a,votes_b\n0,1,2,many,few\n", "votes must be numbers"),
        ("reference,a,b,votes_a,votes_b\n0,1,1,1,2\n", "compare an object with itself"),
        ("reference,a,b,votes_a,votes_b\n0,,1,1,2\n", "line 2"),
        ("reference,a,b,votes_a,votes_b\n", "no comparisons"),
        ("0 1 2\n", "need a header"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        table(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_shares_are_no_counts(tmp_path: Path) -> None:
    found = table(tmp_path, "reference,a,b,votes_a,votes_b\n0,1,2,0.75,0.25\n")
    assert not found.counts_votes
    with pytest.raises(UserError, match="counts of people"):
        comparisons.to_objects(found, "asked.csv")


def test_object_numbers_replace_the_files_own(tmp_path: Path) -> None:
    found = table(tmp_path, "reference,a,b,votes_a,votes_b\nc,a,b,1,2\n")
    asked = comparisons.to_objects(found, "asked.csv", np.array([5, 6, 7]))
    assert asked.rows.tolist() == [[7, 5, 6]]
    counted = table(tmp_path, "reference,a,b,votes_a,votes_b\n3,1,2,1,2\n")
    assert comparisons.to_objects(counted, "asked.csv", base=1).rows.tolist() == [[2, 0, 1]]


def test_a_file_is_known_by_its_columns(tmp_path: Path) -> None:
    def known(text: str) -> bool:
        file = tmp_path / "file.csv"
        file.write_text(text)
        return comparisons.holds_comparisons(str(file))

    assert known("reference,a,b,choice\n")
    assert known("Ref_Path\tleft_path\tright_path\n")
    assert not known("image1,image2,image3,choice\n")
    assert not known("0 1 2\n")
    assert not comparisons.holds_comparisons("somewhere.npy")
