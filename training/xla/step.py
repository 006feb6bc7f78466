"""A training step that TensorFlow exported as XLA HLO, as a function of JAX arrays.

HLO becomes StableHLO and that a ``jax.export.Exported``, whose ``call`` may be traced like any
function of JAX. JAX has no public way from HLO to StableHLO: that one call goes to jaxlib's own
extension module, under its old and its new name. Tried with jax 0.6.2, 0.8.1, 0.11.2 and 0.12.0.1.
"""

from __future__ import annotations

import jax
import numpy as np
from jax import export
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir

from errors import GlicError

TRIED = "0.6.2, 0.8.1, 0.11.2 and 0.12.0.1"
_TYPES = {"f32": np.float32, "ui8": np.uint8, "i32": np.int32}  # of arguments and results


def _stablehlo(hlo):
    """StableHLO bytecode of a serialised HloModuleProto."""
    try:
        from jaxlib import _jax as inner
    except ImportError:  # its name until jax 0.6
        from jaxlib.xla_client import _xla as inner
    return inner.mlir.hlo_to_stablehlo(hlo)


def _artifact(text):
    """StableHLO text in the serialised form whose meaning does not change with versions."""
    return stablehlo.serialize_portable_artifact_str(text, stablehlo.get_current_version())


def _arrays(types):
    """Shapes and dtypes of MLIR tensor types."""
    tensors = [ir.RankedTensorType(t) for t in types]
    return tuple(
        jax.core.ShapedArray(tuple(t.shape), np.dtype(_TYPES[str(t.element_type)])) for t in tensors
    )


def _exported(hlo):
    with mlir.make_ir_context():
        module = ir.Module.parse(_stablehlo(hlo))
        main = next(o for o in module.body.operations if o.attributes["sym_name"].value == "main")
        arguments, results = _arrays(main.type.inputs), _arrays(main.type.results)
        artifact = _artifact(str(module))
    fields = {
        "fun_name": "step",
        "in_tree": jax.tree.structure((tuple(range(len(arguments))), {})),
        "in_avals": arguments,
        "out_tree": jax.tree.structure(tuple(range(len(results)))),
        "out_avals": results,
        "_has_named_shardings": False,
        "_in_named_shardings": (None,) * len(arguments),
        "_out_named_shardings": (None,) * len(results),
        "in_shardings_hlo": (None,) * len(arguments),
        "out_shardings_hlo": (None,) * len(results),
        "nr_devices": 1,
        "platforms": ("cpu",),  # HLO as it is before any compiler saw the device
        "ordered_effects": (),
        "unordered_effects": (),
        "disabled_safety_checks": (export.DisabledSafetyCheck.platform(),),
        "mlir_module_serialized": artifact,
        "calling_convention_version": export.maximum_supported_calling_convention_version,
        "module_kept_var_idx": tuple(range(len(arguments))),
        "uses_global_constants": False,
        "_get_vjp": None,
    }
    known = export.Exported.__dataclass_fields__
    return export.Exported(**{name: value for name, value in fields.items() if name in known})


def load(hlo):
    """The step as a function that ``jax.jit`` takes.

    Args:
      hlo: bytes, a serialised HloModuleProto.

    Returns:
      Function of arrays, float32, int32 or uint8, to a tuple of arrays.

    Raises:
      GlicError: this version of JAX cannot take HLO.
    """
    try:
        return _exported(hlo).call
    except (AttributeError, ImportError, TypeError) as error:
        raise GlicError(
            f"jax {jax.__version__} has changed inner parts that reading HLO needs ({error}); "
            f"versions that work: {TRIED}."
        ) from error
