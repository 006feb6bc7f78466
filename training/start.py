"""Starting weights from another model: one like it, a narrower one, or a gmm model for a gllmm one.

How a model with fewer channels becomes one with more is in widen.py.

A gllmm model that starts from a gmm one computes what the gmm model computes. With r = t + f(t) the
residual block of gmm, the concatenated block of gllmm (Fu et al., figure 6) is

    a = t + f'(t),    t + (a + g(a))

With g = 0 and f' = 2 f this is 2 r: f ends in a leaky ReLU, so that doubling the kernel and bias of
its last layer doubles it. The layers that follow get half of their kernel. g is 0 as the kernel of
its last layer is, which has a gradient all the same.

The parameter network keeps its outputs for the Gaussians; the Laplacians and logistics start with
their weights, means and standard deviations. Its last layer has no bias, so that the kernel's zeros
give the three families equal weights.
"""

from __future__ import annotations

import math
import re

import numpy as np

from errors import GlicError
from gmm_entropy import COMPONENTS, DISTRIBUTIONS
from training import widen
from training.checkpoints import WeightReader, checkpoint_prefix, set_variables

FAMILY_MARK = "analysis/Block_1_layer_2_1/signal_conv2d/kernel_rdft"  # in gllmm only
# What scale has the standard deviation of a Gaussian with scale 1.
UNIT_DEVIATION = {"gauss": 1.0, "laplace": math.sqrt(0.5), "logistic": math.sqrt(3) / math.pi}

# gllmm's strided layers in the analysis are called like gmm's, plus "_1"; the plain names are those
# of its second residual blocks.
_STRIDED = re.compile(r"(analysis/Block_[1-3]_layer_[23])(_1)?/")
# In gllmm: the last layer of a first residual block, what follows a block, and the last layer of a
# second residual block.
_DOUBLED = re.compile(r"(analysis/Block_[1-3]|synthesis/Block_[0-3])_layer_1/signal_conv2d/")
_HALVED = re.compile(
    r"(analysis/Block_([12]_layer_2_1|[12]_shortcut|3_layer_2_1)"
    r"|synthesis/Block_([0-3]_layer_2|[0-2]_shortcut))/signal_conv2d/kernel"
)
_ZEROED = re.compile(
    r"(analysis/Block_[1-3]_layer_3|synthesis/Block_[0-3]_layer_1/Block_[0-3]_layer_3)"
    r"/signal_conv2d/(kernel_rdft|bias)"
)
_HIDDEN = "entropy_parameter/layer_1/signal_conv2d_1/"
_OUTPUT = "entropy_parameter/layer_2/signal_conv2d_2/kernel"


def source_name(name, target_is_gllmm):
    """Name that the variable ``name`` has in a model of the other family, None if it has none."""
    strided = _STRIDED.match(name)
    if not strided:
        return name
    rest = name[strided.end() :]
    if target_is_gllmm:
        return f"{strided[1]}/{rest}" if strided[2] else None
    return f"{strided[1]}_1/{rest}"


def _scaled(name, value):
    """A weight of gmm as it stands in the gllmm model that computes the same."""
    if _DOUBLED.match(name):
        return 2 * value
    return value / 2 if _HALVED.match(name) else value


def _widened(value, initial):
    """``initial`` with ``value`` in its first output channels."""
    grown = initial.copy()
    grown[..., : value.shape[-1]] = value
    return grown


def _mixture_kernel(value, shape):
    """gllmm's last parameter kernel, (1, 1, 1280, 30M), from gmm's, (1, 1, 640, 9M)."""
    kernel = np.zeros(shape, np.float32)
    rows, gaussians = value.shape[2], value.shape[3]
    n = gaussians // (3 * COMPONENTS)
    for f, distribution in enumerate(DISTRIBUTIONS["gllmm"]):
        groups = value.reshape(rows, COMPONENTS, 3, n).copy()  # logit, mean and scale
        groups[:, :, 2] *= UNIT_DEVIATION[distribution]
        columns = slice(f * gaussians, (f + 1) * gaussians)
        kernel[0, 0, :rows, columns] = groups.reshape(rows, gaussians)
    return kernel


