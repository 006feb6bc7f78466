"""Streams of every format version decode for ever, with two independent decoders."""

import hashlib
import json

import numpy as np
import pytest
import reference_decoder
from golden_models import FAMILIES
from make_golden import GOLDEN, MANIFEST, latents_sha256
from PIL import Image

from coding import bitstream
from coding.latents import Latents

STREAMS = json.loads(MANIFEST.read_text(encoding="utf-8"))
# The plain decoder takes a second per stream of gllmm; these few show every path.
QUICK = [
    *("gmm-1x1-grey", "gmm-63x65", "gmm-escapes", "gmm-all-zero", "gllmm-black"),
    *("gmm-k591-63x65", "gmm-k3135-grey", "gmm-k1-escapes", "gmm-k65535-escapes"),
]


def test_every_case_of_both_families_is_kept():
    cases = {f: {n.split("-", 1)[1] for n, e in STREAMS.items() if e["family"] == f}
             for f in FAMILIES}  # fmt: skip
    assert cases["gmm"] == cases["gllmm"] and len(cases["gmm"]) == 16
    assert {p.stem for p in GOLDEN.glob("*.glic")} == set(STREAMS)


def kept_pixels(name):
    """The picture of a stream, which its hash in the manifest protects."""
    pixels = np.asarray(Image.open(GOLDEN / f"{name}.png"))
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == STREAMS[name]["pixels_sha256"]
    return pixels


@pytest.mark.parametrize("name", STREAMS)
def test_stream_decodes_to_its_latents_and_pixels(codecs, name):
    entry = STREAMS[name]
    data = (GOLDEN / f"{name}.glic").read_bytes()
    assert hashlib.sha256(data).hexdigest() == entry["file_sha256"]
    codec = codecs[entry["family"]]
    container = bitstream.unpack(data)
    k = int(name.split("-k")[1].split("-")[0]) if "-k" in name else None
    assert (container.k, data[4]) == (k, 1 if k is None else 2)
    assert (container.height, container.width) == (entry["height"], entry["width"])
    assert bitstream.MODES[container.mode] == entry["mode"]
    latents = codec.decode(container)
    assert latents.k == k
    assert latents_sha256(latents) == entry["latents_sha256"]
    assert latents.grey == (container.mode == bitstream.GREY)
    again = codec.encode(latents)
    assert again == data  # the writer is as frozen as the reader
    if entry["pixels"]:
        expected = kept_pixels(name)
        pixels = codec.synthesise(latents)
        assert pixels.shape == expected.shape
        assert np.abs(pixels.astype(int) - expected).max() <= 1


def check_reference_decoder(codecs, name):
    entry = STREAMS[name]
    codec = codecs[entry["family"]]
    data = (GOLDEN / f"{name}.glic").read_bytes()
    weights = codec.model.weights
    y, z = reference_decoder.decode(data, weights, entry["family"])
    assert latents_sha256(Latents(y, z, 0, 0)) == entry["latents_sha256"]
    if entry["pixels"]:
        expected = kept_pixels(name)
        pixels = reference_decoder.decode_pixels(data, y, weights, entry["family"])
        assert pixels.shape == expected.shape and pixels.dtype == np.uint8
        assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", QUICK)
def test_reference_decoder_agrees(codecs, name):
    check_reference_decoder(codecs, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(STREAMS) - set(QUICK)))
def test_reference_decoder_agrees_on_all(codecs, name):
    check_reference_decoder(codecs, name)
