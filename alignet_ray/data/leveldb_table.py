"""Reads a LevelDB table: a sorted file of keys and values, which TensorFlow uses as the index of a checkpoint.

Source: https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

from collections.abc import Iterator

from alignet_ray.data.crc32c import crc32c, unmask
from alignet_ray.data.wire_format import Cursor

MAGIC = 0xDB4775248B80FB57
"""Last eight bytes of a table."""

FOOTER = 48
"""Bytes of the footer: two block handles, zeros, and the magic number."""

TRAILER = 5
"""Bytes behind a block: its kind of compression, and its masked checksum."""

COMPRESSION = {1: "snappy", 2: "zstd"}
"""Kinds of compression by their number; 0 is none."""


def read_table(data: bytes) -> dict[bytes, bytes]:
    """All keys and values of a table.

    Raises:
        ValueError: it is no table, it is damaged, or its blocks are compressed.
    """
    if len(data) < FOOTER:
        raise ValueError(f"it has {len(data)} bytes, fewer than the end of a table alone")
    if int.from_bytes(data[-8:], "little") != MAGIC:
        raise ValueError("it does not end as a table does: it is cut off, or something else")

    # The handle of the block of meta data, which is empty, stands before that of the index.
    footer = Cursor(data[-FOOTER:])
    _handle(footer)
    values: dict[bytes, bytes] = {}
    for _, handle in _entries(_block(data, *_handle(footer))):
        values.update(_entries(_block(data, *_handle(Cursor(handle)))))
    return values


def _handle(cursor: Cursor) -> tuple[int, int]:
    """Offset and size of a block."""
    offset = cursor.varint()
    return offset, cursor.varint()


def _block(data: bytes, offset: int, size: int) -> bytes:
    """A block's content, its checksum compared."""
    stored = Cursor(data, offset)
    if offset > len(data):
        raise ValueError(f"a block begins at {offset:,}, behind the end")

    # The trailer is the kind of compression, one byte, which the checksum covers as well, and the checksum.
    content = stored.take(size)
    trailer = stored.take(TRAILER)
    if crc32c(content + trailer[:1]) != unmask(int.from_bytes(trailer[1:], "little")):
        raise ValueError(f"the checksum of the block at {offset:,} differs")

    if trailer[0]:
        kind = COMPRESSION.get(trailer[0], f"kind {trailer[0]}")
        raise ValueError(f"its blocks are compressed ({kind}), which is not read: TensorFlow writes them uncompressed")
    return content


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block. A key is stored as the number of bytes it shares with the one before, and the rest.

    At the end stand places where keys are whole again, for searching; their number is the last word.
    """
    if len(block) < 4:
        raise ValueError("a block is too short")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise ValueError("a block is shorter than its list of restarts")

    cursor = Cursor(block[:end])
    key = b""
    while cursor.left:
        shared = cursor.varint()
        rest = cursor.varint()
        length = cursor.varint()
        if shared > len(key):
            raise ValueError("a key shares more with the key before it than that one has")
        key = key[:shared] + cursor.take(rest)
        yield key, cursor.take(length)
