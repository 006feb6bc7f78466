"""The choice among models for a target, on sizes and qualities made up."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli import encoding
from coding.latents import LatentError, Latents
from search import steps
from search.chooser import Candidate, Chooser, memory_left
from search.coded import Coded
from search.interruption import SearchInterrupted
from search.targets import Target, TargetError

PIXELS = np.zeros((8, 10, 3), np.uint8)


class FakeCodec:
    """Restores a black picture with a given PSNR, within half a dB."""

    def __init__(self, psnr):
        self.error = round(255 / 10 ** (psnr / 20))

    def synthesise(self, latents):
        return np.full((latents.height, latents.width, 3), self.error, np.uint8)


def chooser_of(target, files, interrupted=False):
    """A ``Chooser`` of (lambda, bytes, PSNR) triples, and the list of the names that it tries."""
    tried = []
    found = [Candidate(Path(f"m{i}"), lmbda, 0) for i, (lmbda, _, _) in enumerate(files)]

    def load(candidate):
        number = found.index(candidate)
        _, size, psnr = files[number]

        def code(path, pixels):
            tried.append(number)
            if interrupted:
                raise SearchInterrupted(None)
            latents = Latents(None, None, *pixels.shape[:2])
            return Coded(FakeCodec(psnr), latents, bytes([number]) * size)

        return code

    return Chooser(Target(*target), found, load), tried


def full_search(target, files):
    """The number that trying all finds, or None."""
    kind, value = target
    if kind == "bpp":
        fitting = [(size, i) for i, (_, size, _) in enumerate(files) if 8 * size <= value * 80]
        return max(fitting)[1] if fitting else None
    reaching = [(size, i) for i, (_, size, psnr) in enumerate(files) if psnr > value]
    return min(reaching)[1] if reaching else None


# Two models share a lambda, and the one that comes first by name is larger and better.
RISING = [(1, 10, 20), (2, 20, 22), (3, 33, 26), (3, 31, 25), (4, 40, 30), (5, 50, 31), (6, 60, 33)]


@pytest.mark.parametrize("count", range(1, len(RISING) + 1))
@pytest.mark.parametrize("kind", ["bpp", "psnr"])
def test_the_bisection_finds_what_trying_all_finds(kind, count):
    files = RISING[:count]
    sizes = [size + step for _, size, _ in RISING for step in (-1, 0, 1)]
    values = [size / 10 for size in sizes] if kind == "bpp" else np.arange(18.5, 35)
    for value in values:
        chooser, tried = chooser_of((kind, value), files)
        expected = full_search((kind, value), files)
        if expected is None:
            with pytest.raises(TargetError):
                chooser("a.png", PIXELS)
            assert sorted(tried) == list(range(count))
        else:
            assert chooser("a.png", PIXELS).data[0] == expected
            assert len(tried) == len(set(tried)) <= 5


def test_of_five_models_two_to_four_are_tried():
    files = [(i, 10 * i, 20 + i) for i in range(1, 6)]
    counts = set()
    for value in (1, 2, 3, 4, 5):
        chooser, tried = chooser_of(("bpp", value), files)
        chooser("a.png", PIXELS)
        counts.add(len(tried))
    assert max(counts) <= 4


def test_whatever_the_order_the_target_is_met_or_none_can_meet_it():
    for sizes in itertools.permutations([10, 20, 30, 40]):
        files = [(i, size, 20 + size / 10) for i, size in enumerate(sizes, 1)]
        for value in (0.5, 1, 2.5, 4):
            chooser, _ = chooser_of(("bpp", value), files)
            if value < 1:
                with pytest.raises(TargetError):
                    chooser("a.png", PIXELS)
            else:
                assert 8 * len(chooser("a.png", PIXELS).data) <= value * 80
        chooser, _ = chooser_of(("psnr", 23.5), files)
        assert len(chooser("a.png", PIXELS).data) == 40


def test_neighbours_of_the_bisection_are_better_where_size_does_not_rise():
    """Flat pictures: the bisection goes from 3 to 2, and the best lies beyond."""
    files = [(1, 30, 41), (2, 40, 42), (3, 20, 43), (4, 15, 44), (5, 12, 45)]
    chooser, _ = chooser_of(("psnr", 40), files)
    assert chooser("a.png", PIXELS).data[0] == 4


def test_a_larger_file_of_worse_quality_is_not_chosen_for_a_rate():
    files = [(1, 10, 30), (2, 35, 28), (3, 30, 33), (4, 38, 31), (5, 80, 35)]
    chooser, _ = chooser_of(("bpp", 4), files)
    assert chooser("a.png", PIXELS).data[0] == 2


def test_a_refusal_states_the_nearest_value():
    chooser, _ = chooser_of(("bpp", 0.9), RISING)
    words = r"no model makes a file of at most 0.9 bpp: the smallest has 1.0000 bpp \(m0\)"
    with pytest.raises(TargetError, match=words):
        chooser("a.png", PIXELS)
    chooser, _ = chooser_of(("psnr", 40), RISING)
    words = r"of at least 40 dB PSNR: the best has 32.567 dB \(m6\)"  # 32.5678
    with pytest.raises(TargetError, match=words):
        chooser("a.png", PIXELS)


def test_a_candidate_that_cannot_code_the_image_is_passed_over():
    chooser, tried = chooser_of(("bpp", 9), RISING)
    load = chooser._load

    def cannot(path, pixels):
        raise LatentError("it cannot code it.")

    chooser._load = lambda c: cannot if c.folder.name == "m4" else load(c)
    assert chooser("a.png", PIXELS).data[0] == 2  # as if it had not met the target
    chooser._load, chooser._coders = lambda c: cannot, {}
    with pytest.raises(LatentError):
        chooser("a.png", PIXELS)


def test_a_candidate_whose_pixels_are_not_finite_is_passed_over():
    chooser, _ = chooser_of(("psnr", 24), RISING)
    load = chooser._load

    class Broken:
        def synthesise(self, latents):
            raise LatentError("pixels that are not finite")

    def broken(path, pixels):
        return load(chooser._steps[2][0])(path, pixels)._replace(codec=Broken())

    assert chooser("a.png", PIXELS).data[0] == 3
    chooser._coders.clear()
    chooser._load = lambda c: broken if c.folder.name == "m3" else load(c)
    assert chooser("a.png", PIXELS).data[0] == 2


def test_ctrl_c_in_a_search_for_better_latents_writes_nothing(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    chooser, tried = chooser_of(("bpp", 9), RISING, interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        encoding.encode_file(chooser, tmp_path / "a.png", tmp_path / "a.glic", False)
    assert len(tried) == 1 and not (tmp_path / "a.glic").exists()


def test_models_are_loaded_when_tried_and_kept():
    loaded = []
    chooser, _ = chooser_of(("bpp", 9), RISING)
    load = chooser._load
    chooser._load = lambda c: loaded.append(c.folder.name) or load(c)
    for _ in range(3):
        chooser("a.png", PIXELS)
    assert loaded == ["m4", "m6", "m5"]  # the last is a neighbour of the best


def test_codecs_leave_memory_to_the_others():
    found = [Candidate(None, i, size) for i, size in enumerate((100, 200, 300))]
    left = [memory_left(10_000, found, c) for c in found]
    assert left == [10_000 - 2000, 10_000 - 1600, 10_000 - 1200]


def test_a_model_of_many_rates_does_not_keep_neighbours_from_being_tried(monkeypatch):
    """It is found first and best by the bisection's candidates, and a neighbour beats both."""
    files = [(1, 30, 41), (2, 40, 42), (3, 20, 43), (4, 15, 44), (5, 12, 45)]
    for size, wanted in ((17, 4), (11, 9)):
        chooser, _ = chooser_of(("psnr", 40), files)
        chooser._many = [Candidate(Path("many"), 3, 0, many=True)]
        coded = Coded(FakeCodec(41), Latents(None, None, 8, 10), bytes([9]) * size)
        monkeypatch.setattr(steps, "fit_image", lambda *_, coded=coded: (coded, [41.0]))
        chooser._load = lambda c, load=chooser._load: None if c.many else load(c)
        assert chooser("a.png", PIXELS).data[0] == wanted
