"""Makes a kept file for each released model that has none: python tests/make_kept.py

``golden/models/gmm-mse-1-f28ae12e.glic`` was written with the ``gmm-mse-1`` whose fingerprint
begins with these 8 digits, and holds a crop of a photograph; beside it is the picture as it was
first decoded, a PNG. Every model of models/released.csv has both for ever, and
tests/coding/test_kept.py decodes them. Run it when docs/make_released.py has listed a new model. It
replaces nothing: a change of the code that would change a kept file breaks every file that exists.
"""

import contextlib
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "tests" / "golden" / "models"


def kept_path(row):
    """Path of the kept ``.glic`` file of a ``Released`` model."""
    return KEPT / f"{row.folder_name}.glic"


@contextlib.contextmanager
def folder_of(row):
    """The folder of a ``Released`` model; one that had to be fetched is removed afterwards."""
    from coding import models, released

    folder = models.search(bytes.fromhex(row.fingerprint))
    if folder:
        yield folder
        return
    folder = released.fetch(row, models.MODELS_DIR)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def picture():
    """What the kept files hold, uint8 (64, 96, 3)."""
    with Image.open(ROOT / "valid" / "astronaut.png") as image:
        return np.asarray(image.convert("RGB"))[100:164, 100:196]


def main():
    """Makes the files that are missing."""
    from codec import Codec
    from coding import models, released

    KEPT.mkdir(exist_ok=True)
    for row in released.read(models.MODELS_DIR).values():
        path = kept_path(row)
        if path.exists():
            continue
        with folder_of(row) as folder:
            codec = Codec.load(folder)
            data = codec.compress(picture())
            Image.fromarray(codec.decompress(data)).save(path.with_suffix(".png"), optimize=True)
            path.write_bytes(data)  # last, so that one that is there is whole
            codec.close()
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]
    main()
