"""Draws docs/comparison.png: python docs/make_comparison.py

A crop of a photograph of valid/: original, restored by the default model, and JPEG (4:2:0,
optimised Huffman tables) at the highest quality whose file is not larger than ours.
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli import options
from pictures import images, metrics

PHOTOGRAPH = "astronaut.png"
BOX = (120, 20, 340, 240)  # left, upper, right, lower
ZOOM = 2
CAPTION_HEIGHT = 44


def jpeg_within(pixels, size):
    """(uint8 pixels, bytes) of the best JPEG of at most ``size`` bytes."""
    best = None
    for quality in range(1, 96):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= size or best is None:
            best = buffer
    return np.asarray(Image.open(best)), best.getbuffer().nbytes


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
    from codec import Codec

    codec = Codec.load(options.DEFAULT_MODEL)
    pixels = images.read_image(options.ROOT / "valid" / PHOTOGRAPH).pixels
    data = codec.compress(pixels)
    ours = codec.decompress(data)
    jpeg, jpeg_size = jpeg_within(pixels, len(data))
    shown = [panel(pixels, [f"original, {PHOTOGRAPH}"])]
    for name, restored, size in [(codec.model.name, ours, len(data)), ("JPEG", jpeg, jpeg_size)]:
        bpp = 8 * size / (pixels.shape[0] * pixels.shape[1])
        quality = f"{metrics.psnr(pixels, restored):.2f} dB PSNR"
        shown.append(panel(restored, [f"{name}, {size} bytes ({bpp:.3f} bpp)", quality]))
    gap = 8
    width = sum(p.width for p in shown) + gap * (len(shown) - 1)
    canvas = Image.new("RGB", (width, shown[0].height), "white")
    left = 0
    for p in shown:
        canvas.paste(p, (left, 0))
        left += p.width + gap
    canvas.save(Path(__file__).with_name("comparison.png"), optimize=True)


if __name__ == "__main__":
    main()
