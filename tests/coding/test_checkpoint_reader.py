"""The reader of checkpoints: what TensorFlow's own reads, and a sentence for anything damaged."""

import random
import struct

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from golden_models import FAMILIES, checkpoint_of

from coding import models, protobuf
from coding.checkpoint_reader import DTYPES, FOOTER_BYTES, CheckpointError, CheckpointReader
from coding.crc32c import crc32c, masked_crc32c

SHIPPED = [models.MODELS_DIR / name / "model" for name in models.available()]


def save(prefix, arrays, shards=1):
    """Writes a checkpoint of a dict of arrays as TensorFlow does, spread over some files."""
    names, parts = list(arrays), []
    with tf.Graph().as_default(), tf.Session() as session:
        for shard in range(shards):
            own = names[shard::shards]
            part = str(prefix) if shards == 1 else f"{prefix}_part{shard}"
            tensors = [tf.constant(arrays[name]) for name in own]
            slices = [""] * len(own)
            session.run(
                tf.raw_ops.SaveV2(
                    prefix=part, tensor_names=own, shape_and_slices=slices, tensors=tensors
                )
            )
            parts.append(part)
        if shards > 1:
            session.run(
                tf.raw_ops.MergeV2Checkpoints(
                    checkpoint_prefixes=parts, destination_prefix=str(prefix)
                )
            )


def assert_reads_as_tensorflow(prefix):
    ours, theirs = CheckpointReader(prefix), tf.train.load_checkpoint(str(prefix))
    assert ours.entries.keys() == theirs.get_variable_to_shape_map().keys()
    for name in ours.entries:
        expected, got = theirs.get_tensor(name), ours.read(name)
        assert got.dtype == expected.dtype and got.flags.writeable
        np.testing.assert_array_equal(got, expected, name)


@pytest.mark.parametrize("prefix", [*SHIPPED, *map(checkpoint_of, FAMILIES)])
def test_models_are_read_as_tensorflow_reads_them(prefix):
    assert_reads_as_tensorflow(prefix)


@pytest.mark.parametrize("shards", [1, 3])
def test_every_dtype_and_shape_and_several_files(tmp_path, shards):
    rng = np.random.default_rng(1)
    shapes = ((), (0,), (1,), (3, 5), (2, 1, 70, 3))
    arrays = {
        f"{'scope/' * (i % 4)}{np.dtype(dtype).name}_{len(shape)}_{i}": rng.integers(0, 2, shape)
        .astype(dtype)
        .reshape(shape)
        for i, (dtype, shape) in enumerate((d, s) for d in DTYPES.values() for s in shapes)
    }
    save(tmp_path / "model", arrays, shards)
    assert len(list(tmp_path.glob("model.data-*"))) == shards
    assert_reads_as_tensorflow(tmp_path / "model")


def test_many_variables_and_long_names(tmp_path):
    arrays = {f"a/{'long/' * (i % 90)}name_{i}": np.float32(i) for i in range(1500)}
    save(tmp_path / "model", arrays)
    assert_reads_as_tensorflow(tmp_path / "model")


def test_what_is_no_array_can_be_left_alone(tmp_path):
    save(tmp_path / "model", {"text": np.array(["a", "b"]), "number": np.float32(3)})
    reader = CheckpointReader(tmp_path / "model")
    assert reader.read("number") == 3
    with pytest.raises(CheckpointError, match="text holds no numbers of a known kind"):
        reader.read("text")


def test_a_variable_in_parts_is_refused(tmp_path):
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("v", (8, 2), partitioner=tf.fixed_size_partitioner(2))
        tf.get_variable("w", (8, 2))
        session.run(tf.global_variables_initializer())
        prefix = tf.train.Saver().save(session, str(tmp_path / "model"), write_meta_graph=False)
    reader = CheckpointReader(prefix)
    assert reader.entries.keys() == {"v", "w"} and reader.read("w").shape == (8, 2)
    with pytest.raises(CheckpointError, match="v holds no numbers .* or is stored in parts"):
        reader.read("v")


