import numpy as np
import pyarrow as pa
import pytest

from alignet_ray.errors import UserError
from alignet_ray.human import answer_tables
from alignet_ray.human.answer_tables import LineNumbers


def test_lines_are_counted_as_an_editor_shows_them() -> None:
    data, lines = answer_tables.without_empty_lines(b"# made by hand\n\na b\n1 2\n\n3 4\n")
    assert data == b"a b\n1 2\n3 4"
    below = answer_tables.after_header(lines)
    assert below.first_of(np.array([False, True])) == 6
    _, plain = answer_tables.without_empty_lines(b"a b\n1 2\n")
    assert answer_tables.after_header(plain).first_of(np.array([True])) == 2


@pytest.mark.parametrize(
    ("line", "names"),
    [("image1,image2", True), ("1 2 3", False), ("1e+03 2 nan", False), ("1 2 3 # a comment", False)],
)
def test_letters_mean_names_of_columns(line: str, names: bool) -> None:
    assert answer_tables.names_columns(line) is names


def test_column_names_of_a_header() -> None:
    assert answer_tables.column_names("reference; a; b") == ["reference", "a", "b"]
    assert answer_tables.column_names('"reference","a"') == ["reference", "a"]


def test_a_column_that_the_user_named_replaces_the_one_of_our_name() -> None:
    names = answer_tables.our_column_names(["Choice", "answer"], {"choice": "answer"}, "file.csv")
    assert names == {"choice": "answer"}
    with pytest.raises(UserError, match="no column 'reply'"):
        answer_tables.our_column_names(["a"], {"choice": "reply"}, "file.csv")


def test_times_that_cannot_be_read_are_counted() -> None:
    table = pa.table({"RT": ["812", "slow", ""], "subject_id": ["p", "q", "r"]})
    known, note = answer_tables.about_answers(
        table, {"rt": "RT", "subject_id": "subject_id"}, "file.csv", LineNumbers(first=2)
    )
    assert known["participant"].to_pylist() == ["p", "q", "r"]
    assert known["rt"].to_pylist()[0] == 812
    assert "1 of 3 response times" in note
    assert "line 3, 'slow'" in note
