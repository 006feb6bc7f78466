"""The step that meets a target: on curves made up, and on a model of many rates."""

import math
from pathlib import Path

import numpy as np
import pytest
from many_rates import write_folder
from PIL import Image

from cli.coder import Coder
from codec import Codec
from coding import bitstream
from coding.latents import LatentError
from pictures import metrics
from search import chooser, refine, steps
from search.targets import Target, TargetError

ROOT = Path(__file__).resolve().parents[2]
ENDS, MIDDLE = (418, 4434), 1361


def sizes(k):
    """Bytes as a photograph has them, over k."""
    return round(2e7 * k**-0.55 * math.exp(-((math.log(k / 400)) ** 2) / 6))


def psnrs(k):
    """PSNR as a photograph has it, over k."""
    return -10 * math.log10(2e-4 + 1e-10 * k**2)


@pytest.mark.parametrize("share", np.linspace(0.02, 0.98, 13))
def test_a_smooth_curve_takes_few_evaluations(share):
    k = round(ENDS[0] * (ENDS[1] / ENDS[0]) ** share)
    for target, curve in ((Target("bytes", sizes(k)), sizes), (Target("psnr", psnrs(k)), psnrs)):
        found = steps.fit(target, curve, ENDS, MIDDLE)
        assert target.near(curve(found.k)) and len(found.tried) <= 5


def test_targets_in_bpp_are_the_same():
    target = Target("bpp", 0.8)
    found = steps.fit(target, lambda k: target.rate_of(sizes(k), 1000, 2000), ENDS, MIDDLE)
    assert 0.792 <= 8 * sizes(found.k) / 2e6 <= 0.8


@pytest.mark.parametrize("seed", range(8))
def test_a_rough_curve_meets_the_target_in_ten(seed):
    """Jumps of some percent and tenths of dB: not as near, but never on the wrong side."""
    noise = np.random.default_rng(seed).normal(0, 1, ENDS[1] + 1)
    rough = {
        "bytes": lambda k: round(sizes(k) * math.exp(0.02 * noise[k])),
        "psnr": lambda k: psnrs(k) + 0.1 * noise[k],
    }
    for kind, smooth in (("bytes", sizes), ("psnr", psnrs)):
        target = Target(kind, smooth(2000))
        found = steps.fit(target, rough[kind], ENDS, MIDDLE)
        assert target.met(rough[kind](found.k)) and len(found.tried) <= steps.EVALUATIONS
        assert found.tried[found.k] == rough[kind](found.k)
        assert abs(math.log(found.k / 2000)) < 0.15


def test_the_ends_of_the_range():
    for target, curve, k in (
        (Target("bytes", 10**9), sizes, ENDS[0]),  # all that there is
        (Target("psnr", 1), psnrs, ENDS[1]),
    ):
        assert steps.fit(target, curve, ENDS, MIDDLE).k == k
    for target, curve, end in (
        (Target("bytes", 10), sizes, ENDS[1]),
        (Target("psnr", 90), psnrs, ENDS[0]),
    ):
        found = steps.fit(target, curve, ENDS, MIDDLE)
        assert found.k is None and end in found.tried and len(found.tried) <= 5


def test_where_psnr_rises_with_the_step_the_range_is_searched_before_a_refusal():
    """Flat pictures: a coarser step may restore them better."""
    found = steps.fit(Target("psnr", 50), lambda k: 40 + k / 300, ENDS, MIDDLE)
    assert found.k is not None and 40 + found.k / 300 >= 50
    found = steps.fit(Target("psnr", 70), lambda k: 40 + k / 300, ENDS, MIDDLE)
    assert found.k is None and len(found.tried) == steps.EVALUATIONS


def test_a_picture_that_is_restored_exactly():
    exact = steps.fit(Target("psnr", 50), lambda k: math.inf if k < 900 else 45.0, ENDS, MIDDLE)
    assert exact.k < 900 and len(exact.tried) <= steps.EVALUATIONS


def test_targets_go_a_little_beyond_the_range(codec):
    finest, coarsest = steps.k_range(codec.rates)
    low, high = codec.k_of(100), codec.k_of(0)
    assert finest < low < high < coarsest
    assert (low / finest) ** 2 == pytest.approx(steps.BEYOND, rel=0.01)
    assert (coarsest / high) ** 2 == pytest.approx(steps.BEYOND, rel=0.01)


# --- With a model ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """Of many rates, with the weights of the shipped default."""
    return Codec.load(write_folder(tmp_path_factory.mktemp("models") / "many"))


@pytest.fixture(scope="module")
def pixels():
    """A crop of a photograph, uint8 (160, 192, 3)."""
    with Image.open(ROOT / "valid" / "chelsea.png") as image:
        return np.asarray(image.convert("RGB"))[60:220, 100:292]


def counted(codec, monkeypatch):
    """Counts of what runs: dict of method name to calls."""
    counts = dict.fromkeys(("transform", "encode", "synthesise"), 0)
    for name in counts:
        work = getattr(codec, name)

        def call(*arguments, name=name, work=work):
            counts[name] += 1
            return work(*arguments)

        monkeypatch.setattr(codec, name, call)
    return counts


