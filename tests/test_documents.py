"""The commands and programs of README.md and docs/python.md, on small pictures."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import decoder
import encoder
import evaluate
import train
from cli import errors as cli_errors
from codec import Codec
from coding import models

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
# In place of hours and of the default widths.
QUICK = "--steps 2 --num-filters 8 --patch 64 --batch 1 --optimizer adam --precision float32"


def block(text, name, kind):
    """The code that follows a comment <!-- test: NAME -->."""
    return re.search(rf"<!-- test: {name} -->\n```{kind}\n(.*?)```", text, re.S)[1]


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A reader's folder, with photo.jpg, holiday/ and photos/."""
    monkeypatch.chdir(tmp_path)
    with Image.open(ROOT / "valid" / "astronaut.png") as image:
        for name in ("photo.jpg", "holiday/a.jpg", *(f"photos/{i}.png" for i in range(3))):
            Path(name).parent.mkdir(exist_ok=True)
            image.crop((100, 100, 300, 270)).save(name)


def run(module, arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [Path(module.__file__).name, *arguments])
    with pytest.raises(SystemExit) as end:
        cli_errors.run(module.main)
    assert end.value.code == 0, (arguments, capsys.readouterr())


def test_the_commands_of_coding(photographs, monkeypatch, capsys):
    for line in block(README, "coding", "sh").splitlines():
        python, script, *arguments = shlex.split(line, comments=True)
        assert python == "python"
        run({"encoder.py": encoder, "decoder.py": decoder}[script], arguments, monkeypatch, capsys)
    assert sorted(p.name for p in Path("back").iterdir()) == ["a.png", "photo.png"]
    for folder in ("q80", "fu", "ssim", "slow", "rate"):
        assert len(list(Path(folder).glob("*.glic"))) == 1


def test_the_commands_of_training(photographs, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(models, "MODELS_DIR", tmp_path / "models")
    training, encoding, install, evaluation = block(README, "training", "sh").splitlines()
    assert install.endswith("-r requirements-eval.txt")
    arguments = shlex.split(training.replace("--hours 8", QUICK))[2:]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    assert train.main() == 0
    _, script, *arguments = shlex.split(encoding)
    name = arguments[arguments.index("--model") + 1]
    assert script == "encoder.py" and name == "my-model"
    assert models.load_named(name, tmp_path / "models").config["steps"] == 2
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    arguments[arguments.index("--model") + 1] = str(tmp_path / "models" / name)
    run(encoder, arguments, monkeypatch, capsys)
    arguments = shlex.split(evaluation)[2:]
    run(evaluate, arguments, monkeypatch, capsys)
    assert (tmp_path / "runs" / "evaluation" / "means.csv").is_file()


@pytest.mark.parametrize("text, name", [(README, "python"), (PYTHON, "steps")])
def test_the_programs(photographs, text, name):
    names = {"pixels": np.asarray(Image.open("photo.jpg"))}
    exec(block(text, name, "python"), names)
    restored = names.get("restored", names["pixels"])
    assert restored.shape == (170, 200, 3) and len(names["data"]) > 100


def test_the_program_of_many_rates(photographs):
    names = {}
    exec(block(PYTHON, "rates", "python"), names)
    assert len(names["small"]) < len(names["data"]) < len(names["large"])
    assert 2970 <= len(names["fitting"]) <= 3000


def test_the_program_with_processes():
    codec = Codec.load("gmm")
    pictures = [np.full((64, 64, 3), level, np.uint8) for level in (10, 200)]
    names = {"__name__": "__main__", "codec": codec, "list_of_pixels": pictures}
    exec(block(PYTHON, "pool", "python"), names)
    assert names["files"] == [codec.compress(pixels) for pixels in pictures]


def test_the_version_is_one():
    """pyproject.toml, CITATION.cff and the newest of CHANGELOG.md."""
    places = {
        "pyproject.toml": r'^version = "(.*)"$',
        "CITATION.cff": r"^version: (.*)$",
        "CHANGELOG.md": r"^## (\S+) - \d{4}-\d\d-\d\d$",
    }
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in places}
    versions = {re.search(form, texts[name], re.M)[1] for name, form in places.items()}
    assert len(versions) == 1, versions
    released = re.search(r'^date-released: "(.*)"$', texts["CITATION.cff"], re.M)[1]
    assert f"## {versions.pop()} - {released}" in texts["CHANGELOG.md"]


def test_links_lead_to_files():
    """Of every document, to files and to headings in them."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "models").glob("*.md")]
    for document in documents:
        for link in re.findall(r"\]\((?!http)([^)\s]+)\)", document.read_text(encoding="utf-8")):
            path, _, heading = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            assert target.exists(), (document.name, link)
            if heading:
                lines = target.read_text(encoding="utf-8").splitlines()
                titles = [line.lstrip("# ").lower() for line in lines if line.startswith("#")]
                slugs = [re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles]
                assert heading in slugs, (document.name, link)
