"""Models of many rates for tests: the shipped default's weights, or tiny ones, with a range."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cli import options
from coding import models
from rates import Rates

RANGE = {"lmbda": [0.0016, 0.045], "lmbda_reference": 0.015}


def write_folder(folder, source=None):
    """A model folder of many rates with a shipped model's weights, the default's unless named.

    The range is ``RANGE``, whatever the weights were trained for: they code well enough at any step
    to test what is around them.
    """
    source = models.folder_of(source or options.DEFAULT_MODEL)
    folder = Path(folder)
    folder.mkdir(parents=True)
    for path in source.glob(f"{models.CHECKPOINT_PREFIX}.*"):
        os.symlink(path, folder / path.name)
    config = models.read_config(source)
    config.update(RANGE)
    (folder / models.CONFIG_NAME).write_text(json.dumps(config), encoding="utf-8")
    return folder


def shipped():
    """Names of the models in models/ that serve many rates."""
    names = models.available()
    return [n for n in names if Rates.of(models.read_config(models.MODELS_DIR / n))]
