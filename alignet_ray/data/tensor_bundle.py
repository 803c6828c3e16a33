"""Reads the variables of a TensorFlow checkpoint or SavedModel, without TensorFlow and without running its graph.

Such a bundle is an index, `PREFIX.index` (a LevelDB table: name -> type, shape, place and checksum), and data files,
`PREFIX.data-00000-of-0000N`. Source: tensorflow/core/protobuf/tensor_bundle.proto.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from jaxtyping import Float32

from alignet_ray.data.crc32c import crc32c, unmask
from alignet_ray.data.leveldb_table import read_table
from alignet_ray.data.wire_format import Cursor, as_message, as_number, fields
from alignet_ray.errors import UserError, first_line, require_regular

INDEX = ".index"

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""Name of the text variable that says what the variables were called where the model was made."""

STRING = 7
"""Number of TensorFlow's type of texts."""

BFLOAT16 = 14

FLOATS = {1: "<f4", 2: "<f8", BFLOAT16: "<u2", 19: "<f2"}
"""TensorFlow's number of a type of real numbers -> how NumPy reads it. NumPy has no bfloat16, see `widened`."""

MAX_DIMENSIONS = 32

END_OF_NAME = "/.ATTRIBUTES/"
"""What stands in a variable's name between the path of the object that holds it and the name of its value there."""


def plain_name(name: str) -> str:
    """The path of a variable: without what TensorFlow adds, and without its escapes (`.S` is a slash, `..` a point)."""
    path = name.partition(END_OF_NAME)[0]
    return re.sub(r"\.([.S])", _unescaped, path)


def _unescaped(escape: re.Match[str]) -> str:
    if escape[1] == "S":
        return "/"
    return "."


def widened(bfloat16: np.ndarray) -> Float32[np.ndarray, "*n"]:
    """Numbers in bfloat16, given as integers of 16 bits, as float32, of which they are the upper half."""
    upper = bfloat16.astype(np.uint32) << 16
    return upper.view(np.float32)


@dataclass(frozen=True)
class Entry:
    """What the index says of a variable (BundleEntryProto).

    Attributes:
        dtype: number of its type in TensorFlow.
        shape: its shape.
        shard: number of the data file that holds it.
        offset, size: its place in that file, in bytes.
        checksum: its masked CRC-32C.
        sliced: whether it is stored in several parts.
    """

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int = 0
    sliced: bool = False


class TensorBundle:
    """The variables of a checkpoint or SavedModel; each is read when it is asked for.

    Attributes:
        index: the index file.
        entries: name -> what the index says of it.
        shards: number of data files.
    """

    def __init__(self, prefix: Path) -> None:
        """Read the index.

        Args:
            prefix: path of the files without `.index`; of a SavedModel FOLDER/variables/variables.

        Raises:
            UserError: there is no index, it is damaged, or its data is of a machine with the other order of bytes.
        """
        self.index = prefix.with_name(prefix.name + INDEX)
        require_regular(self.index)
        try:
            table = read_table(self.index.read_bytes())
            self.shards = _shards(table.pop(b"", b""))
            self.entries = {}
            for name, value in table.items():
                self.entries[name.decode()] = _entry(value)
        except FileNotFoundError as error:
            raise UserError(f"{self.index} does not exist: a checkpoint has an index beside its data") from error
        except (OSError, ValueError) as error:  # a name that is not UTF-8 is a ValueError, too
            raise UserError(f"{self.index} is not a readable index of variables: {first_line(error)}") from error

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the variables that hold real numbers, in one piece."""
        return {name: entry.shape for name, entry in self.entries.items() if entry.dtype in FLOATS and not entry.sliced}

    def read(self, name: str) -> Float32[np.ndarray, "*n"]:
        """The values of one variable of `shapes`.

        Raises:
            UserError: the data file is missing or damaged.
        """
        entry = self.entries[name]
        kind = np.dtype(FLOATS[entry.dtype])
        if entry.size != kind.itemsize * math.prod(entry.shape):
            self._refuse(name, f"{entry.size:,} bytes do not hold {entry.shape}")
        data = self._bytes(name)
        if crc32c(data) != unmask(entry.checksum):
            self._refuse(name, "its checksum differs")

        values = np.frombuffer(data, kind).reshape(entry.shape)
        if entry.dtype == BFLOAT16:
            return widened(values)
        return values.astype(np.float32)

    def names(self) -> list[str]:
        """Names of all variables; TensorFlow's own record of names is none."""
        return [name for name in self.entries if name != OBJECT_GRAPH]

    def namings(self) -> Iterator[dict[str, str]]:
        """Two ways to call the variables: by the objects that hold them, and by their own full names.

        A model that keeps its variables in a list tells what they are by their full names alone.

        Raises:
            UserError: the record of full names is damaged.
        """
        by_object = {name: plain_name(name) for name in self.names()}
        yield by_object
        yield by_object | self.full_names()

    def full_names(self) -> dict[str, str]:
        """Names of variables as they were called where the model was made, by their names in this bundle.

        Empty where nothing is recorded, as in checkpoints of TensorFlow 1.

        Raises:
            UserError: the record is damaged.
        """
        entry = self.entries.get(OBJECT_GRAPH)
        if entry is None or entry.dtype != STRING or entry.shape != ():
            return {}
        try:
            return _names_in_graph(_text(self._bytes(OBJECT_GRAPH), entry.checksum))
        except UserError:
            raise
        except ValueError as error:
            self._refuse(OBJECT_GRAPH, first_line(error))

    def _bytes(self, name: str) -> bytes:
        """The stored bytes of a variable."""
        entry = self.entries[name]
        prefix = self.index.name.removesuffix(INDEX)
        file = self.index.with_name(f"{prefix}.data-{entry.shard:05}-of-{self.shards:05}")
        require_regular(file)
        try:
            # Before anything is read: a damaged index may ask for more than there is memory.
            if entry.offset + entry.size > os.path.getsize(file):
                self._refuse(name, f"it ends behind the end of {file.name}")
            with file.open("rb") as opened:
                opened.seek(entry.offset)
                return opened.read(entry.size)
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}): it holds {name}") from error

    def _refuse(self, name: str, reason: str) -> NoReturn:
        raise UserError(f"{self.index.parent} is damaged: variable {name}: {reason}")


