"""The default precision: measured, and float32 where bfloat16 is slow or fails."""

import contextlib

import pytest
import tensorflow.compat.v1 as tf

from training import precision


@pytest.mark.parametrize(
    ("asked", "gain", "chosen", "said"),
    [
        (None, 1.5, "bfloat16", "Precision: bfloat16"),
        (None, 1.1, "float32", "Precision: float32"),
        (None, 0.04, "float32", "0.04 times"),
        ("bfloat16", 0.04, "bfloat16", "Slow: "),
        ("bfloat16", 1.1, "bfloat16", ""),
        ("float32", 1.5, "float32", ""),
    ],
)
def test_bfloat16_is_the_default_only_where_it_is_fast(asked, gain, chosen, said, monkeypatch):
    measured = {"bfloat16": 1 / gain, "float32": 1.0}
    monkeypatch.setattr(precision, "convolution_seconds", lambda *_, **__: measured)
    lines = []
    found = precision.choose(asked, report=lines.append)
    assert found == (chosen, None if asked == "float32" else measured)
    assert said in "".join(lines) and bool(said) == bool(lines)


def test_float32_is_the_default_where_bfloat16_fails(monkeypatch):
    convolution = precision._convolution

    def without_bfloat16(dtype, *options):
        if dtype == tf.bfloat16:
            raise tf.errors.UnimplementedError(None, None, "no kernel")
        return convolution(dtype, *options)

    monkeypatch.setattr(precision, "_convolution", without_bfloat16)
    chosen, seconds = precision.choose(None, report=lambda line: None)
    assert chosen == "float32" and list(seconds) == ["float32"] and 0 < seconds["float32"] < 60


def test_a_load_that_comes_and_goes_does_not_decide(monkeypatch):
    """The clock runs ten times as slow for all but one call of each type."""
    now, calls = [0.0], []

    @contextlib.contextmanager
    def convolution(dtype, *_):
        def run():
            calls.append(dtype)
            seconds = 1.0 if dtype == tf.bfloat16 else 2.0
            loaded = calls.count(dtype) != (3 if dtype == tf.bfloat16 else 8)
            now[0] += seconds * (10 if loaded else 1)

        yield run

    monkeypatch.setattr(precision, "_convolution", convolution)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: now[0])
    found = precision.convolution_seconds(("bfloat16", "float32"))
    assert found == {"bfloat16": 1.0, "float32": 2.0}
    timed = calls[2 * precision.FIRST :]
    assert timed == [tf.bfloat16, tf.float32] * precision.REPEATS  # in turns


def test_a_longer_convolution_takes_longer():
    short, long = (
        precision.convolution_seconds(["float32"], side=side)["float32"] for side in (8, 128)
    )
    assert 0 < short < long
