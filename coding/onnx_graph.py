"""Writes networks as ONNX models, the format that ONNX Runtime loads.

The messages are those of onnx.proto (https://onnx.ai, IR version 8, opset 17), of which a dozen
fields are needed. Tensors are NCHW inside, the layout that ONNX's convolution knows.
"""

from __future__ import annotations

import numpy as np

from coding.protobuf import message

IR_VERSION, OPSET = 8, 17
PRODUCER = "glic"
_FLOAT = 1  # TensorProto.DataType
_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_STRING, _ATTRIBUTE_INTS = 1, 2, 3, 7


def _attribute(name, value):
    """An ``AttributeProto``."""
    if isinstance(value, float):
        return message((1, name), (2, value), (20, _ATTRIBUTE_FLOAT))
    if isinstance(value, int):
        return message((1, name), (3, value), (20, _ATTRIBUTE_INT))
    if isinstance(value, str):
        return message((1, name), (4, value), (20, _ATTRIBUTE_STRING))
    return message((1, name), *((8, v) for v in value), (20, _ATTRIBUTE_INTS))


def _tensor(name, array):
    """A ``TensorProto`` with its values, float32."""
    dims = ((1, side) for side in array.shape)
    values = np.ascontiguousarray(array, "<f4").tobytes()
    return message(*dims, (2, _FLOAT), (8, name), (9, values))


def _value(name, sides):
    """A ``ValueInfoProto`` of a float32 tensor; a side is a number, or a name for any number."""
    dims = [message((1 if isinstance(side, int) else 2, side)) for side in sides]
    shape = message(*((1, dim) for dim in dims))
    return message((1, name), (2, message((1, message((1, _FLOAT), (2, shape))))))


class Graph:
    """Nodes in the order in which they are computed, each with one output.

    Args:
      name: of the network.
    """

    def __init__(self, name):
        self._name, self._nodes, self._initializers = name, [], []

    def add(self, kind, *inputs, output=None, **attributes):
        """Adds a node; returns the name of its output.

        Args:
          kind: of operator.
          output: its name; None stands for a new one.
          inputs: names of outputs, or float32 arrays, which become constants.
          attributes: of the operator, each an int, a float, a str or a tuple of int.
        """
        names = [self._constant(v) if isinstance(v, np.ndarray) else v for v in inputs]
        output = output or f"t{len(self._nodes)}"
        described = ((5, _attribute(key, value)) for key, value in attributes.items())
        node = message(*((1, n) for n in names), (2, output), (4, kind), *described)
        self._nodes.append((1, node))
        return output

    def _constant(self, array):
        name = f"c{len(self._initializers)}"
        self._initializers.append((5, _tensor(name, array)))
        return name

    def model(self, inputs, outputs):
        """Bytes of the ONNX model.

        Args:
          inputs, outputs: dicts of name to sides, see ``_value``.
        """
        graph = message(
            *self._nodes,
            (2, self._name),
            *self._initializers,
            *((11, _value(*pair)) for pair in inputs.items()),
            *((12, _value(*pair)) for pair in outputs.items()),
        )
        opset = message((2, OPSET))
        return message((1, IR_VERSION), (2, PRODUCER), (7, graph), (8, opset))
