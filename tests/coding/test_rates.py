"""Models of many rates: what a quality or a lambda becomes, and what is coded at it."""

import numpy as np
import pytest
from golden_models import REFERENCE
from make_golden import of_many_rates

from coding import bitstream
from errors import GlicError
from pictures import images
from rates import Rates


@pytest.fixture(scope="module")
def pixels():
    return images.read_image(REFERENCE / "image_128x192.png").pixels


@pytest.mark.parametrize(
    "lmbda, reference",
    [
        ([0.01, 0.01], 0.01),
        ([0.02, 0.01], 0.01),
        ([0, 0.01], 0.01),
        ([0.01], 0.01),
        ([0.01, 0.02], None),
        ([0.01, "0.02"], 0.01),
        ([0.01, float("inf")], 0.01),
        ([0.01, True], 0.01),
        ([1e-9, 1], 1),  # a step of 31623
        ([1, 1e8], 1),  # a step of 1 / 10000
    ],
)
def test_ranges_that_cannot_be_are_refused(lmbda, reference):
    with pytest.raises(GlicError, match="expected"):
        Rates.of({"lmbda": lmbda, "lmbda_reference": reference})


def test_quality_is_log_linear_in_lambda():
    rates = Rates.of({"lmbda": [0.001, 0.1], "lmbda_reference": 0.02})
    assert [rates.lmbda_at(q) for q in (0, 50, 100)] == pytest.approx([0.001, 0.01, 0.1])
    assert rates.k_of(0.02) == 1024 and rates.k_of(0.08) == 512 and rates.k_of(0.005) == 2048
    assert rates.lmbda_of(2048) == 0.005
    assert Rates.of({"lmbda": 0.01}) is None and Rates.of({}) is None


def test_a_rate_is_chosen_by_quality_or_lambda(codecs, pixels):
    codec = of_many_rates(codecs["gmm"])  # lambdas from 0.001 to 1000 about 1
    assert codec.k_of() == codec.k_of(quality=50) == codec.k_of(lmbda=1.0) == 1024
    assert codec.k_of(quality=100) == round(1024 / 1000**0.5) and codec.k_of(lmbda=4.0) == 512
    for given, message in (
        ({"quality": 101}, "quality from 0 to 100 expected, got 101"),
        ({"quality": float("nan")}, "quality from 0 to 100"),
        ({"lmbda": 1e-4}, "lambda from 0.001 to 1000 expected"),
        ({"quality": 1, "lmbda": 1}, "got both"),
    ):
        with pytest.raises(GlicError, match=message):
            codec.k_of(**given)
    sizes = [len(codec.compress(pixels, quality=q)) for q in (20, 40, 60, 80)]
    assert sizes == sorted(set(sizes))
    assert codec.compress(pixels) == codec.compress(pixels, lmbda=1.0)
    latents = codec.analyse(pixels, 512)
    np.testing.assert_array_equal(latents.y_hat(), latents.y_symbols * np.float32(0.5))
    assert codec.decode(bitstream.unpack(codec.encode(latents))).equals(latents)
    for k in (0, 65536, -1):
        with pytest.raises(GlicError, match="step of 1 to 65535"):
            codec.analyse(pixels, k)


def test_a_model_of_one_rate_refuses_others(codecs, pixels):
    codec = codecs["gmm"]
    assert codec.rates is None and codec.k_of() is None
    for given in ({"quality": 50}, {"lmbda": 0.01}):
        with pytest.raises(GlicError, match="has one rate"):
            codec.compress(pixels, **given)
    with pytest.raises(GlicError, match="has one rate"):
        codec.analyse(pixels, 1024)


def test_large_images_are_tiled_at_any_step(codecs, pixels, monkeypatch):
    codec = of_many_rates(codecs["gmm"])
    pixels = np.tile(pixels, (3, 2, 1))
    whole = codec.analyse(pixels, 700)
    monkeypatch.setattr(codec, "memory_budget", 1)
    tiled = codec.analyse(pixels, 700)
    assert np.abs(tiled.y_symbols - whole.y_symbols).max() <= 1
    difference = codec.synthesise(whole).astype(int) - codec.synthesise(tiled)
    assert np.abs(difference).max() <= 16 and (difference != 0).mean() < 0.01


def test_lambdas_and_qualities_are_inverse_beyond_the_range_too():
    rates = Rates(0.015, 0.0016, 0.045)
    for quality in (-20, 0, 13.7, 100, 130):
        assert rates.quality_of(rates.lmbda_at(quality)) == pytest.approx(quality)
    assert rates.k_of(1e9) == 1 and rates.k_of(1e-9) == 65535
