"""The Python interface in programs: many loads, other processes."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden_models import NUM_FILTERS, checkpoint_of

from architecture import Architecture
from codec import Codec
from coding.forks import ForkError

PIXELS = np.random.default_rng(4).integers(0, 256, (64, 70, 3)).astype(np.uint8)


LOADS = """
import ctypes, gc, sys
from pathlib import Path

sys.path[:0] = sys.argv[1:]
from test_codec import PIXELS, load

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free but kept for later is no leak
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024

def use(count):
    for _ in range(count):
        codec = load()
        codec.decompress(codec.compress(PIXELS))
        codec.close()
    return resident()

before = use(5)  # pools and caches that are set up once
print(use(30) - before)
"""


def load():
    return Codec.from_checkpoint(checkpoint_of("gmm"), Architecture("gmm", NUM_FILTERS))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and glibc")
def test_thirty_codecs_loaded_and_closed_leave_nothing():
    tests = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", LOADS, *map(str, (tests.parent, tests, tests / "coding"))]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 20


def test_inference_graphs_hold_no_training(codecs):
    networks = codecs["gmm"].networks
    networks.synthesis(np.zeros((1, 4, 4, NUM_FILTERS), np.float32))
    networks.hyper_analysis(np.zeros((1, 4, 4, NUM_FILTERS), np.float32))
    for session in networks._sessions:
        kinds = {operation.type for operation in session.graph.get_operations()}
        assert not any("Random" in kind or "Grad" in kind or "Normal" in kind for kind in kinds)


def test_a_codec_pickles_by_its_path(codecs):
    again = pickle.loads(pickle.dumps(codecs["gmm"]))
    assert again.fingerprint == codecs["gmm"].fingerprint
    assert again.compress(PIXELS) == codecs["gmm"].compress(PIXELS)
    again.close()


def test_a_spawned_pool_uses_a_codec(codecs):
    data = codecs["gmm"].compress(PIXELS)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        restored = pool.apply(codecs["gmm"].decompress, (data,))
    assert np.abs(restored.astype(int) - codecs["gmm"].decompress(data)).max() <= 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore")
def test_a_fork_is_told_instead_of_hanging(codecs):
    data = codecs["gmm"].compress(PIXELS)  # TensorFlow runs
    child = os.fork()
    if child == 0:
        status = 1
        try:
            codecs["gmm"].decompress(data)
        except ForkError as error:
            status = 0 if "spawn" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
