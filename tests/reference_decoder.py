"""A second decoder, written from FORMAT.md and nothing else of this project.

It shares no code with codec.py: the range decoder is Python integers, the networks are int64
sums evaluated position by position with scatter-form convolutions, the tables are built entry by
entry, the synthesis network is NumPy in float64. Slow and plain on purpose; the tests decode every
golden stream with both.
"""

import struct
import zlib
from functools import lru_cache

import numpy as np

TAPS = [(r, c) for r in (-2, -1, 0) for c in range(-2, 3) if r < 0 or c < 0]  # section 6
RADII = (1, 3, 7, 15, 31, 63, 127, 255)
F32 = np.float32


class RangeDecoder:
    """Section 9."""

    def __init__(self, data):
        self.data, self.at, self.range, self.code = data, 0, 0xFFFFFFFF, 0
        for _ in range(4):
            self.code = self.code << 8 | self.byte()

    def byte(self):
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0xFF

    def decode(self, table):
        """Index k with table[k] <= target < table[k + 1]."""
        total = table[-1]
        unit = self.range // total
        target = min(self.code // unit, total - 1)
        k = max(i for i, low in enumerate(table[:-1]) if low <= target)
        self.code -= table[k] * unit
        if table[k + 1] == total:
            self.range -= table[k] * unit
        else:
            self.range = (table[k + 1] - table[k]) * unit
        while self.range < 1 << 24:
            self.code = (self.code << 8 | self.byte()) & 0xFFFFFFFF
            self.range <<= 8
        return k

    def golomb(self, order):
        """Section 8."""
        length = order
        while self.decode([0, 1, 2]):
            length += 1
            if length > 24:
                raise ValueError("escape code too long")
        value = 1
        for _ in range(length):
            value = 2 * value + self.decode([0, 1, 2])
        return value - (1 << order)


class Layer:
    """Section 5: integer weights and the rounding after a sum."""

    def __init__(self, kernel, bias, leaky, input_bits):
        columns = kernel.shape[-1]
        flat = kernel.reshape(-1, columns).astype(np.float64)
        self.leaky, self.weights = leaky, np.empty(flat.shape, np.int64)
        self.bias, self.exponent = [], []
        for o in range(columns):
            largest, e = float(np.abs(flat[:, o]).max()), -64
            while largest >= 2.0**e:
                e += 1
            e = 0 if largest == 0 else e
            self.weights[:, o] = [round(float(w) * 2.0 ** (15 - e)) for w in flat[:, o]]
            b = 0.0 if bias is None else float(bias[o])
            self.bias.append(round(b * 2.0 ** (input_bits + 15 - e)))
            self.exponent.append(e - 15 + 12 - input_bits)
        self.weights = self.weights.reshape(kernel.shape)

    def finish(self, sums):
        """One position's exact sums (ints) to its activations."""
        result = []
        for total, bias, exponent in zip(sums, self.bias, self.exponent):
            value = float(int(total) + bias) * 2.0**exponent
            if self.leaky and value < 0:
                value = value * 0.2
            result.append(max(-(1 << 22), min(1 << 22, round(value))))
        return result


def hyper_kernel(rdft, cin):
    """Section 5.1."""
    dc, cosine, sine = (1 / 3) ** 0.5, (2 / 3) ** 0.5, (1 / 2) ** 0.5
    axis = [[dc, cosine, 0.0], [dc, -cosine / 2, -sine], [dc, -cosine / 2, sine]]
    kernel = np.zeros(rdft.shape, np.float64)
    for position in range(9):
        for frequency in range(9):
            a = axis[position // 3][frequency // 3] * axis[position % 3][frequency % 3]
            kernel[position] = kernel[position] + a * rdft[frequency].astype(np.float64)
    return kernel.reshape(3, 3, cin, -1)


def convolve(x, layer, up):
    """Section 5.2, by its definition: every input sample adds to nine output samples."""
    h, w, _ = x.shape
    sums = np.zeros((h * up, w * up, layer.weights.shape[-1]), np.int64)
    for i in range(h):
        for j in range(w):
            for k in range(3):
                for q in range(3):
                    m, n = up * i + k - 1, up * j + q - 1
                    if 0 <= m < h * up and 0 <= n < w * up:
                        sums[m, n] += x[i, j] @ layer.weights[k, q]
    return np.array([[layer.finish(p) for p in row] for row in sums], np.int64)


@lru_cache
def exp_ladder():
    """exp(-i / 1024) * 2^128, section 7.1."""
    term = ratio = 1 << 128
    k = 0
    while term:
        k += 1
        term = term // (1024 * k)
        ratio += term if k % 2 == 0 else -term
    values = [1 << 128]
    for _ in range(16 * 1024):
        values.append(values[-1] * ratio >> 128)
    return values


def rounded(numerator, denominator):
    return (2 * numerator + denominator) // (2 * denominator)


@lru_cache
def exp_table():
    return [F32(rounded(v, 1 << 104) / 2**24) for v in exp_ladder()[:-1]] + [F32(0)]


@lru_cache
def cdf_table(shape):
    """Section 7.2: F at multiples of 1 / 1024, float32."""
    if shape == "gauss":
        steps = 6 * 1024
        term = q = 1 << 128
        k = 0
        while term:
            k += 1
            term = term // (8 * 1024 * 1024 * k)
            q += term if k % 2 == 0 else -term
        square, ratio, samples = q * q >> 128, q, [1 << 128]
        for _ in range(2 * steps):
            samples.append(samples[-1] * ratio >> 128)
            ratio = ratio * square >> 128
        integral = [0]
        for i in range(steps):
            area = samples[2 * i] + 4 * samples[2 * i + 1] + samples[2 * i + 2]
            integral.append(integral[-1] + area)
        tail = [rounded((integral[-1] - v) << 24, 2 * integral[-1]) for v in integral]
    elif shape == "laplace":
        tail = [rounded(v << 24, 2 << 128) for v in exp_ladder()]
    else:
        tail = [rounded(v << 24, (1 << 128) + v) for v in exp_ladder()]
    tail[-1] = 0
    values = tail[::-1] + [(1 << 24) - v for v in tail[1:]]
    return [F32(v / 2**24) for v in values]


def softmax(logits):
    """Section 7.3: three integers to three float32 weights."""
    largest, table = max(logits), exp_table()
    powers = [table[min(int(F32(largest - v) * F32(0.25)), 16384)] for v in logits]
    total = (powers[0] + powers[1]) + powers[2]
    return [p / total for p in powers]


def symbol_table(raw, family, unit):
    """Section 7: (table, value of entry 1, order) of one symbol from its parameters."""
    shapes = ["gauss"] if family == "gmm" else ["gauss", "laplace", "logistic"]
    families = [F32(1)] if family == "gmm" else softmax(raw[27:30])
    center, parts = F32(0), []
    for f, shape in enumerate(shapes):
        own = raw[9 * f : 9 * f + 9]
        for weight, mean, scale in zip(softmax(own[0::3]), own[1::3], own[2::3]):
            weight = weight * families[f]
            mean = F32(mean) * unit
            scale = max(abs(F32(scale)) * unit, F32(2**-6))
            parts.append((weight, mean, scale, shape))
            center = center + weight * mean
    center = F32(round(float(center)))
    need = F32(0)
    for weight, mean, scale, shape in parts:
        if weight >= F32(2**-9):
            need = max(need, abs(mean - center) + scale * F32(4 if shape == "gauss" else 7))
    order = next((i for i in range(7) if need <= F32(RADII[i] + 0.5)), 7)
    n = 2 * RADII[order] + 3
    first = int(center) - RADII[order]
    table = [0]
    for i in range(1, n):
        total = None
        for weight, mean, scale, shape in parts:
            cdf = cdf_table(shape)
            index = (F32(first + i - 1) - F32(0.5) - mean) * (F32(1024) / scale)
            index = index + F32(len(cdf) // 2 + 0.5)
            index = min(max(index, F32(0)), F32(len(cdf) - 1))
            value = cdf[int(index)] * weight
            total = value if total is None else total + value
        table.append(int(min(total, F32(1)) * F32(65536 - n)) + i)
    return [*table, 65536], first, order


def decode_z(data, h, w, weights):
    """Section 4."""
    coder = RangeDecoder(data)
    prior = {k: weights[f"entropy_bottleneck/{k}"] for k in ("quantized_cdf", "cdf_length")}
    quantiles = weights["entropy_bottleneck/quantiles"]
    channels = len(quantiles)
    z = np.zeros((h, w, channels), np.int64)
    for i in range(h):
        for j in range(w):
            for c in range(channels):
                table = [int(v) for v in prior["quantized_cdf"][c][: prior["cdf_length"][c]]]
                below = max(0, int(np.ceil(quantiles[c, 0, 1] - quantiles[c, 0, 0])))
                value, escape = coder.decode(table), len(table) - 2
                if value == escape:
                    code = coder.golomb(0)
                    value = -((code + 1) // 2) if code % 2 else code // 2 + escape
                z[i, j, c] = value - below
    return z


def phi_of(z, weights):
    """Section 5: hyper synthesis, int64 (4 h, 4 w, 2N)."""
    medians = weights["entropy_bottleneck/quantiles"][:, 0, 1].astype(np.float64)
    scaled = np.rint((z + medians) * 4096.0)
    x = np.clip(scaled, -(2.0**22), 2.0**22).astype(np.int64)
    for i, up in enumerate((1, 2, 1, 2, 1)):
        prefix = f"hyper_synthesis/layer_{i}/signal_conv2d/"
        kernel = hyper_kernel(weights[prefix + "kernel_rdft"], x.shape[-1])
        x = convolve(x, Layer(kernel, weights[prefix + "bias"], i < 4, 12), up)
    return x


def decode_y(data, phi, active, weights, family, step_k):
    """Section 6; ``step_k`` is K of version 2, None in version 1."""
    h, w, _ = phi.shape
    n = len(active)
    masked = weights["entropy_parameter/masked/weights"]
    taps = np.array([masked[r + 2, c + 2] for r, c in TAPS])
    bits, factor, limit, unit = 0, 1, 2**15, F32(2**-12)
    if step_k is not None:
        bits, factor, limit, unit = 10, step_k, 2**22, F32(2**-2) / F32(step_k)
    context = Layer(taps, weights["entropy_parameter/masked/biases"], False, bits)
    layers = []
    for i in range(3):
        name = f"entropy_parameter/layer_{i}/signal_conv2d" + (f"_{i}" if i else "")
        bias = weights.get(name + "/bias")
        layers.append(Layer(weights[name + "/kernel"][0, 0], bias, i < 2, 12))
    coder, y = RangeDecoder(data), np.zeros((h, w, n), np.int64)
    for step in range(w + 3 * (h - 1)):
        for i in range(h):
            j = step - 3 * i
            if not 0 <= j < w:
                continue
            sums = np.zeros(2 * n, np.int64)
            for (r, c), kernel in zip(TAPS, context.weights):
                if i + r >= 0 and 0 <= j + c < w:
                    sums += np.clip(y[i + r, j + c] * factor, -limit, limit) @ kernel
            t = np.array([*context.finish(sums), *phi[i, j]], np.int64)
            for layer in layers:
                t = np.array(layer.finish(t @ layer.weights), np.int64)
            groups = t.reshape(-1, n)
            for c in np.flatnonzero(active):
                raw = [int(v) for v in groups[:, c]]
                table, first, order = symbol_table(raw, family, unit)
                symbol = coder.decode(table)
                if symbol == 0:
                    symbol = -coder.golomb(order)
                elif symbol == len(table) - 2:
                    symbol += coder.golomb(order)
                y[i, j, c] = first + symbol - 1
    return y


def step_of(data):
    """K of a file's bytes, None in version 1."""
    return None if data[4] == 1 else struct.unpack("<H", data[35:37])[0]


def decode(data, weights, family):
    """Symbols of a file's bytes: (y, z), int64. Section 2 for the container."""
    magic, version, _, _, height, width, latents_crc, z_size, y_size, flag_size = struct.unpack(
        "<4sBB8sIIIIIB", data[:35]
    )
    (crc,) = struct.unpack("<I", data[-4:])
    if magic != b"GLIC" or version not in (1, 2) or crc != zlib.crc32(data[:-4]):
        raise ValueError("not a sound file of version 1 or 2")
    step_k, start = step_of(data), 35 if version == 1 else 37
    flags = data[start : start + flag_size]
    active = [bool(flags[c // 8] & 0x80 >> c % 8) for c in range(8 * flag_size)]
    start += flag_size
    h, w = -(-height // 64), -(-width // 64)
    z = decode_z(data[start : start + z_size], h, w, weights)
    y = np.zeros((4 * h, 4 * w, len(active)), np.int64)
    if any(active):
        payload = data[start + z_size : start + z_size + y_size]
        y = decode_y(payload, phi_of(z, weights), active, weights, family, step_k)
    stored = struct.pack(f"<{z.size + y.size}i", *z.ravel().tolist(), *y.ravel().tolist())
    if zlib.crc32(stored) != latents_crc:
        raise ValueError("the latents do not match their checksum")
    return y, z


class Synthesis:
    """Section 10, in float64: y_hat to uint8 pixels."""

    def __init__(self, weights):
        self.weights = weights

    def variable(self, layer, name):
        return self.weights[f"synthesis/{layer}/signal_conv2d/{name}"].astype(np.float64)

    def conv1(self, t, layer):
        return t @ self.variable(layer, "kernel")[0, 0] + self.variable(layer, "bias")

    def conv3(self, t, layer, sign):
        """A convolution where ``sign`` is 1, a correlation where it is -1."""
        taps = hyper_kernel(self.variable(layer, "kernel_rdft"), t.shape[-1])
        h, w, _ = t.shape
        sums = np.zeros((h + 2, w + 2, taps.shape[-1]))
        for r in range(3):
            for q in range(3):
                i, j = 1 + sign * (r - 1), 1 + sign * (q - 1)
                sums[i : i + h, j : j + w] += t @ taps[r, q]
        return sums[1:-1, 1:-1] + self.variable(layer, "bias")

    def igdn(self, t, layer):
        beta = np.maximum(self.variable(layer, "igdn/reparam_beta"), (1e-6 + 2.0**-36) ** 0.5)
        gamma = np.maximum(self.variable(layer, "igdn/reparam_gamma"), 2.0**-18)
        return t * np.sqrt(beta**2 - 2.0**-36 + t**2 @ (gamma**2 - 2.0**-36))

    def bottleneck(self, t, layer):
        s = np.maximum(self.conv1(t, layer + "/conv0"), 0)
        s = np.maximum(self.conv3(s, layer + "/conv1", -1), 0)
        return t + self.conv1(s, layer + "/conv2")

    def attention(self, t, layer):
        trunk = mask = t
        for i in range(3):
            trunk = self.bottleneck(trunk, f"{layer}/trunk_RB_{i}")
            mask = self.bottleneck(mask, f"{layer}/attention_RB_{i}")
        with np.errstate(over="ignore"):
            return t + trunk / (1 + np.exp(-self.conv1(mask, layer + "/conv_1x1")))

    def residual(self, t, first, second, sign):
        s = leaky(self.conv3(t, first, sign))
        return t + leaky(self.conv3(s, second, sign))

    def pixels(self, y_hat, height, width, grey, family):
        t = y_hat.astype(np.float64)
        for k in range(4):
            block = f"Block_{k}_"
            if k in (0, 2):
                t = self.attention(t, f"NLAB_{k // 2}")
            a = self.residual(t, block + "layer_0", block + "layer_1", 1)
            if family == "gllmm":
                inner = [f"{block}layer_1/{block}layer_{i}" for i in (2, 3)]
                a = t + self.residual(a, *inner, -1)
            t = a
            if k < 3:
                v = self.conv3(upsampled(leaky(self.conv3(t, block + "layer_2", 1))),
                               block + "layer_3", 1)  # fmt: skip
                t = self.igdn(v, block + "layer_3") + upsampled(self.conv1(t, block + "shortcut"))
        x_hat = np.clip(upsampled(self.conv3(t, "Block_3_layer_2", 1))[:height, :width], 0, 1)
        return np.rint(255 * (x_hat.mean(axis=-1) if grey else x_hat)).astype(np.uint8)


def leaky(t):
    return np.maximum(t, 0.2 * t)


def upsampled(t):
    h, w, channels = t.shape
    out = np.empty((2 * h, 2 * w, channels // 4))
    for r in range(2):
        for q in range(2):
            first = (2 * r + q) * channels // 4
            out[r::2, q::2] = t[:, :, first : first + channels // 4]
    return out


def decode_pixels(data, y, weights, family):
    """A file's uint8 pixels, (H, W, 3) or (H, W), from its bytes and y's symbols."""
    mode, height, width = data[5], *struct.unpack("<II", data[14:22])
    step_k = step_of(data)
    y_hat = y if step_k is None else y * (step_k / 1024)
    return Synthesis(weights).pixels(y_hat, height, width, mode == 0, family)
