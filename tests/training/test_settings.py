"""The settings of a training run: the table, checks, defaults, and records of earlier versions."""

import argparse
from pathlib import Path

import pytest

import train
from errors import GlicError
from training import settings

ROOT = Path(train.__file__).resolve().parent


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("num_filters", 12, "multiple of 8"),
        ("num_filters", 2048, "up to 2040"),
        ("patch", 100, "--patch: a positive multiple of 64"),
        ("lmbda", -1.0, "--lmbda: a number above 0"),
        ("lmbda", [0.03, 0.01], "--lmbda: LOW:HIGH with LOW below HIGH"),
        ("lmbda", [0.01, 0.02, 0.03], "--lmbda: LOW:HIGH"),
        ("lmbda", [1e-9, 1e9], "which a file can hold"),
        ("lmbda_reference", 0.01, "--lmbda-reference belongs to a range"),
        ("lmbda_power", 0.5, "--lmbda-power belongs to a range"),
        ("steps", 0, "--steps: a whole number from 1"),
        ("lmbda_start", 0.0075, "--lmbda-start above --lmbda 0.0075"),
        ("quantisation", "rounded", "do not train the analysis"),
        ("warmup", -1, "--warmup: a whole number from 0"),
        ("average", 1.0, "--average: a number from 0 to below 1"),
        ("seed", 1 << 31, "--seed: a whole number from 0 to below"),
        ("metric", "psnr", "--metric: mse or ms-ssim"),
    ],
)
def test_settings_out_of_range_are_refused(setting, value, message):
    with pytest.raises(GlicError, match=message):
        settings.resolve({"steps": 5, setting: value}, None)


def test_unknown_recorded_settings_are_refused():
    with pytest.raises(GlicError, match="unknown settings: colour"):
        settings.resolve({"steps": 5}, {"colour": 1})


@pytest.mark.parametrize("optimizer", ["soap", "adam"])
def test_the_default_learning_rate_is_lower_for_trained_weights(optimizer):
    def rate(**given):
        resolved = settings.resolve({"steps": 5, "optimizer": optimizer, **given}, None)
        return resolved["learning_rate"]

    assert rate() == settings.LEARNING_RATES[optimizer]
    assert rate(init_from="m") == settings.INIT_FROM_RATES[optimizer] < rate()
    assert rate(init_from="m", learning_rate=1e-2) == rate(learning_rate=1e-2) == 1e-2


def test_settings_younger_than_a_record_are_what_that_run_did():
    recorded = settings.resolve({"steps": 5}, None)
    younger = ("metric", "quantisation", "synthetic", *settings.NOTES)
    older = {key: value for key, value in recorded.items() if key not in younger}
    assert settings.resolve({}, older) == {**recorded, "synthetic": 0}
    assert (recorded["metric"], recorded["quantisation"]) == ("mse", "noise")
    assert recorded["synthetic"] == 0.03
    with pytest.raises(GlicError, match="metric mse, not ms-ssim"):
        settings.resolve({"metric": "ms-ssim"}, older)


NUMBERS = [s for s in (*settings.SETTINGS, *settings.OPTIONS) if s.kind is not str]


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "1e999", "many", ""])
def test_numbers_that_are_none_or_out_of_range_are_refused(setting, text, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.parser().parse_args([f"{setting.option}={text}"])
    assert f"argument {setting.option}: " in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_damaged_record_is_refused(value):
    with pytest.raises(GlicError, match="--lmbda: a"):
        settings.resolve({}, {**settings.resolve({"steps": 5}, None), "lmbda": value})


def test_help_and_documentation_are_made_of_the_table():
    text = "".join(train.parser().format_help().split())
    for setting in (*settings.SETTINGS, *settings.OPTIONS):
        assert setting.option in text
        default = setting.shown_default.replace(" ", "")
        assert setting.text.replace(" ", "") + f"(default:{default})" * bool(default) in text
    table = settings.markdown_table()  # python -m training.settings
    assert table in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_other_photographs_are_said_in_a_line():
    data = {"data": "photos", "images": 5, "valid": "2 held out", "files": "ab"}
    assert settings.changed_data(None, data) is None
    assert settings.changed_data({"images": 5}, data) is None  # a record of an earlier version
    line = settings.changed_data({**data, "images": 4, "files": "cd"}, data)
    assert "images 4, files cd; now 5, ab" in line and "bit by bit" in line


def test_a_range_of_lambdas_has_a_reference():
    assert settings.lambdas("0.0016:0.045") == [0.0016, 0.045] and settings.lambdas("3") == 3
    for text in ("1:", ":2", "1:2:3", "2:1", "1:1", "0:1", "a:b"):
        with pytest.raises(argparse.ArgumentTypeError):
            settings.lambdas(text)
    resolved = settings.resolve({"steps": 5, "lmbda": [0.001, 0.1]}, None)
    assert resolved["lmbda_reference"] == pytest.approx(0.01)
    with pytest.raises(GlicError, match="lmbda \\[0.001, 0.1\\], not \\[0.001, 0.2\\]"):
        settings.resolve({"lmbda": [0.001, 0.2]}, resolved)
