"""Parameters and multiply-accumulates against the checkpoints and calculations by hand."""

import numpy as np
import pytest
from golden_models import FAMILIES

from architecture import Architecture
from evaluation import complexity
from variables import inference_variables


@pytest.fixture(scope="module")
def counts_of():
    """Counts of each family with 16 filters."""
    return {family: complexity.count(Architecture(family, 16)) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_checkpoints(counts_of, family):
    n = 16
    total = sum(
        int(np.prod(shape))
        for name, (shape, _) in inference_variables(Architecture(family, n)).items()
        if not name.endswith(("quantized_cdf", "cdf_length"))
    )
    counts = counts_of[family]
    assert sum(parameters for parameters, _ in counts.values()) == total
    assert set(counts) == {*complexity.PARTS, complexity.PRIOR}


def test_macs_by_hand(counts_of):
    """The hyperprior's layers and the entropy model's, from the papers' figures."""
    n = 16
    gmm, gllmm = (counts_of[family] for family in FAMILIES)
    at_16, at_32, at_64 = 1 / 256, 1 / 1024, 1 / 4096  # positions per pixel at each stride
    hyper_analysis = 9 * n * n * (2 * at_16 + 2 * at_32 + at_64)
    wide = 3 * n // 2
    hyper_synthesis = (
        9 * (2 * n * n) * at_64 + 9 * (n * wide + wide * wide) * at_32 + 9 * wide * 2 * n * at_16
    )
    masked = 25 * n * 2 * n
    for counts, second, groups in ((gmm, 640, 9), (gllmm, 1280, 30)):
        entropy = (masked + 4 * n * 640 + 640 * second + second * groups * n) * at_16
        assert counts["hyper_analysis"][1] == pytest.approx(hyper_analysis)
        assert counts["hyper_synthesis"][1] == pytest.approx(hyper_synthesis)
        assert counts["entropy_parameter"][1] == pytest.approx(entropy)
    # gllmm has three more pairs of 3x3 layers, at strides 2, 4 and 8 (and synthesis four, from 16).
    extra = gllmm["analysis"][1] - gmm["analysis"][1]
    assert extra == pytest.approx(2 * 9 * n * n * (1 / 4 + 1 / 16 + 1 / 64))
    extra = gllmm["synthesis"][1] - gmm["synthesis"][1]
    assert extra == pytest.approx(2 * 9 * n * n * (1 / 4 + 1 / 16 + 1 / 64 + 1 / 256))


def test_totals_are_sums():
    rows = complexity.table(["gmm"], [8])
    total = rows[-1]
    for column in ("parameters", "macs_per_pixel"):
        assert total[column] == pytest.approx(sum(row[column] for row in rows[:-1]))
    assert total["seconds"] is None
    assert len(complexity.describe(rows)) == len(rows) + 2
