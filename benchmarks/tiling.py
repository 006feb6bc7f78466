"""What tiles cost against the whole image: python -m benchmarks.tiling [--model NAME]

Codes a picture of 2048x2048 (the photographs of valid/ mirrored) with the networks over the whole
image and over tiles, once for each memory budget, and prints the bytes of the file, the PSNR of
what is decoded from it, and how both differ from the untiled ones. Budget 0 makes the smallest
tiles there are, 256 pixels a side. The whole image takes about 2.5 GiB at 64 filters.
"""

from benchmarks import scaling
from cli import errors as cli_errors
from cli import options
from coding import bitstream
from evaluation.options import size
from pictures import metrics

WHOLE = 1 << 50  # bytes: a budget that no picture passes


def code(codec, pixels):
    """(bytes of the file, PSNR of what it decodes to in dB, passes of the analysis)."""
    passes, analysis = [], codec.networks.analysis
    codec.networks.analysis = lambda x: passes.append(x.shape) or analysis(x)
    data = codec.compress(pixels)
    latents = codec.decode(bitstream.unpack(data))
    restored = codec.synthesise(latents)
    del codec.networks.analysis
    return len(data), metrics.psnr(pixels, restored), len(passes)


def main():
    """Prints a line per budget."""
    parser = options.parser_for(__doc__)
    scaling.add_model_options(parser)
    parser.add_argument("--size", type=size, default=(2048, 2048), help="such as 2048x2048")
    parser.add_argument(
        "--budgets", type=options.whole, nargs="+", default=[0, 1024, 1536], help="in MiB"
    )
    args = parser.parse_args()
    codec = scaling.load_codec(args)
    pixels = scaling.picture(*args.size)
    results = {}
    for budget in (None, *args.budgets):
        codec.memory_budget = WHOLE if budget is None else budget << 20
        count, psnr, tiles = results[budget] = code(codec, pixels)
        whole_count, whole_psnr, _ = results[None]
        name = "untiled" if budget is None else f"{budget} MiB"
        print(
            f"{codec.model.name}  {name:9s} {tiles:4d} tiles  {count:8d} bytes "
            f"({count / whole_count - 1:+.4%})  {psnr:.4f} dB ({psnr - whole_psnr:+.5f} dB)",
            flush=True,
        )


if __name__ == "__main__":
    cli_errors.run(main)
