"""CRC-32C: published values, and any length equal to the definition, bit by bit."""

import numpy as np
import pytest

from alignet_ray.data.crc32c import MASK_DELTA, crc32c, unmask


def by_definition(data: bytes) -> int:
    total = 0xFFFFFFFF
    for byte in data:
        total ^= byte
        for _ in range(8):
            total = total >> 1 ^ 0x82F63B78 * (total & 1)
    return total ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "published"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"", 0),
    ],
)
def test_values_of_rfc_3720(data: bytes, published: int) -> None:
    assert crc32c(data) == published


@pytest.mark.parametrize("length", [1, 3, 1024, 1025, 1027, 2048, 4096, 4099, 8193, 70_001])
def test_any_length_is_summed_up_as_defined(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == by_definition(data)


def test_a_changed_bit_is_noticed_wherever_it_is() -> None:
    data = bytearray(np.random.default_rng(0).bytes(10_000))
    whole = crc32c(bytes(data))
    for place in (0, 1, 5_000, 9_999):
        data[place] ^= 1
        assert crc32c(bytes(data)) != whole
        data[place] ^= 1


def test_a_masked_checksum_is_unmasked() -> None:
    checksum = crc32c(b"foo")
    rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    assert unmask((rotated + MASK_DELTA) & 0xFFFFFFFF) == checksum
