"""Timings and costs: python -m benchmarks.NAME, from the repository's folder."""

import preflight  # noqa: F401  says what is missing, and quiets TensorFlow before it is imported
