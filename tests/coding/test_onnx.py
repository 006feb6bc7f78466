"""The networks in ONNX Runtime: those of network.py, without TensorFlow in the process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden_models import FAMILIES, NUM_FILTERS, golden_arrays, golden_codecs

from architecture import Architecture
from codec import Codec
from coding import backends, bitstream, forks, onnx_transforms
from pictures import images
from variables import inference_variables

pytest.importorskip("onnxruntime", reason="TensorFlow does without")

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ("analysis", "hyper_analysis", "synthesis")
PICTURES = sorted((ROOT / "valid").glob("*.png"))


@pytest.fixture(scope="module")
def onnx_codecs():
    """``golden_codecs``, in ONNX Runtime."""
    return golden_codecs("onnx")


def random_weights(architecture, seed=1):
    """Weights without zeros or symmetries, whose activations stay tame."""
    rng, weights = np.random.default_rng(seed), {}
    for name, (shape, dtype) in inference_variables(architecture).items():
        shape = tuple(side or 5 for side in shape)
        fan_in = {"kernel": shape[-2:][0], "kernel_rdft": 9 * architecture.num_filters}
        scale = 0.5 * fan_in.get(name.split("/")[-1], 100) ** -0.5
        values = rng.normal(0, scale, shape)
        if "reparam" in name:
            values = rng.uniform(-0.05, 0.2, shape) + ("beta" in name)
        weights[name] = values.astype(dtype)
    return weights


@pytest.mark.parametrize("sides", [(8, 24), (16, 8)])
@pytest.mark.parametrize("family", FAMILIES)
def test_networks_are_those_of_tensorflow(family, sides):
    architecture = Architecture(family, *sides)
    weights = random_weights(architecture)
    ours, theirs = (backends.networks(b, architecture, weights) for b in backends.BACKENDS)
    rng = np.random.default_rng(2)
    inputs = {
        "analysis": rng.uniform(0, 1, (2, 64, 96, 3)),
        "hyper_analysis": rng.normal(0, 3, (2, 12, 8, architecture.num_latents)),
        "synthesis": rng.integers(-4, 5, (2, 4, 6, architecture.num_latents)),
    }
    for name, values in inputs.items():
        values = values.astype(np.float32)
        expected, found = (getattr(kind, name)(values) for kind in (theirs, ours))
        assert found.dtype == np.float32 and found.std() > 1e-3
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    theirs.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_variable_of_the_networks_is_used(family):
    architecture = Architecture(family, 8, 16)
    weights = random_weights(architecture)
    for name in NETWORKS:
        writer = onnx_transforms.Writer(name, architecture, weights)
        onnx_transforms._NETWORKS[name](writer, "input")
        assert writer.used == {key for key in weights if key.startswith(f"{name}/")}


@pytest.mark.parametrize("image", ["image_120x179", "image_128x192"])
@pytest.mark.parametrize("family", FAMILIES)
def test_golden_tensors_are_reproduced(family, image, onnx_codecs):
    """Those of the authors' software, as by the TensorFlow networks."""
    golden, networks = golden_arrays(family, image), onnx_codecs[family].networks
    channels = {"x_pad": 3, "y": NUM_FILTERS, "y_hat": NUM_FILTERS}

    def batch(name):
        return golden[name].reshape(1, *golden[name].shape[-3:-1], channels[name])

    found = {
        "y": networks.analysis(batch("x_pad")),
        "z": networks.hyper_analysis(batch("y")),
        "x_hat": networks.synthesis(batch("y_hat")),
    }
    for name, values in found.items():
        difference = values.reshape(golden[name].shape) - golden[name].astype(np.float64)
        assert np.linalg.norm(difference) <= 1e-4 * np.linalg.norm(golden[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_files_of_either_backend_decode_in_the_other(family, codecs, onnx_codecs):
    codec_of = {"onnx": onnx_codecs[family], "tensorflow": codecs[family]}
    for pixels in (images.read_image(PICTURES[0]).pixels[:150, :200], np.zeros((1, 1), np.uint8)):
        for writer, codec in codec_of.items():
            data = codec.compress(pixels)
            decoded = [c.decode(bitstream.unpack(data)) for c in codec_of.values()]
            assert decoded[0].equals(decoded[1])
            assert decoded[0].equals(codec.analyse(pixels)), writer
            ours, theirs = (c.decompress(data).astype(int) for c in codec_of.values())
            assert ours.shape == pixels.shape and np.abs(ours - theirs).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gmm", "gllmm-mse-3"])
def test_shipped_models_restore_the_photographs_within_one_level(name):
    pair = [Codec.load(name, backend=backend) for backend in backends.BACKENDS]
    for path in PICTURES:
        pixels = images.read_image(path).pixels
        sizes, restored = [], []
        for codec in pair:
            data = codec.compress(pixels)
            sizes.append(len(data))
            assert (
                pair[0]
                .decode(bitstream.unpack(data))
                .equals(pair[1].decode(bitstream.unpack(data)))
            )
            restored = [c.decompress(data).astype(int) for c in pair]
            assert np.abs(restored[0] - restored[1]).max() <= 1
        assert abs(sizes[0] - sizes[1]) <= 0.001 * sizes[0]


def test_tiles_are_the_whole_picture(onnx_codecs):
    codec = onnx_codecs["gmm"]
    pixels = np.tile(images.read_image(PICTURES[0]).pixels[:256, :256], (3, 3, 1))[:, :600]
    whole = codec.transform(pixels)
    restored = codec.synthesise(codec.quantise(*whole, *pixels.shape[:2]))
    budget, codec.memory_budget = codec.memory_budget, 0
    try:
        tiled = codec.transform(pixels)
        for a, b in zip(whole, tiled):
            np.testing.assert_allclose(a, b, atol=1e-4)
        again = codec.synthesise(codec.quantise(*whole, *pixels.shape[:2]))
    finally:
        codec.memory_budget = budget
    assert np.abs(again.astype(int) - restored).max() <= 1


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["scipy"] = None  # any import of them fails
sys.path[:0] = sys.argv[1:3]
import numpy as np
from golden_models import checkpoint_of
from architecture import Architecture
from codec import Codec
codec = Codec.load("gmm")
pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
assert codec.backend == "onnx" and codec.decompress(codec.compress(pixels)).shape == pixels.shape
codec = Codec.from_checkpoint(checkpoint_of("gllmm"), Architecture("gllmm", 32))
assert codec.decompress(codec.compress(pixels)).shape == pixels.shape
"""

SCRIPTS_WITHOUT_TENSORFLOW = """
import os, runpy, sys
sys.modules["tensorflow"] = sys.modules["scipy"] = None
sys.argv, os._exit = sys.argv[1:], sys.exit
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_python(program, *arguments, cwd=None):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_coding_imports_no_tensorflow():
    result = run_python(WITHOUT_TENSORFLOW, ROOT, ROOT / "tests")
    assert result.returncode == 0 and not result.stderr, result.stderr


@pytest.mark.parametrize("more", [[], ["--target-bpp", "3", "--model", "gmm"]])
def test_the_scripts_import_no_tensorflow(tmp_path, more):
    picture = tmp_path / "a.png"
    picture.write_bytes(images.png_bytes(images.read_image(PICTURES[0]).pixels[:170, :180]))
    options = [*more, "--verify", "-o", tmp_path / "out"]
    result = run_python(SCRIPTS_WITHOUT_TENSORFLOW, ROOT / "encoder.py", picture, *options)
    assert result.returncode == 0 and "MS-SSIM" in result.stdout and not result.stderr
    options = [tmp_path / "out", "-o", tmp_path / "back"]
    result = run_python(SCRIPTS_WITHOUT_TENSORFLOW, ROOT / "decoder.py", *options)
    assert result.returncode == 0 and not result.stderr, result.stderr
    assert images.read_image(tmp_path / "back" / "a.png").pixels.shape == (170, 180, 3)


def test_it_takes_the_threads_that_it_is_given(monkeypatch):
    from coding import onnx_networks

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert onnx_networks._options().intra_op_num_threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert 1 <= onnx_networks._options().intra_op_num_threads <= os.cpu_count()


def test_too_little_memory_is_a_memory_error(onnx_codecs, monkeypatch):
    class Session:
        def run(self, *_):
            raise RuntimeError("Failed to allocate memory for requested buffer of size 9")

    monkeypatch.setitem(onnx_codecs["gmm"].networks._sessions, "synthesis", Session())
    with pytest.raises(MemoryError, match="buffer of size 9"):
        onnx_codecs["gmm"].networks.synthesis(np.zeros((1, 4, 4, NUM_FILTERS), np.float32))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore")
def test_a_fork_is_told_instead_of_hanging(onnx_codecs):
    codec = onnx_codecs["gmm"]
    data = codec.compress(np.zeros((64, 64, 3), np.uint8))  # ONNX Runtime runs
    child = os.fork()
    if child == 0:
        status = 1
        try:
            codec.decompress(data)
        except forks.ForkError as error:
            status = 0 if "ONNX Runtime" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_closing_and_coding_again(onnx_codecs):
    codec = onnx_codecs["gmm"]
    data = codec.compress(np.zeros((64, 64, 3), np.uint8))
    codec.close()
    assert not codec.networks._sessions
    assert codec.compress(np.zeros((64, 64, 3), np.uint8)) == data


def test_a_codec_keeps_its_backend_in_another_process(onnx_codecs, codecs):
    import pickle

    for codec, backend in ((onnx_codecs["gmm"], "onnx"), (codecs["gmm"], "tensorflow")):
        again = pickle.loads(pickle.dumps(codec))
        assert again.backend == backend
        again.close()


def test_a_model_is_valid_onnx():
    checker = pytest.importorskip("onnx.checker", reason="the package onnx is no requirement")
    onnx = pytest.importorskip("onnx")
    architecture = Architecture("gllmm", 8, 16)
    for name in NETWORKS:
        data = onnx_transforms.write(name, architecture, random_weights(architecture))
        checker.check_model(onnx.load_from_string(data), full_check=True)
