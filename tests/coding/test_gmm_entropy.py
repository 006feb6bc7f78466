"""Mixtures against SciPy: likelihoods and gradients for training, integer tables for coding."""

import hashlib

import numpy as np
import pytest
import scipy.stats
import tensorflow.compat.v1 as tf
from golden_models import FAMILIES

import gmm_entropy
from gmm_entropy import CodingMixture

SCIPY = {
    "gauss": scipy.stats.norm,
    "laplace": scipy.stats.laplace,
    "logistic": scipy.stats.logistic,
}
UNIT = 2.0**-gmm_entropy.FRACTION_BITS


def random_raw(family, symbols, seed=0):
    """Plausible parameter groups, float64 (G, symbols), multiples of 2^-12."""
    rng = np.random.default_rng(seed)
    groups = {"gmm": 9, "gllmm": 30}[family]
    raw = rng.normal(0, 1.5, (groups, symbols))
    components = 3 * len(gmm_entropy.DISTRIBUTIONS[family])
    for k in range(components):
        raw[3 * k + 1] *= 3
        raw[3 * k + 2] = np.exp(rng.normal(-1, 1.5, symbols)) * rng.choice([-1, 1], symbols)
    return np.rint(raw / UNIT) * UNIT


def softmax(logits):
    powers = np.exp(np.array(logits) - np.max(logits, axis=0))
    return powers / powers.sum(axis=0)


def scipy_mass(values, raw, family):
    """Mass of integers (S,) under the mixtures of raw (G, S), by SciPy in float64."""
    groups = list(raw)
    families = gmm_entropy.DISTRIBUTIONS[family]
    family_weights = softmax(groups[-3:]) if family == "gllmm" else [1.0]
    mass = 0
    for f, distribution in enumerate(families):
        own = groups[9 * f : 9 * f + 9]
        for weight, mean, scale in zip(softmax(own[0::3]), own[1::3], own[2::3]):
            scale = np.maximum(np.abs(scale), gmm_entropy.SCALE_FLOOR)
            # On the left side the difference of two tails keeps its digits.
            distance = np.abs(values - mean)
            law = SCIPY[distribution]
            part = law.cdf((0.5 - distance) / scale) - law.cdf((-0.5 - distance) / scale)
            mass = mass + family_weights[f] * weight * part
    return mass


@pytest.mark.parametrize("family", FAMILIES)
def test_log_likelihood_is_scipys(family):
    raw = random_raw(family, 4000)
    values = np.rint(np.random.default_rng(1).normal(0, 4, 4000))
    mass = scipy_mass(values, raw, family)
    with tf.Graph().as_default(), tf.Session() as session:
        # One channel, the symbols as positions.
        log_likelihood = gmm_entropy.log_likelihood(
            tf.constant(values[:, None], tf.float32), tf.constant(raw.T, tf.float32), family
        )
        found = session.run(log_likelihood)[:, 0]
    usual = mass > gmm_entropy.LIKELIHOOD_BOUND
    assert usual.mean() > 0.5
    np.testing.assert_allclose(found[usual], np.log(mass[usual]), rtol=1e-4, atol=2e-5)
    assert (found <= 0).all()


