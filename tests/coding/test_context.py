"""The exact networks: against Python integers, against the float networks, in any order."""

import numpy as np
import pytest
import threadpoolctl
from golden_models import FAMILIES, NUM_FILTERS, checkpoint_of, golden_arrays

from architecture import Architecture
from coding import bitstream, context, models
from coding.context import ACTIVATION_LIMIT, ExactConvolution, ExactLayer, wavefront
from gmm_entropy import FRACTION_BITS

UNIT = 2.0**-FRACTION_BITS


def round_half_even(numerator, denominator):
    quotient, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and quotient % 2):
        quotient += 1
    return quotient


def integer_layer(inputs, kernel, bias, leaky):
    """The same layer in Python integers: rows of ints, float kernel (K, cout) and bias."""
    outputs = [[0] * kernel.shape[1] for _ in inputs]
    for o in range(kernel.shape[1]):
        largest = max(abs(float(w)) for w in kernel[:, o])
        exponent = -80
        while largest >= 2.0 ** (15 + exponent):
            exponent += 1
        weights = [round_half_even(*(float(w) * 2.0**-exponent).as_integer_ratio())
                   for w in kernel[:, o]]  # fmt: skip
        offset = round_half_even(
            *(float(bias[o]) * 2.0 ** (FRACTION_BITS - exponent)).as_integer_ratio()
        )
        for i, row in enumerate(inputs):
            total = sum(a * w for a, w in zip(row, weights)) + offset
            if leaky and total < 0:
                # One float64 product, as the format says.
                value = total * 2.0**exponent * 0.2
                total = round_half_even(*value.as_integer_ratio())
            else:
                total = round_half_even(total, 2**-exponent)
            outputs[i][o] = max(-(2**22), min(2**22, total))
    return outputs


@pytest.mark.parametrize("leaky", [False, True])
def test_layer_is_that_of_python_integers(leaky):
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.3, (7, 5)) * [1, 10, 0.01, 1, 100]
    bias = rng.normal(0, 1, 5)
    inputs = np.rint(rng.normal(0, 20000, (6, 7)))
    found = ExactLayer(kernel, bias, leaky)(inputs)
    expected = integer_layer([[int(v) for v in row] for row in inputs], kernel, bias, leaky)
    assert found.tolist() == expected


@pytest.mark.parametrize("up", [1, 2])
def test_convolution_is_that_of_python_integers(up):
    rng = np.random.default_rng(1)
    kernel, bias = rng.normal(0, 0.2, (3, 3, 2, 3)), rng.normal(0, 1, 3)
    x = np.rint(rng.normal(0, 9000, (4, 5, 2)))
    found = ExactConvolution(kernel, bias, up, leaky=True)(x)
    # out[m] = sum over i, k with m = up * i + k - 1 of in[i] * kernel[k], by its definition.
    rows = []
    for m in range(4 * up):
        for n in range(5 * up):
            taps = np.zeros((3, 3, 2))
            for i in range(4):
                for j in range(5):
                    k, q = m - up * i + 1, n - up * j + 1
                    if 0 <= k < 3 and 0 <= q < 3:
                        taps[k, q] = x[i, j]
            rows.append([int(v) for v in taps.ravel()])
    expected = integer_layer(rows, kernel.reshape(18, 3), bias, leaky=True)
    assert found.reshape(-1, 3).tolist() == expected


def test_sums_that_could_round_are_refused():
    with pytest.raises(ValueError, match="too large for exact coding"):
        ExactLayer(np.ones((200_000, 1)), None, False, input_limit=2.0**23)
    with pytest.raises(ValueError, match="NaN or infinity"):
        ExactLayer(np.full((3, 1), np.nan), None, False)


@pytest.mark.parametrize("family", FAMILIES)
def test_bounds_hold_for_the_widest_networks(family):
    """At 256 filters even weights that are all as large as their format allows stay exact."""
    for rows in (9 * 384, 1280, 512 + 256):
        ExactLayer(np.ones((rows, 1)), np.ones(1), True)


@pytest.mark.parametrize("height,width", [(4, 4), (12, 8), (1, 9), (7, 1)])
def test_wavefront_respects_the_context(height, width):
    positions, bounds = wavefront(height, width)
    assert sorted(positions) == list(range(height * width))
    step_of = np.empty(height * width, int)
    for s, (a, b) in enumerate(zip(bounds[:-1], bounds[1:])):
        step_of[positions[a:b]] = s
    for h in range(height):
        for w in range(width):
            for r, c in context.CONTEXT_TAPS:
                if 0 <= h + r < height and 0 <= w + c < width:
                    assert step_of[(h + r) * width + w + c] < step_of[h * width + w]


