"""TensorFlow's bundles of variables: number formats, shards, names, and damage that names the variable."""

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.foreign_weights import GRAPH, VALUE, BFloat16, field, object_graph, table, write_bundle

from alignet_ray.data.leveldb_table import read_table
from alignet_ray.data.tensor_bundle import TensorBundle, plain_name, widened
from alignet_ray.errors import UserError

RANDOM = np.random.default_rng(0)
VARIABLES: dict[str, Any] = {
    "a/kernel": RANDOM.normal(size=(3, 4, 5)).astype(np.float32),
    "a/bias": RANDOM.normal(size=7),
    "half": RANDOM.normal(size=(2, 2)).astype(np.float16),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(2.5, np.float32),
    "step": np.array(12),
}


# What TensorFlow 2.21.0 wrote: tf.train.Checkpoint of a module whose list `leaves` holds the variables
# `params.kernel`, [[1, 2, 3], [4, 5, 6]] in float32, and `params.bias`, [0.5, -2] in bfloat16.
WRITTEN_INDEX = (
    "AAAGCAEaAggBABwOX0NIRUNLUE9JTlRBQkxFX09CSkVDVF9HUkFQSAgHEgAgHCjKATVfdhyOACMTbGVhdmVzLzAvLkFUVFJJQlVURVMvVkFS"
    "SUFCTEVfVkFMVUUIARIIEgIIAhICCAMoGDV66/WrBxwRMS8uQVRUUklCVVRFUy9WQVJJQUJMRV9WQUxVRQgOEgQSAggCIBgoBDUzmOUEAAAA"
    "AAEAAAAAhAXLuAAAAAABAAAAAMDyobAAAQNtAKcBAAAAAAEAAAAASbfQwawBCLkBDwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AABX+4CLJHVH2w=="
)
WRITTEN_DATA = (
    "AACAPwAAAEAAAEBAAACAQAAAoEAAAMBAAD8AwMQBX39cfAoYCgoIARIGbGVhdmVzCgYSBHJvb3QqAggBChIKBQgCEgEwCgUIAxIBMSoCCAEK"
    "ShJECg5WQVJJQUJMRV9WQUxVRRINcGFyYW1zLmtlcm5lbBojbGVhdmVzLzAvLkFUVFJJQlVURVMvVkFSSUFCTEVfVkFMVUUqAggBCkgSQgoO"
    "VkFSSUFCTEVfVkFMVUUSC3BhcmFtcy5iaWFzGiNsZWF2ZXMvMS8uQVRUUklCVVRFUy9WQVJJQUJMRV9WQUxVRSoCCAE="
)


def test_what_tensorflow_itself_wrote_is_read(tmp_path: Path) -> None:
    (tmp_path / "v.index").write_bytes(base64.b64decode(WRITTEN_INDEX))
    (tmp_path / "v.data-00000-of-00001").write_bytes(base64.b64decode(WRITTEN_DATA))
    bundle = TensorBundle(tmp_path / "v")
    by_full_name = {full: name for name, full in bundle.full_names().items()}
    assert plain_name(by_full_name["params.kernel"]) == "leaves/0"
    assert bundle.read(by_full_name["params.kernel"]).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert bundle.read(by_full_name["params.bias"]).tolist() == [0.5, -2]
    assert set(bundle.names()) == set(by_full_name.values()) == set(bundle.shapes)


