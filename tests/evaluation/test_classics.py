"""Classic codecs through Pillow: both modes, the best file that fits, refusals."""

import numpy as np
import pytest
from golden_models import REFERENCE

from evaluation import classics
from pictures import images


@pytest.fixture(scope="module")
def pixels():
    return images.read_image(REFERENCE / "image_128x192.png").pixels


@pytest.mark.parametrize("name", classics.CLASSICS)
def test_classic_codecs(name, pixels):
    if name not in classics.available():
        pytest.skip(f"this installation has no {name}")
    small, large = (classics.CLASSICS[name].ladder[i] for i in (2, -1))
    for picture in (pixels, pixels[..., 0]):
        data = [classics.encode(name, picture, setting) for setting in (small, large)]
        assert len(data[0]) < len(data[1])
        restored = classics.decode(name, data[1], picture.ndim == 2)
        assert restored.shape == picture.shape and restored.dtype == np.uint8
        assert np.abs(restored.astype(int) - picture).mean() < 8
    assert classics.library_version(name).split()[-1][0].isdigit()


@pytest.mark.parametrize("name", ["jpeg", "jpeg2000"])
def test_the_matched_file_is_the_best_that_fits(name, pixels):
    limit = 4000
    data, setting, fits = classics.encode_within(name, pixels, limit)
    assert fits and len(data) <= limit
    assert data == classics.encode(name, pixels, setting)
    larger = (classics.encode(name, pixels, setting + i) for i in (1, 2))
    assert not any(len(data) < len(other) <= limit for other in larger)


def test_a_limit_that_no_file_meets(pixels):
    data, setting, fits = classics.encode_within("jpeg", pixels, 100)
    assert not fits and setting == 1 and len(data) > 100


def test_unknown_and_missing_codecs(monkeypatch):
    with pytest.raises(classics.CodecError, match="jpeg, webp"):
        classics.find("bpg")
    monkeypatch.setattr(classics, "_PLUGINS", {"jxl": ("no_such_module", None)})
    classics._register.cache_clear()
    with pytest.raises(classics.CodecError, match="requirements-eval.txt"):
        classics.find("jxl")