def _gllmm_value(name, value, initial):
    """The starting value of a gllmm variable from gmm's (or None), None where nothing fits."""
    if value is None:
        return None
    if value.shape == initial.shape:
        return _scaled(name, value)
    if name.startswith(_HIDDEN) and value.shape[:-1] == initial.shape[:-1]:
        return _widened(value, initial)
    if name == _OUTPUT and value.shape[3] * 10 == initial.shape[3] * 3:
        return _mixture_kernel(value, initial.shape)
    return None


def check_start(path, architecture):
    """Raises GlicError unless a new model can start from the checkpoint at ``path``.

    Args:
      path: see ``checkpoints.checkpoint_prefix``.
      architecture: ``Architecture`` of the new model.
    """
    shapes = WeightReader(checkpoint_prefix(path)).names
    same_family = (architecture.family == "gllmm") == (FAMILY_MARK in shapes)
    wide = architecture.num_filters, architecture.num_latents
    _check_channels(path, widen.channels(shapes), wide, same_family)


def _described(filters, latents):
    more = "" if filters == latents else f" and {latents} latent channels"
    return f"{filters} filters{more}"


def _check_channels(path, narrow, wide, same_family):
    """Raises GlicError unless a model with (N, M) ``wide`` can start from one with ``narrow``."""
    if narrow is None or narrow == wide:
        return
    try:
        widen.growth(narrow, wide)
        if same_family:
            return
        advice = f"train a gmm model of {_described(*wide)} from it first, and start from that"
    except GlicError as error:
        advice = str(error)
    raise GlicError(f"{_described(*wide)} expected in {path}, got {_described(*narrow)}; {advice}.")


def transfer(session, variables, path):
    """Sets the variables of a model from a checkpoint of either family.

    Args:
      session: session in which the variables are initialised.
      variables: those of the model.
      path: see ``checkpoints.checkpoint_prefix``.

    Returns:
      Names taken as they are; names adapted from gmm to gllmm or from fewer channels; names left as
      they are.

    Raises:
      GlicError: there is no checkpoint, nothing in it fits, it has more channels, or it has fewer
        and is of the other family.
    """
    reader = WeightReader(checkpoint_prefix(path))
    is_gllmm = any(v.op.name == FAMILY_MARK for v in variables)
    same_family = is_gllmm == (FAMILY_MARK in reader.names)
    initials = session.run({v.op.name: v.read_value() for v in variables})
    wide = {name: initial.shape for name, initial in initials.items()}
    narrow = {name: tuple(shape) for name, shape in reader.names.items()}
    channels = [widen.channels(shapes) for shapes in (narrow, wide)]
    _check_channels(path, *channels, same_family)
    values, taken, adapted = {}, [], []
    for name, initial in initials.items():
        source = name if same_family else source_name(name, is_gllmm)
        found = reader.get_tensor(source) if source in reader.names else None
        value = found if found is not None and found.shape == initial.shape else None
        if value is None and found is not None and channels[0] not in (None, channels[1]):
            value = widen.widened(name, found, initial, narrow, wide)
        if is_gllmm and not same_family:
            value = _gllmm_value(name, found, initial)
        if value is not None:
            values[name] = value
            (taken if value is found else adapted).append(name)
    if not values:
        raise GlicError(
            f"{path} has no variable with a name and shape of this model; check the family and "
            "the number of filters."
        )
    if is_gllmm and not same_family and any(_DOUBLED.match(name) for name in adapted):
        for name in filter(_ZEROED.match, initials):
            values[name] = np.zeros_like(initials[name])
            adapted.append(name)
    chosen = [v for v in variables if v.op.name in values]
    set_variables(session, chosen, [values[v.op.name] for v in chosen])
    return taken, adapted, [name for name in initials if name not in values]
