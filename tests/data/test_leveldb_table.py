"""A LevelDB table: keys that share their beginnings, several blocks, and each kind of damage."""

import pytest
from support.foreign_weights import MAGIC, table

from alignet_ray.data.leveldb_table import read_table

ENTRIES = {f"params/block_{number:02}/kernel".encode(): bytes([number]) * number for number in range(23)} | {b"": b"h"}


@pytest.mark.parametrize("per_block", [1, 5, 100])
def test_all_entries_are_read(per_block: int) -> None:
    assert read_table(table(ENTRIES, per_block)) == ENTRIES


def test_an_empty_table_has_no_entries() -> None:
    assert read_table(table({})) == {}


def test_compressed_blocks_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"compressed \(snappy\), which is not read"):
        read_table(table(ENTRIES, compression=1))
    with pytest.raises(ValueError, match=r"compressed \(kind 9\)"):
        read_table(table(ENTRIES, compression=9))


def test_a_changed_byte_of_a_block_is_noticed() -> None:
    for place in (0, 1, 40, 90, 200, 300):
        damaged = bytearray(table(ENTRIES))
        damaged[place] ^= 0x40
        with pytest.raises(ValueError, match="the checksum of the block at"):
            read_table(bytes(damaged))


@pytest.mark.parametrize("length", [0, 5, 47, 48, 200])
def test_a_table_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"fewer than the end|does not end as a table does"):
        read_table(table(ENTRIES)[:length])


def test_handles_beyond_the_end_are_refused() -> None:
    for handle in (b"\xff\xff\xff\x7f\x05", b"\x00\xff\xff\xff\x7f"):
        footer = (b"\x00\x00" + handle).ljust(40, b"\0") + MAGIC
        with pytest.raises(ValueError, match=r"behind the end|ends in the middle"):
            read_table(bytes(100) + footer)
