"""The cost of every symbol against the bytes that the coder writes."""

import numpy as np
import pytest
from golden_models import FAMILIES, IMAGES, NUM_FILTERS, REFERENCE

from coding import bitstream
from coding.costs import costs_of
from coding.latents import Latents
from pictures import images


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("image", IMAGES)
def test_the_map_sums_to_the_payload(codecs, family, image):
    codec = codecs[family]
    container = bitstream.unpack(codec.compress(images.read_image(REFERENCE / f"{image}.png")[0]))
    costs = costs_of(codec.entropy_coder, codec.decode(container))
    for cost, payload in ((costs.y, container.y), (costs.z, container.z)):
        # The range coder rounds a stream up to whole bytes and ends it with a few.
        assert 8 * len(payload) == pytest.approx(cost.sum(), rel=0.003, abs=40)
    total = 8 * (len(container.y) + len(container.z))
    summed = costs.by_position.sum()
    assert summed == pytest.approx(costs.y.sum() + costs.z.sum())
    assert summed == pytest.approx(total, rel=0.003, abs=60)


@pytest.mark.parametrize("family", FAMILIES)
def test_escape_codes_are_counted(codecs, family):
    codec = codecs[family]
    random = np.random.default_rng(0)
    y_hat = random.integers(-3, 4, (4, 8, NUM_FILTERS)).astype(np.int32)
    y_hat[:, :, :3] = random.integers(-90_000, 90_000, (4, 8, 3))
    z_symbols = random.integers(-400, 400, (1, 2, NUM_FILTERS)).astype(np.int32)
    latents = Latents(y_hat, z_symbols, 64, 128)
    container = bitstream.unpack(codec.encode(latents))
    costs = costs_of(codec.entropy_coder, latents)
    # Upper escapes get the remainder of the range coder's range: less than their tables say.
    assert 8 * len(container.y) == pytest.approx(costs.y.sum(), rel=0.03)
    assert 8 * len(container.z) == pytest.approx(costs.z.sum(), rel=0.03)
    assert np.median(costs.y[..., :3]) > 2 * 10  # codes of far values have over ten bits twice
