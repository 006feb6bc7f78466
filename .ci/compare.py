"""Compares the pictures of two folders: the same names, no sample more than one level apart."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

first, second = (sorted(Path(folder).glob("*.png")) for folder in sys.argv[1:])
if not first or [path.name for path in first] != [path.name for path in second]:
    sys.exit(f"The same pictures expected in {sys.argv[1]} and {sys.argv[2]}.")
for a, b in zip(first, second):
    pixels = [np.asarray(Image.open(path)).astype(int) for path in (a, b)]
    apart = np.abs(pixels[0] - pixels[1])
    print(f"{a.name}: {(apart > 0).mean():.4%} of the samples differ, by {apart.max()} at most")
    if apart.max() > 1:
        sys.exit(1)
