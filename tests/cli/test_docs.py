"""The commands of docs/coding.md, run one after the other as a reader would, on small pictures."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden_models import NUM_FILTERS, REFERENCE, checkpoint_of
from make_kept import KEPT
from PIL import Image
from test_commandline import write_model

import decoder
import encoder
from coding import models
from pictures import images

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "coding.md").read_text(encoding="utf-8")
BLOCKS = {
    kind: re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.M | re.S) for kind in ("sh", "python")
}


def test_every_block_is_of_a_kind_that_runs():
    fences = re.findall(r"^```(\w*)$", TEXT, re.M)
    assert fences.count("") == len(fences) / 2 and set(fences) == {"", *BLOCKS}
    assert sum(map(len, BLOCKS.values())) == len(fences) / 2


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A reader's folder: the scripts, photo.jpg, photo.png, holiday/, a model, a checkpoint."""
    monkeypatch.chdir(tmp_path)
    for name in ("encoder.py", "decoder.py"):
        Path(name).symlink_to(ROOT / name)
    pixels = np.asarray(Image.open(REFERENCE / "image_120x179.png"))
    Path("holiday/day1").mkdir(parents=True)
    for name in ("photo.jpg", "photo.png", "holiday/a.jpg", "holiday/day1/b.png"):
        Image.fromarray(pixels[:80, :100]).save(name)
    Path("path").mkdir()
    for path in checkpoint_of("gmm").parent.glob("model-0.*"):
        shutil.copy(path, Path("path") / path.name.replace("model-0", "model-1399000"))
    write_model(Path("elsewhere/my-model"))
    Path("old").mkdir()  # of a model that is there: test_released.py fetches others
    shipped = models.available()[0]
    fingerprint = models.read_config(models.MODELS_DIR / shipped)["fingerprint"]
    shutil.copy(KEPT / f"{shipped}-{fingerprint[:8]}.glic", "old/kept.glic")
    Path("bin").mkdir()
    # A link to a virtual environment's Python would not find its packages.
    Path("bin/python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    Path("bin/python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def run_shell(line):
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert result.returncode == 0, (line, result.stderr)


def test_every_command_does_what_it_says(reader, run_here):
    for line in "".join(BLOCKS["sh"]).splitlines():
        # The authors' checkpoint stands for one of 128 filters.
        line = line.replace("--num-filters 128", f"--num-filters {NUM_FILTERS}")
        words = shlex.split(line, comments=True)
        if {"<", ">", "|"} & set(words):
            run_shell(line)
            continue
        module = {"encoder.py": encoder, "decoder.py": decoder}[words[1]]
        code, _, err = run_here(module, *words[2:])
        assert words[0] == "python" and code == 0, (line, err)
    for folder in (
        "images",
        "both",
        "album",
        "fu",
        "own",
        "rate",
        "quality",
        "fits",
        "q90",
        "l01",
        "refined",
    ):
        assert list(Path(folder).rglob("*.glic")), folder
    made = ["recon/photo.png", "album/day1/b.glic", "both/photo.jpg.glic", "restored.png"]
    made += ["piped.png", "own-back/photo.png", "authors-back/photo.png", "old-back/kept.png"]
    for name in made:
        assert Path(name).is_file(), name
    assert images.read_image("piped.png").pixels.shape == (80, 100, 3)


def test_the_python_example_runs():
    (program,) = BLOCKS["python"]
    pixels = np.zeros((40, 50, 3), np.uint8)
    names = {"pixels": pixels}
    exec(program, names)
    assert names["pixels"].shape == pixels.shape and names["pixels"] is not pixels
