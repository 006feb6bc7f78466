"""encoder.py --target-bpp and its like: the models to choose from, what is refused and written."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from golden_models import NUM_FILTERS, REFERENCE, checkpoint_of
from PIL import Image

import encoder
from architecture import Architecture
from cli import errors as cli_errors
from cli import options
from codec import Codec
from coding import bitstream, models
from pictures import images, metrics
from search import refine
from search.chooser import candidates, memory_left
from search.targets import TargetError

CHECKPOINT = ["--checkpoint", "x", "--family", "gmm", "--num-filters", 32]
LINE = re.compile(r"photo.png +100x80 +([\d.]+) bpp(?:  PSNR +([\d.]+) dB)?.* s  (\S+)")


# Names of models made here: scale of the latents, level of the pixels, lambda.
TINY = {"tiny-1": (0.3, 0.1, 0.001), "tiny-2": (1.0, 0.3, 0.002), "tiny-3": (3.0, 0.5, 0.004)}


def write_model(folder, weights, **config):
    """Writes a gmm model folder."""
    folder.mkdir(parents=True)
    tf.raw_ops.SaveV2(
        prefix=str(folder / models.CHECKPOINT_PREFIX),
        tensor_names=list(weights),
        shape_and_slices=[""] * len(weights),
        tensors=list(weights.values()),
    )
    fingerprint = models.fingerprint_of(weights, Architecture("gmm", NUM_FILTERS)).hex()
    config = {"family": "gmm", "num_filters": NUM_FILTERS, "fingerprint": fingerprint, **config}
    (folder / models.CONFIG_NAME).write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    """Folder of three models, from the golden one: tiny-1 writes the smallest and worst files."""
    folder = tmp_path_factory.mktemp("models")
    golden = models.read_weights(checkpoint_of("gmm"), Architecture("gmm", NUM_FILTERS))
    for name, (scale, level, lmbda) in TINY.items():
        weights = dict(golden)
        weights["analysis/Block_3_layer_2/signal_conv2d/kernel_rdft"] = (
            scale * golden["analysis/Block_3_layer_2/signal_conv2d/kernel_rdft"]
        )
        # Random networks restore noise; a plain grey is nearer to a picture.
        last = "synthesis/Block_3_layer_2/signal_conv2d/"
        weights[last + "kernel_rdft"] = 0 * golden[last + "kernel_rdft"]
        weights[last + "bias"] = 0 * golden[last + "bias"] + np.float32(level)
        write_model(folder / name, weights, lmbda=lmbda, metric="mse")
    return folder


@pytest.fixture(scope="module")
def tiny_codecs(tiny_models):
    """Codecs of them, by name."""
    return {name: Codec.load(tiny_models / name) for name in TINY}


def make_config(folder, **config):
    """A model folder of which only the configuration is ever read."""
    folder.mkdir(parents=True)
    config = {"family": "gmm", "num_filters": 8, "fingerprint": "0" * 16, **config}
    (folder / models.CONFIG_NAME).write_text(json.dumps(config), encoding="utf-8")


def test_candidates_are_those_trained_for_mse_by_rising_lambda(tmp_path, tiny_models):
    make_config(tmp_path / "c", lmbda=0.01, metric="mse")
    make_config(tmp_path / "b", lmbda=0.03, metric="mse")
    make_config(tmp_path / "a", lmbda=0.02, metric="mse")
    make_config(tmp_path / "similar", lmbda=3, metric="ms-ssim")
    make_config(tmp_path / "unknown")
    make_config(tmp_path / "odd", lmbda="much", metric="mse")
    found = candidates(models_dir=tmp_path)
    assert [c.folder.name for c in found] == ["c", "a", "b"]
    named = candidates(["similar", tiny_models / "tiny-1"][:1], tmp_path)
    assert [c.folder.name for c in named] == ["similar"]
    (tiny,) = candidates([tiny_models / "tiny-1"], tmp_path)
    size = (tiny.folder / "model.data-00000-of-00001").stat().st_size
    assert tiny.size == pytest.approx(size, rel=0.01)


def test_the_shipped_models_can_be_chosen_from():
    """The default model among them, which is an alias, once."""
    folders = [c.folder for c in candidates()]
    assert folders.count(models.folder_of(options.DEFAULT_MODEL)) == 1
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize(
    "names, words",
    [
        (["a", "similar"], "one metric expected"),
        (["a", "a"], "different names expected, got .*/a, .*/a"),
        (["a", "the a"], "different names expected, got .*/a, .*/a"),
        (["unknown"], "unknown cannot be chosen by a target"),
        (["none"], "No model named none"),
        (["broken"], "cannot be used"),
    ],
)
def test_candidates_that_are_refused(tmp_path, names, words):
    make_config(tmp_path / "a", lmbda=0.02, metric="mse")
    make_config(tmp_path / "similar", lmbda=3, metric="ms-ssim")
    make_config(tmp_path / "unknown")
    make_config(tmp_path / "broken", num_filters="many")
    (tmp_path / "aliases.json").write_text('{"the a": "a"}')
    with pytest.raises(ValueError, match=words):
        candidates(names, tmp_path)


def test_a_folder_without_models_for_mse_is_refused(tmp_path):
    make_config(tmp_path / "similar", lmbda=3, metric="ms-ssim")
    with pytest.raises(TargetError, match="trained for MSE: name some"):
        candidates(models_dir=tmp_path)


@pytest.fixture
def run(tiny_models, tiny_codecs, monkeypatch, capsys, tmp_path):
    """Runs the encoder in this process with all tiny models; (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    load = Codec.load
    monkeypatch.setattr(
        Codec, "load", lambda name, **k: tiny_codecs.get(Path(name).name) or load(name, **k)
    )

    def run(*arguments, names=TINY):
        named = [part for name in names for part in ("--model", tiny_models / name)]
        monkeypatch.setattr(sys, "argv", ["encoder.py", *map(str, (*arguments, *named))])
        with pytest.raises(SystemExit) as caught:
            cli_errors.run(encoder.main)
        return (caught.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def photo(tmp_path):
    """A picture of 100x80."""
    path = tmp_path / "photo.png"
    Image.fromarray(np.asarray(Image.open(REFERENCE / "image_120x179.png"))[:80, :100]).save(path)
    return path


@pytest.fixture
def facts(photo, tiny_codecs):
    """(name, bpp, PSNR) of every tiny model's file of it, the smallest first."""
    pixels = images.read_image(photo).pixels
    found = []
    for name, codec in tiny_codecs.items():
        data = codec.compress(pixels)
        psnr = metrics.psnr(pixels, codec.decompress(data))
        found.append((name, len(data) / 1000, psnr))  # of 8000 pixels
    assert all(a[1] < b[1] and a[2] < b[2] for a, b in zip(found, found[1:])), found
    return found


def chosen(out):
    """(bpp, PSNR or None, model) as the image's line states them."""
    (line,) = [line for line in out.splitlines() if line.startswith("photo.png")]
    bpp, psnr, name = LINE.fullmatch(line).groups()
    return float(bpp), psnr and float(psnr), name


def check_file(tiny_codecs, name, photo):
    """The written file is that of a model; returns its bpp and the PSNR of its pixels."""
    data = Path("out/photo.glic").read_bytes()
    assert bitstream.unpack(data).fingerprint == tiny_codecs[name].fingerprint
    pixels = images.read_image(photo).pixels
    return len(data) / 1000, metrics.psnr(pixels, tiny_codecs[name].decompress(data))


def test_a_rate_is_not_exceeded(run, photo, facts, tiny_codecs):
    for i, (name, bpp, _) in enumerate(facts):
        # Just enough, and just not enough for the next.
        for target in (bpp, facts[i + 1][1] - 1e-6 if i + 1 < len(facts) else 20):
            code, out, err = run(photo, "-o", "out", "--target-bpp", target, "--overwrite")
            assert (code, err) == (0, "") and chosen(out)[2] == name
            lines = out.splitlines()
            assert lines[:2] == [
                "1 file to out/",
                f"tiny-1, tiny-2, tiny-3: at most {target:g} bpp",
            ]
            assert check_file(tiny_codecs, name, photo)[0] == bpp <= target
            assert chosen(out)[0] == pytest.approx(bpp, abs=1e-4) and "mean" in out


def test_a_quality_is_reached(run, photo, facts, tiny_codecs):
    for name, bpp, psnr in facts:
        target = psnr - 1e-9
        code, out, err = run(photo, "-o", "out", "--target-psnr", target, "--overwrite")
        assert (code, err) == (0, "") and chosen(out)[2] == name
        assert chosen(out)[1] == pytest.approx(psnr, abs=1e-3)
        assert check_file(tiny_codecs, name, photo) == (bpp, psnr)


def test_what_no_model_reaches_is_named_and_the_rest_go_on(run, photo, facts, tmp_path):
    flat = tmp_path / "flat.png"  # which the networks restore best
    Image.fromarray(np.full((80, 100), 128, np.uint8)).save(flat)
    target = facts[-1][2] + 1
    code, out, err = run(flat, photo, "-o", "out", "--target-psnr", target)
    assert code == 1 and "photo.png: no model makes a file" in err and "(tiny-3)" in err
    assert [p.name for p in Path("out").iterdir()] == ["flat.glic"] and "flat.png" in out
    code, out, err = run(photo, "-o", "out", "--target-bpp", 0.01)
    assert code == 1 and "of at most 0.01 bpp: the smallest has" in err and "(tiny-1)" in err
    nearest = re.search(r"has ([\d.]+) bpp", err)[1]
    assert run(photo, "-o", "out", "--target-bpp", nearest)[0] == 0


def test_without_metrics_and_verified(run, photo, facts):
    options = ["--no-metrics", "--verify", "-o", "out"]
    code, out, _ = run(photo, *options, "--target-bpp", facts[1][1])
    assert code == 0 and chosen(out)[1:] == (None, "tiny-2")


def test_refined_files_are_what_is_compared(run, photo, tiny_codecs, facts, monkeypatch):
    names = ["tiny-1", "tiny-2"]
    pixels = images.read_image(photo).pixels
    # Building their graphs takes seconds: once is enough.
    refiners = {name: refine.Refiner(tiny_codecs[name], TINY[name][2]) for name in names}
    monkeypatch.setattr(refine, "Refiner", lambda codec, *_: refiners[codec.model.name])
    for name, plain_bpp, _ in facts[:2]:
        bpp = len(refiners[name].compress(pixels, 1).data) / 1000
        assert bpp < plain_bpp
        options = ["-o", "out", "--effort", 1, "--overwrite", "--target-bpp", bpp]
        code, out, _ = run(photo, *options, names=names)
        assert code == 0 and f"  {name}  [effort 1" in out
        assert check_file(tiny_codecs, name, photo)[0] == bpp


@pytest.mark.parametrize(
    "options, words",
    [
        (["--target-bpp", 0], "--target-bpp: a number above 0 expected, got '0'"),
        (["--target-bpp", "nan"], "--target-bpp: a number above 0 expected, got 'nan'"),
        (["--target-psnr", "inf"], "--target-psnr: a number above 0 expected, got 'inf'"),
        (["--target-psnr", -3], "--target-psnr: a number above 0 expected, got '-3'"),
        (["--target-bpp", 1, *CHECKPOINT], "leave out --checkpoint"),
        (["--target-psnr", 30, "--num-filters", 8], "leave out --checkpoint"),
        (["--target-bpp", 1, "--lmbda", 0.1], "leave out --lmbda"),
        (["--target-bpp", 1, "--effort", 1, "--lmbda", 0.1], "leave out --lmbda"),
        (["--target-psnr", 30, "--no-metrics"], "leave out --no-metrics"),
        ([], "One --model expected where there is no --target-bpp, --target-bytes"),
    ],
)
def test_options_that_are_refused(run, photo, options, words):
    code, out, err = run(photo, "-o", "out", *options)
    assert code == 2 and words in err.splitlines()[-1] and out == ""


def test_two_targets_are_refused(run, photo):
    code, _, err = run(photo, "--target-bpp", 1, "--target-psnr", 30)
    assert code == 2 and "not allowed with" in err


def test_without_a_target_the_line_names_no_model(run, photo):
    code, out, _ = run(photo, "-o", "out", names=["tiny-1"])
    assert code == 0 and out.splitlines()[1].startswith("tiny-1: gmm, 32 filters, started in ")
    (line,) = [line for line in out.splitlines() if line.startswith("photo.png")]
    assert line.endswith(" s")


def test_a_candidate_counts_the_weights_that_it_loads_not_its_file(tmp_path):
    """Exported kernels are float16 in the file, and float32 in memory."""
    make_config(tmp_path / "a", lmbda=0.02, metric="mse", num_filters=NUM_FILTERS)
    (tmp_path / "a" / "model.data-00000-of-00001").write_bytes(b"half")
    (candidate,) = candidates(models_dir=tmp_path)
    golden = Codec.from_checkpoint(checkpoint_of("gmm"), Architecture("gmm", NUM_FILTERS)).model
    loaded = sum(values.nbytes for values in golden.weights.values())
    assert candidate.size == pytest.approx(loaded, rel=0.02)
    assert memory_left(10**9, [candidate, candidate], candidate) == 10**9 - 4 * candidate.size
