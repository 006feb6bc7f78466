"""Makes the golden streams of both format versions: python tests/make_golden.py

They were made once and are kept: a change of the code that changes them breaks every file that
exists, so the script refuses to replace any. It documents how they came to be, and adds new ones.

Each case is ``golden/FAMILY-CASE.glic``. The manifest holds the SHA-256 of the file, of its
latents, which are exact on every machine, and of its pixels as they were first made. Pixels come
from float convolutions and may differ by one level between machines; these are therefore kept as
PNG, which their hash protects, and compared with that tolerance.
"""

import hashlib
import json
import sys
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
    """Dict of name to ``Latents`` that no picture gives."""
    rng = np.random.default_rng(2023)
    y_symbols = rng.integers(-3, 4, (4, 8, num_filters)).astype(np.int32)
    y_symbols[..., 5:9] = 0
    y_symbols[1, 2, 0], y_symbols[3, 7, num_filters - 1] = 2**20, -(2**20)
    y_symbols[0, 0, :3] = [70_000, -300, 256]
    z_symbols = rng.integers(-2, 3, (1, 2, num_filters)).astype(np.int32)
    z_symbols[0, 1, :4] = [2**20, -(2**20), 500, -500]
    from coding.latents import Latents

    still = np.zeros((4, 4, num_filters), np.int32), np.zeros((1, 1, num_filters), np.int32)
    return {
        "escapes": Latents(y_symbols, z_symbols, 60, 128),
        "all-zero": Latents(*still, 64, 64),
    }


def step_cases(num_filters):
    """Cases of version 2, by quantisation step k: dict of name to pixels or ``Latents``, and k."""
    pictures, latents = picture_cases(), latent_cases(num_filters)
    ends = {f"k{k}-escapes": (latents["escapes"]._replace(k=k), k) for k in (1, 65535)}
    return {
        "k591-63x65": (pictures["63x65"], 591),
        "k1024-64x64": (pictures["64x64"], 1024),
        "k3135-grey": (pictures["grey"], 3135),
        **ends,
    }


def of_many_rates(codec):
    """The codec of the same weights as a model of a range of lambdas."""
    from codec import Codec

    config = {"lmbda": [0.001, 1000.0], "lmbda_reference": 1.0}
    return Codec(codec.model._replace(config=config), backend=codec.backend)


def latents_sha256(latents):
    """SHA-256 of z's symbols, then y's, as little-endian int32, row by row."""
    digest = hashlib.sha256(np.ascontiguousarray(latents.z_symbols, "<i4"))
    digest.update(np.ascontiguousarray(latents.y_symbols, "<i4"))
    return digest.hexdigest()


def add(manifest, codec, name, latents, with_pixels):
    """Writes one stream and its entry, unless it exists."""
    if name in manifest:
        return
    data = codec.encode(latents)
    (GOLDEN / f"{name}.glic").write_bytes(data)
    hash_of_pixels = {}
    if with_pixels:
        pixels = codec.synthesise(latents)
        Image.fromarray(pixels).save(GOLDEN / f"{name}.png", optimize=True)
        hash_of_pixels = {"pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
    manifest[name] = {
        "family": codec.architecture.family,
        "height": latents.height,
        "width": latents.width,
        "mode": "grey" if latents.grey else "RGB",
        "file_sha256": hashlib.sha256(data).hexdigest(),
        "latents_sha256": latents_sha256(latents),
        "pixels": with_pixels,
        **hash_of_pixels,
    }


def main():
    """Adds the streams that are missing."""
    from golden_models import NUM_FILTERS, golden_codecs

    manifest = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else {}
    GOLDEN.mkdir(exist_ok=True)
    for family, codec in golden_codecs().items():
        for case, pixels in picture_cases().items():
            add(manifest, codec, f"{family}-{case}", codec.analyse(pixels), True)
        for case, latents in latent_cases(NUM_FILTERS).items():
            add(manifest, codec, f"{family}-{case}", latents, False)
        codec = of_many_rates(codec)
        for case, (given, k) in step_cases(NUM_FILTERS).items():
            latents = codec.analyse(given, k) if isinstance(given, np.ndarray) else given
            add(manifest, codec, f"{family}-{case}", latents, isinstance(given, np.ndarray))
    MANIFEST.write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
    main()
