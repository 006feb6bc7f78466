"""Passes of the float32 networks of one model: those between pixels and latents, in ONNX Runtime.

Each network is written (onnx_transforms.py) and loaded when it is first needed. Transposes stand at
a network's ends only: inside ONNX Runtime lays the tensors out as its convolutions want them.
"""

from __future__ import annotations

import contextlib
import os
import threading

import numpy as np
import onnxruntime

from coding import cores, forks, onnx_transforms
from coding.backends import FloatNetworks

_ERRORS_ONLY = 3  # severity of what is logged
_SAME_AS_REQUESTED = 1  # how the memory pool grows; by default to the next power of two


def _share_memory():
    """One pool of memory for all networks of the process: each would keep its own peak.

    What was taken is kept for the next pass, which takes a sixth less time so.
    """
    kind, usage = onnxruntime.OrtAllocatorType, onnxruntime.OrtMemType
    memory = onnxruntime.OrtMemoryInfo("Cpu", kind.ORT_ARENA_ALLOCATOR, 0, usage.DEFAULT)
    pool = onnxruntime.OrtArenaCfg(0, _SAME_AS_REQUESTED, -1, -1)  # the rest as by default
    with contextlib.suppress(RuntimeError):  # the program has registered its own
        onnxruntime.create_and_register_allocator(memory, pool)


onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
_share_memory()


def _threads():
    """Threads of a pass: OMP_NUM_THREADS, or one for each core that this process may use."""
    with contextlib.suppress(KeyError, ValueError):
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    return cores.count()


def _options():
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = _threads()
    # Threads that wait for work by spinning took a fifth more processor time beside busy processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    # A plan of a pass's memory for pictures of one size would be a second pool.
    options.enable_mem_pattern = False
    return options


@contextlib.contextmanager
def _memory_errors():
    """Raises MemoryError where ONNX Runtime has too little memory, which it says in words only."""
    try:
        yield
    except Exception as error:
        text = str(error)
        if "allocate memory" in text or "bad_alloc" in text or "bad allocation" in text:
            raise MemoryError(text.splitlines()[0]) from error
        raise


class OnnxNetworks(FloatNetworks):
    """In ONNX Runtime; may be used from several threads."""

    def __init__(self, architecture, weights):
        super().__init__(architecture, weights)
        self._sessions, self._lock = {}, threading.Lock()

    def close(self):
        with self._lock:
            self._sessions = {}

    def _run(self, name, values):
        forks.check("ONNX Runtime")
        with _memory_errors():
            with self._lock:
                if name not in self._sessions:
                    self._sessions[name] = self._start(name)
                session = self._sessions[name]
            feeds = {onnx_transforms.INPUT: np.ascontiguousarray(values, np.float32)}
            return session.run([onnx_transforms.OUTPUT], feeds)[0]

    def _start(self, name):
        model = onnx_transforms.write(name, self.architecture, self._weights)
        return onnxruntime.InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
