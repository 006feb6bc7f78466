"""Names and shapes of a model's variables, as the authors' TF 1.x graphs have them.

They follow from the architecture, so that a checkpoint is checked before it is read and without a
graph. Kernels larger than 1x1 live in the frequency domain (``kernel_rdft``).
"""

from __future__ import annotations

import functools

import numpy as np

from architecture import CONTEXT_SUPPORT

MASKED_WEIGHTS = "entropy_parameter/masked/weights"  # of the context model, (5, 5, M, 2M)
PRIOR_SCOPE = "entropy_bottleneck"  # of the factorised prior of z
PRIOR_WIDTHS = (1, 3, 3, 3, 1)  # of the network that is its cumulative
QUANTILES = f"{PRIOR_SCOPE}/quantiles"
TABLES = f"{PRIOR_SCOPE}/quantized_cdf"
# Ends of the kernels' names; in 1x1 and masked kernels the last two axes are (in, out).
KERNELS = ("/kernel_rdft", "/kernel", "masked/weights")


def halved(name, values):
    """A variable as it is stored to save space: a kernel as float16 where that can hold it.

    Kernels are 99 % of a model. The rest keeps its float32: biases, GDN and the prior's density are
    small, and the prior's tables were made of it.

    Args:
      name: of the variable.
      values: float32 array.

    Returns:
      float16 array, or ``values`` as they are: no kernel, beyond 65,504, infinite or NaN.
    """
    if not name.endswith(KERNELS):
        return values
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    # NaN and infinity are the reader's to refuse, under their variable's name.
    return rounded if np.isfinite(rounded).all() else values


@functools.cache
def rdft_matrix(size):
    """Orthonormal real inverse DFT of a ``size`` x ``size`` kernel, float64 (size^2, size^2).

    Rows are spatial positions (row-major), columns frequencies, so that
    ``kernel = rdft_matrix(size) @ kernel_rdft``. Made of square roots only, which IEEE 754 rounds
    correctly: the coder derives its integer weights from it and they must be the same anywhere.

    Raises:
      ValueError: for a size other than 3, the only one the networks use.
    """
    if size != 3:
        raise ValueError(f"RDFT kernels of size 3 expected, got {size}.")
    dc, cosine, sine = np.sqrt(1 / 3), np.sqrt(2 / 3), np.sqrt(1 / 2)
    one_axis = np.array(
        [[dc, cosine, 0.0], [dc, -cosine / 2, -sine], [dc, -cosine / 2, sine]], np.float64
    )
    return np.kron(one_axis, one_axis)


