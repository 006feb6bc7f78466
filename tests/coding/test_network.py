"""Networks against the authors' graphs: variables by name and shape, golden tensors by value."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from golden_models import FAMILIES, IMAGES, NUM_FILTERS, REFERENCE, checkpoint_of, golden_arrays

import factorized_prior
import gmm_entropy
import network
from architecture import Architecture
from coding import models
from variables import TABLES, inference_variables

TOLERANCE = 1e-4  # norm of the difference over norm


def read_tsv(name):
    rows = (REFERENCE / name).read_text(encoding="utf-8").splitlines()[1:]
    return {
        n: (tuple(None if d == "?" else int(d) for d in shape.split(",")), dtype, trainable)
        for n, shape, dtype, trainable in (row.split("\t") for row in rows)
    }


def expected_variables(family, num_filters):
    if (family, num_filters) != ("gllmm", 192):
        return read_tsv(f"{family}_n{num_filters}_variables.tsv")
    # There is no list of gllmm at 192. Shapes shared with gmm scale as gmm's do from 128 to 192;
    # the parameter network's own follow from its fixed widths.
    small, large = read_tsv("gmm_n128_variables.tsv"), read_tsv("gmm_n192_variables.tsv")
    scaled = {(n.split("/")[-1], small[n][0]): large[n][0] for n in small}
    scaled[("bias", (640,))] = (640,)
    scaled[("kernel", (1, 1, 640, 1280))] = (1, 1, 640, 1280)
    scaled[("bias", (1280,))] = (1280,)
    scaled[("kernel", (1, 1, 1280, 30 * 128))] = (1, 1, 1280, 30 * 192)
    return {
        n: (scaled[(n.split("/")[-1], shape)], *rest)
        for n, (shape, *rest) in read_tsv("gllmm_n128_variables.tsv").items()
    }


@pytest.mark.parametrize("num_filters", [128, 192])
@pytest.mark.parametrize("family", FAMILIES)
def test_variables_are_the_authors(family, num_filters):
    expected = expected_variables(family, num_filters)
    found = inference_variables(Architecture(family, num_filters))
    assert {n: (s, np.dtype(d).name) for n, (s, d) in found.items()} == {
        n: (s, d) for n, (s, d, _) in expected.items()
    }
    assert len(found) == {"gmm": 272, "gllmm": 300}[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_variables_are_those_of_the_graph(family):
    """For other numbers of latents than filters, which no authors' list has."""
    for architecture in (Architecture(family, 8, 24), Architecture(family, 24, 8)):
        with tf.Graph().as_default():
            network.inference_graph(architecture, table_length=5)
            made = {v.op.name: (tuple(v.shape), v.dtype) for v in tf.global_variables()}
        expected = inference_variables(architecture)
        expected[TABLES] = ((architecture.num_filters, 5), np.int32)
        assert made == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_trainable_flags_are_the_authors(family):
    expected = expected_variables(family, 128)
    with tf.Graph().as_default():
        network.inference_graph(Architecture(family, 128))
        trainable = {v.op.name for v in tf.trainable_variables()}
    assert trainable == {n for n, (_, _, t) in expected.items() if t == "yes"}


@pytest.fixture(scope="module", params=[(f, i) for f in FAMILIES for i in IMAGES])
def case(request):
    """Golden arrays and the same tensors computed here from the golden checkpoint."""
    family, image = request.param
    golden = golden_arrays(family, image)
    with tf.Graph().as_default(), tf.Session() as session:
        x = tf.constant(golden["x_pad"])
        prior = factorized_prior.variables(NUM_FILTERS, golden["z_quantized_cdf"].shape[1])
        medians = factorized_prior.medians_of(prior["quantiles"])

        def quantise(y, z):
            y_hat = tf.round(y)
            return y_hat, factorized_prior.round_to_medians(z, medians)

        chain = network.chain(x, Architecture(family, NUM_FILTERS), quantise)
        log_likelihood = gmm_entropy.log_likelihood(chain.y_hat, chain.raw, family)
        fetches = {
            **chain._asdict(),
            "z_likelihoods": factorized_prior.likelihood(chain.z_hat, prior),
            "y_likelihood": tf.exp(log_likelihood),
        }
        tf.train.Saver().restore(session, str(checkpoint_of(family)))
        yield family, golden, session.run(fetches)


