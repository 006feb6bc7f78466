"""A file is for ever: one of every released model is kept and decodes, with today's program."""

import json

import numpy as np
import pytest
from make_kept import KEPT, ROOT, folder_of, kept_path
from PIL import Image

from codec import Codec
from coding import bitstream, models, released

LIST = released.read(models.MODELS_DIR)
SHIPPED = {models.read_config(models.MODELS_DIR / n)["fingerprint"] for n in models.available()}


def has_history():
    return released.is_checkout(ROOT) and not released.is_shallow(ROOT)


def test_every_released_model_has_a_kept_file():
    kept = {path.name for path in KEPT.iterdir()}
    paths = [kept_path(row) for row in LIST.values()]
    assert kept == {p.name for path in paths for p in (path, path.with_suffix(".png"))}
    for row, path in zip(LIST.values(), paths):
        assert bitstream.unpack(path.read_bytes()).fingerprint.hex() == row.fingerprint


def check(row):
    data = kept_path(row).read_bytes()
    with Image.open(kept_path(row).with_suffix(".png")) as image:
        expected = np.asarray(image)
    with folder_of(row) as folder:
        codec = Codec.load(folder)
        latents = codec.decode(bitstream.unpack(data))  # against their checksum in the file
        assert codec.encode(latents) == data
        pixels = codec.synthesise(latents)
        codec.close()
    assert pixels.shape == expected.shape == (64, 96, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("row", [r for f, r in LIST.items() if f in SHIPPED], ids=str)
def test_a_kept_file_of_a_shipped_model_decodes(row):
    check(row)


@pytest.mark.slow
@pytest.mark.parametrize("row", [r for f, r in LIST.items() if f not in SHIPPED], ids=str)
def test_a_kept_file_of_an_old_model_decodes(row):
    if not has_history():
        pytest.skip("no git checkout with its whole history")
    check(row)


def test_every_alias_leads_to_a_released_model():
    aliases = models.aliases()
    assert "gmm" in aliases
    for alias, name in aliases.items():
        folder = models.folder_of(alias)
        assert folder == models.MODELS_DIR / name and alias not in models.available()
        fingerprint = json.loads((folder / "config.json").read_text())["fingerprint"]
        assert LIST[fingerprint].name == name
