"""The Python range coder against the package range-coder, where that is installed."""

import numpy as np
import pytest
import reference_decoder
from make_golden import GOLDEN

from coding import bitstream, range_coding

library = pytest.mark.skipif(
    range_coding.range_coder is None, reason="range-coder has no wheel for this Python or system"
)
BIT = [0, 1, 2]


def random_table(rng):
    total = int(rng.choice([2, 3, 1000, 65536, 65536]))
    inner = rng.choice(np.arange(1, total), min(total - 1, int(rng.integers(1, 12))), False)
    return [0, *sorted(inner.tolist()), total]


def random_streams(count, seed):
    """Yields (tables, symbols): uniform ones, and runs of the likeliest, which carry far."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        tables = [random_table(rng) for _ in range(int(rng.integers(0, 80)))]
        if i % 3 == 0:
            symbols = [int(np.argmax(np.diff(t))) for t in tables]
        elif i % 3 == 1:
            symbols = [len(t) - 2 for t in tables]  # the last: the remainder of the range
        else:
            symbols = [int(rng.integers(len(t) - 1)) for t in tables]
        yield tables, symbols


def written(tables, symbols):
    def write(encoder):
        for table, symbol in zip(tables, symbols):
            encoder.encode([symbol], table)

    return write


def test_python_reads_what_it_wrote():
    for tables, symbols in random_streams(500, 1):
        encoder = range_coding.PythonEncoder()
        written(tables, symbols)(encoder)
        decoder = range_coding.PythonDecoder(encoder.finish())
        assert [decoder.decode(1, t)[0] for t in tables] == symbols


@library
def test_both_write_the_same_bytes():
    for tables, symbols in random_streams(3000, 2):
        encoder = range_coding.PythonEncoder()
        written(tables, symbols)(encoder)
        assert encoder.finish() == range_coding.encode(written(tables, symbols))


@library
def test_both_read_the_same_symbols_from_any_bytes():
    rng = np.random.default_rng(3)
    for tables, _ in random_streams(1000, 4):
        data = rng.integers(0, 256, int(rng.integers(0, 40))).astype(np.uint8).tobytes()
        ours = range_coding.PythonDecoder(data)
        expected = range_coding.decode(data, lambda d, t=tables: [d.decode(1, x)[0] for x in t])
        assert [ours.decode(1, t)[0] for t in tables] == expected


def test_long_carries():
    """Thousands of bytes of 0xFF that one addition turns over."""
    symbols = [1] * 60_000 + [0] * 40 + [1] * 60_000
    encoder, table = range_coding.PythonEncoder(), [0, 65535, 65536]
    encoder.encode(symbols, table)
    data = encoder.finish()
    if range_coding.range_coder is not None:
        assert range_coding.encode(lambda e: e.encode(symbols, table)) == data
    assert range_coding.PythonDecoder(data).decode(len(symbols), table) == symbols


@pytest.mark.parametrize("table, symbol", [([0, 5, 5, 9], 1), ([0, 7, 5, 9], 1)])
def test_intervals_that_do_not_rise_are_refused(table, symbol):
    with pytest.raises(ValueError, match="interval"):
        range_coding.PythonEncoder().encode([symbol], table)
    if range_coding.range_coder is not None:
        with pytest.raises(ValueError):
            range_coding.encode(lambda e: e.encode([symbol], table))


@pytest.mark.parametrize("name", ["gmm-colour", "gllmm-noise", "gmm-escapes"])
def test_golden_streams_without_the_package(codecs, name, monkeypatch):
    data = (GOLDEN / f"{name}.glic").read_bytes()
    monkeypatch.setattr(range_coding, "range_coder", None)
    codec = codecs[name.split("-")[0]]
    assert codec.encode(codec.decode(bitstream.unpack(data))) == data


def test_reference_range_decoder_agrees():
    """On what was written, and on bytes that nobody wrote, to far behind their end."""
    rng = np.random.default_rng(0)
    for tables, symbols in random_streams(200, 5):
        ours = reference_decoder.RangeDecoder(range_coding.encode(written(tables, symbols)))
        assert [ours.decode(t) for t in tables] == symbols
        assert ours.at <= len(ours.data) + 3
        data = rng.integers(0, 256, int(rng.integers(0, 12))).astype(np.uint8).tobytes()
        theirs, ours = range_coding.PythonDecoder(data), reference_decoder.RangeDecoder(data)
        assert [ours.decode(t) for t in tables] == [theirs.decode(1, t)[0] for t in tables]
