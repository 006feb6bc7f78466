"""What changes in the course of a training."""

import numpy as np
import pytest

from training import schedule, settings


def test_schedules():
    assert schedule.learning_rate_factor("constant", 0.9, 1000, 300) == 1
    assert schedule.learning_rate_factor("cosine", 0.0, 149, 300) == 0.5
    assert schedule.learning_rate_factor("cosine", 0.5, 1000, 300) == pytest.approx(0.5)
    assert schedule.learning_rate_factor("cosine", 1.0, 1000, 300) == pytest.approx(0, abs=1e-12)
    assert schedule.learning_rate_factor("step", 0.79, 1000, 300) == 1
    assert schedule.learning_rate_factor("step", 0.8, 1000, 300) == 0.1
    assert schedule.learning_rate_factor("cooldown", 0.8, 1000, 300) == 1
    assert schedule.learning_rate_factor("cooldown", 0.85, 1000, 300) == pytest.approx(0.5)
    assert schedule.learning_rate_factor("cooldown", 1.2, 1000, 300) == 0


def test_lambda_falls_from_its_start_and_then_stays():
    falling = settings.resolve({"steps": 100, "lmbda": 0.03, "lmbda_start": 0.48}, None)
    until = schedule.LMBDA_FALLS_UNTIL
    factors = [schedule.lmbda_factor(falling, f * until) for f in (0, 0.5, 0.75, 1, 1.1)]
    np.testing.assert_allclose(factors, [16, 4, 2, 1, 1])
    constant = settings.resolve({"steps": 100, "lmbda": 0.03}, None)
    assert {schedule.lmbda_factor(constant, f) for f in (0, 0.1, 1)} == {1}
    lambdas, deltas = schedule.lambdas_of(constant, 3)
    assert lambdas.tolist() == [0.03] * 8 and deltas.tolist() == [1] * 8
    assert schedule.validation_points(constant) == [(0.03, None)]


def test_lambdas_of_a_range_are_stratified_and_repeat():
    given = {"steps": 100, "lmbda": [0.001, 0.1], "lmbda_reference": 0.02, "lmbda_start": 0.4}
    many = settings.resolve(given, None)
    assert schedule.lmbda_factor(many, 0) == pytest.approx(4)
    rows = []
    for step in range(50):
        lambdas, deltas = schedule.lambdas_of(many, step)
        np.testing.assert_allclose(deltas, np.sqrt(0.02 / lambdas))
        strata = np.log(lambdas / 0.001) / np.log(100) * 8
        assert sorted(strata.astype(int)) == list(range(8))  # one in each eighth
        rows.append(strata.astype(int).tolist())
        np.testing.assert_array_equal(schedule.lambdas_of(many, step)[0], lambdas)
    assert len({tuple(row) for row in rows}) > 40  # in random order
    points = schedule.validation_points(many)
    np.testing.assert_allclose(points, [(0.001, 20**0.5), (0.01, 2**0.5), (0.1, 0.2**0.5)])