@pytest.mark.parametrize("shards", [1, 3])
def test_numbers_are_float32_whatever_they_were(tmp_path: Path, shards: int) -> None:
    write_bundle(tmp_path / "variables", VARIABLES, shards)
    assert len(list(tmp_path.iterdir())) == shards + 1
    bundle = TensorBundle(tmp_path / "variables")
    assert bundle.shards == shards
    assert set(bundle.names()) == set(VARIABLES)
    assert set(bundle.shapes) == set(VARIABLES) - {"step"}
    for name, shape in bundle.shapes.items():
        found = bundle.read(name)
        assert found.dtype == np.float32
        assert found.shape == shape == VARIABLES[name].shape
        assert np.array_equal(found, VARIABLES[name].astype(np.float32))


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    values = np.array([1.0, -0.15625, 3e38, 0.0], np.float32)
    write_bundle(tmp_path / "variables", {"x": BFloat16(values)})
    assert np.allclose(TensorBundle(tmp_path / "variables").read("x"), values, rtol=2**-7)
    assert widened(np.array([0x3F80, 0xC000], np.uint16)).tolist() == [1, -2]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        (f"_variables/params/Transformer/kernel{VALUE}", "_variables/params/Transformer/kernel"),
        (f"v/params.STransformer.Skernel{VALUE}", "v/params/Transformer/kernel"),
        (f"v/params..Transformer..kernel{VALUE}", "v/params.Transformer.kernel"),
        ("plain/name", "plain/name"),
    ],
)
def test_names_lose_what_tensorflow_added(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def test_full_names_are_read_from_the_record_of_objects(tmp_path: Path) -> None:
    record = object_graph({"leaves/0": "params.a", "leaves/1": "params.b"})
    variables = {"leaves/0": np.zeros(2, np.float32), "leaves/1": np.ones(3, np.float32), GRAPH: record}
    write_bundle(tmp_path / "variables", variables)
    bundle = TensorBundle(tmp_path / "variables")
    assert bundle.full_names() == {"leaves/0": "params.a", "leaves/1": "params.b"}
    assert bundle.names() == ["leaves/0", "leaves/1"]
    assert list(bundle.namings()) == [{"leaves/0": "leaves/0", "leaves/1": "leaves/1"}, bundle.full_names()]


def refusal(prefix: Path, name: str = "") -> str:
    def read() -> None:
        bundle = TensorBundle(prefix)
        bundle.full_names()
        bundle.read(name)

    with pytest.raises(UserError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_changed_byte_of_the_data_names_its_variable(tmp_path: Path) -> None:
    prefix = tmp_path / "variables"
    write_bundle(prefix, VARIABLES)
    file = tmp_path / "variables.data-00000-of-00001"
    data = bytearray(file.read_bytes())
    data[data.index(VARIABLES["a/kernel"].tobytes()) + 9] ^= 1
    file.write_bytes(data)
    assert refusal(prefix, "a/kernel").endswith("is damaged: variable a/kernel: its checksum differs")
    assert np.array_equal(TensorBundle(prefix).read("a/bias"), VARIABLES["a/bias"].astype(np.float32))


def test_missing_and_short_data_is_named(tmp_path: Path) -> None:
    prefix = tmp_path / "variables"
    write_bundle(prefix, VARIABLES, shards=2)
    (tmp_path / "variables.data-00001-of-00002").write_bytes(b"short")
    (tmp_path / "variables.data-00000-of-00002").unlink()
    said = {refusal(prefix, name).removeprefix(str(tmp_path)) for name in VARIABLES if name != "step"}
    assert any(re.search(r"data-00000-of-00002 cannot be read \(No such file", text) for text in said)
    assert any("ends behind the end of variables.data-00001-of-00002" in text for text in said)


def test_a_damaged_record_of_names_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "variables", {GRAPH: object_graph({"a": "b"})})
    file = tmp_path / "variables.data-00000-of-00001"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert refusal(tmp_path / "variables").endswith(f"variable {GRAPH}: its checksum differs")


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({b"": field(1, 1) + field(2, 1)}, "big-endian"),
        ({b"": b""}, "counts 0 data files"),
        ({b"x": b""}, "counts 0 data files"),
        ({b"": field(1, 1), b"\xff": b""}, "utf-8"),
        ({b"": field(1, 1), b"x": field(2, field(2, field(1, 1 << 60)))}, "impossible shape"),
        ({b"": field(1, 1), b"x": field(1, b"text")}, "a message where a number belongs"),
        ({b"": field(1, 1), b"x": field(2, 3)}, "a number where a message belongs"),
    ],
)
def test_an_index_that_cannot_be_is_refused(tmp_path: Path, entries: dict[bytes, bytes], says: str) -> None:
    (tmp_path / "v.index").write_bytes(table(entries))
    assert f"{tmp_path / 'v.index'} is not a readable index of variables" in refusal(tmp_path / "v")
    assert says in refusal(tmp_path / "v")


def test_an_index_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "v.index does not exist" in refusal(tmp_path / "v")
    (tmp_path / "v.index").write_bytes(b"")
    assert "fewer than the end of a table" in refusal(tmp_path / "v")
    (tmp_path / "v.index").write_bytes(table({b"": field(1, 1)}, compression=1))
    assert "compressed (snappy), which is not read" in refusal(tmp_path / "v")


def test_a_size_that_does_not_fit_the_shape_is_refused(tmp_path: Path) -> None:
    message = field(1, 1) + field(2, field(2, field(1, 1 << 40))) + field(5, 4)
    (tmp_path / "v.index").write_bytes(table({b"": field(1, 1), b"x": message}))
    assert "4 bytes do not hold (1099511627776,)" in refusal(tmp_path / "v", "x")
    sliced = field(1, 1) + field(2, field(2, field(1, 1))) + field(7, b"")
    (tmp_path / "v.index").write_bytes(table({b"": field(1, 1), b"x": sliced}))
    assert TensorBundle(tmp_path / "v").shapes == {}
    assert TensorBundle(tmp_path / "v").names() == ["x"]


def test_damage_behind_good_checksums_is_one_line(tmp_path: Path) -> None:
    """Whoever writes an index can give any bytes a good checksum: what reads the messages must not fall for them."""
    write_bundle(tmp_path / "v", VARIABLES)
    whole = read_table((tmp_path / "v.index").read_bytes())
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        entries = dict(whole)
        name = list(entries)[int(random.integers(len(entries)))]
        message = bytearray(entries[name]) or bytearray(1)
        for _ in range(int(random.integers(1, 4))):
            message[int(random.integers(len(message)))] = int(random.integers(256))
        entries[name] = bytes(message) + random.bytes(int(random.integers(3)))
        (tmp_path / "v.index").write_bytes(table(entries))
        try:
            bundle = TensorBundle(tmp_path / "v")
            values = [bundle.read(variable) for variable in bundle.shapes]
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert all(value.dtype == np.float32 for value in values)
    assert refused > 100
