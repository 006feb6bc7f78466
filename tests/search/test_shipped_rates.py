"""The shipped models of many rates, on the photographs in valid/: monotone, and targets met."""

from pathlib import Path

import pytest
from many_rates import shipped

from cli.coder import Coder
from cli.inputs import collect
from codec import Codec
from pictures import images, metrics
from search import steps
from search.targets import Target

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPHS = collect([ROOT / "valid"], images.IMAGE_SUFFIXES)
NAMES = shipped()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NAMES, reason="no model in models/ serves many rates"),
]


@pytest.fixture(scope="module", params=NAMES)
def codec(request):
    return Codec.load(request.param)


@pytest.fixture(params=PHOTOGRAPHS, ids=lambda path: path.stem)
def pixels(request):
    return images.read_image(request.param).pixels


def test_bytes_and_psnr_rise_with_quality(codec, pixels):
    y, z = codec.transform(pixels)
    found = []
    for quality in range(0, 101, 10):
        k = codec.k_of(quality)
        latents = codec.quantise(y, z, *pixels.shape[:2], pixels.ndim == 2, k)
        psnr = metrics.psnr(pixels, codec.synthesise(latents))
        found.append((len(codec.encode(latents)), psnr))
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in zip(found, found[1:])), found


@pytest.mark.parametrize("quality", [8, 42, 71, 96])
def test_targets_are_met_as_nearly_as_promised(codec, pixels, quality):
    plain = Coder(codec, codec.k_of(quality))("a", pixels).with_restored()
    size, psnr = len(plain.data), metrics.psnr(pixels, plain.restored)
    coded, values = steps.fit_image(Target("bytes", size - 5), Coder(codec), "a", pixels)
    assert 0.99 * (size - 5) <= len(coded.data) <= size - 5 and len(values) <= 10
    coded, values = steps.fit_image(Target("psnr", psnr + 0.07), Coder(codec), "a", pixels)
    reached = metrics.psnr(pixels, codec.decompress(coded.data))
    assert psnr + 0.07 <= reached and len(values) <= 10
    if reached > psnr + 0.09:  # the PSNR jumps here: the next step must miss the target
        after = Coder(codec, coded.latents.k + 1)("a", pixels).with_restored()
        assert metrics.psnr(pixels, after.restored) < psnr + 0.07
