"""A model folder is data: what does not fit is refused in a sentence, and nothing is executed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from golden_models import NUM_FILTERS, checkpoint_of

from architecture import Architecture
from codec import Codec
from coding import models

ARCHITECTURE = Architecture("gmm", NUM_FILTERS)
GOOD = {"family": "gmm", "num_filters": NUM_FILTERS}


@pytest.fixture(scope="module")
def weights():
    return models.read_weights(checkpoint_of("gmm"), ARCHITECTURE)


@pytest.fixture
def folder(tmp_path, weights):
    """A sound model folder."""
    path = tmp_path / "model"
    path.mkdir()
    for source in checkpoint_of("gmm").parent.glob("model-0.*"):
        shutil.copy(source, path / source.name.replace("model-0", "model"))
    fingerprint = models.fingerprint_of(weights, ARCHITECTURE).hex()
    write_config(path, fingerprint=fingerprint)
    return path


def write_config(folder, **changes):
    (folder / "config.json").write_text(json.dumps({**GOOD, "fingerprint": "0" * 16, **changes}))


def write_checkpoint(folder, weights):
    """Puts other weights into a folder, with the fingerprint that fits them."""
    for old in folder.glob("model.*"):
        old.unlink()
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.get_variable(n, initializer=tf.constant(v)) for n, v in weights.items()]
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(variables)
        saver.save(session, str(folder / "model"), write_meta_graph=False, write_state=False)
    fingerprint = models.fingerprint_of(weights, ARCHITECTURE).hex()
    write_config(folder, fingerprint=fingerprint)


def test_a_sound_folder_loads(folder):
    assert models.load_folder(folder).architecture == ARCHITECTURE


@pytest.mark.parametrize(
    "text,words",
    [
        ("", "Expecting value"),
        ("[1]", "object of settings expected, got list"),
        ("{}", "lacks family, num_filters, fingerprint"),
        ("[" * 100_000, "recursion"),
        ('{"family": "gmm"} and more', "Extra data"),
        (" " * (2 << 20), "more than 1048576 bytes"),
        (b"\xff\xfe\x00", "cannot be used"),
    ],
)
def test_a_configuration_that_is_none_is_refused(tmp_path, text, words):
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(models.ModelError, match=words):
        models.load_folder(tmp_path)


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"num_filters": "32"}, "multiple of 8 up to 2040"),
        ({"num_filters": 32.0}, "multiple of 8 up to 2040"),
        ({"num_filters": True}, "multiple of 8 up to 2040"),
        ({"num_filters": None}, "multiple of 8 up to 2040"),
        ({"num_filters": 10**9}, "multiple of 8 up to 2040"),
        ({"num_filters": 10**400}, "multiple of 8 up to 2040"),
        ({"num_filters": -8}, "multiple of 8 up to 2040"),
        ({"num_filters": 64}, "does not fit"),
        ({"family": "../../etc"}, "gmm or gllmm expected"),
        ({"family": ["gmm"]}, "Family gmm or gllmm expected"),
        ({"family": {"gmm": 1}}, "Family gmm or gllmm expected"),
        ({"fingerprint": 7}, "16 hexadecimal digits"),
        ({"fingerprint": "zz" * 8}, "16 hexadecimal digits"),
        ({"fingerprint": "0" * 16}, "are not those"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, changes, words):
    write_config(folder, **changes)
    with pytest.raises(models.ModelError, match=words) as caught:
        models.load_folder(folder)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 400


def nan_kernel(weights):
    weights["analysis/Block_0_layer_2/signal_conv2d/kernel_rdft"][0, 0] = np.nan


def infinite_bias(weights):
    weights["hyper_synthesis/layer_0/signal_conv2d/bias"][3] = np.inf


def wrong_shape(weights):
    name = "entropy_parameter/masked/biases"
    weights[name] = weights[name][:-1]


def wrong_dtype(weights):
    name = "entropy_parameter/masked/biases"
    weights[name] = weights[name].astype(np.float64)


def missing_variable(weights):
    del weights["entropy_bottleneck/cdf_length"]


def huge_table(weights):
    weights["entropy_bottleneck/quantized_cdf"] = np.zeros((NUM_FILTERS, 70_000), np.int32)


def falling_table(weights):
    weights["entropy_bottleneck/quantized_cdf"][5, 1:3] = [9, 4]


def wrong_length(weights):
    weights["entropy_bottleneck/cdf_length"][5] = -3


def far_quantiles(weights):
    weights["entropy_bottleneck/quantiles"][2, 0, 1] = 1e30


def too_large_to_be_exact(weights):
    weights["hyper_synthesis/layer_0/signal_conv2d/bias"][3] = 1e30


@pytest.mark.parametrize(
    "damage,words",
    [
        (nan_kernel, "NaN or infinity"),
        (infinite_bias, "NaN or infinity"),
        (wrong_shape, r"should be float32 \(64,\), got float32 \(63,\)"),
        (wrong_dtype, "got float64"),
        (missing_variable, "got nothing"),
        (huge_table, "does not fit"),
        (falling_table, "does not rise from 0 to 65536"),
        (wrong_length, "does not rise from 0 to 65536"),
        (far_quantiles, "quantiles of z"),
        (too_large_to_be_exact, "too large for exact coding"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, weights, damage, words):
    changed = {name: value.copy() for name, value in weights.items()}
    damage(changed)
    write_checkpoint(folder, changed)
    with pytest.raises(models.ModelError, match=words) as caught:
        Codec(models.load_folder(folder))
    assert len(str(caught.value).splitlines()) == 1


def test_other_weights_than_the_fingerprint_names_are_refused(folder, weights):
    write_checkpoint(folder, {n: v * 2 if v.dtype == np.float32 else v for n, v in weights.items()})
    write_config(folder, fingerprint="0123456789abcdef")
    with pytest.raises(models.ModelError, match="are not those that its config.json names"):
        models.load_folder(folder)


@pytest.mark.parametrize("name", ["model.index", "model.data-00000-of-00001"])
def test_a_damaged_checkpoint_is_refused(folder, name):
    path = folder / name
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    for keep in (0, 1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:keep])
        with pytest.raises(models.ModelError) as caught:
            models.load_folder(folder)
        assert len(str(caught.value).splitlines()) == 1
    for position in rng.integers(0, len(data), 5):
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            model = models.load_folder(folder)  # bytes that nothing reads may change
        except models.ModelError as error:
            assert len(str(error).splitlines()) == 1
        else:
            assert models.fingerprint_of(model.weights, ARCHITECTURE) == model.fingerprint


def test_nothing_in_a_folder_is_executed(folder, tmp_path, monkeypatch):
    """Code, pickles and graphs beside the weights are not looked at."""
    import pickle

    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    for name in ("__init__.py", "config.py", "model.py", "sitecustomize.py", "conftest.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w')")
    for name in ("model.meta", "model.pkl", "weights.npz", "saved_model.pb", "log.csv"):
        (folder / name).write_bytes(pickle.dumps(Evil()))
    config = json.loads((folder / "config.json").read_text())
    config.update(__class__="os.system", data="$(touch executed)", lmbda="__import__('os')")
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(pickle, "load", None)
    monkeypatch.setattr(pickle, "loads", None)
    models.load_folder(folder)
    assert not mark.exists()


def test_a_broken_folder_does_not_hide_the_right_one(folder, weights):
    broken = folder.parent / "a broken one"
    broken.mkdir()
    (broken / "config.json").write_text("[[[")
    fingerprint = models.fingerprint_of(weights, ARCHITECTURE)
    assert models.find(fingerprint, folder.parent) == folder


def test_what_a_killed_export_left_is_no_model(folder):
    shutil.copytree(folder, folder.parent / ".model-new-1-2")
    assert models.available(folder.parent) == ["model"]


def test_a_model_elsewhere_is_found_where_its_path_is_given(folder, weights, tmp_path):
    fingerprint = models.fingerprint_of(weights, ARCHITECTURE)
    others = tmp_path / "models"
    shutil.copytree(models.folder_of("gmm"), others / "gmm-v9")
    with pytest.raises(models.ModelError, match=r"there: gmm-v9\).*--model"):
        models.find(fingerprint, others)
    assert models.find(fingerprint, others, [folder]) == folder
    with pytest.raises(models.ModelError, match="No model named nothing"):
        models.find(fingerprint, others, ["nothing"])


def test_a_name_is_that_of_a_model_and_anything_else_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("models/a", "a", "b", "models/b/c", "b/c"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    paths = {"a": "models/a", "b": "models/b", "b/c": "b/c", "./a": "./a", ".": ".", "..": ".."}
    for name, expected in paths.items():
        assert str(models.folder_of(name, Path("models"))) == str(Path(expected))
    with pytest.raises(models.ModelError, match="No model named c"):
        models.folder_of("c", Path("models"))


def test_an_alias_stands_for_a_folder(folder, tmp_path):
    (tmp_path / "aliases.json").write_text('{"newest": "model", "gone": "v9"}')
    assert models.load_named("newest", tmp_path).name == "model"
    assert models.resolved("newest", tmp_path) == "model"
    assert models.available(tmp_path) == ["model"]
    with pytest.raises(models.ModelError, match=r"No model named v9 \(gone in aliases.json\)"):
        models.folder_of("gone", tmp_path)
    # A folder of that name, and a path, are what they are.
    (tmp_path / "newest").mkdir()
    assert models.folder_of("newest", tmp_path) == tmp_path / "newest"
    assert models.resolved("./gone", tmp_path) == "./gone"


@pytest.mark.parametrize(
    "text",
    ["[", "[]", '{"a": 1}', '{"a": ".."}', '{"a": "../b"}', '{"a": "b/c"}', '{"": "b"}', "\xff"],
)
def test_damaged_aliases_are_named(tmp_path, text):
    (tmp_path / "aliases.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(models.ModelError, match="aliases.json cannot be used") as caught:
        models.folder_of("gmm", tmp_path)
    assert "\n" not in str(caught.value)
