"""Odd-one-out files as questionnaires and spreadsheets write them."""

import re
from pathlib import Path

import numpy as np
import pytest

from alignet_ray.errors import UserError
from alignet_ray.human.responses import read_responses
from alignet_ray.human.triplets import read_triplets

HEADER = "image1,image2,image3,choice"


def written(tmp_path: Path, content: str | bytes, name: str = "responses.csv") -> str:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize(
    "content",
    [
        "0 1 2\r3 4 5",
        "0 1 2\r\n3 4 5\r\n",
        "\n0 1 2\n\n3 4 5\n\n",
        "# pair, pair, odd\n0 1 2\n3 4 5",
        "0 1 2  # checked\n3 4 5",
        " 0 1 2 \n 3 4 5 ",
        "\ufeff0,1,2\n3,4,5",
        "0.0,1.0,2.0\n3e0,4e0,5e0",
    ],
)
def test_line_ends_blanks_and_comments_do_not_matter(tmp_path: Path, content: str) -> None:
    assert read_responses(written(tmp_path, content)).triplets.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    "content",
    [
        f"{HEADER}\n1,2,3,3\n4,5,6,1\n",
        "image1, image2, image3, choice\n1, 2, 3, 3\n4, 5, 6, 1\n",
        '\ufeff"image1","image2","image3","choice"\r\n1,2,3,3\r\n4,5,6,1',
        "image1;image2;image3;choice\r1;2;3;3\r4;5;6;1",
    ],
)
def test_named_columns_give_the_pair_first(tmp_path: Path, content: str) -> None:
    responses = read_responses(written(tmp_path, content))
    assert responses.triplets.tolist() == [[1, 2, 3], [5, 6, 4]]
    assert responses.base == 1


def test_a_table_that_counts_from_0_says_how_to_read_it(tmp_path: Path) -> None:
    path = written(tmp_path, f"{HEADER}\n1,2,3,3\n\n0,1,2,3\n")
    with pytest.raises(UserError, match=r"line 4 names object 0, so the file counts from 0: use --human\.base 0"):
        read_triplets(path)
    assert read_triplets(path, base=0).tolist() == [[1, 2, 3], [0, 1, 2]]


def test_response_times_that_cannot_be_read_are_unknown_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path, f"{HEADER},RT\n1,2,3,3,812\n1,2,4,3,-\n1,2,5,3,\n1,2,6,3,812 ms\n")
    responses = read_responses(path)
    np.testing.assert_array_equal(responses.table["rt"].to_numpy(), [812, np.nan, np.nan, np.nan])
    assert "2 of 4 response times cannot be read and count as unknown (first: line 3, '-')" in responses.unread_times
    assert read_responses(written(tmp_path, f"{HEADER},rt\n1,2,3,3,812\n")).unread_times == ""


@pytest.mark.parametrize(
    ("times", "first"),
    [
        (["00:00:01", "00:00:02"], "00:00:01"),
        (["2026-01-01 10:00:00", "2026-01-01 10:00:01"], "2026-01-01 10:00:00"),
        (["2026-01-01", "2026-01-02"], "2026-01-01"),
        (["true", "false"], "True"),
        (["-1", "-99"], "-1"),
        (["inf", "1e400"], "inf"),
    ],
)
def test_what_is_no_time_is_unknown_whatever_it_looks_like(tmp_path: Path, times: list[str], first: str) -> None:
    rows = "".join(f"1,2,{number},3,{time}\n" for number, time in enumerate(times, 3))
    responses = read_responses(written(tmp_path, f"{HEADER},rt\n{rows}"))
    assert np.isnan(responses.table["rt"].to_numpy()).all()
    assert (
        f"2 of 2 response times cannot be read and count as unknown (first: line 2, '{first}" in responses.unread_times
    )


