"""Models whose y has more channels than the networks have filters: trained, coded, restored."""

import json

import numpy as np
import pytest
import reference_decoder
from tiny_training import command, photograph

from architecture import Architecture, ArchitectureError
from codec import Codec
from coding import bitstream, models
from search import refine

NUM_FILTERS, NUM_LATENTS = 8, 24
PIXELS = photograph(3, 70, 130)


@pytest.fixture(scope="module", params=["gmm", pytest.param("gllmm", marks=pytest.mark.slow)])
def trained(request, folder, tmp_path_factory):
    """A folder with a run of three steps and its exported model."""
    base = tmp_path_factory.mktemp("latents")
    options = ["--steps", "3", "--num-latents", str(NUM_LATENTS), "--family", request.param]
    assert command(folder, base / "runs", *options) == 0
    return base


@pytest.fixture(scope="module")
def codec(trained):
    made = Codec.load(trained / "models" / "tiny")
    yield made
    made.close()


def test_the_model_says_how_many_latents_it_has(trained, codec):
    config = json.loads((trained / "models" / "tiny" / "config.json").read_text())
    assert (config["num_filters"], config["num_latents"]) == (NUM_FILTERS, NUM_LATENTS)
    assert codec.architecture == Architecture(config["family"], NUM_FILTERS, NUM_LATENTS)
    y, z = codec.transform(PIXELS)
    assert (y.shape, z.shape) == ((8, 12, NUM_LATENTS), (2, 3, NUM_FILTERS))


def test_its_files_decode_with_two_independent_decoders(codec):
    latents = codec.quantise(*(4 * value for value in codec.transform(PIXELS)), *PIXELS.shape[:2])
    assert len(np.unique(latents.y_symbols)) > 5
    data = codec.encode(latents)
    container = bitstream.unpack(data)
    assert len(container.active) == NUM_LATENTS
    decoded = codec.decode(container)
    assert decoded.equals(latents)
    weights, family = codec.model.weights, codec.architecture.family
    y_hat, z_symbols = reference_decoder.decode(data, weights, family)
    np.testing.assert_array_equal(y_hat, latents.y_symbols)
    np.testing.assert_array_equal(z_symbols, latents.z_symbols)
    pixels = reference_decoder.decode_pixels(data, y_hat, weights, family)
    ours = codec.decompress(data)
    assert np.abs(pixels.astype(int) - ours).max() <= 1


def test_the_search_of_effort_runs(codec):
    losses = []
    result = refine.Refiner(codec, 0.0075).compress(PIXELS, 1, losses.append)
    assert len(losses) == refine.ITERATIONS[1] and losses[-1] < losses[0]
    assert codec.decompress(result.data).shape == PIXELS.shape


def test_other_numbers_of_latents_are_refused(trained, codec, folder, capsys):
    more = ["--steps", "4", "--num-latents"]
    assert command(folder, trained / "runs", *more, "16") == 2
    assert "started with num_latents 24, not 16" in capsys.readouterr().err
    assert command(folder, trained / "runs", *more, "12", name="other") == 2
    assert "latent channels that is a positive multiple of 8 up to 2040" in capsys.readouterr().err
    prefix = trained / "models" / "tiny" / models.CHECKPOINT_PREFIX
    with pytest.raises(models.ModelError, match="8 filters, 16 latent channels: "):
        models.read_weights(prefix, Architecture(codec.architecture.family, NUM_FILTERS, 16))
    for wrong in (2048, 24.0, "24"):
        with pytest.raises(ArchitectureError, match="latent channels that is"):
            Architecture("gmm", NUM_FILTERS, wrong)