def assert_close(found, golden):
    found = found.reshape(golden.shape)
    error = np.linalg.norm(found - golden.astype(np.float64)) / np.linalg.norm(golden)
    assert error <= TOLERANCE


@pytest.mark.parametrize("name", ["y", "z", "phi", "x_hat", "y_likelihood", "z_likelihoods"])
def test_golden_tensors(case, name):
    _, golden, found = case
    assert_close(found[name], golden[name])


@pytest.mark.parametrize("name", ["y_hat", "z_hat"])
def test_golden_roundings_are_equal(case, name):
    _, golden, found = case
    np.testing.assert_array_equal(found[name], golden[name])


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_golden_mixture_parameters(case):
    family, golden, found = case
    mixture = gmm_entropy.split_parameters(found["raw"][0], family)
    assert_close(np.stack(mixture.means, axis=-1), golden["means"])
    assert_close(np.abs(np.stack(mixture.scales, axis=-1)), golden["scales"])
    names = ["weights"] if family == "gmm" else ["weights_gauss", "weights_laplace"]
    names += [] if family == "gmm" else ["weights_logistic"]
    for f, name in enumerate(names):
        logits = np.stack(mixture.logits[3 * f : 3 * f + 3], axis=-1)
        assert_close(softmax(logits), golden[name])
    if family == "gllmm":
        assert_close(softmax(np.stack(mixture.family_logits, axis=-1)), golden["weights_family"])


def test_z_tables_are_those_of_the_original(case):
    family, golden, _ = case
    weights = models.read_weights(checkpoint_of(family), Architecture(family, NUM_FILTERS))
    prior = factorized_prior.weights_of(weights)
    cdf, lengths = factorized_prior.tables(prior)
    np.testing.assert_array_equal(lengths, golden["z_cdf_length"])
    np.testing.assert_array_equal(
        factorized_prior.table_offsets(prior["quantiles"]), golden["z_offset"]
    )
    assert np.abs(cdf - golden["z_quantized_cdf"]).max() <= 1


def test_solved_quantiles_meet_their_targets():
    weights = models.read_weights(checkpoint_of("gmm"), Architecture("gmm", NUM_FILTERS))
    prior = factorized_prior.weights_of(weights)
    prior["quantiles"] = factorized_prior.solve_quantiles(prior)
    with tf.Graph().as_default(), tf.Session() as session:
        # The mass below a quantile, from the likelihood of everything far below it.
        grid = prior["quantiles"][:, 0, :1].T + np.float32(-0.5) - np.arange(400)[:, None]
        constants = {k: tf.constant(v) for k, v in prior.items()}
        z = tf.constant(grid[None, None].astype(np.float32))
        mass = session.run(factorized_prior.likelihood(z, constants))
    below = mass[0, 0].sum(axis=0)
    np.testing.assert_allclose(below, factorized_prior.TAIL_MASS / 2, rtol=1e-3)


@pytest.mark.filterwarnings("error")
def test_masses_of_zero_keep_the_least_frequency():
    frequencies = factorized_prior.quantize_pmf([0, 0.5, 0.25, 0.25, 0])
    np.testing.assert_array_equal(frequencies, [1, 32767, 16383, 16384, 1])


@pytest.mark.parametrize("family,num_filters", [("gmm", 12), ("gmm", 0), ("vae", 64)])
def test_impossible_architectures_are_refused(family, num_filters):
    with pytest.raises(ValueError, match="expected, got"):
        Architecture(family, num_filters)