def test_a_header_alone_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has a header and not one answer below it"):
        read_responses(written(tmp_path, f"{HEADER}\n"))


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("image1,image2,image3", "which one is odd? There is no column choice among image1, image2, image3: give"),
        ("image0,image1,image2,rt", "There is no column choice among image0, image1, image2, rt: give"),
        ("i,j,k,odd_i,Odd_j,odd_k", "which one is odd? odd_i, Odd_j, odd_k may say it"),
        ("i,j,k,n_i,n_j,n_k", "which one is odd? n_i, n_j, n_k may say it"),
        ("i,j,k,response", "which one is odd? response may say it"),
    ],
)
def test_a_table_must_say_which_one_is_odd(tmp_path: Path, header: str, says: str) -> None:
    cells = ",".join("123123"[: header.count(",") + 1])
    path = written(tmp_path, f"{header}\n{cells}\n")
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        read_responses(path)
    assert "human.columns choice=NAME" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_odd_one_is_last_where_a_table_has_nothing_else_to_say(tmp_path: Path) -> None:
    expected = [[0, 1, 2]]
    assert read_responses(written(tmp_path, "i,j,k\n0,1,2\n")).triplets.tolist() == expected
    assert read_responses(written(tmp_path, "i,j,k,response_time,who\n0,1,2,90,7\n")).triplets.tolist() == expected
    named = written(tmp_path, "i,j,k,odd\n0,2,1,2\n")
    assert read_responses(named, {"choice": "odd"}).triplets.tolist() == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"{HEADER},choice\n1,2,3,1,1\n", "the column 'choice' stands there 2 times"),
        (f"{HEADER}\n1,2,3,0\n1,2,3,2\n", r"line 2: choice 0 is not a position 1, 2 or 3 \(it counts from 0: add 1\)"),
        (f"{HEADER}\n11,12,13,13\n", r"choice 13 is not a position .* \(it is the number of the chosen object"),
        (f"{HEADER}\n1,2,3,1\n1,2,3,image2\n", "line 2: choice '1' is not|line 3: choice 'image2' is not"),
        (f"{HEADER}\n1,2,3,1\n1,2,3,\n", "line 3: choice None is not a position"),
        ("\n0 1 2\n\n0 1 1.5\n", "line 4 holds a number that is not whole"),
        ("0 1\n", "three columns"),
        ("0 1 2\n0 1\n", "is not a triplet file: line 2 has 2 columns, the first one has 3"),
        ("0,1,2,\n3,4,5,\n", r"line 1 has an empty column \(a separator at its end\?\)"),
        ("0 1 2\n\n0 one 2\n", "line 3: 'one' is not a number"),
        ("", "is not a triplet file"),
        (b"0 1 2\n\0", "zero bytes"),
        ("0 1 2\n".encode("utf-16"), "UTF-16"),
        ("a,b,caf\u00e9\n".encode("latin-1"), r"not UTF-8 text \(line 1\)"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        read_responses(written(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_numbers_that_their_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    rows = np.array([[0, 1, 2048], [0, 1, 4097]])
    np.save(tmp_path / "half.npy", rows.astype(np.float16))
    with pytest.raises(UserError, match=r"line 2 .*2,048.*float16"):
        read_responses(str(tmp_path / "half.npy"))
    np.save(tmp_path / "single.npy", rows.astype(np.float32))
    assert read_responses(str(tmp_path / "single.npy")).triplets.tolist() == rows.tolist()
    np.save(tmp_path / "huge.npy", np.full((1, 3), 2**64 - 1, np.uint64))
    with pytest.raises(UserError, match=r"above 9,007,"):
        read_responses(str(tmp_path / "huge.npy"))


def test_the_odd_one_may_be_given_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"{HEADER}\ncat,dog,cup,cup\ncup,dog,cat,cup\ndog,cup,cat,cup\n")
    found = read_responses(str(file))
    assert found.object_names == ("cat", "cup", "dog")
    assert found.triplets[:, 2].tolist() == [1, 1, 1]
    assert np.sort(found.triplets[:, :2], axis=1).tolist() == [[0, 2]] * 3
    file.write_text(f"{HEADER}\ncat,dog,cup,cup\ncup,dog,cat,bird\n")
    with pytest.raises(UserError, match=r"line 3: choice 'bird' is not a position 1, 2 or 3$"):
        read_responses(str(file))
