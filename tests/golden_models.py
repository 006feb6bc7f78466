"""The golden models and tensors made with the authors' original software, for all tests."""

import json
from pathlib import Path

import numpy as np

REFERENCE = Path(__file__).parent / "reference"
FAMILIES = ("gmm", "gllmm")
IMAGES = ("image_120x179", "image_128x192")
NUM_FILTERS = 32


def checkpoint_of(family):
    """Prefix of the golden checkpoint of a family (32 filters, random weights)."""
    return REFERENCE / f"{family}_n{NUM_FILTERS}" / "model-0"


def golden_arrays(family, image):
    """Dict of the golden arrays of a family on an image."""
    with np.load(REFERENCE / f"{family}_n{NUM_FILTERS}" / f"{image}.npz") as arrays:
        return dict(arrays)


def golden_scalars(family, image):
    """Dict of the golden scalars."""
    path = REFERENCE / f"{family}_n{NUM_FILTERS}" / f"{image}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def golden_codecs(backend="tensorflow"):
    """Dict of family to the codec of its golden checkpoint."""
    from architecture import Architecture
    from codec import Codec

    return {
        family: Codec.from_checkpoint(
            checkpoint_of(family), Architecture(family, NUM_FILTERS), backend=backend
        )
        for family in FAMILIES
    }
