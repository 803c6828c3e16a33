"""CRC-32C checksums in NumPy, as TensorFlow and LevelDB store them: many parts of the data side by side.

A CRC is linear over bits. Equal parts are therefore summed up independently, with one table look-up for each byte of
all parts at once, and are joined in pairs: what stands in front is moved on by the length of what follows. The joining
is that of zlib's `crc32_combine`.
"""

from functools import cache

import numpy as np
from jaxtyping import UInt32

POLYNOMIAL = 0x82F63B78
"""Castagnoli's polynomial, its bits reversed (RFC 3720)."""

ALL_BITS = 0xFFFFFFFF

WORDS_PER_PART = 256
"""Words of four bytes that a part has; more parts make NumPy's calls pay, longer parts need fewer steps of joining."""

SHORT = 4 * WORDS_PER_PART
"""Up to so many bytes a loop in Python is as fast."""

MASK_DELTA = 0xA282EAD8
"""What LevelDB adds to a checksum, so that checksums of data which holds checksums stay good ones."""


def crc32c(data: bytes) -> int:
    """CRC-32C of bytes."""
    if len(data) <= SHORT:
        return _of_short(data)

    # Zeros in front change nothing when a sum starts from zero, and a start of all bits inverts the first four bytes.
    words_in_use = -(-len(data) // 4)
    parts = 1
    while parts * WORDS_PER_PART < words_in_use:
        parts *= 2
    padding = 4 * parts * WORDS_PER_PART - len(data)
    padded = np.zeros(padding + len(data), dtype=np.uint8)
    padded[padding:] = np.frombuffer(data, dtype=np.uint8)
    padded[padding : padding + 4] ^= 0xFF

    # Step by step through all parts at once, so the words of one step lie side by side.
    steps = np.ascontiguousarray(padded.view("<u4").reshape(parts, WORDS_PER_PART).T)
    sums = np.zeros(parts, dtype=np.uint32)
    tables = _word_tables()
    for words in steps:
        sums = _look_up(tables, sums ^ words)

    moves = _zero_bytes(4 * WORDS_PER_PART)
    while len(sums) > 1:
        sums = _look_up(_tables_of(moves), sums[0::2]) ^ sums[1::2]
        moves = _look_up(_tables_of(moves), moves)
    return int(sums[0]) ^ ALL_BITS


def unmask(stored: int) -> int:
    """The checksum that LevelDB and TensorFlow store in disguise, see MASK_DELTA."""
    rotated = (stored - MASK_DELTA) & ALL_BITS
    return ((rotated >> 17) | (rotated << 15)) & ALL_BITS


def _of_short(data: bytes) -> int:
    table = _byte_list()
    total = ALL_BITS
    for byte in data:
        total = table[(total ^ byte) & 0xFF] ^ (total >> 8)
    return total ^ ALL_BITS


@cache
def _byte_list() -> list[int]:
    values: list[int] = _byte_table().tolist()
    return values


@cache
def _byte_table() -> UInt32[np.ndarray, "256"]:
    """What becomes of each lowest byte of a sum when the sum moves on by one byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1)
    return table.astype(np.uint32)


def _zero_bytes(count: int) -> UInt32[np.ndarray, "32"]:
    """What becomes of each single bit of a sum when `count` bytes of zero follow, a power of two."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    moves: np.ndarray = _byte_table()[bits & 0xFF] ^ (bits >> 8)
    for _ in range(count.bit_length() - 1):
        moves = _look_up(_tables_of(moves), moves)
    return moves


@cache
def _word_tables() -> UInt32[np.ndarray, "4 256"]:
    return _tables_of(_zero_bytes(4))


def _tables_of(moves: UInt32[np.ndarray, "32"]) -> UInt32[np.ndarray, "4 256"]:
    """What becomes of each value of the four bytes of a sum, from what becomes of its single bits."""
    tables = np.zeros((4, 256), dtype=np.uint32)
    values = np.arange(256)
    for bit in range(32):
        tables[bit // 8, (values >> (bit % 8)) & 1 == 1] ^= moves[bit]
    return tables


def _look_up(tables: UInt32[np.ndarray, "4 256"], sums: UInt32[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    moved: np.ndarray = tables[0][sums & 0xFF]
    for byte in range(1, 4):
        moved ^= tables[byte][(sums >> (8 * byte)) & 0xFF]
    return moved
