"""Tiles give what the whole image gives: exactly in integers, to the last bits in float."""

import numpy as np
import pytest
from golden_models import FAMILIES, IMAGES, NUM_FILTERS, golden_arrays

import codec as codec_module
from architecture import Architecture
from cli import options
from codec import Codec
from coding import context, tiling
from pictures import images, metrics


@pytest.mark.parametrize(
    "length,tile,reach,unit", [(640, 256, 128, 64), (7, 3, 2, 1), (64, 1000, 5, 4), (1, 1, 9, 1)]
)
def test_spans_cover_the_axis_once(length, tile, reach, unit):
    spans = tiling.spans(length, tile, reach, unit)
    covered = [i for s in spans for i in range(s.start, s.stop)]
    assert covered == list(range(length))
    for s in spans:
        assert s.stop - s.start <= max(tile, unit) and s.start % unit == 0
        assert s.low == max(0, s.start - reach) and s.high == min(length, s.stop + reach)


def large_picture(height=576, width=704):
    """uint8 (height, width, 3): a reference image, mirrored."""
    pixels = golden_arrays("gmm", "image_128x192")["image"]
    row = np.concatenate([pixels, pixels[:, ::-1]] * 2, axis=1)
    return np.concatenate([row, row[::-1]] * 3)[:height, :width]


@pytest.mark.parametrize("family", FAMILIES)
def test_tiled_networks_agree_with_whole_ones(codecs, family, monkeypatch):
    codec = codecs[family]
    pixels = large_picture()
    whole_y = codec._analysis(pixels)
    whole_z = codec._hyper_analysis(whole_y)
    latents = codec.analyse(pixels)
    whole = codec.synthesise(latents)
    runs = []
    run = codec.networks._run
    monkeypatch.setattr(codec.networks, "_run", lambda *a: runs.append(a[0]) or run(*a))
    monkeypatch.setattr(codec, "memory_budget", 1)
    monkeypatch.setattr(tiling, "HYPER_TILE", 16)
    tiled_y = codec._analysis(pixels)
    tiled_z = codec._hyper_analysis(whole_y)
    tiled = codec.synthesise(latents)
    assert [runs.count(n) for n in ("analysis", "hyper_analysis", "synthesis")] == [9, 9, 9]
    np.testing.assert_allclose(tiled_y, whole_y, atol=1e-4 * np.abs(whole_y).max())
    np.testing.assert_allclose(tiled_z, whole_z, atol=1e-4 * np.abs(whole_z).max())
    assert np.abs(tiled.astype(int) - whole).max() <= 1
    grey = codec.synthesise(latents._replace(grey=True))
    assert np.abs(grey.astype(float) - whole.mean(axis=-1)).max() <= 1.5


@pytest.mark.parametrize("which", ["ANALYSIS_REACH", "SYNTHESIS_REACH"])
def test_a_smaller_reach_would_be_seen(codecs, which, monkeypatch):
    codec = codecs["gmm"]
    pixels = large_picture(320, 320)
    whole_y = codec._analysis(pixels)
    latents = codec.analyse(pixels)
    whole = codec.synthesise(latents)
    monkeypatch.setattr(codec, "memory_budget", 1)
    monkeypatch.setattr(tiling, which, {"gmm": 0})
    seen = np.abs(codec._analysis(pixels) - whole_y).max() > 1e-3 * np.abs(whole_y).max()
    if which == "SYNTHESIS_REACH":
        seen = np.abs(codec.synthesise(latents).astype(int) - whole).max() > 1
    assert seen


@pytest.mark.parametrize("tile", [1, 2])
def test_phi_in_bands_is_the_same_to_the_bit(codecs, tile, monkeypatch):
    golden = golden_arrays("gmm", IMAGES[0])
    rng = np.random.default_rng(3)
    z_hat = rng.integers(-9, 10, (9, 11, NUM_FILTERS)) + golden["z_medians"]
    model = codecs["gmm"].entropy_coder._entropy_model
    whole = model.phi(z_hat)
    monkeypatch.setattr(context, "PHI_TILE", tile)
    np.testing.assert_array_equal(model.phi(z_hat), whole)
    assert len(list(model.phi_bands(z_hat))) == -(-9 // tile)


def test_the_budget_decides_the_tile():
    mebi, architecture = 1 << 20, Architecture("gmm", 64)
    assert tiling.network_area(3072 * mebi, 24_000_000, architecture) < 24_000_000
    assert tiling.network_area(3072 * mebi, 2_000_000, architecture) > 2_000_000
    assert tiling.network_area(1, 10**8, architecture) == 0
    assert tiling.side_for(0, 128, codec_module.SMALLEST_TILE) == codec_module.SMALLEST_TILE


@pytest.mark.slow
def test_tiling_costs_nothing_at_four_megapixels():
    """2048x2048: at most 0.01 dB and 0.1 % of the size, with the shipped model."""
    photo = images.read_image(options.ROOT / "valid" / "astronaut.png").pixels
    row = np.concatenate([photo, photo[:, ::-1]] * 2, axis=1)
    pixels = np.concatenate([row, row[::-1]] * 2)[:2048, :2048]
    results = []
    for budget in (8 << 30, 1):
        codec = Codec.load(options.DEFAULT_MODEL, memory_budget=budget)
        latents = codec.analyse(pixels)
        size = len(codec.encode(latents))
        psnr = metrics.psnr(pixels, codec.synthesise(latents))
        results.append((size, psnr))
        codec.close()
    (whole_size, whole_psnr), (tiled_size, tiled_psnr) = results
    assert abs(tiled_size - whole_size) <= 0.001 * whole_size
    assert abs(tiled_psnr - whole_psnr) <= 0.01
