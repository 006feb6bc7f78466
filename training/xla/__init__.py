"""What trains from a bundle with JAX, on whatever JAX runs on: ``python BUNDLE/run.py``.

A bundle (training/bundle.py) carries a copy of this package and of the modules that it imports, so
that the other machine needs Python, jax, NumPy and Pillow, and neither TensorFlow nor this project.
"""
