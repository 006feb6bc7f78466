"""Reads TensorFlow's checkpoints, version 2 ("tensor bundles"), in NumPy.

PREFIX.index is a sorted table in the format of LevelDB (its doc/table_format.md), which TensorFlow
does not compress: blocks of keys and values, an index of the blocks, a footer. It maps each
variable's name to a ``BundleEntryProto`` and the empty name to a ``BundleHeaderProto`` (TensorFlow,
core/protobuf/tensor_bundle.proto). PREFIX.data-00000-of-0000N hold the values one after the other.

Nothing in these files is trusted: every length is checked against the file before it is used.
"""

from __future__ import annotations

import math
import os
import struct
from typing import NamedTuple

import numpy as np

from coding import protobuf
from coding.crc32c import masked_crc32c
from errors import GlicError

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
TRAILER_BYTES = 5  # of a block: how it is compressed, and its checksum
MAX_INDEX_BYTES = 1 << 24
MAX_ENTRIES = 1 << 16
MAX_KEY_BYTES = 1 << 10
MAX_RANK = 16
PART_MARK = b"\0"  # begins the keys of parts of variables
MAX_SHARDS = 99_999  # five digits in the files' names

# Values of the enumeration tensorflow.DataType. The rest is nothing that a network is made of.
DTYPES = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    4: np.uint8,
    5: np.int16,
    6: np.int8,
    9: np.int64,
    10: np.bool_,
    17: np.uint16,
    19: np.float16,
    22: np.uint32,
    23: np.uint64,
}


class CheckpointError(GlicError):
    """A checkpoint that cannot be read; the message is half a sentence: what is wrong with it."""


class Entry(NamedTuple):
    """Where a variable lies.

    dtype: of ``DTYPES``; None for other kinds and for variables in parts, which are not read.
    shape: tuple of int. shard: number of the file. offset, size: of the bytes in it. checksum:
    ``crc32c.masked_crc32c`` of them.
    """

    dtype: type | None
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int

    def __str__(self):
        return f"{np.dtype(self.dtype).name if self.dtype else 'another dtype'} {self.shape}"


class CheckpointReader:
    """The variables of a checkpoint.

    Args:
      prefix: its path without ``.index``.

    Attributes:
      entries: dict of name to ``Entry``.

    Raises:
      CheckpointError: for a damaged index. OSError: where it cannot be read.
    """

    def __init__(self, prefix):
        self._prefix = str(prefix)
        with open(f"{self._prefix}.index", "rb") as file:
            data = file.read(MAX_INDEX_BYTES + 1)
        if len(data) > MAX_INDEX_BYTES:
            raise CheckpointError(f"its index has more than {MAX_INDEX_BYTES} bytes")
        try:
            table = _table(memoryview(data))
            self._shards = _shards(table.pop(b"", b""))
            self.entries = {
                _name(key): _entry(value)
                for key, value in table.items()
                if not key.startswith(PART_MARK)
            }
        except protobuf.ProtobufError as error:
            raise CheckpointError(f"its index is damaged ({error})") from error

    def read(self, name, *, check=True):
        """The values of a variable.

        Args:
          name: a key of ``entries``.
          check: whether to compare their checksum, which takes 1 to 10 ms.

        Returns:
          NumPy array of the variable's dtype and shape.

        Raises:
          CheckpointError: where they are not in the files as the index says.
          OSError: where they cannot be read.
        """
        entry = self.entries[name]
        if entry.dtype is None:
            raise CheckpointError(f"{name} holds no numbers of a known kind, or is stored in parts")
        expected = math.prod(entry.shape) * np.dtype(entry.dtype).itemsize
        if entry.size != expected:
            raise CheckpointError(f"{name} should take {expected} bytes, got {entry.size}")
        path = f"{self._prefix}.data-{entry.shard:05d}-of-{self._shards:05d}"
        with open(path, "rb") as file:
            if entry.offset + entry.size > os.fstat(file.fileno()).st_size:
                raise CheckpointError(f"{os.path.basename(path)} is cut off in {name}")
            file.seek(entry.offset)
            data = file.read(entry.size)
        if len(data) != entry.size:
            raise CheckpointError(f"{os.path.basename(path)} is cut off in {name}")
        if check and masked_crc32c(data) != entry.checksum:
            raise CheckpointError(f"the checksum of {name} is wrong")
        little_endian = np.dtype(entry.dtype).newbyteorder("<")
        return np.frombuffer(data, little_endian).astype(entry.dtype).reshape(entry.shape)


