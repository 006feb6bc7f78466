"""On which devices a training step is computed.

Synchronous replicas: the batch of a step is cut into equal parts, every replica computes the
gradients of one, and their mean updates the weights once. Crops, noise and schedule are those of a
single device, so that what is learned does not depend on the number of replicas.
"""

from __future__ import annotations

from typing import NamedTuple

_VARIABLE_OPS = ("VarHandleOp", "VarIsInitializedOp", "AssignVariableOp", "ReadVariableOp")


class Placement(NamedTuple):
    """The devices of a training graph, by TensorFlow's names; "" leaves the choice to it.

    Attributes:
      replicas: one device for each; they share a step's batch.
      home: where the weights and the optimiser's state live and are updated.
      host: where images enter and checkpoints leave.
    """

    replicas: tuple
    home: str
    host: str

    def setter(self, replica):
        """What ``tf.device`` takes to put variables at home and all else on a replica."""
        if replica == self.home:
            return replica
        return lambda op: self.home if op.type in _VARIABLE_OPS else replica


SINGLE = Placement(("",), "", "")


def among_gpus(batch, gpus, report=print):
    """Shares a step out among the GPUs of this machine, as far as the batch allows.

    Args:
      batch: crops in a step.
      gpus: number of GPUs.
      report: called with a line to print where some stay idle.
    """
    used = max([n for n in range(1, gpus + 1) if batch % n == 0], default=1)
    if used < gpus:
        report(
            f"{used} of {gpus} GPUs are used, as a step's {batch} crops are shared out evenly; "
            f"a --batch that is a multiple of {gpus} uses all."
        )
    if used == 1:
        return SINGLE
    replicas = tuple(f"/device:GPU:{i}" for i in range(used))
    return Placement(replicas, replicas[0], "")