def test_wavefronts_take_one_thread_of_blas(codecs, monkeypatch):
    """Steps are small, and threads that wait for the next one spin."""

    def blas_threads():
        pools = threadpoolctl.threadpool_info()
        return [p["num_threads"] for p in pools if p["user_api"] == "blas"]

    seen, parameters = [], context.ImageModel.parameters

    def counted(self, *args):
        seen.append(blas_threads())
        return parameters(self, *args)

    data = codecs["gmm"].compress(np.full((64, 64, 3), 90, np.uint8))
    before = blas_threads()
    monkeypatch.setattr(context.ImageModel, "parameters", counted)
    codecs["gmm"].decode(bitstream.unpack(data))
    assert seen and all(set(threads) <= {1} for threads in seen)
    assert blas_threads() == before


def test_wavefront_steps_grow_with_the_perimeter():
    assert len(wavefront(32, 48).steps) - 1 == 48 + 3 * 31  # 141 for a 768x512 image


@pytest.fixture(scope="module", params=FAMILIES)
def entropy_model(request):
    architecture = Architecture(request.param, NUM_FILTERS)
    weights = models.read_weights(checkpoint_of(request.param), architecture)
    return context.EntropyModel(weights, architecture)


def image_model_of(entropy_model, golden, active):
    z_hat = golden["z_symbols"][0].astype(np.float64) + golden["z_medians"]
    return entropy_model.for_image(z_hat, active)


def test_phi_is_close_to_the_float_network(entropy_model):
    golden = golden_arrays(entropy_model.architecture.family, "image_120x179")
    z_hat = golden["z_symbols"][0].astype(np.float64) + golden["z_medians"]
    phi = entropy_model.phi(z_hat) * UNIT
    assert np.abs(phi - golden["phi"].reshape(phi.shape)).max() < 0.01


def test_steps_and_batches_give_the_same_integers(entropy_model):
    """Decoder order, encoder order, all channels or some: not one bit differs."""
    golden = golden_arrays(entropy_model.architecture.family, "image_120x179")
    every = np.arange(NUM_FILTERS)
    y_hat = golden["y_hat"][0]
    active = golden["active_channels"]
    full, part = (image_model_of(entropy_model, golden, a) for a in (every, active))
    positions, bounds = full.schedule
    in_order = y_hat.reshape(-1, NUM_FILTERS)[positions].astype(np.float64)
    canvas = full.new_canvas()
    full.place(canvas, 0, len(positions), in_order.copy())
    batch = full.parameters(canvas, 0, len(positions))
    batch = batch.reshape(len(batch), len(positions), NUM_FILTERS)
    growing = part.new_canvas()
    for start, stop in zip(bounds[:-1], bounds[1:]):
        step = part.parameters(growing, start, stop)
        expected = batch[:, start:stop][..., active].reshape(len(batch), -1)
        np.testing.assert_array_equal(step, expected)
        part.place(growing, start, stop, in_order[start:stop][:, active])


def test_parameters_are_close_to_the_float_network(entropy_model):
    golden = golden_arrays(entropy_model.architecture.family, "image_128x192")
    every = np.arange(NUM_FILTERS)
    model = image_model_of(entropy_model, golden, every)
    positions = model.schedule.positions
    canvas = model.new_canvas()
    y_hat = golden["y_hat"][0].reshape(-1, NUM_FILTERS)[positions].astype(np.float64)
    model.place(canvas, 0, len(positions), y_hat)
    found = model.parameters(canvas, 0, len(positions)) * UNIT
    means = golden["means"].reshape(-1, NUM_FILTERS, golden["means"].shape[-1])[positions]
    assert np.abs(found[1] - means[..., 0].ravel()).max() < 0.01


def test_huge_latents_are_seen_as_the_limit(entropy_model):
    golden = golden_arrays(entropy_model.architecture.family, "image_120x179")
    model = image_model_of(entropy_model, golden, np.arange(2))
    canvases = [model.new_canvas() for _ in range(2)]
    for canvas, value in zip(canvases, (context.LATENT_LIMIT, 2.0**20)):
        model.place(canvas, 0, 1, np.full((1, 2), value))
    parameters = [model.parameters(canvas, 1, 2) for canvas in canvases]
    np.testing.assert_array_equal(*parameters)
    assert np.abs(parameters[0]).max() <= ACTIVATION_LIMIT