@pytest.mark.parametrize("quality", [5, 33, 64, 95])
def test_a_photograph_is_as_near_as_promised(codec, pixels, quality, monkeypatch):
    plain = Coder(codec, codec.k_of(quality))("a", pixels)
    psnr = metrics.psnr(pixels, codec.synthesise(plain.latents))
    area = pixels.shape[0] * pixels.shape[1]
    counts = counted(codec, monkeypatch)
    for target in (
        Target("bytes", len(plain.data) + 3),
        Target("bpp", 8 * (len(plain.data) + 3) / area),
    ):
        coded, values = steps.fit_image(target, Coder(codec), "a", pixels)
        size = len(coded.data)
        assert 0.99 * (len(plain.data) + 3) <= size <= len(plain.data) + 3
        assert len(values) <= 6 and bitstream.unpack(coded.data).k == coded.latents.k
    assert counts["transform"] == 2 and counts["synthesise"] == 0  # the analysis runs once
    coded, values = steps.fit_image(Target("psnr", psnr - 0.05), Coder(codec), "a", pixels)
    assert psnr - 0.05 <= metrics.psnr(pixels, codec.decompress(coded.data)) <= psnr - 0.02
    # The entropy coding only of what was found, and its pixels are those that were measured.
    assert counts["synthesise"] - 1 == len(values) <= 10 and coded.restored is not None


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (70, 40, 3)])
def test_flat_and_tiny_pictures_meet_their_targets_or_are_refused(codec, shape):
    for value in (3, 128, 255):
        flat = np.full(shape, value, np.uint8)
        for target in (Target("bytes", 120), Target("psnr", 35), Target("psnr", 55)):
            coded, values = steps.fit_image(target, Coder(codec), "a", flat)
            assert 1 <= len(values) <= steps.EVALUATIONS
            if coded is None:
                assert not any(map(target.met, values))
            elif target.is_rate:
                assert len(coded.data) <= 120
            else:
                assert metrics.psnr(flat, codec.decompress(coded.data)) >= target.value


def test_a_search_for_better_latents_meets_the_target_in_three(codec, pixels, monkeypatch):
    monkeypatch.setattr(refine, "ITERATIONS", (0, 4))
    coder = Coder(codec, refiner=refine.Refiner(codec), level=1)
    calls = []
    work = coder._refiner.compress
    monkeypatch.setattr(
        coder._refiner, "compress", lambda *arguments: calls.append(1) or work(*arguments)
    )
    plain = Coder(codec, codec.k_of(60))(Path("a"), pixels)
    for target in (
        Target("bytes", len(plain.data)),
        Target("psnr", metrics.psnr(pixels, codec.synthesise(plain.latents))),
    ):
        calls.clear()
        coded, _ = steps.fit_image(target, coder, Path("a"), pixels)
        assert 1 <= len(calls) <= steps.REFINEMENTS
        restored = codec.decompress(coded.data)
        value = metrics.psnr(pixels, restored)
        value = target.rate_of(len(coded.data), *pixels.shape[:2]) if target.is_rate else value
        assert target.met(value) and abs(target.offset(value)) < 0.03
        assert coded.notes[0].startswith("effort 1")


def test_where_no_refined_file_meets_the_target_the_plain_one_does(codec, pixels):
    class Worse(Coder):
        """Its refined files are twice as large."""

        def __call__(self, path, pixels, k=None):
            coded = Coder(codec)(path, pixels, k)
            return coded._replace(data=2 * coded.data, notes=("refined",))

    target = Target("bytes", len(Coder(codec, codec.k_of(0))("a", pixels).data) + 1)
    coded, values = steps.fit_image(target, Worse(codec, level=1), "a", pixels)
    assert coded.notes == () and target.met(len(coded.data))
    assert sum(not target.met(value) for value in values) >= steps.REFINEMENTS


# --- Among models ------------------------------------------------------------------------------


def candidate(name, lmbda=0.01, many=False):
    return chooser.Candidate(Path(name), lmbda, 0, "mse", many)


def test_of_models_of_one_and_of_many_rates_the_best_is_taken(codec, pixels):
    """The same weights: at their own step they give the same file, and nearer ones win."""
    fixed = {name: Coder(codec, codec.k_of(q)) for name, q in (("low", 20), ("high", 80))}
    found = [candidate("low", 0.003), candidate("high", 0.02), candidate("any", 0.015, many=True)]
    load = {**fixed, "any": Coder(codec)}
    files = {name: coder("a", pixels) for name, coder in fixed.items()}

    def choose(target, names):
        chosen_from = [c for c in found if c.folder.name in names]
        choice = chooser.Chooser(target, chosen_from, lambda c: load[c.folder.name])
        return choice("a", pixels)

    limit = (len(files["low"].data) + len(files["high"].data)) // 2
    target = Target("bytes", limit)
    assert choose(target, ["low", "high"]).data == files["low"].data
    both = choose(target, ["low", "high", "any"])
    assert 0.99 * limit <= len(both.data) <= limit
    # One that the step search would miss by less than its tolerance is the better file.
    exact = choose(Target("bytes", len(files["high"].data)), ["high", "any"])
    assert metrics.psnr(pixels, exact.with_restored().restored) >= metrics.psnr(
        pixels, files["high"].with_restored().restored
    )
    psnr = metrics.psnr(pixels, files["low"].with_restored().restored) + 0.3
    small = choose(Target("psnr", psnr), ["low", "high", "any"])
    assert len(small.data) < len(files["high"].data)
    with pytest.raises(TargetError, match=r"at most 40 bytes: the smallest has \d+ bytes \(any\)"):
        choose(Target("bytes", 40), ["low", "high", "any"])


def test_a_model_of_many_rates_that_cannot_code_an_image_is_passed_over(codec, pixels):
    class Broken:
        def __init__(self):
            self.rates = codec.rates

        def transform(self, pixels):
            raise LatentError("it cannot code it.")

    load = {"broken": Coder(Broken()), "good": Coder(codec)}
    names = [candidate("broken", many=True), candidate("good", many=True)]
    choice = chooser.Chooser(Target("bytes", 10**6), names, lambda c: load[c.folder.name])
    assert choice("a", pixels).codec is codec