def test_log_likelihood_falls_on_below_the_floor():
    raw = np.tile(np.array([0, 0, 1.0] * 3, np.float32), (3, 1))
    values = np.array([[4.0], [8.0], [1000.0]], np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        found = session.run(gmm_entropy.log_likelihood(tf.constant(values), raw, "gmm"))[:, 0]
    assert found[0] > np.log(gmm_entropy.LIKELIHOOD_BOUND) > found[1] > found[2] > -300


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("distance_in_scales", [0.3, 3.0, 30.0, 1000.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_finite_and_not_zero(family, distance_in_scales, scale):
    components = 3 * len(gmm_entropy.DISTRIBUTIONS[family])
    # Three different means and scales, so that the logits matter, too.
    groups = [[0.1 * k, 0.2 * k * scale, scale * (1 + 0.1 * k)] for k in range(components)]
    raw = np.array([sum(groups, []) + [0.1, 0.2, 0.3] * (family == "gllmm")], np.float32)
    floored = max(scale, gmm_entropy.SCALE_FLOOR)
    value = np.array([[distance_in_scales * floored]], np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        y, parameters = tf.constant(value), tf.constant(raw)
        loss = -tf.reduce_sum(gmm_entropy.log_likelihood(y, parameters, family))
        found = session.run([loss, *tf.gradients(loss, [y, parameters])])
    assert all(np.isfinite(v).all() for v in found)
    loss, by_y, by_raw = found
    if loss > 1e-6:  # at a mass of 1 nothing is left to learn
        assert by_y[0, 0] != 0
        means = by_raw[0, 1 : 3 * components : 3]
        scales = by_raw[0, 2 : 3 * components : 3]
        assert np.abs(means).max() > 0
        if scale >= gmm_entropy.SCALE_FLOOR or distance_in_scales * floored > 0.5:
            assert np.abs(scales).max() > 0


def test_gradient_points_home():
    """An outlier's gradient moves its mean towards it and widens its scale."""
    raw = np.array([[0.0, 0.0, 0.5] * 3], np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        parameters = tf.constant(raw)
        loss = -tf.reduce_sum(gmm_entropy.log_likelihood(tf.constant([[500.0]]), parameters, "gmm"))
        gradient = session.run(tf.gradients(loss, parameters))[0][0]
    assert gradient[1] < 0 and gradient[2] < 0


@pytest.mark.parametrize("distribution", SCIPY)
def test_cdf_tables_are_scipys(distribution):
    table = gmm_entropy.cdf_table(distribution).astype(np.float64)
    reach = len(table) // 2 / gmm_entropy.GRID
    grid = np.arange(len(table)) / gmm_entropy.GRID - reach
    # Half a unit of 2^-24 for rounding, and the ends, which are forced to 0 and 1.
    assert np.abs(table - SCIPY[distribution].cdf(grid)).max() < 2 * 2.0**-24
    assert (table[0], table[-1]) == (0, 1)
    assert (np.diff(table) >= 0).all()


def test_exp_table_is_numpys():
    table = gmm_entropy.exp_table().astype(np.float64)
    expected = np.exp(-np.arange(len(table)) / gmm_entropy.GRID)
    assert np.abs(table - expected).max() < 2 * 2.0**-24


def test_tables_never_change():
    """The tables are part of the format: files depend on their every bit."""
    digest = hashlib.sha256()
    for table in [gmm_entropy.exp_table(), *map(gmm_entropy.cdf_table, SCIPY)]:
        digest.update(table.astype("<f4").tobytes())
    assert digest.hexdigest() == "66bd12dbd971bd5b0f572631a51c632145de6863444151458b45041c6ac75e00"


@pytest.mark.parametrize("family", FAMILIES)
def test_coding_tables_against_scipy(family):
    raw = random_raw(family, 3000, seed=2)
    tables, first, _ = CodingMixture(raw / UNIT, family).tables()
    for i in range(0, 3000, 7):
        table = np.array(tables[i])
        values = first[i] + np.arange(len(table) - 3)
        found = np.diff(table)[1:-1] / gmm_entropy.TOTAL
        expected = scipy_mass(values, np.repeat(raw[:, i : i + 1], len(values), axis=1), family)
        # n / 65536 for the least frequency, and the grid of the tables' arguments.
        assert np.abs(found - expected).max() < 0.002 + len(table) / gmm_entropy.TOTAL


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_rise_strictly_and_intervals_agree(family):
    raw = random_raw(family, 2000, seed=3)
    values = np.rint(np.random.default_rng(4).normal(0, 12, 2000)).astype(np.int64)
    mixture = CodingMixture(raw / UNIT, family)
    tables, first, order = mixture.tables()
    low, high, excess, encoder_order = mixture.intervals(values)
    np.testing.assert_array_equal(order, encoder_order)
    escapes = 0
    for i, table in enumerate(tables):
        assert table[0] == 0 and table[-1] == gmm_entropy.TOTAL
        assert all(a < b for a, b in zip(table, table[1:]))
        last = len(table) - 2
        entry = int(np.clip(values[i] - first[i] + 1, 0, last))
        assert (low[i], high[i]) == (table[entry], table[entry + 1])
        if entry == 0:
            assert excess[i] == first[i] - 1 - values[i]
        elif entry == last:
            assert excess[i] == values[i] - (first[i] + last - 1)
        else:
            assert excess[i] == -1
        escapes += entry in (0, last)
    assert 0 < escapes < 1500


@pytest.mark.parametrize("family", FAMILIES)
def test_cost_is_close_to_the_mixtures(family):
    """Coding what the mixture itself draws costs its entropy, to 0.3% and 16 bits."""
    rng = np.random.default_rng(5)
    raw = random_raw(family, 1000, seed=6)
    raw[2 : 9 * len(gmm_entropy.DISTRIBUTIONS[family]) : 3] *= 4  # wide enough to matter
    mixture = CodingMixture(raw / UNIT, family)
    grid = np.arange(-400, 401)
    real = ideal = 0.0
    for i in range(0, 1000, 4):
        mass = scipy_mass(grid, np.repeat(raw[:, i : i + 1], len(grid), axis=1), family)
        draws = rng.choice(grid, 20, p=mass / mass.sum())
        one = CodingMixture(np.repeat(raw[:, i : i + 1], 20, axis=1) / UNIT, family)
        low, high, excess, order = one.intervals(draws)
        real -= np.log2((high - low) / gmm_entropy.TOTAL).sum()
        golomb = 2 * np.log2(np.maximum(excess, 0) + 2.0**order).astype(int) + 1 - order
        real += golomb[excess >= 0].sum()
        ideal -= np.log2(mass[draws + 400]).sum()
    assert len(mixture.tables()[0]) == 1000
    assert real < ideal * 1.003 + 16