def rdft_kernel_shape(name, shapes):
    """(9, cin, cout) of the kernel that the variable ``name``, ``.../kernel_rdft``, holds flat.

    Args:
      shapes: name to shape of all variables of the model.

    A layer has as many outputs as its bias. The only one without, the analysis' last, gives y.
    """
    positions, channels = shapes[name]
    bias = name.replace("/kernel_rdft", "/bias")
    cout = shapes[bias][0] if bias in shapes else shapes[MASKED_WEIGHTS][2]
    return (positions, channels // cout, cout)


def _convolution(name, support, cin, cout, *, bias=True, gdn=None, layer="signal_conv2d"):
    """Shapes of a ``layers.signal_conv2d``; ``gdn`` is "gdn", "igdn" or None."""
    prefix = f"{name}/{layer}/"
    kernel = ("kernel", (1, 1, cin, cout)) if support == 1 else ("kernel_rdft", (9, cin * cout))
    shapes = {prefix + kernel[0]: kernel[1]}
    if bias:
        shapes[prefix + "bias"] = (cout,)
    if gdn:
        shapes[f"{prefix}{gdn}/reparam_beta"] = (cout,)
        shapes[f"{prefix}{gdn}/reparam_gamma"] = (cout, cout)
    return shapes


def _attention(name, channels):
    """Shapes of an ``attention.attention_block``."""
    shapes, half = {}, channels // 2
    for branch in [f"{kind}_RB_{i}" for kind in ("trunk", "attention") for i in range(3)]:
        for conv, layer in enumerate([(1, channels, half), (3, half, half), (1, half, channels)]):
            shapes.update(_convolution(f"{name}/{branch}/conv{conv}", *layer))
    return {**shapes, **_convolution(f"{name}/conv_1x1", 1, channels, channels)}


def _analysis(architecture):
    n, m, gllmm = architecture.num_filters, architecture.num_latents, architecture.family != "gmm"
    shapes, cin = {}, 3
    for i in range(4):
        block = f"analysis/Block_{i}_"
        suffix = "_1" if i and gllmm else ""
        for k in range((4 if gllmm else 2) if i else 0):
            shapes.update(_convolution(f"{block}layer_{k}", 3, n, n))
        if i < 3:
            shapes.update(_convolution(f"{block}shortcut", 1, cin, n))
            shapes.update(_convolution(f"{block}layer_2{suffix}", 3, cin, n))
            shapes.update(_convolution(f"{block}layer_3{suffix}", 3, n, n, gdn="gdn"))
        else:
            shapes.update(_convolution(f"{block}layer_2{suffix}", 3, n, m, bias=False))
        cin = n
    return {**shapes, **_attention("analysis/NLAB_0", n), **_attention("analysis/NLAB_1", m)}


def _synthesis(architecture):
    n, m, gllmm = architecture.num_filters, architecture.num_latents, architecture.family != "gmm"
    shapes = {**_attention("synthesis/NLAB_0", m), **_attention("synthesis/NLAB_1", n)}
    for i in range(4):
        block, cin = f"synthesis/Block_{i}_", n if i else m
        names = [f"{block}layer_0", f"{block}layer_1"]
        names += [f"{names[1]}/Block_{i}_layer_{k}" for k in (2, 3)] if gllmm else []
        for name in names:
            shapes.update(_convolution(name, 3, cin, cin))
        if i < 3:
            shapes.update(_convolution(f"{block}shortcut", 1, cin, 4 * n))
            shapes.update(_convolution(f"{block}layer_2", 3, cin, 4 * n))
            shapes.update(_convolution(f"{block}layer_3", 3, n, n, gdn="igdn"))
    return {**shapes, **_convolution("synthesis/Block_3_layer_2", 3, n, 12)}


def _hyperprior(architecture):
    n, m = architecture.num_filters, architecture.num_latents
    shapes = {}
    for i in range(5):
        shapes.update(_convolution(f"hyper_analysis/layer_{i}", 3, n if i else m, n))
    cin = n
    for i, layer in enumerate(architecture.hyper_synthesis):
        shapes.update(_convolution(f"hyper_synthesis/layer_{i}", 3, cin, layer.filters))
        cin = layer.filters
    return shapes


def _entropy_parameter(architecture):
    m, (hidden, groups) = architecture.num_latents, architecture.parameter_widths
    shapes = {
        MASKED_WEIGHTS: (CONTEXT_SUPPORT, CONTEXT_SUPPORT, m, 2 * m),
        "entropy_parameter/masked/biases": (2 * m,),
    }
    widths = (4 * m, *hidden, groups * m)
    for i, (cin, cout) in enumerate(zip(widths, widths[1:])):
        layer = "signal_conv2d" + (f"_{i}" if i else "")
        name = f"entropy_parameter/layer_{i}"
        shapes.update(_convolution(name, 1, cin, cout, bias=i < 2, layer=layer))
    return shapes


def _prior(architecture):
    c, shapes = architecture.num_filters, {}
    for i, (columns, rows) in enumerate(zip(PRIOR_WIDTHS, PRIOR_WIDTHS[1:])):
        shapes[f"matrix_{i}"] = (c, rows, columns)
        shapes[f"bias_{i}"] = (c, rows, 1)
        if i < len(PRIOR_WIDTHS) - 2:
            shapes[f"factor_{i}"] = (c, rows, 1)
    shapes.update(quantiles=(c, 1, 3), quantized_cdf=(c, None), cdf_length=(c,))
    return {f"{PRIOR_SCOPE}/{name}": shape for name, shape in shapes.items()}


def inference_variables(architecture):
    """Dict of every inference variable's name to (shape, NumPy dtype).

    The second dimension of ``entropy_bottleneck/quantized_cdf`` is None: it differs by model.
    """
    parts = (_analysis, _synthesis, _hyperprior, _entropy_parameter, _prior)
    shapes = {name: shape for part in parts for name, shape in part(architecture).items()}
    integers = (TABLES, f"{PRIOR_SCOPE}/cdf_length")
    return {
        name: (shape, np.int32 if name in integers else np.float32)
        for name, shape in shapes.items()
    }
