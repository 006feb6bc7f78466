"""The networks between pixels and latents as ONNX models: analysis, hyper analysis, synthesis.

What network.py, attention.py and layers.py build in TensorFlow, for running alone, with the same
variables. What does not depend on the picture is done here: kernels from the frequency domain,
flipped where the layer convolves; GDN's parameters out of their square roots. GDN's pool is a 1x1
convolution. tests/coding/test_onnx.py holds these networks against those of network.py.

They are written from the weights each time, in some milliseconds, so that any architecture has
them and a model's folder holds its weights once.
"""

from __future__ import annotations

import numpy as np

from architecture import GDN_BETA_MIN, GDN_PEDESTAL, LEAKY_SLOPE
from coding.onnx_graph import Graph
from variables import rdft_kernel_shape, rdft_matrix

INPUT, OUTPUT = "input", "output"
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def leaky(graph, t):
    """Leaky ReLU of a tensor of a ``Graph``."""
    return graph.add("LeakyRelu", t, alpha=LEAKY_SLOPE)


def relu(graph, t):
    """ReLU."""
    return graph.add("Relu", t)


def sigmoid(graph, t):
    """Logistic function."""
    return graph.add("Sigmoid", t)


class Writer:
    """Writes one network.

    Args:
      name: of the network, and scope of its variables.
      architecture: ``Architecture``.
      weights: dict of the inference variables by name.
    """

    def __init__(self, name, architecture, weights):
        self.graph, self.architecture = Graph(name), architecture
        self._scope, self._weights = f"{name}/", weights
        self._shapes = {key: value.shape for key, value in weights.items()}
        self.used = set()  # names of the variables

    def _take(self, name):
        self.used.add(name)
        return self._weights[name]

    def _kernel(self, layer, flip):
        """float32 (cout, cin, s, s) of a layer."""
        if f"{layer}kernel" in self._shapes:
            kernel = self._take(f"{layer}kernel")
        else:
            name = f"{layer}kernel_rdft"
            _, cin, cout = rdft_kernel_shape(name, self._shapes)
            transform = rdft_matrix(3)[:: -1 if flip else 1].astype(np.float32)
            kernel = (transform @ self._take(name)).reshape(3, 3, cin, cout)
        return kernel.transpose(3, 2, 0, 1)

    def conv(self, t, name, *, corr, down=1, activation=None):
        """``layers.signal_conv2d``: a convolution, its bias and activation, or its GDN."""
        layer = f"{self._scope}{name}/signal_conv2d/"
        inputs = [self._kernel(layer, flip=not corr)]
        if f"{layer}bias" in self._shapes:
            inputs.append(self._take(f"{layer}bias"))
        before = inputs[0].shape[-1] // 2
        t = self.graph.add("Conv", t, *inputs, pads=(before,) * 4, strides=(down, down))
        for kind in ("gdn", "igdn"):
            if f"{layer}{kind}/reparam_beta" in self._shapes:
                t = self._gdn(t, f"{layer}{kind}/", inverse=kind == "igdn")
        return activation(self.graph, t) if activation else t

    def _gdn(self, t, scope, inverse):
        """``layers.gdn``."""

        def value(name, least):
            root = np.maximum(self._take(scope + name), np.float32((least + GDN_PEDESTAL) ** 0.5))
            return np.square(root) - np.float32(GDN_PEDESTAL)

        beta, gamma = value("reparam_beta", GDN_BETA_MIN), value("reparam_gamma", 0)
        square = self.graph.add("Mul", t, t)
        pool = self.graph.add("Conv", square, gamma.T[..., None, None], beta)
        root = self.graph.add("Sqrt", pool)
        return self.graph.add("Mul" if inverse else "Div", t, root)

    def blocked(self, t):
        """The same tensor, in the layout that ONNX Runtime's convolutions work in.

        A sum keeps that layout where both sides have it. Without this, one tensor that was made
        in another (by a root, a division, a transpose) had each sum along the residual blocks that
        follow converted there and back.
        """
        return self.graph.add("MaxPool", t, kernel_shape=(1, 1))

    def plus(self, a, b):
        """Sum of two tensors."""
        return self.graph.add("Add", a, b)

    def subpixels(self, t):
        """``tf.nn.depth_to_space`` by 2."""
        return self.graph.add("DepthToSpace", t, blocksize=2, mode="DCR")

    def residual(self, t, first, second, corr):
        """``attention.residual_block``."""
        s = self.conv(t, first, corr=corr, activation=leaky)
        return self.plus(t, self.conv(s, second, corr=corr, activation=leaky))

    def block(self, t, names, corr):
        """A family's block: ``attention.residual_block`` or ``concatenated_residual_block``."""
        a = self.residual(t, *names[:2], corr)
        if len(names) == 2:
            return a
        return self.plus(t, self.residual(a, *names[2:], True))

    def attention(self, t, name):
        """``attention.attention_block``."""

        def branch(s, kind):
            for i in range(3):
                r = self.conv(s, f"{name}/{kind}_RB_{i}/conv0", corr=True, activation=relu)
                r = self.conv(r, f"{name}/{kind}_RB_{i}/conv1", corr=True, activation=relu)
                s = self.plus(s, self.conv(r, f"{name}/{kind}_RB_{i}/conv2", corr=True))
            return s

        trunk, mask = branch(t, "trunk"), branch(t, "attention")
        mask = self.conv(mask, f"{name}/conv_1x1", corr=True, activation=sigmoid)
        return self.plus(t, self.graph.add("Mul", mask, trunk))