def _table(data):
    """Dict of keys to values, bytes, of a LevelDB table without its index's blocks."""
    if len(data) < FOOTER_BYTES or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        raise CheckpointError("its index has no footer: it is cut off, or no checkpoint's")
    footer = data[-FOOTER_BYTES:-8]
    _, at = _handle(footer, 0)  # of blocks about blocks, of which TensorFlow writes none
    (offset, size), _ = _handle(footer, at)
    body = data[:-FOOTER_BYTES]
    entries, end = {}, 0
    for _, value in _block(body, offset, size):
        (offset, size), _ = _handle(value, 0)
        if offset < end:  # no byte is read twice, so that a small file is little work
            raise CheckpointError("the blocks of its index overlap")
        end = offset + size
        for key, value in _block(body, offset, size):
            entries[key] = bytes(value)
            if len(entries) > MAX_ENTRIES:
                raise CheckpointError(f"it has more than {MAX_ENTRIES} variables")
    return entries


def _handle(data, at):
    """((offset, size), end) of the block handle at a position."""
    offset, at = protobuf.varint(data, at)
    size, at = protobuf.varint(data, at)
    return (offset, size), at


def _block(data, offset, size):
    """Yields the (key, value) pairs of a block of a table."""
    if offset + size + TRAILER_BYTES > len(data):
        raise CheckpointError("its index is cut off")
    kind = data[offset + size]
    if kind:
        raise CheckpointError(
            f"its index is compressed (type {kind}), which TensorFlow's never is: it is damaged"
        )
    (checksum,) = struct.unpack_from("<I", data, offset + size + 1)
    if masked_crc32c(data[offset : offset + size + 1]) != checksum:
        raise CheckpointError("the checksum of its index is wrong")
    block = data[offset : offset + size]
    restarts = struct.unpack("<I", block[-4:])[0] if size >= 4 else size
    end = size - 4 - 4 * restarts  # of the entries: points to start a search at follow them
    if end < 0:
        raise CheckpointError("a block of its index is too short")
    block, at, key = block[:end], 0, b""
    while at < end:
        (shared, at), start = protobuf.varint(block, at), at
        own, at = protobuf.varint(block, at)
        length, at = protobuf.varint(block, at)
        if shared > len(key) or own + length > end - at or shared + own > MAX_KEY_BYTES:
            raise CheckpointError(f"the entry at byte {offset + start} of its index is damaged")
        key = key[:shared] + bytes(block[at : at + own])
        yield key, block[at + own : at + own + length]
        at += own + length


def _name(key):
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise CheckpointError("a variable's name is no text") from None


def _shards(header):
    """The number of data files that a ``BundleHeaderProto`` states."""
    fields = protobuf.fields(header)
    shards = protobuf.last(fields, 1, int, 0)
    if not 0 < shards <= MAX_SHARDS:
        raise CheckpointError(f"1 to {MAX_SHARDS} data files expected, got {shards}")
    if protobuf.last(fields, 2, int, 0):
        raise CheckpointError("its values are big-endian: little-endian ones expected")
    return shards


def _entry(value):
    """The ``Entry`` of a ``BundleEntryProto``."""
    fields = protobuf.fields(value)
    shape = protobuf.fields(protobuf.last(fields, 2, bytes, b""))
    sides = [
        protobuf.last(protobuf.fields(dimension), 1, int, 0)
        for dimension in protobuf.every(shape, 2, bytes)
    ]
    in_parts = any(True for _ in protobuf.every(fields, 7, bytes))
    whole = not in_parts and len(sides) <= MAX_RANK and max(sides, default=0) < 1 << 40
    kind = protobuf.last(fields, 1, int, 0)
    return Entry(
        DTYPES.get(kind) if whole else None,
        tuple(sides),
        protobuf.last(fields, 3, int, 0),
        protobuf.last(fields, 4, int, 0),
        protobuf.last(fields, 5, int, 0),
        protobuf.last(fields, 6, int, 0),
    )
