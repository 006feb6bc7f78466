"""Entropy coding against the networks' time: python -m benchmarks.entropy_coding [--model NAME]

Times, in one run and on one image of 768x512, the exact coding of its latents to a file's bytes and
back, and the float32 passes beside it: analysis and hyper analysis, synthesis. Prints
seconds, processor seconds of all threads, which other work on the machine changes little, and their
ratios: below 1 the entropy coder is the smaller part.

Then the same decoding beside as many busy processes as there are cores. Its share of the machine is
half then, so that twice the seconds are fair.

By default of an untrained model of 128 filters, the papers' smaller width, whose latents are noise
in all of its channels: a trained one codes fewer. --model takes the shipped ones, too.
"""

import contextlib
import statistics
import subprocess
import sys
import time

from benchmarks import scaling
from cli import errors as cli_errors
from cli import options
from coding import bitstream, cores
from evaluation.options import size

LOADED_BAR = 2.2
MODEL, SIZE = "random-128", (512, 768)
BARS = {"encode": 0.4, "decode": 0.8}  # seconds of this model at this size, on two cores


def median_seconds(function, repeats):
    """Medians of the seconds and the processor seconds of ``function()`` after one warm-up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        function()
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return [statistics.median(column) for column in zip(*times)]


@contextlib.contextmanager
def busy_processes(count):
    """So many processes that do nothing but take a core each."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def main():
    """Prints seconds, bars and ratios."""
    parser = options.parser_for(__doc__)
    scaling.add_model_options(parser, default=MODEL)
    parser.add_argument("--size", type=size, default=SIZE, help="(default: 768x512)")
    parser.add_argument(
        "--repeats", type=options.count, default=5, help="runs of which to take the median"
    )
    args = parser.parse_args()
    codec = scaling.load_codec(args)
    pixels = scaling.picture(*args.size)
    latents = codec.analyse(pixels)
    data = codec.encode(latents)
    container = bitstream.unpack(data)
    if not codec.decode(container).equals(latents):
        raise AssertionError("The decoded latents differ from the encoded ones.")
    work = {
        "analysis": lambda: codec.analyse(pixels),
        "encode": lambda: codec.encode(latents),
        "decode": lambda: codec.decode(container),
        "synthesis": lambda: codec.synthesise(latents),
    }
    times = {name: median_seconds(function, args.repeats) for name, function in work.items()}
    print(
        f"{codec.model.name}: {codec.architecture}; {args.size[1]}x{args.size[0]}, "
        f"{latents.active.sum()} channels coded, {len(data)} bytes; medians of {args.repeats}"
    )
    for coding, network in (("encode", "analysis"), ("decode", "synthesis")):
        for name in (network, coding):
            print(f"{name:9s} {times[name][0]:6.3f} s  {times[name][1]:6.3f} processor s")
        shares = [a / b for a, b in zip(times[coding], times[network])]
        line = f"  {coding} / {network} {shares[0]:.2f}, in processor seconds {shares[1]:.2f}"
        if (args.model, args.size) == (MODEL, SIZE):
            line += f"; bar {BARS[coding]} s: {times[coding][0] / BARS[coding]:.2f} of it"
        print(line)
    with busy_processes(cores.count()):
        loaded, _ = median_seconds(work["decode"], args.repeats)
    ratio = loaded / times["decode"][0]
    print(
        f"decode    {loaded:6.3f} s beside {cores.count()} busy processes: {ratio:.2f} times as "
        f"long, bar {LOADED_BAR}: {ratio / LOADED_BAR:.2f} of it"
    )


if __name__ == "__main__":
    cli_errors.run(main)
