"""Reads protobuf's wire format: varints, and the fields of a message by number, never beyond its end.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator

MAX_VARINT_BYTES = 10
"""Bytes of the longest varint, a number of 64 bits."""

# Wire types: how the value of a field is stored.
VARINT = 0
FIXED64 = 1
BYTES = 2
FIXED32 = 5


class Cursor:
    """A place in bytes that moves on as they are read.

    Attributes:
        data: the bytes.
        position: where the next read begins.
    """

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    @property
    def left(self) -> int:
        """Bytes that are still to be read."""
        return len(self.data) - self.position

    def take(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            ValueError: there are fewer.
        """
        if count > self.left:
            raise ValueError(f"it ends in the middle: {count:,} bytes wanted, {self.left:,} left")
        begin = self.position
        self.position += count
        return self.data[begin : self.position]

    def varint(self) -> int:
        """The next number, stored in groups of seven bits, the lowest first.

        Raises:
            ValueError: it has no end, or more than 64 bits.
        """
        # Most numbers have one byte, and a file has many of them: no calls in this loop.
        number = 0
        for group in range(MAX_VARINT_BYTES):
            if self.position >= len(self.data):
                raise ValueError("it ends in the middle of a number")
            byte = self.data[self.position]
            self.position += 1
            number |= (byte & 0x7F) << (7 * group)
            if byte < 0x80 and number < 1 << 64:
                return number
        raise ValueError("it holds a number of more than 64 bits")


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a message's fields, in their order; fixed-width values are unsigned.

    Raises:
        ValueError: it is damaged, or holds groups, which no message of today has.
    """
    cursor = Cursor(message)
    while cursor.left:
        # A tag holds the field's number and, in its lowest three bits, how the value is stored.
        tag = cursor.varint()
        number = tag >> 3
        kind = tag & 7

        if kind == VARINT:
            yield number, cursor.varint()
        elif kind == BYTES:
            yield number, cursor.take(cursor.varint())
        elif kind == FIXED64:
            yield number, int.from_bytes(cursor.take(8), "little")
        elif kind == FIXED32:
            yield number, int.from_bytes(cursor.take(4), "little")
        else:
            raise ValueError(f"it holds a field of the unknown wire type {kind}")


def as_message(value: int | bytes) -> bytes:
    """A field's value where a message or a text is expected.

    Raises:
        ValueError: it is a number.
    """
    if isinstance(value, int):
        raise ValueError("it holds a number where a message belongs")
    return value


def as_number(value: int | bytes) -> int:
    """A field's value where a number is expected.

    Raises:
        ValueError: it is a message or a text.
    """
    if not isinstance(value, int):
        raise ValueError("it holds a message where a number belongs")
    return value
