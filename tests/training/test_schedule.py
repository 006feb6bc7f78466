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
    lambdas = [schedule.lmbda_at(falling, f * until) for f in (0, 0.5, 0.75, 1, 1.1)]
    np.testing.assert_allclose(lambdas, [0.48, 0.12, 0.06, 0.03, 0.03])
    constant = settings.resolve({"steps": 100, "lmbda": 0.03}, None)
    assert {schedule.lmbda_at(constant, f) for f in (0, 0.1, 1)} == {0.03}
