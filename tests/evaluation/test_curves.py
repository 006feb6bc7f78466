"""BD-rate and rates at equal quality on curves whose result is known; plots."""

import pytest

pytest.importorskip("bjontegaard", reason="BD-rate needs requirements-eval.txt")
pytest.importorskip("matplotlib", reason="plots need requirements-eval.txt")

from evaluation import curves, plots
from evaluation.curves import CurveError, make_curve

RATES = [0.1, 0.2, 0.4, 0.8]


def curve(name, rates, psnr, kind="model"):
    return make_curve(name, name, kind, [(r, q, q / 2) for r, q in zip(rates, psnr)])


ANCHOR = curve("anchor", RATES, [28, 30, 33, 36])


def test_bd_rate_of_a_constant_saving():
    saving = curve("saving", [0.8 * r for r in RATES], [28, 30, 33, 36])
    for metric in curves.METRICS:
        assert curves.bd_rate(ANCHOR, saving, metric) == pytest.approx(-20)
        assert curves.bd_rate(saving, ANCHOR, metric) == pytest.approx(25)
        assert curves.overlap(ANCHOR, saving, metric) == 1


def test_bd_rate_of_the_papers():
    """Fu et al. report fewer bits than Cheng et al.; their published points say the same."""
    cheng, gllmm = (curves.published(n) for n in curves.PAPER_CURVES)
    assert -10 < curves.bd_rate(cheng, gllmm, "psnr") < 0


@pytest.mark.parametrize(
    "test, message",
    [
        (curve("far", RATES, [40, 41, 42, 43]), "have no PSNR"),
        (curve("touching", RATES, [36, 37, 38, 39]), "have no PSNR"),
        (curve("short", RATES[:2], [29, 31]), "3 or more points"),
        (curve("falling", RATES, [28, 31, 30, 36]), "does not rise"),
    ],
)
def test_curves_that_cannot_be_compared(test, message):
    with pytest.raises(CurveError, match=message):
        curves.bd_rate(ANCHOR, test, "psnr")
    (row, _) = curves.compare([ANCHOR, test], ANCHOR, kodak=True)
    assert row["percent"] is None and message in row["reason"]
    assert any(row["reason"] in line for line in curves.describe([row]))


def test_a_single_point_is_compared_at_equal_quality():
    point = curve("point", [0.2], [33])
    assert curves.rate_at_equal_quality(ANCHOR, point, "psnr") == pytest.approx(-50)
    rows = curves.compare([ANCHOR, point], ANCHOR, kodak=False)
    assert [row["kind"] for row in rows] == ["equal quality"] * 2
    with pytest.raises(CurveError, match="outside of anchor"):
        curves.rate_at_equal_quality(ANCHOR, curve("p", [0.2], [40]), "psnr")


def test_published_points_are_for_kodak_only():
    paper = curves.published("cheng2020_mse_published")
    rows = curves.compare([ANCHOR, paper], paper, kodak=False)
    assert all("Kodak" in row["reason"] for row in rows)
    assert curves.compare([ANCHOR, paper], paper, kodak=True)[0]["percent"] is not None
    assert curves.is_kodak(f"kodim{i:02d}" for i in range(1, 25))
    assert not curves.is_kodak(["kodim01", "kodim02"])


def test_plots_are_reproducible(tmp_path):
    first = plots.draw([ANCHOR], "psnr", tmp_path / "a", "caption")
    second = plots.draw([ANCHOR], "psnr", tmp_path / "b", "caption")
    assert [p.suffix for p in first] == [".png", ".svg"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second))
    unknown = make_curve("a", "a", "model", [(0.1, None, None)])
    assert plots.draw([unknown], "psnr", tmp_path / "c", "caption") == []
