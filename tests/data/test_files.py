"""Delimited text, arrays and whole files from outside the store."""

import contextlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from support.unprivileged import full_disk, read_only

from alignet_ray.data import files
from alignet_ray.data.files import MatrixWriter, writing_tensors
from alignet_ray.errors import UserError


def written(folder: Path, data: bytes | str) -> str:
    path = folder / "table.csv"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


@pytest.mark.parametrize(
    ("line", "expected"), [("a\tb,c", "\t"), ("a,b;c", ","), ("a;b", ";"), ("a b", " "), ("", " ")]
)
def test_a_tab_wins_over_a_comma_and_a_comma_over_a_semicolon(line: str, expected: str) -> None:
    assert files.delimiter_of(line, " ") == expected


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_rows_are_the_same_from_any_program_that_saves_tables(
    tmp_path: Path, end: str, delimiter: str, mark: bytes
) -> None:
    lines = ["Label, Object", "cat,0", "", " dog , 1 ", "owl"]
    text = end.join(lines).replace(",", delimiter)
    assert files.read_rows(written(tmp_path, mark + text.encode())) == [
        files.FileRow(2, {"label": "cat", "object": "0"}),
        files.FileRow(4, {"label": "dog", "object": "1"}),
        files.FileRow(5, {"label": "owl", "object": ""}),
    ]


def test_a_quoted_cell_may_hold_delimiters_and_line_ends(tmp_path: Path) -> None:
    rows = files.read_rows(written(tmp_path, 'a,b\n"x, y","one\ntwo"\n3,4\n'))
    assert [row.cells["a"] for row in rows] == ["x, y", "3"]
    assert [row.line for row in rows] == [2, 4], "lines as an editor counts them"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a,b\n1,2,3\n", "line 2 has 3 cells, the header has 2"),
        ("a,A\n1,2\n", "the column 'a' stands there 2 times"),
        ('a,b\n"open,2\n', "line 2: .*is a quotation mark left open"),
        (b"a,b\n\xff,2\n", r"not UTF-8 text \(line 2\)"),
        ("a,b\n".encode("utf-16"), "is UTF-16 text"),
        (b"a,b\n\0,2\n", "holds zero bytes"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line_with_its_name(tmp_path: Path, content: bytes | str, says: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=says) as error:
        files.read_rows(path)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def test_empty_cells_beyond_the_header_are_no_error(tmp_path: Path) -> None:
    assert files.read_rows(written(tmp_path, "a,b\n1,2,,\n"))[0].cells == {"a": "1", "b": "2"}


def npy(array: np.ndarray, **options: bool) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, **options)
    return sink.getvalue()


def test_an_array_comes_back_as_it_was() -> None:
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    found = files.parse_array(npy(array), "x.npy")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_arrays_of_objects_archives_and_damage_are_refused() -> None:
    sink = io.BytesIO()
    np.savez(sink, a=np.zeros(1))
    whole = npy(np.zeros((4, 4)))
    broken = [npy(np.array([{}], dtype=object), allow_pickle=True), sink.getvalue(), whole[:-1], whole[:20], b""]
    for data in broken:
        with pytest.raises(UserError, match=r"^x.npy is not a plain .npy array: "):
            files.parse_array(data, "x.npy")


@pytest.mark.parametrize("text", [b"1 2\n3 4", b"1,2\n3,4\n", b"1\t2\n\n3\t4", b"1e0,2.0\n3,4"])
def test_numbers_with_commas_or_blanks(text: bytes) -> None:
    np.testing.assert_array_equal(files.parse_numbers(text), [[1, 2], [3, 4]])


def test_one_line_and_one_column_are_matrices() -> None:
    assert files.parse_numbers(b"1 2 3").shape == (1, 3)
    assert files.parse_numbers(b"1\n2\n3").shape == (3, 1)
    np.testing.assert_array_equal(files.parse_numbers(b"1;2\n3;4", ";"), [[1, 2], [3, 4]])


@pytest.mark.parametrize("text", [b"1 2\n3", b"1 x"])
def test_text_that_is_no_matrix_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        files.parse_numbers(text)


@given(st.binary(max_size=50))
def test_text_is_utf_8_with_line_feeds_alone_or_refused_in_one_line(data: bytes) -> None:
    found: list[bytes] = []
    with contextlib.suppress(UserError):
        found.append(files.plain_text(data, "x"))
    for text in found:
        assert b"\r" not in text
        assert b"\0" not in text
        assert isinstance(text.decode(), str)


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("before")

    def fail() -> None:
        with files.replacing(target) as temporary:
            temporary.write_text("half")
            assert target.read_text() == "before"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "before"
    with files.replacing(target) as temporary:
        temporary.write_text("after")
    assert target.read_text() == "after"
    assert list(tmp_path.iterdir()) == [target], "no temporary file is left"


def test_other_formats_are_named() -> None:
    for data, says in (
        (b"PK\x03\x04...", "an Excel workbook"),
        (b"PAR1...", "Parquet"),
        (b"\x1f\x8b...", "compressed"),
    ):
        with pytest.raises(UserError, match=says):
            files.plain_text(data, "table")


def test_a_matrix_is_written_row_by_row_as_numpy_writes_it(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float16)
    order = np.random.default_rng(1).permutation(50)
    with (tmp_path / "rows.npy").open("wb") as file:
        matrix = MatrixWriter(file, rows.shape, rows.dtype)
        for part in (order[:20], order[20:20], order[20:]):
            matrix.write(part, rows[part].astype(np.float64))
    np.save(tmp_path / "expected.npy", rows)
    assert (tmp_path / "rows.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


def write_ones(file: Path) -> None:
    with file.open("wb") as opened:
        matrix = MatrixWriter(opened, (1000, 1000), np.dtype(np.float32))
        matrix.write(np.arange(1000), np.ones((1000, 1000)))


def save_ones(file: Path, rows: int) -> None:
    with writing_tensors(file):
        save_file({"rows": np.ones((rows, 1000))}, file)


@pytest.mark.parametrize("write", [write_ones, partial(save_ones, rows=1000)])
def test_a_full_disk_is_an_error_of_files(tmp_path: Path, write: Callable[[Path], None]) -> None:
    # Where memory is mapped, the same ends the process (SIGBUS).
    with full_disk(tmp_path, 1), pytest.raises(OSError, match="No space left on device"):
        write(tmp_path / "rows")


def test_tensors_have_the_permissions_of_other_files_or_an_error_of_files(tmp_path: Path) -> None:
    save_ones(tmp_path / "rows", 3)
    (tmp_path / "other").touch()
    assert (tmp_path / "rows").stat().st_mode == (tmp_path / "other").stat().st_mode
    with read_only(tmp_path), pytest.raises(PermissionError, match="new"):
        save_ones(tmp_path / "new", 3)
    with pytest.raises(KeyError), writing_tensors(tmp_path / "rows"):
        raise KeyError("not about the file")