def _shards(header: bytes) -> int:
    """Number of data files, from the header (BundleHeaderProto), which stands under the empty name."""
    shards = 0
    for number, value in fields(header):
        if number == 1:
            shards = as_number(value)
        elif number == 2 and as_number(value) != 0:
            raise ValueError("its numbers are big-endian: only files of little-endian machines are read")
    if not 1 <= shards <= 99_999:
        raise ValueError(f"it counts {shards:,} data files")
    return shards


def _entry(message: bytes) -> Entry:
    found: dict[int, int] = {}
    shape: tuple[int, ...] = ()
    sliced = False
    for number, value in fields(message):
        if number == 2:
            shape = _shape(as_message(value))
        elif number == 7:
            sliced = True
        else:
            found[number] = as_number(value)

    # protobuf leaves out what is zero.
    return Entry(found.get(1, 0), shape, found.get(3, 0), found.get(4, 0), found.get(5, 0), found.get(6, 0), sliced)


def _shape(message: bytes) -> tuple[int, ...]:
    """A TensorShapeProto: repeated dimensions, each a message with its size."""
    sizes: list[int] = []
    for number, dimension in fields(message):
        if number != 2:
            continue
        size = 0
        for inner, value in fields(as_message(dimension)):
            if inner == 1:
                size = as_number(value)
        sizes.append(size)

    # Damaged bytes may give sizes that no memory holds.
    if len(sizes) > MAX_DIMENSIONS or math.prod(max(size, 1) for size in sizes) >= 1 << 48:
        raise ValueError("a variable has an impossible shape")
    return tuple(sizes)


def _text(data: bytes, checksum: int) -> bytes:
    """A single text: its length, the masked checksum of the length, and its bytes."""
    cursor = Cursor(data)
    length = cursor.varint()
    of_length = cursor.take(4)
    text = cursor.take(length)

    # The checksum counts the length as four bytes (eight where it needs them), however it is stored.
    width = 4
    if length >= 1 << 32:
        width = 8
    if crc32c(length.to_bytes(width, "little") + of_length + text) != unmask(checksum):
        raise ValueError("its checksum differs")
    return text


def _names_in_graph(graph: bytes) -> dict[str, str]:
    """Name in the bundle -> full name, from a TrackableObjectGraph: nodes, with attributes, which are variables."""
    # Field 1 of the graph are its nodes, field 2 of a node its attributes; of an attribute, 2 and 3 are both names.
    names: dict[str, str] = {}
    for number, node in fields(graph):
        if number != 1:
            continue

        for inner, attribute in fields(as_message(node)):
            if inner != 2:
                continue

            texts: dict[int, str] = {}
            for field, value in fields(as_message(attribute)):
                if field in (2, 3):
                    texts[field] = as_message(value).decode()
            if texts.get(2) and texts.get(3):
                names[texts[3]] = texts[2]
    return names
