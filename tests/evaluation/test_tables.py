"""Means, what is left out of them, and JSON."""

import json
import math

import pytest

from evaluation import session, tables
from evaluation.measure import Task


def row_of(codec="a", image="a.png", **values):
    """A measurement of a model."""
    row = dict.fromkeys(tables._AVERAGED, 1.0)
    row.update(kind="model", codec=codec, matched_to="", image=image, sha256=image, ms_ssim=0.9)
    return {**row, "encode_peak_mib": 1, "decode_peak_mib": 2, **values}


def test_infinity_is_null_in_json(tmp_path):
    path = tmp_path / "a.json"
    tables.write_json({"rows": [{"psnr": float("inf"), "bpp": 1.5}]}, path)
    assert json.loads(path.read_text()) == {"rows": [{"psnr": None, "bpp": 1.5}]}


def test_means_skip_what_is_unknown():
    rows = [row_of(), row_of(ms_ssim=None, psnr=3.0, decode_peak_mib=5)]
    (mean,) = tables.means(rows)
    assert mean["ms_ssim"] == 0.9 and mean["ms_ssim_db"] == pytest.approx(10)
    assert mean["psnr"] == 2 and mean["decode_peak_mib"] == 5


def test_memory_may_be_unknown():
    (mean,) = tables.means([row_of(encode_peak_mib=None), row_of(encode_peak_mib=None)])
    assert mean["encode_peak_mib"] is None and mean["decode_peak_mib"] == 2
    assert tables.describe_means([mean])


@pytest.mark.parametrize("exact", [{"psnr": math.inf}, {"ms_ssim": 1.0}])
def test_an_image_that_one_codec_restores_exactly_is_named(exact):
    rows = [row_of("a", "flat.png", **exact), row_of("b", "flat.png"), row_of("a", "b.png")]
    left_out = tables.lossless(rows)
    assert left_out == [{"image": "flat.png", "sha256": "flat.png", "codecs": ["a"]}]
    assert tables.describe_lossless(left_out) == [
        "Left out of all means: 1 image restored exactly",
        "  flat.png by a",
    ]
    assert tables.lossless(rows[1:]) == [] == tables.describe_lossless([])


def test_a_bad_image_is_named_once_and_the_codecs_where_some_can():
    tasks = [
        Task(path, "classic", codec, setting=s)
        for path in ("a", "b")
        for codec in ("jpeg", "jxl")
        for s in (1, 2)
    ]
    bad = [(t, "not an image") for t in tasks if t.path == "a"]
    too_small = [(t, "too small") for t in tasks if (t.path, t.codec) == ("b", "jxl")]
    lines = session.describe_problems(bad + too_small, tasks)
    assert lines == ["a: not an image", "b (jxl): too small"]
