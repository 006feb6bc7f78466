"""Draws docs/comparison.png: python docs/make_comparison.py [-o OUT.png]

A crop of a photograph of valid/: original, restored by the default model, and AVIF and JPEG at the
best quality whose files are not larger than ours. Needs requirements-eval.txt.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli import errors as cli_errors
from cli import options
from codec import Codec
from evaluation import classics
from pictures import images, metrics

PHOTOGRAPH = "astronaut.png"
BOX = (130, 20, 330, 220)  # left, upper, right, lower
ZOOM = 2
CAPTION_HEIGHT = 44
GAP = 8
CODECS = ("avif", "jpeg")  # beside ours


def panel(pixels, captions):
    """An enlarged crop with two lines below it."""
    crop = Image.fromarray(pixels).crop(BOX)
    crop = crop.resize((crop.width * ZOOM, crop.height * ZOOM), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (crop.width, crop.height + CAPTION_HEIGHT), "white")
    canvas.paste(crop, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for i, caption in enumerate(captions):
        draw.text((4, crop.height + 4 + 19 * i), caption, "black", ImageFont.load_default(15))
    return canvas


def main():
    """Writes the picture."""
    parser = options.parser_for(__doc__)
    own = Path(__file__).with_name("comparison.png")
    parser.add_argument("-o", "--output", type=Path, default=own, help="(default: docs/)")
    args = parser.parse_args()
    codec = Codec.load(options.DEFAULT_MODEL)
    pixels = images.read_image(options.ROOT / "valid" / PHOTOGRAPH).pixels
    data = codec.compress(pixels)
    restored = [(codec.model.name, data, codec.decompress(data))]
    for name in CODECS:
        other, _, _ = classics.encode_within(name, pixels, len(data))
        label = classics.find(name).label
        restored.append((label, other, classics.decode(name, other, False)))
    shown = [panel(pixels, [f"original, {PHOTOGRAPH}"])]
    for label, file, picture in restored:
        bpp = 8 * len(file) / (pixels.shape[0] * pixels.shape[1])
        quality = f"{bpp:.3f} bpp, {metrics.psnr(pixels, picture):.2f} dB PSNR"
        shown.append(panel(picture, [f"{label}, {len(file)} bytes", quality]))
    width = sum(p.width for p in shown) + GAP * (len(shown) - 1)
    canvas = Image.new("RGB", (width, shown[0].height), "white")
    for i, p in enumerate(shown):
        canvas.paste(p, (i * (p.width + GAP), 0))
    canvas.save(args.output, optimize=True)


if __name__ == "__main__":
    cli_errors.run(main)
