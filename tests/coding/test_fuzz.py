"""Hostile files: a short run of the fuzzer, and the refusals that come before any work."""

import fuzz
import numpy as np
import pytest
from golden_models import NUM_FILTERS

from codec import Latents
from coding import bitstream, context, latent_coder, range_coding


def test_a_short_run_finds_nothing(codecs):
    streams, sound = fuzz.golden_streams(), fuzz.golden_latents()
    outcomes, _, _ = fuzz.fuzz(codecs, streams, 1500, 0.15, seed=7, sound=sound)
    assert sum(outcomes.values()) == 1500
    reached = {outcome for kind, outcome in outcomes if kind == "payload"}
    for words in ("payload ends", "do not match the file's checksum", "cut off"):
        assert any(words in outcome for outcome in reached)


def test_the_fuzzer_can_fail(codecs, monkeypatch):
    calls = []

    def feed(data, codec, sound=None):
        calls.append(data)
        if len(calls) > len(fuzz.golden_streams()):  # those are fed first, undamaged
            raise IndexError
        return "decoded"

    monkeypatch.setattr(fuzz, "feed", feed)
    with pytest.raises(fuzz.FuzzError, match="seed 1, input 0: IndexError"):
        fuzz.fuzz(codecs, fuzz.golden_streams(), 5, 0, seed=1)
    monkeypatch.undo()
    with pytest.raises(fuzz.FuzzError, match="latents that no sound file has"):
        fuzz.fuzz(codecs, fuzz.golden_streams(), 500, 1, seed=1, sound={"other latents"})


def container_of(codec, height, width, z=b"\0" * 50, y=b"\0" * 50):
    return bitstream.Container(
        codec.fingerprint, height, width, bitstream.RGB, np.ones(NUM_FILTERS, bool), 0, z, y
    )


def test_a_large_promise_with_a_small_payload_fails_before_any_work(codecs, monkeypatch):
    def no_decoder(*args):
        raise AssertionError("nothing may be decoded or made")

    monkeypatch.setattr(range_coding, "decode", no_decoder)
    monkeypatch.setattr(context, "wavefront", no_decoder)
    for size in ((13_000, 13_000), (1, 2_000_000)):
        data = bitstream.pack(container_of(codecs["gmm"], *size))
        with pytest.raises(bitstream.BitstreamError, match="payload ends before the image"):
            codecs["gmm"].decode(bitstream.unpack(data))


def test_a_payload_that_runs_out_ends_the_decoding(codecs, monkeypatch):
    """Noise for 1000x1000 pixels is given up after a few steps, not at the end."""
    steps = []
    parameters = context.ImageModel.parameters

    def counted(self, *args):
        steps.append(args)
        return parameters(self, *args)

    monkeypatch.setattr(context.ImageModel, "parameters", counted)
    codec = codecs["gmm"]
    latents = Latents(
        np.zeros((64, 64, NUM_FILTERS), np.int32),
        np.zeros((16, 16, NUM_FILTERS), np.int32),
        1000,
        1000,
    )
    z = bitstream.unpack(codec.encode(latents)).z
    noise = np.random.default_rng(0).integers(0, 256, 200).astype(np.uint8).tobytes()
    with pytest.raises(bitstream.BitstreamError, match="payload ends before the image"):
        codec.decode(container_of(codec, 1000, 1000, z, noise))
    assert 0 < len(steps) < 64  # of 64 + 3 * 63


def test_sound_files_use_no_more_than_their_bits(codecs):
    """The meter never stops a sound file, be it all escapes or all one value."""
    codec = codecs["gmm"]
    rng = np.random.default_rng(5)
    for scale in (0, 1, 30, 3000, 2**20):
        y_hat = rng.integers(-scale, scale + 1, (4, 8, NUM_FILTERS)).astype(np.int32)
        z = rng.integers(-scale, scale + 1, (1, 2, NUM_FILTERS)).astype(np.int32)
        for sign in (1, -1):
            latents = Latents(sign * np.abs(y_hat), sign * np.abs(z), 64, 128)
            again = codec.decode(bitstream.unpack(codec.encode(latents)))
            np.testing.assert_array_equal(again.y_symbols, latents.y_symbols)


def test_one_pixel_strips_count_their_blocks():
    bitstream.check_size(1, 5_000_000)
    with pytest.raises(bitstream.BitstreamError, match="blocks"):
        bitstream.check_size(1, 170_000_000)
    with pytest.raises(bitstream.BitstreamError, match="the limit is 100 pixels"):
        bitstream.check_size(11, 10, max_pixels=100)
    bitstream.check_size(1, 1, max_pixels=1)


def test_latents_of_y_without_a_channel_are_refused(codecs):
    container = container_of(codecs["gmm"], 64, 64)._replace(active=np.zeros(NUM_FILTERS, bool))
    with pytest.raises(bitstream.BitstreamError, match="no channel"):
        codecs["gmm"].decode(container)


without_package = range_coding.range_coder is None


@pytest.mark.skipif(without_package, reason="the Python range coder needs no file")
def test_a_full_disk_under_the_range_coder_is_noticed(monkeypatch):
    """range-coder itself ignores failed writes and would leave a payload that is cut off."""
    import contextlib

    @contextlib.contextmanager
    def full():
        with open("/dev/full", "r+b", buffering=0) as file:
            yield file, "/dev/full"

    monkeypatch.setattr(range_coding, "_scratch_file", full)
    tables = latent_coder.ZTables([[0, 30000, 65536]], [3], [0])
    with pytest.raises(OSError, match="No space left"):
        latent_coder.encode_z(np.zeros((40, 40, 1), np.int32), tables)


@pytest.mark.skipif(without_package, reason="the Python range coder needs no file")
def test_scratch_files_work_without_memory_files(monkeypatch, tmp_path):
    monkeypatch.delattr(range_coding.os, "memfd_create", raising=False)
    monkeypatch.setattr(range_coding.tempfile, "tempdir", str(tmp_path))
    tables = latent_coder.ZTables([[0, 30000, 65536]], [3], [0])
    symbols = np.arange(-8, 8, dtype=np.int32).reshape(4, 4, 1)
    data = latent_coder.encode_z(symbols, tables)
    np.testing.assert_array_equal(latent_coder.decode_z(data, (4, 4, 1), tables), symbols)
    assert list(tmp_path.iterdir()) == []