def _analysis(w, t):
    gmm = w.architecture.family == "gmm"
    for i in range(4):
        layers = [f"Block_{i}_layer_{k}" for k in range(4)]
        if i > 0:
            t = w.block(t, layers[: 2 if gmm else 4], corr=True)
        suffix = "_1" if i > 0 and not gmm else ""
        activation = leaky if i < 3 else None
        s = w.conv(t, layers[2] + suffix, corr=True, down=2, activation=activation)
        if i < 3:
            s = w.blocked(w.conv(s, layers[3] + suffix, corr=True))
            s = w.plus(s, w.conv(t, f"Block_{i}_shortcut", corr=True, down=2))
        t = s
        if i in (1, 3):
            t = w.attention(t, f"NLAB_{i // 2}")
    return t


def _synthesis(w, t):
    t = w.blocked(t)
    for i in range(4):
        if i in (0, 2):
            t = w.attention(t, f"NLAB_{i // 2}")
        names = [f"Block_{i}_layer_0", f"Block_{i}_layer_1"]
        if w.architecture.family == "gllmm":
            names += [f"{names[1]}/Block_{i}_layer_{k}" for k in (2, 3)]
        t = w.block(t, names, corr=False)
        if i < 3:
            s = w.conv(t, f"Block_{i}_layer_2", corr=False, activation=leaky)
            s = w.conv(w.subpixels(s), f"Block_{i}_layer_3", corr=False)
            shortcut = w.subpixels(w.conv(t, f"Block_{i}_shortcut", corr=False))
            t = w.blocked(w.plus(s, shortcut))
    return w.subpixels(w.conv(t, "Block_3_layer_2", corr=False))


def _hyper_analysis(w, t):
    for i, down in enumerate((1, 1, 2, 1, 2)):
        t = w.conv(t, f"layer_{i}", corr=True, down=down, activation=leaky if i < 4 else None)
    return t


_NETWORKS = {"analysis": _analysis, "hyper_analysis": _hyper_analysis, "synthesis": _synthesis}


def write(name, architecture, weights):
    """A network as an ONNX model.

    Args:
      name: "analysis", x (B, H, W, 3) in [0, 1] to y (B, h, w, M); "hyper_analysis", y to z
        (B, h/4, w/4, N); or "synthesis", y_hat (B, h, w, M) to x_hat (B, H, W, 3), not clipped.
      architecture: ``Architecture``.
      weights: dict of the inference variables by name.

    Returns:
      Bytes of the model, with one input and one output, float32, of any size.
    """
    writer = Writer(name, architecture, weights)
    n, m = architecture.num_filters, architecture.num_latents
    channels = {"analysis": (3, m), "hyper_analysis": (m, n), "synthesis": (m, 3)}[name]
    t = writer.graph.add("Transpose", INPUT, perm=_TO_NCHW)
    t = _NETWORKS[name](writer, t)
    writer.graph.add("Transpose", t, perm=_TO_NHWC, output=OUTPUT)
    ends = {
        end: ("batch", f"{end}_height", f"{end}_width", count)
        for end, count in zip((INPUT, OUTPUT), channels)
    }
    return writer.graph.model({INPUT: ends[INPUT]}, {OUTPUT: ends[OUTPUT]})
