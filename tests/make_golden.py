"""Makes the golden streams of format version 1: python tests/make_golden.py

They were made once and are kept: a change of the code that changes them breaks every file that
exists, so the script refuses to replace any. It documents how they came to be, and adds new ones.

Each case is ``golden/FAMILY-CASE.glic``. The manifest holds the SHA-256 of the file, of its
latents, which are exact on every machine, and of its pixels as they were first made. Pixels come
from float convolutions and may differ by one level between machines; these are therefore kept as
PNG, which their hash protects, and compared with that tolerance.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).parent / "golden"
MANIFEST = GOLDEN / "manifest.json"


def photograph():
    """The reference image, uint8 (120, 179, 3)."""
    with Image.open(Path(__file__).parent / "reference" / "image_120x179.png") as image:
        return np.asarray(image.convert("RGB"))


def picture_cases():
    """Dict of name to pixels, each a mode or a size of its own."""
    photo = photograph()
    noise = np.random.default_rng(2020).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    return {
        "colour": photo[10:90, 20:120],
        "grey": photo[:50, :70, 1],
        "1x1": photo[60:61, 90:91],
        "1x1-grey": photo[60:61, 90:91, 0],
        "63x65": photo[:65, :63],
        "64x64": photo[30:94, 60:124],
        "129x17": photo[40:57, 30:159],
        "black": np.zeros((64, 64, 3), np.uint8),
        "noise": noise,
    }


def latent_cases(num_filters):
    """Dict of name to (y_hat, z_symbols, height, width): what no picture gives."""
    rng = np.random.default_rng(2023)
    y_hat = rng.integers(-3, 4, (4, 8, num_filters)).astype(np.int32)
    y_hat[..., 5:9] = 0
    y_hat[1, 2, 0], y_hat[3, 7, num_filters - 1] = 2**20, -(2**20)
    y_hat[0, 0, :3] = [70_000, -300, 256]
    z_symbols = rng.integers(-2, 3, (1, 2, num_filters)).astype(np.int32)
    z_symbols[0, 1, :4] = [2**20, -(2**20), 500, -500]
    still = np.zeros((4, 4, num_filters), np.int32), np.zeros((1, 1, num_filters), np.int32)
    return {"escapes": (y_hat, z_symbols, 60, 128), "all-zero": (*still, 64, 64)}


def latents_sha256(latents):
    """SHA-256 of z's symbols, then y_hat, as little-endian int32, row by row."""
    digest = hashlib.sha256(np.ascontiguousarray(latents.z_symbols, "<i4"))
    digest.update(np.ascontiguousarray(latents.y_hat, "<i4"))
    return digest.hexdigest()


def add(manifest, codec, name, latents, pixels_shape, with_pixels):
    """Writes one stream and its entry, unless it exists."""
    if name in manifest:
        return
    height, width = pixels_shape[:2]
    grey = len(pixels_shape) == 2
    data = codec.encode(latents, height, width, grey)
    (GOLDEN / f"{name}.glic").write_bytes(data)
    hash_of_pixels = {}
    if with_pixels:
        pixels = codec.synthesise(latents, height, width, grey)
        Image.fromarray(pixels).save(GOLDEN / f"{name}.png", optimize=True)
        hash_of_pixels = {"pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
    manifest[name] = {
        "family": codec.family,
        "height": height,
        "width": width,
        "mode": "grey" if grey else "RGB",
        "file_sha256": hashlib.sha256(data).hexdigest(),
        "latents_sha256": latents_sha256(latents),
        "pixels": with_pixels,
        **hash_of_pixels,
    }


def main():
    """Adds the streams that are missing."""
    from conftest import FAMILIES, NUM_FILTERS, checkpoint_of

    from codec import Codec, Latents

    manifest = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else {}
    GOLDEN.mkdir(exist_ok=True)
    for family in FAMILIES:
        codec = Codec.from_checkpoint(checkpoint_of(family), family, NUM_FILTERS)
        for case, pixels in picture_cases().items():
            latents = codec.analyse(pixels)
            add(manifest, codec, f"{family}-{case}", latents, pixels.shape, True)
        for case, (y_hat, z_symbols, *size) in latent_cases(NUM_FILTERS).items():
            add(manifest, codec, f"{family}-{case}", Latents(y_hat, z_symbols), (*size, 3), False)
    MANIFEST.write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    import sys

    sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
    main()
