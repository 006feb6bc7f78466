"""The parts of evaluate.py against independent calculations: bits, MACs, curves, classic codecs."""

import numpy as np
import pytest
from conftest import FAMILIES, IMAGES, NUM_FILTERS, REFERENCE

from architecture import Architecture
from coding import bitstream, latent_coder
from coding.latents import Latents
from evaluation import bits as evaluation_bits
from evaluation import classics as evaluation_codecs
from evaluation import complexity as evaluation_complexity
from evaluation import curves as evaluation_curves
from evaluation import plots as evaluation_plots
from evaluation.curves import CurveError, make_curve
from pictures import images
from variables import inference_variables


@pytest.fixture(scope="module")
def pixels():
    return images.read_image(REFERENCE / "image_128x192.png").pixels


# --- Bits --------------------------------------------------------------------------------------


class CountingEncoder:
    """Counts the equiprobable bits that are written."""

    def __init__(self):
        self.bits = 0

    def encode(self, symbols, table):
        assert table == latent_coder.BIT
        self.bits += len(symbols)


@pytest.mark.parametrize("order", [0, 1, 5])
def test_golomb_bits_are_those_that_the_coder_writes(order):
    for value in [0, 1, 2, 3, 7, 8, 100, 65535, 1 << 20]:
        encoder = CountingEncoder()
        latent_coder._write_golomb(encoder, value, order)
        assert evaluation_bits.golomb_bits(value, order) == encoder.bits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("image", IMAGES)
def test_the_map_sums_to_the_payload(codecs, family, image):
    codec = codecs[family]
    container = bitstream.unpack(codec.compress(images.read_image(REFERENCE / f"{image}.png")[0]))
    costs = evaluation_bits.costs_of(codec, codec.decode(container))
    for cost, payload in ((costs.y, container.y), (costs.z, container.z)):
        # The range coder rounds a stream up to whole bytes and ends it with a few.
        assert 8 * len(payload) == pytest.approx(cost.sum(), rel=0.003, abs=40)
    total = 8 * (len(container.y) + len(container.z))
    summed = evaluation_bits.position_map(costs).sum()
    assert summed == pytest.approx(costs.y.sum() + costs.z.sum())
    assert summed == pytest.approx(total, rel=0.003, abs=60)


@pytest.mark.parametrize("family", FAMILIES)
def test_escape_codes_are_counted(codecs, family):
    codec = codecs[family]
    random = np.random.default_rng(0)
    y_hat = random.integers(-3, 4, (4, 8, NUM_FILTERS)).astype(np.int32)
    y_hat[:, :, :3] = random.integers(-90_000, 90_000, (4, 8, 3))
    z_symbols = random.integers(-400, 400, (1, 2, NUM_FILTERS)).astype(np.int32)
    latents = Latents(y_hat, z_symbols, 64, 128)
    container = bitstream.unpack(codec.encode(latents))
    costs = evaluation_bits.costs_of(codec, latents)
    # Upper escapes get the remainder of the range coder's range: less than their tables say.
    assert 8 * len(container.y) == pytest.approx(costs.y.sum(), rel=0.03)
    assert 8 * len(container.z) == pytest.approx(costs.z.sum(), rel=0.03)
    assert np.median(costs.y[..., :3]) > 2 * 10  # codes of far values have over ten bits twice


def test_account_adds_up(codecs, pixels):
    codec = codecs["gmm"]
    data = codec.compress(pixels)
    facts = evaluation_bits.account(codec, data)
    sizes = dict(facts["bytes"])
    assert sizes.pop("file") == len(data) == sum(sizes.values())
    assert facts["header"]["width"] == 192 and facts["header"]["height"] == 128
    assert facts["header"]["fingerprint"] == codec.fingerprint.hex()
    assert len(facts["channels"]) == facts["header"]["coded_channels"]
    assert sum(c["bits"] for c in facts["channels"]) == pytest.approx(facts["bits"]["y"]["ideal"])
    assert sum(c["share"] for c in facts["channels"]) == pytest.approx(1)
    lines = evaluation_bits.describe(facts, shown_channels=1)
    assert any(f"{len(facts['channels']) - 1} others" in line for line in lines)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_networks_estimate_is_near_the_tables(codecs, family):
    """On likely latents: where a table escapes, the float likelihood has another floor."""
    codec = codecs[family]
    y_hat = np.random.default_rng(0).integers(-1, 2, (8, 8, NUM_FILTERS)).astype(np.int32)
    latents = Latents(y_hat, np.zeros((2, 2, NUM_FILTERS), np.int32), 128, 128)
    costs = evaluation_bits.costs_of(codec, latents)
    y, z = evaluation_bits.network_estimate(codec, latents)
    assert y == pytest.approx(costs.y.sum(), rel=0.01)
    assert z == pytest.approx(costs.z.sum(), rel=0.01)


