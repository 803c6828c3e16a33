"""An error of the user is one line."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignet_ray.errors import MAX_CHARACTERS, UserError, first_line, nearest, require_named, require_regular


def test_the_first_line_is_the_message_up_to_its_end() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(OSError(28, "No space left")) == "[Errno 28] No space left"


def test_an_error_without_a_message_is_named_by_its_type() -> None:
    assert first_line(MemoryError()) == "MemoryError"
    assert first_line(UserError()) == "UserError"


@given(st.text(max_size=500))
def test_it_is_one_line_of_limited_length(message: str) -> None:
    line = first_line(ValueError(message))
    assert len(line) <= MAX_CHARACTERS
    assert len(line.splitlines()) <= 1


def test_it_is_a_value_error_so_that_plain_python_can_catch_it() -> None:
    assert issubclass(UserError, ValueError)


def test_files_folders_and_what_is_not_there_pass_and_pipes_and_devices_do_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, tmp_path, tmp_path / "nothing", "with\0zero"):
        require_regular(path)

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path(os.devnull)):
        with pytest.raises(UserError, match="is a pipe or a device"):
            require_regular(path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("distil.lr", "distill.lr"),
        ("distill.lrr", "distill.lr"),
        ("tracking.alias", "register.alias"),
        ("rnu", "run"),
        ("nothing.like.it", None),
    ],
)
def test_of_a_dotted_name_the_field_says_what_was_meant(name: str, meant: str | None) -> None:
    assert nearest(name, ["run", "distill.lr", "align.lr", "register.alias", "tracking.uri"]) == meant


@pytest.mark.parametrize("path", ["", "  ", "\n"])
def test_an_empty_path_is_refused_and_the_working_directory_is_not(path: str) -> None:
    with pytest.raises(UserError, match="the path of a picture is empty: "):
        require_named(path, "a picture")
    require_named(".", "a picture")
    require_named(Path(), "a picture")
