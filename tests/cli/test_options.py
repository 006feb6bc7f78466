"""Numbers on command lines: what is no number, not finite or out of range is refused by name."""

import argparse

import pytest

from cli import options


@pytest.mark.parametrize(
    "kind,good,bad",
    [
        (options.positive, {"0.5": 0.5, "1e-9": 1e-9}, ["0", "-1", "nan", "inf", "1e999", "", "x"]),
        (options.not_negative, {"0": 0, "2.5": 2.5}, ["-1e-9", "nan", "inf", "-inf", "one"]),
        (options.count, {"1": 1, "300": 300}, ["0", "-2", "1.5", "nan", "inf", "1e3", ""]),
        (options.whole, {"0": 0, "7": 7}, ["-1", "0.5", "nan", "inf"]),
    ],
)
def test_numbers_are_finite_and_in_range(kind, good, bad):
    for text, value in good.items():
        assert kind(text) == value
        assert isinstance(kind(text), int) == (kind in (options.count, options.whole))
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match="expected, got") as error:
            kind(text)
        assert repr(text) in str(error.value)