def test_an_image_without_latents_has_no_bits_in_y(codecs):
    codec = codecs["gmm"]
    zeros = np.zeros((4, 4, NUM_FILTERS), np.int32)
    data = codec.encode(Latents(zeros, zeros[:1, :1], 64, 64))
    facts = evaluation_bits.account(codec, data)
    assert facts["bits"]["y"]["ideal"] == 0 == facts["bytes"]["y"] and facts["channels"] == []
    assert any(
        f"{NUM_FILTERS} of {NUM_FILTERS} channels" in s for s in evaluation_bits.describe(facts)
    )


# --- Complexity --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counts_of():
    """Counts of each family with 16 filters."""
    return {family: evaluation_complexity.count(Architecture(family, 16)) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_checkpoints(counts_of, family):
    n = 16
    total = sum(
        int(np.prod(shape))
        for name, (shape, _) in inference_variables(Architecture(family, n)).items()
        if not name.endswith(("quantized_cdf", "cdf_length"))
    )
    counts = counts_of[family]
    assert sum(parameters for parameters, _ in counts.values()) == total
    assert set(counts) == {*evaluation_complexity.PARTS, evaluation_complexity.PRIOR}


def test_macs_by_hand(counts_of):
    """The hyperprior's layers and the entropy model's, from the papers' figures."""
    n = 16
    gmm, gllmm = (counts_of[family] for family in FAMILIES)
    at_16, at_32, at_64 = 1 / 256, 1 / 1024, 1 / 4096  # positions per pixel at each stride
    hyper_analysis = 9 * n * n * (2 * at_16 + 2 * at_32 + at_64)
    wide = 3 * n // 2
    hyper_synthesis = (
        9 * (2 * n * n) * at_64 + 9 * (n * wide + wide * wide) * at_32 + 9 * wide * 2 * n * at_16
    )
    masked = 25 * n * 2 * n
    for counts, second, groups in ((gmm, 640, 9), (gllmm, 1280, 30)):
        entropy = (masked + 4 * n * 640 + 640 * second + second * groups * n) * at_16
        assert counts["hyper_analysis"][1] == pytest.approx(hyper_analysis)
        assert counts["hyper_synthesis"][1] == pytest.approx(hyper_synthesis)
        assert counts["entropy_parameter"][1] == pytest.approx(entropy)
    # gllmm has three more pairs of 3x3 layers, at strides 2, 4 and 8 (and synthesis four, from 16).
    extra = gllmm["analysis"][1] - gmm["analysis"][1]
    assert extra == pytest.approx(2 * 9 * n * n * (1 / 4 + 1 / 16 + 1 / 64))
    extra = gllmm["synthesis"][1] - gmm["synthesis"][1]
    assert extra == pytest.approx(2 * 9 * n * n * (1 / 4 + 1 / 16 + 1 / 64 + 1 / 256))


def test_totals_are_sums():
    rows = evaluation_complexity.table(["gmm"], [8])
    total = rows[-1]
    for column in ("parameters", "macs_per_pixel"):
        assert total[column] == pytest.approx(sum(row[column] for row in rows[:-1]))
    assert total["seconds"] is None
    assert len(evaluation_complexity.describe(rows)) == len(rows) + 2


# --- Curves ------------------------------------------------------------------------------------

RATES = [0.1, 0.2, 0.4, 0.8]


def curve(name, rates, psnr, kind="model"):
    return make_curve(name, name, kind, [(r, q, q / 2) for r, q in zip(rates, psnr)])


ANCHOR = curve("anchor", RATES, [28, 30, 33, 36])


def test_bd_rate_of_a_constant_saving():
    saving = curve("saving", [0.8 * r for r in RATES], [28, 30, 33, 36])
    for metric in evaluation_curves.METRICS:
        assert evaluation_curves.bd_rate(ANCHOR, saving, metric) == pytest.approx(-20)
        assert evaluation_curves.bd_rate(saving, ANCHOR, metric) == pytest.approx(25)
        assert evaluation_curves.overlap(ANCHOR, saving, metric) == 1


def test_bd_rate_of_the_papers():
    """Fu et al. report fewer bits than Cheng et al.; their published points say the same."""
    cheng, gllmm = (evaluation_curves.published(n) for n in evaluation_curves.PAPER_CURVES)
    assert -10 < evaluation_curves.bd_rate(cheng, gllmm, "psnr") < 0


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
        evaluation_curves.bd_rate(ANCHOR, test, "psnr")
    (row, _) = evaluation_curves.compare([ANCHOR, test], ANCHOR, kodak=True)
    assert row["percent"] is None and message in row["reason"]
    assert any(row["reason"] in line for line in evaluation_curves.describe([row]))


def test_a_single_point_is_compared_at_equal_quality():
    point = curve("point", [0.2], [33])
    assert evaluation_curves.rate_at_equal_quality(ANCHOR, point, "psnr") == pytest.approx(-50)
    rows = evaluation_curves.compare([ANCHOR, point], ANCHOR, kodak=False)
    assert [row["kind"] for row in rows] == ["equal quality"] * 2
    with pytest.raises(CurveError, match="outside of anchor"):
        evaluation_curves.rate_at_equal_quality(ANCHOR, curve("p", [0.2], [40]), "psnr")


def test_published_points_are_for_kodak_only():
    paper = evaluation_curves.published("cheng2020_mse_published")
    rows = evaluation_curves.compare([ANCHOR, paper], paper, kodak=False)
    assert all("Kodak" in row["reason"] for row in rows)
    assert evaluation_curves.compare([ANCHOR, paper], paper, kodak=True)[0]["percent"] is not None
    assert evaluation_curves.is_kodak(f"kodim{i:02d}" for i in range(1, 25))
    assert not evaluation_curves.is_kodak(["kodim01", "kodim02"])


def test_plots_are_reproducible(tmp_path):
    first = evaluation_plots.draw([ANCHOR], "psnr", tmp_path / "a", "caption")
    second = evaluation_plots.draw([ANCHOR], "psnr", tmp_path / "b", "caption")
    assert [p.suffix for p in first] == [".png", ".svg"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second))
    unknown = make_curve("a", "a", "model", [(0.1, None, None)])
    assert evaluation_plots.draw([unknown], "psnr", tmp_path / "c", "caption") == []