def crc_by_bits(data):
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def test_checksums():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720 and others
    assert crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"\xff" * 32) == 0x62A8AB43
    rng = np.random.default_rng(2)
    for length in (0, 1, 3, 4, 127, 128, 129, 255, 256, 257, 1000, 5003, 20_001):
        data = rng.bytes(length)
        assert crc32c(data) == crc_by_bits(data), length


@pytest.fixture
def small(tmp_path):
    """(Prefix, index's bytes, data's bytes) of a small checkpoint."""
    prefix = tmp_path / "model"
    arrays = {f"scope/kernel_{i}": np.arange(60, dtype=np.float32).reshape(5, 12) for i in range(9)}
    save(prefix, {**arrays, "scope/half": np.ones((3, 3), np.float16)})
    index, data = tmp_path / "model.index", tmp_path / "model.data-00000-of-00001"
    return prefix, index.read_bytes(), data.read_bytes()


def with_index(prefix, data):
    prefix.with_suffix(".index").write_bytes(data)
    return prefix


def repaired(index):
    """An index whose only block of variables has the right checksum, as an attacker's has."""
    index = bytearray(index)
    _, at = protobuf.varint(index, len(index) - FOOTER_BYTES)
    _, at = protobuf.varint(index, at)
    start, at = protobuf.varint(index, at)  # of the blocks' index; one before it is empty
    blocks = start - 5 - 8  # an empty block: 8 bytes and a trailer
    struct.pack_into("<I", index, blocks - 4, masked_crc32c(bytes(index[: blocks - 4])))
    return bytes(index)


def read_all(prefix, check=True):
    """Reads a checkpoint; returns what was wrong with it, or None."""
    try:
        reader = CheckpointReader(prefix)
        for name in reader.entries:
            reader.read(name, check=check)
    except CheckpointError as error:
        assert len(str(error).splitlines()) == 1
        return str(error)
    return None


def test_a_repaired_index_is_what_it_was(small):
    prefix, index, _ = small
    assert repaired(index) == index


def test_a_cut_off_checkpoint_is_refused(small):
    prefix, index, data = small
    for keep in range(len(index)):
        assert read_all(with_index(prefix, index[:keep])), keep
    with_index(prefix, index)
    path = prefix.with_suffix(".data-00000-of-00001")
    for keep in (0, 1, len(data) - 1):
        path.write_bytes(data[:keep])
        assert "cut off" in read_all(prefix)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_all(prefix)


def test_every_flipped_byte_is_noticed_where_it_is_read(small):
    prefix, index, data = small
    footer = len(index) - FOOTER_BYTES
    for at in range(footer):
        damaged = bytearray(index)
        damaged[at] ^= 0x10
        problem = read_all(with_index(prefix, bytes(damaged)))
        assert problem or at >= footer - 64, at  # the empty block is not read
    with_index(prefix, index)
    path = prefix.with_suffix(".data-00000-of-00001")
    for at in range(0, len(data), 17):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        assert "checksum of scope/" in read_all(prefix)
        assert read_all(prefix, check=False) is None


def test_hostile_indexes_are_refused_in_a_sentence(small):
    """Damage behind right checksums: no other exception, no array larger than the file."""
    prefix, index, data = small
    rng, outcomes = random.Random(3), set()
    for _ in range(1500):
        damaged = bytearray(index)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(index) - FOOTER_BYTES - 60)
            damaged[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        try:
            reader = CheckpointReader(with_index(prefix, repaired(damaged)))
            for name in reader.entries:
                assert reader.read(name, check=False).nbytes <= len(data)
        except CheckpointError as error:
            outcomes.add("".join(c for c in str(error) if not c.isdigit())[:24])
        except FileNotFoundError:  # of another shard
            outcomes.add("no such file")
    for words in ("scope/kernel_ should take", "the entry at byte", "its index is damaged"):
        assert any(outcome.startswith(words[:24]) for outcome in outcomes), outcomes


@pytest.mark.parametrize(
    "index, words",
    [
        (b"", "no footer"),
        (b"\0" * 100, "no footer"),
        (b"\0" * (1 << 24) + b"more", "more than 16777216 bytes"),
    ],
)
def test_what_is_no_index_is_refused(tmp_path, index, words):
    (tmp_path / "model.index").write_bytes(index)
    with pytest.raises(CheckpointError, match=words):
        CheckpointReader(tmp_path / "model")
