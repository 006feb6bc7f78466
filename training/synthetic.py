"""Drawn crops for training: what photographs lack and screenshots, charts and logos are made of.

A model that has seen photographs only spends 0.3 to 1.1 bits per pixel on one flat saturated
colour. A few crops in a hundred that are flat, shaded, drawn or written are there against that.
"""

from __future__ import annotations

import colorsys
import string

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_CHARACTERS = list(string.ascii_letters + string.digits + " .,:;+-=/()%")
_FONT_SIZES = (9, 33)  # pixels, of text
_LINE_WIDTHS = (1, 5)
_ENLARGED = 2  # drawings are made in this size and scaled down: their edges get smooth


def _colour(rng):
    """(R, G, B): a corner of the RGB cube, a saturated colour, a grey or any colour."""
    kind = rng.integers(4)
    if kind == 0:
        return tuple(int(v) for v in 255 * rng.integers(0, 2, 3))
    if kind == 1:
        hue, saturation, value = rng.random(), rng.uniform(0.7, 1), rng.uniform(0.3, 1)
        return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue, saturation, value))
    if kind == 2:
        return (int(rng.integers(256)),) * 3
    return tuple(int(v) for v in rng.integers(0, 256, 3))


def _flat(rng, patch):
    return np.full((patch, patch, 3), _colour(rng), np.uint8)


def _gradient(rng, patch):
    """From corner to corner between four colours, of which two or all may be the same."""
    count = rng.integers(2, 5)
    corners = np.array([_colour(rng) for _ in range(count)], np.float64)
    corners = corners[rng.permutation(np.arange(4) % count)].reshape(2, 2, 3)
    ramp = np.linspace(0, 1, patch)
    sides = [corners[0], corners[1]]
    top, bottom = (np.outer(1 - ramp, side[0]) + np.outer(ramp, side[1]) for side in sides)
    down = ramp[:, None, None]
    return np.rint((1 - down) * top + down * bottom).astype(np.uint8)


def _canvas(rng, patch):
    """(Side, image, drawing) of a background in one colour, enlarged or not."""
    large = patch * int(rng.choice((1, _ENLARGED)))
    image = Image.new("RGB", (large, large), _colour(rng))
    return large, image, ImageDraw.Draw(image)


def _pixels(image, patch):
    return np.asarray(image.resize((patch, patch), Image.Resampling.BOX))


def _points(rng, count, large):
    """``count`` points, some of them outside, as Pillow takes them."""
    return [tuple(map(int, p)) for p in rng.integers(-large // 4, large + large // 4, (count, 2))]


def _box(rng, large):
    return np.sort(np.array(_points(rng, 2, large)), axis=0).ravel().tolist()


def _areas(rng, patch):
    """Rectangles, ellipses and triangles without outlines."""
    large, image, draw = _canvas(rng, patch)
    for kind in rng.integers(0, 3, rng.integers(1, 7)):
        if kind == 2:
            draw.polygon(_points(rng, 3, large), _colour(rng))
        else:
            (draw.rectangle, draw.ellipse)[kind](_box(rng, large), _colour(rng))
    return _pixels(image, patch)


def _lines(rng, patch):
    """Lines and outlines in a few colours."""
    large, image, draw = _canvas(rng, patch)
    colours = [_colour(rng) for _ in range(rng.integers(1, 4))]
    for kind in rng.integers(0, 3, rng.integers(3, 25)):
        colour, width = colours[rng.integers(len(colours))], int(rng.integers(*_LINE_WIDTHS))
        if kind == 0:
            draw.line(_points(rng, rng.integers(2, 5), large), colour, width)
        else:
            shape = (draw.rectangle, draw.ellipse)[kind - 1]
            shape(_box(rng, large), outline=colour, width=width)
    return _pixels(image, patch)


def _text(rng, patch):
    """Lines of random characters."""
    large, image, draw = _canvas(rng, patch)
    size = int(rng.integers(*_FONT_SIZES)) * large // patch
    font, colour = ImageFont.load_default(size), _colour(rng)
    for top in range(-int(rng.integers(size)), large, size + size // 3):
        line = "".join(rng.choice(_CHARACTERS, 2 * large // size + 2))
        draw.text((-int(rng.integers(size)), top), line, colour, font)
    return _pixels(image, patch)


def crop(rng, patch):
    """A drawn crop.

    Args:
      rng: ``numpy.random.Generator``, on which alone the crop depends.
      patch: side in pixels.

    Returns:
      uint8 (patch, patch, 3).
    """
    return (_flat, _gradient, _areas, _lines, _text)[rng.integers(5)](rng, patch)
