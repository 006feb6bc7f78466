"""What evaluate.py bits says of a file: its parts add up, the estimate is near the tables."""

import numpy as np
import pytest
from golden_models import FAMILIES, NUM_FILTERS, REFERENCE
from make_golden import of_many_rates

from coding.costs import costs_of
from coding.latents import Latents
from evaluation import bits
from pictures import images


@pytest.fixture(scope="module")
def pixels():
    return images.read_image(REFERENCE / "image_128x192.png").pixels


def test_account_adds_up(codecs, pixels):
    codec = codecs["gmm"]
    data = codec.compress(pixels)
    facts = bits.account(codec, data)
    sizes = dict(facts["bytes"])
    assert sizes.pop("file") == len(data) == sum(sizes.values())
    assert facts["header"]["width"] == 192 and facts["header"]["height"] == 128
    assert facts["header"]["fingerprint"] == codec.fingerprint.hex()
    assert len(facts["channels"]) == facts["header"]["coded_channels"]
    assert sum(c["bits"] for c in facts["channels"]) == pytest.approx(facts["bits"]["y"]["ideal"])
    assert sum(c["share"] for c in facts["channels"]) == pytest.approx(1)
    lines = bits.describe(facts, shown_channels=1)
    assert any(f"{len(facts['channels']) - 1} others" in line for line in lines)


@pytest.mark.parametrize("k", [None, 591, 1024, 2100])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_networks_estimate_is_near_the_tables(codecs, family, k):
    """On likely latents: where a table escapes, the float likelihood has another floor."""
    codec = codecs[family]
    y_symbols = np.random.default_rng(0).integers(-1, 2, (8, 8, NUM_FILTERS)).astype(np.int32)
    z_symbols = np.zeros((2, 2, NUM_FILTERS), np.int32)
    latents = Latents(y_symbols, z_symbols, 128, 128, k=k)
    costs = costs_of(codec.entropy_coder, latents)
    y, z = bits.network_estimate(codec, latents)
    assert y == pytest.approx(costs.y.sum(), rel=0.01)
    assert z == pytest.approx(costs.z.sum(), rel=0.01)


def test_an_image_without_latents_has_no_bits_in_y(codecs):
    codec = codecs["gmm"]
    zeros = np.zeros((4, 4, NUM_FILTERS), np.int32)
    data = codec.encode(Latents(zeros, zeros[:1, :1], 64, 64))
    facts = bits.account(codec, data)
    assert facts["bits"]["y"]["ideal"] == 0 == facts["bytes"]["y"] and facts["channels"] == []
    assert any(f"{NUM_FILTERS} of {NUM_FILTERS} channels" in s for s in bits.describe(facts))


def test_a_file_of_many_rates_says_its_step(codecs, pixels):
    codec = of_many_rates(codecs["gmm"])
    header = bits.account(codec, codec.compress(pixels, lmbda=4.0))["header"]
    assert (header["format_version"], header["quantisation_step"]) == (2, 0.5)
    assert header["lmbda"] == 4
