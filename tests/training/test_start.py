"""Starting weights: a gllmm model from a gmm one, a wide model from a narrow one; tiny models."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image
from tiny_training import command, photograph

import factorized_prior
import layers
import network
from architecture import Architecture
from training.checkpoints import set_variables
from training.export import _save_inference_model
from training.losses import Losses
from training.start import source_name, transfer
from training.validation import build_validation

NUM_FILTERS = 8


def started(family, path):
    """(taken, adapted, new, weights by name, validation losses, mixture parameters) of a start."""
    x = photograph(6, 128, 128)
    medians = np.zeros(NUM_FILTERS)
    with tf.Graph().as_default():
        tf.set_random_seed(8)
        architecture = Architecture(family, NUM_FILTERS)
        graph = build_validation(architecture=architecture, metric="mse", points=[(0.0075, None)])
        latents = [np.random.default_rng(9).normal(size=(1, 4, 4, k * NUM_FILTERS)) for k in (1, 2)]
        with tf.variable_scope("", reuse=True):
            inputs = [tf.constant(v, tf.float32) for v in latents]
            raw = network.entropy_parameter(*inputs, architecture)
        variables = tf.trainable_variables()
        with tf.Session(config=layers.session_config(1)) as session:
            session.run(tf.global_variables_initializer())
            names = transfer(session, variables, path)
            weights = session.run({v.op.name: v for v in variables})
            feed = {graph.x: x[None], graph.medians: medians, **graph.rates[0]}
            losses, raw = session.run([graph.losses.given(), raw], feed)
    return (*names, weights, Losses(**losses), raw)


def test_gllmm_starts_with_the_function_of_gmm(start):
    taken, _, new, weights, wanted, gaussians = started("gmm", start)
    assert not new and sorted(taken) == sorted(weights)
    taken, adapted, new, weights, losses, raw = started("gllmm", start)
    assert sorted(taken + adapted + new) == sorted(weights)
    assert losses.mse == pytest.approx(wanted.mse, rel=1e-3)
    assert losses.bpp_z == pytest.approx(wanted.bpp_z, rel=1e-3)
    laplace, logistic, families = np.split(raw[..., 9 * NUM_FILTERS :], [72, 144], axis=-1)
    np.testing.assert_allclose(raw[..., : 9 * NUM_FILTERS], gaussians, atol=1e-5)
    np.testing.assert_allclose(laplace[..., :16], gaussians[..., :16], atol=1e-5)
    np.testing.assert_allclose(laplace[..., 16:24], gaussians[..., 16:24] * 0.70711, atol=1e-5)
    np.testing.assert_allclose(logistic[..., 16:24], gaussians[..., 16:24] * 0.55133, atol=1e-5)
    assert not families.any()
    # Only the first layers of the second residual blocks have nothing to start from.
    assert all("_layer_2/" in name for name in new) and len(new) == 2 * (3 + 4)
    assert "entropy_parameter/layer_2/signal_conv2d_2/kernel" in adapted
    assert "analysis/Block_1_layer_3_1/signal_conv2d/gdn/reparam_beta" in taken


def test_families_do_not_mistake_each_others_layers(start):
    reader = tf.train.load_checkpoint(start)
    weights = started("gllmm", start)[3]
    strided = "signal_conv2d/kernel_rdft"
    found = weights[f"analysis/Block_3_layer_2_1/{strided}"]
    np.testing.assert_array_equal(
        2 * found, reader.get_tensor(f"analysis/Block_3_layer_2/{strided}")
    )
    assert source_name("analysis/Block_2_layer_3/x", True) is None
    assert source_name("analysis/Block_2_layer_3/x", False) == ("analysis/Block_2_layer_3_1/x")
    for same in ("analysis/Block_0_layer_2/x", "synthesis/Block_1_layer_2/x"):
        assert source_name(same, True) == same


def outputs(family, num_filters, num_latents=None, path=None, save=None):
    """Every network's output for the same input, by name, and what ``transfer`` returned.

    Without ``path`` the weights are random: no zeros, and GDN that mixes channels. ``save``: prefix
    of a checkpoint to write. The latents that go into the synthesis, hyper synthesis and context
    model are those of eight filters, with noise in the channels beyond them.
    """
    rng, architecture = np.random.default_rng(11), Architecture(family, num_filters, num_latents)
    n, m = architecture.num_filters, architecture.num_latents
    noise = np.random.default_rng(12).normal(size=(2, 4, 4, max(n, m))).astype(np.float32)
    noise[..., :NUM_FILTERS] = rng.normal(size=(2, 4, 4, NUM_FILTERS))
    with tf.Graph().as_default():
        tf.set_random_seed(13)
        x = tf.constant(photograph(6, 64, 64)[None] / 255, tf.float32)
        y_hat, z_hat = tf.constant(noise[..., :m]), tf.constant(noise[:, :1, :1, :n])
        chain = network.chain(x, architecture, lambda y, z: (y_hat, z_hat))
        found = {name: getattr(chain, name) for name in ("y", "z", "phi", "raw", "x_hat")}
        found["p(z)"] = factorized_prior.likelihood(z_hat, factorized_prior.variables(n))
        variables = tf.trainable_variables()
        with tf.Session(config=layers.session_config(1)) as session:
            session.run(tf.global_variables_initializer())
            if path is None:
                values = session.run(variables)
                values = [v + rng.uniform(0.02, 0.06, v.shape) for v in values]
                set_variables(session, variables, values)
            names = path and transfer(session, variables, path)
            if save:
                tf.train.Saver().save(session, save, write_meta_graph=False, write_state=False)
            return session.run(found), names


@pytest.mark.parametrize("filters, latents, ratio", [(24, None, 5), (24, 8, 1), (8, 24, 0.1)])
@pytest.mark.parametrize("family", ["gmm", pytest.param("gllmm", marks=pytest.mark.slow)])
def test_a_wider_model_starts_with_the_function_of_the_narrow_one(
    family, filters, latents, ratio, tmp_path
):
    prefix = str(tmp_path / "narrow-0")
    narrow, _ = outputs(family, NUM_FILTERS, save=prefix)
    wide, (taken, adapted, new) = outputs(family, filters, latents, path=prefix)
    assert not new and len(adapted) > ratio * len(taken) > 0
    for name, wanted in narrow.items():
        scale = np.abs(wanted).max()
        groups = wanted.shape[-1] // NUM_FILTERS if name != "x_hat" else 1
        found = wide[name].reshape(*wide[name].shape[:-1], groups, -1)
        found = found[..., : wanted.shape[-1] // groups].reshape(wanted.shape)
        np.testing.assert_allclose(found, wanted, atol=1e-5 * scale, err_msg=name)
    grown = wide["z" if latents == NUM_FILTERS else "y"]
    assert np.abs(grown[..., NUM_FILTERS:]).mean() > 0.05  # the new ones are alive


@pytest.mark.parametrize("family, filters", [("gmm", 8), ("gmm", 16), ("gllmm", 8)])
def test_a_model_of_float16_kernels_is_a_start_like_any(start, tmp_path, family, filters):
    prefix = str(tmp_path / "model")
    _save_inference_model(start, prefix, Architecture("gmm", NUM_FILTERS))
    halved, names = outputs(family, filters, path=prefix)
    whole, expected = outputs(family, filters, path=start)
    assert names == expected
    for name, wanted in whole.items():
        difference = np.abs(halved[name] - wanted).max()
        assert 0 < difference < 5e-3 * np.abs(wanted).max() or name == "p(z)", name


def test_widths_that_cannot_be_a_start_are_refused(start, tmp_path, capsys):
    with pytest.raises(ValueError, match="train a gmm model of 16 filters from it first"):
        outputs("gllmm", 16, path=start)
    with pytest.raises(ValueError, match="grow the filters first, then the latent channels"):
        outputs("gmm", 16, 24, path=start)
    prefix = str(tmp_path / "wide-0")
    outputs("gmm", 16, save=prefix)
    with pytest.raises(ValueError, match="16 filters; a model never starts from one with more"):
        outputs("gmm", 8, path=prefix)
    # The command says so before anything is written.
    Image.fromarray(photograph(6, 64, 64)).save(tmp_path / "0.png")
    runs = tmp_path / "runs"
    assert command(tmp_path, runs, "--steps", "1", "--init-from", prefix) == 2
    assert "8 filters expected in" in capsys.readouterr().err
    assert not runs.exists()
