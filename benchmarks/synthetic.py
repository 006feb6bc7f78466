"""What pictures cost that are no photographs: python -m benchmarks.synthetic [--models NAME ...]

Codes flat colours, gradients, text and line art of 256x256 with each model, and prints bits per
pixel and PSNR; beside them the smallest JPEG (4:2:0) and WebP whose PSNR is not lower, and the
lossless PNG. A dash stands for none: that codec does not reach the PSNR. The models were trained on
photographs: saturated colours without structure are where they cost most.
"""

import colorsys
import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cli import errors as cli_errors
from cli import options
from codec import Codec
from coding import models
from evaluation import classics
from pictures import metrics

SIDE = 256
HUES = {"red": 0, "yellow": 1 / 6, "green": 1 / 3, "cyan": 1 / 2, "blue": 2 / 3, "magenta": 5 / 6}
GREYS = {"black": 0, "grey": 128, "white": 255}
CODECS = ("jpeg", "webp")
STEP = 3  # between the settings that are tried


def _flat(colour):
    return np.broadcast_to(np.uint8(colour), (SIDE, SIDE, 3)).copy()


def _gradient(colour):
    """From black to a colour, from left to right."""
    share = np.linspace(0, 1, SIDE)[None, :, None]
    return np.broadcast_to(np.rint(share * colour), (SIDE, SIDE, 3)).astype(np.uint8)


def _hue_circle():
    """All hues around the middle, saturation rising outwards."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    hue = (np.arctan2(rows, columns) / (2 * math.pi)) % 1
    saturation = np.hypot(rows, columns) / (SIDE / math.sqrt(2))
    hsv = np.stack([hue, saturation, np.ones_like(hue)], axis=-1)
    hsv = Image.fromarray(np.rint(255 * hsv).astype(np.uint8), "HSV")
    return np.asarray(hsv.convert("RGB"))


def _text():
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(canvas)
    sentence = "The quick brown fox jumps over the lazy dog. 0123456789"
    for i, height in enumerate((10, 10, 12, 14, 16, 18, 22, 28)):
        draw.text((6 - 11 * i, 6 + 30 * i), sentence, "black", ImageFont.load_default(height))
    return np.asarray(canvas)


def _line_art():
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(canvas)
    for i in range(0, SIDE, 16):
        draw.line((0, i, i, SIDE), "black", 1 + i % 3)
        draw.ellipse((i // 2, i // 3, SIDE - i // 2, SIDE - i // 3), outline="navy")
    draw.polygon([(40, 200), (120, 60), (200, 200)], "orange", "black")
    return np.asarray(canvas)


def pictures():
    """Dict of name to uint8 (256, 256, 3)."""
    pure = {name: [255 * v for v in colorsys.hsv_to_rgb(hue, 1, 1)] for name, hue in HUES.items()}
    return {
        **{f"flat {name}": _flat([value] * 3) for name, value in GREYS.items()},
        **{f"flat {name}": _flat(colour) for name, colour in pure.items()},
        "gradient grey": _gradient([255] * 3),
        **{f"gradient {name}": _gradient(pure[name]) for name in ("red", "blue")},
        "hue circle": _hue_circle(),
        "text": _text(),
        "line art": _line_art(),
    }


def bpp(data):
    """Bits per pixel of a file of one of these pictures."""
    return 8 * len(data) / SIDE**2


def png(pixels):
    """Bits per pixel of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return bpp(buffer.getvalue())


def points(name, pixels):
    """(bits per pixel, PSNR) of a classic codec's files."""
    codec = classics.find(name)
    found = []
    for setting in {*range(codec.lowest, codec.highest, STEP), codec.highest}:
        data = classics.encode(name, pixels, setting)
        found.append((bpp(data), metrics.psnr(pixels, classics.decode(name, data, False))))
    return found


def cheapest(found, psnr):
    """Fewest bits per pixel at no less than a PSNR, as text."""
    rate = min((rate for rate, quality in found if quality >= psnr), default=None)
    return f"{'-':>8s}" if rate is None else f"{rate:8.4f}"


def main():
    """Prints a table for each model."""
    parser = options.parser_for(__doc__)
    parser.add_argument("--models", nargs="+", default=models.available(), metavar="NAME")
    parser.add_argument("--pictures", nargs="+", choices=pictures(), default=list(pictures()))
    args = parser.parse_args()
    shown = {name: pixels for name, pixels in pictures().items() if name in args.pictures}
    others = {name: [points(codec, p) for codec in CODECS] for name, p in shown.items()}
    for model in args.models:
        codec = Codec.load(model)
        labels = "".join(f"{classics.CLASSICS[name].format:>9s}" for name in CODECS)
        print(f"\n{codec.model.name:16s}      bpp     PSNR{labels}      PNG")
        for name, pixels in shown.items():
            data = codec.compress(pixels)
            psnr = metrics.psnr(pixels, codec.decompress(data))
            rates = " ".join(cheapest(found, psnr) for found in others[name])
            print(f"{name:16s} {bpp(data):8.4f} {psnr:8.2f} {rates} {png(pixels):8.4f}", flush=True)
        codec.close()


if __name__ == "__main__":
    cli_errors.run(main)
