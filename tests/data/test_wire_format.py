"""Protobuf's wire format: the examples of its documentation, and every way to run over the end."""

import pytest

from alignet_ray.data.wire_format import Cursor, as_message, as_number, fields


def test_the_documentation_s_examples() -> None:
    assert list(fields(bytes.fromhex("089601"))) == [(1, 150)]
    assert list(fields(bytes.fromhex("120774657374696e67"))) == [(2, b"testing")]
    assert list(fields(bytes.fromhex("1a03089601"))) == [(3, bytes.fromhex("089601"))]
    assert list(fields(b"")) == []


def test_values_of_fixed_width_are_little_endian() -> None:
    assert list(fields(b"\x35\x01\x02\x00\x00")) == [(6, 0x201)]
    assert list(fields(b"\x09\x01\x00\x00\x00\x00\x00\x00\x80")) == [(1, 1 | 1 << 63)]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"\x08", "ends in the middle"),
        (b"\x08\x96", "ends in the middle"),
        (b"\x12\x07test", "7 bytes wanted, 4 left"),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "ends in the middle"),
        (b"\x08" + b"\xff" * 10, "more than 64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (b"\x0b", "unknown wire type 3"),
        (b"\x35\x01", "ends in the middle"),
    ],
)
def test_damage_is_a_value_error(message: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        list(fields(message))


def test_a_cursor_moves_on() -> None:
    cursor = Cursor(b"\x01ab", 1)
    assert cursor.left == 2
    assert cursor.take(1) == b"a"
    assert (cursor.position, cursor.left) == (2, 1)


def test_values_are_of_the_kind_that_is_expected() -> None:
    assert as_number(3) == 3
    assert as_message(b"x") == b"x"
    with pytest.raises(ValueError, match="a message where a number belongs"):
        as_number(b"x")
    with pytest.raises(ValueError, match="a number where a message belongs"):
        as_message(3)