# --- Classic codecs ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", evaluation_codecs.CLASSICS)
def test_classic_codecs(name, pixels):
    if name not in evaluation_codecs.available():
        pytest.skip(f"this installation has no {name}")
    small, large = (evaluation_codecs.CLASSICS[name].ladder[i] for i in (2, -1))
    for picture in (pixels, pixels[..., 0]):
        data = [evaluation_codecs.encode(name, picture, setting) for setting in (small, large)]
        assert len(data[0]) < len(data[1])
        restored = evaluation_codecs.decode(name, data[1], picture.ndim == 2)
        assert restored.shape == picture.shape and restored.dtype == np.uint8
        assert np.abs(restored.astype(int) - picture).mean() < 8
    assert evaluation_codecs.library_version(name).split()[-1][0].isdigit()


@pytest.mark.parametrize("name", ["jpeg", "jpeg2000"])
def test_the_matched_file_is_the_best_that_fits(name, pixels):
    limit = 4000
    data, setting, fits = evaluation_codecs.encode_within(name, pixels, limit)
    assert fits and len(data) <= limit
    assert data == evaluation_codecs.encode(name, pixels, setting)
    larger = (evaluation_codecs.encode(name, pixels, setting + i) for i in (1, 2))
    assert not any(len(data) < len(other) <= limit for other in larger)


def test_a_limit_that_no_file_meets(pixels):
    data, setting, fits = evaluation_codecs.encode_within("jpeg", pixels, 100)
    assert not fits and setting == 1 and len(data) > 100


def test_unknown_and_missing_codecs(monkeypatch):
    with pytest.raises(evaluation_codecs.CodecError, match="jpeg, webp"):
        evaluation_codecs.find("bpg")
    monkeypatch.setattr(evaluation_codecs, "_PLUGINS", {"jxl": ("no_such_module", None)})
    evaluation_codecs._register.cache_clear()
    with pytest.raises(evaluation_codecs.CodecError, match="requirements-eval.txt"):
        evaluation_codecs.find("jxl")
